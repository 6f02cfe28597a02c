"""What a recipe asks of the output's vocabulary: whose tokens it has, and where single rows come from. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from expo.errors import RecipeError

UNION, BASE = "union", "base"


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Where the row of one token comes from: a row of a model, or zeros."""

    model: str | None  # as the recipe writes it; None: zeros
    token: str | None = None  # of that model; None: the same token, unless token_id says which row
    token_id: int | None = None

    def record(self) -> Any:
        """The source as YAML writes it."""
        if self.model is None:
            return {"kind": "zero"}
        if self.token is None and self.token_id is None:
            return self.model
        row = {"token": self.token} if self.token is not None else {"token_id": self.token_id}
        return {"kind": "model_token", "model": self.model, **row}


ZERO = TokenSource(None)


@dataclass(frozen=True, slots=True)
class TokenRule:
    """One entry of `tokens`: a source for models that lack the token, for all models where `force` is set."""

    source: TokenSource
    force: bool = False


@dataclass(frozen=True)
class TokenizerSpec:
    """The `tokenizer` entry of a recipe; `tokenizer_source: X` is TokenizerSpec(source=X).

    source: "union", "base", or a model as the recipe writes it.
    tokens: token -> rule. pad_to_multiple_of: the number of rows is rounded up to a multiple of it.
    Raises RecipeError for a multiple below 1 and a source that says two things.
    """

    source: str
    tokens: Mapping[str, TokenRule] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None

    def __post_init__(self) -> None:
        if self.pad_to_multiple_of is not None and not 1 <= self.pad_to_multiple_of <= 1 << 20:
            raise RecipeError(f"tokenizer: pad_to_multiple_of is {self.pad_to_multiple_of}; it is from 1 to 1048576.")
        for token, rule in self.tokens.items():
            if rule.source.token is not None and rule.source.token_id is not None:
                raise RecipeError(f"tokenizer: tokens: {token!r}: give `token` or `token_id`, not both.")

    def models(self) -> tuple[str, ...]:
        """Every model that the entry names, each once, in the order of the recipe."""
        named = [] if self.source in (UNION, BASE) else [self.source]
        named += [rule.source.model for rule in self.tokens.values() if rule.source.model is not None]
        return tuple(dict.fromkeys(named))

    def record(self) -> dict[str, Any]:
        """The entry as YAML writes it, for manifest and fingerprint."""
        content: dict[str, Any] = {"source": self.source}
        if self.tokens:
            content["tokens"] = {
                token: {"source": rule.source.record(), **({"force": True} if rule.force else {})}
                for token, rule in self.tokens.items()
            }
        if self.pad_to_multiple_of is not None:
            content["pad_to_multiple_of"] = self.pad_to_multiple_of
        return content

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "TokenizerSpec":
        """The entry as `record` wrote it."""
        tokens = {
            token: TokenRule(_source(rule["source"]), rule.get("force", False))
            for token, rule in record.get("tokens", {}).items()
        }
        return cls(record["source"], tokens, record.get("pad_to_multiple_of"))


def _source(record: Any) -> TokenSource:
    if isinstance(record, str):
        return TokenSource(record)
    return (
        ZERO if record["kind"] == "zero" else TokenSource(record["model"], record.get("token"), record.get("token_id"))
    )
