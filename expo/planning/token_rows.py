"""Which row of which model each row of the output's vocabulary comes from. Knows tokens and ids, no tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from expo.checkpoint.tokens import Tokens
from expo.recipe.tokenizer import TokenRule

Row = tuple[str, int]  # of an input, by its name


@dataclass(frozen=True)
class OutputTokens:
    """The output's vocabulary, and where the recipe wants single rows from."""

    rows: dict[str, int]  # token -> row of the output
    owner: str  # the input whose tokenizer it is, or is grown from; its padding is the output's
    n_rows: int | None = None  # None: as many as the owner's tensor has
    rules: Mapping[str, TokenRule] = field(default_factory=dict)  # their models by the inputs' names
    multiple_of: int = 1

    def n_rows_of(self, owners: int) -> int:
        """How many rows a tensor gets whose counterpart in the owner has `owners`."""
        n_rows = max(owners, self.n_rows or 0)
        return -(-n_rows // self.multiple_of) * self.multiple_of


def union_rows(first: Mapping[str, int], others: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """token -> id: the first one's unchanged, then each other's new tokens by their ids there."""
    rows = dict(first)
    after = max(rows.values(), default=-1) + 1
    for other in others:
        for token in sorted((token for token in other if token not in rows), key=lambda token: (other[token], token)):
            rows[token] = after
            after += 1
    return rows


class Rows:
    """Where every output row of one tensor comes from, in one input.

    known: the tokens of every model that can give rows, the inputs in the recipe's order, then models that the
    tokenizer entry alone names. limits: how many rows each one's tensor has; a token beyond them has no row there. 0:
    it has no such tensor. inputs: the models that are merged.
    """

    def __init__(
        self,
        output: OutputTokens,
        known: Mapping[str, Tokens],
        inputs: Sequence[str],
        base: str | None,
        limits: Mapping[str, int],
    ):
        self.output = output
        self.known = {name: tokens.rows for name, tokens in known.items()}
        self.inputs = inputs
        self.base = base
        self.limits = limits
        self.token_of: dict[int, str] = {}  # the first token where several share an id
        for token, row in output.rows.items():
            self.token_of.setdefault(row, token)

    def of(self, name: str, n_rows: int) -> list[tuple[Row, ...]]:
        """The sources of each output row for one input: one row, several for their mean, none for zeros."""
        own, limit = self.known[name], self.limits[name]
        taken = set(own.values())
        sources: list[tuple[Row, ...]] = []
        for row in range(n_rows):
            token = self.token_of.get(row)
            if token is None:
                sources.append(self._padding(name, row, taken))
            elif token in self.output.rules or own.get(token, limit) >= limit:
                sources.append(self._token(name, token))
            else:
                sources.append(((name, own[token]),))
        return sources

    def _token(self, name: str, token: str) -> tuple[Row, ...]:
        """The row of a token that the recipe has a rule for, or that this input lacks."""
        own = self._row(name, token)
        rule = self.output.rules.get(token)
        if own and not (rule and rule.force):
            return (own,)
        if rule and rule.source.model is None:
            return ()
        if rule and (asked := self._asked(rule, token)):
            return (asked,)
        if base := self._row(self.base, token):
            return (base,)
        lenders = [row for other in self.inputs if (row := self._row(other, token))]
        return tuple(lenders or [row for other in self.known if (row := self._row(other, token))])

    def _asked(self, rule: TokenRule, token: str) -> Row | None:
        """The row that a rule names; None where the tensor at hand has none, as with a bias that the model lacks."""
        source = rule.source
        if source.token_id is None:
            return self._row(source.model, source.token or token)
        return (source.model, source.token_id) if source.token_id < self.limits.get(source.model, 0) else None

    def _row(self, name: str | None, token: str) -> Row | None:
        row = self.known[name].get(token) if name in self.known else None
        return (name, row) if row is not None and row < self.limits.get(name, 0) else None

    def _padding(self, name: str, row: int, taken: set[int]) -> tuple[Row, ...]:
        """A row without a token: the input's own where it is padding there too, else the owner's, else zeros."""
        if row < self.limits[name] and row not in taken:
            return ((name, row),)
        return ((self.output.owner, row),) if row < self.limits[self.output.owner] else ()
