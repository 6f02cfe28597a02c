"""Several local models that answer as one, token by token; and the door by which any local answerer is loaded.

All members read the same prompt, made by the first one's tokenizer and chat template, and have the same tokens.
"""

import json
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from expo.errors import ExpoError
from expo.generate.experts import BadExperts, names_experts, read_experts
from expo.generate.local import LocalModel, load_local
from expo.generate.prompts import Demo, Question

_PARTS = ("normalizer", "pre_tokenizer", "model", "post_processor", "added_tokens")  # how a text is cut into tokens


class DifferentTokens(ExpoError):
    """Experts whose probabilities are of different tokens."""


class Members:
    """LocalModels with weights: p(v) = sum of weight * p_member(v) / sum of weights at each step.

    Stands wherever a LocalModel does. A member of weight 0 is checked like the others, and its weights are not loaded.
    Temperature, top_p and top_k apply to the mixture. An answer ends at a token that ends one for any member.
    Raises BadExperts, DifferentTokens.
    """

    def __init__(self, members: Sequence[LocalModel], weights: Sequence[float], label: str = "ensemble"):
        if not members or len(members) != len(weights):
            raise BadExperts(f"{label}: {len(members)} members with {len(weights)} weights; one each is needed.")
        if not all(0 <= weight < float("inf") for weight in weights) or not 0 < sum(weights) < float("inf"):
            raise BadExperts(f"{label}: the weights {list(weights)} must be finite, at least 0, and not all 0.")
        for other in members[1:]:
            check_tokens(members[0], other)
        self.members, self.weights, self.label = list(members), [float(weight) for weight in weights], label
        self.asked = [(one, weight) for one, weight in zip(members, self.weights, strict=True) if weight > 0]
        self.tokenizer = members[0].tokenizer
        self.config = members[0].config
        terms = zip(self.weights, members, strict=True)
        self.fingerprint = " + ".join(f"{weight!r} * {one.fingerprint}" for weight, one in terms)

    @property
    def models(self) -> list[Any]:
        return [one.model for one, _ in self.asked]

    @property
    def context(self) -> int | None:
        """Tokens that fit into every member's window."""
        return min((one.context for one in self.members if one.context is not None), default=None)

    @property
    def ends(self) -> set[int]:
        return set().union(*(one.ends for one, _ in self.asked))

    def join(self, *, logs: bool) -> Callable:
        from expo.generate.mixture import mixture

        return mixture([weight for _, weight in self.asked], logs=logs)

    def encode(self, question: Question, demos: Sequence[Demo]) -> list[int]:
        return self.members[0].encode(question, demos)

    def text(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        return self.members[0].text(prompt, tokens)

    def check_chat(self) -> None:
        """Raises DifferentTokens where members would be asked a chat in different words."""
        first, *others = self.members
        for other in others:
            if other.tokenizer.chat_template != first.tokenizer.chat_template:
                raise DifferentTokens(
                    f"{first.label} and {other.label} have different chat templates, so that one prompt does not suit "
                    "both.\nGive them the same (chat_template.jinja), or ask for plain completions."
                )


def load_members(
    experts: str | Path, *, device: str = "auto", dtype: str | None = None, trust_remote_code: bool = False
) -> Members:
    """The members that an experts.json lists; tokenizers and configs are read now, weights when first needed.

    device: as for load_local; several, with commas, are one for each expert. Raises BadExperts or DifferentTokens.
    """
    listed = read_experts(experts)
    devices = [word.strip() for word in device.split(",")]
    if len(devices) not in (1, len(listed)):
        raise BadExperts(
            f"--device {device!r} names {len(devices)} devices for {len(listed)} experts; name one, or one for each."
        )
    each = devices * len(listed) if len(devices) == 1 else devices
    members = []
    for number, (expert, place) in enumerate(zip(listed, each, strict=True), start=1):
        try:
            one = load_local(expert.model, device=place, dtype=dtype, trust_remote_code=trust_remote_code)
        except ExpoError as error:
            raise BadExperts(f"{experts}: expert {number}: {error}") from error
        one.label = expert.name
        members.append(one)
    path = Path(experts).absolute()
    return Members(members, [one.weight for one in listed], f"{path.parent.name}/{path.name}")


def load_answerer(
    model: Any, *, device: str = "auto", dtype: str | None = None, trust_remote_code: bool = False
) -> LocalModel | Members:
    """What answers under a name: a model, or the members of an experts.json. What is loaded already is given back."""
    if isinstance(model, LocalModel | Members):
        return model
    load = load_members if names_experts(model) else load_local
    return load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)


def check_tokens(one: LocalModel, other: LocalModel) -> None:
    """Raises DifferentTokens unless both cut texts into the same tokens and give probabilities of as many."""
    left, right = one.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    if left != right:
        ours, theirs = ({row: token for token, row in rows.items()} for rows in (left, right))
        row = min(row for row in ours.keys() | theirs.keys() if ours.get(row) != theirs.get(row))
        said = [repr(rows[row]) if row in rows else "nothing" for rows in (ours, theirs)]
        raise DifferentTokens(
            f"{one.label} and {other.label} have different tokenizers: token {row:,} is {said[0]} in the first and "
            f"{said[1]} in the second.\nProbabilities are mixed token by token, so all experts need one tokenizer."
        )
    sizes = [local.config.get_text_config().vocab_size for local in (one, other)]
    if sizes[0] != sizes[1]:
        raise DifferentTokens(
            f"{one.label} and {other.label} have different vocabularies: {sizes[0]:,} and {sizes[1]:,} rows "
            "(vocab_size in config.json).\nProbabilities are mixed token by token, so all experts need the same rows."
        )
    part = _first_difference(one.tokenizer, other.tokenizer)
    if part:
        raise DifferentTokens(
            f"{one.label} and {other.label} have the same tokens, and cut texts into them differently: {part}.\n"
            "All experts need one tokenizer; copy one expert's tokenizer files to the other."
        )


def _first_difference(one: Any, other: Any) -> str | None:
    """The first part in which two tokenizers of the same tokens differ; slow ones are known by their class alone."""
    backends = [getattr(tokenizer, "backend_tokenizer", None) for tokenizer in (one, other)]
    if None in backends:
        names = [type(tokenizer).__name__ for tokenizer in (one, other)]
        return None if names[0] == names[1] else f"they are a {names[0]} and a {names[1]}"
    texts = [backend.to_str() for backend in backends]
    if texts[0] == texts[1]:
        return None
    left, right = map(json.loads, texts)
    part = next((part for part in _PARTS if left.get(part) != right.get(part)), None)
    if part != "model":
        return part and f"they differ in their {part}"
    merges = zip_longest(left[part].get("merges") or (), right[part].get("merges") or ())
    for number, (ours, theirs) in enumerate(merges, start=1):
        if ours != theirs:
            return f"merge {number:,} is {ours!r} in the first and {theirs!r} in the second"
    return "they differ in their model's settings"
