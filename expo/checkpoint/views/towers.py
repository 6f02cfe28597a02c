"""The tensors of one tower of a model, such as the language model in a vision-language model, by what they are called.

A tower is a run of components of names, such as `language_model`; what follows it names a tensor inside the tower.
Heads stand outside of it in some spellings, and belong to it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

HEADS = ("lm_head.weight", "lm_head.bias", "embed_out.weight", "output.weight", "score.weight")
_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
)
_OPTIONAL = ("model.", "transformer.")  # a language model's own prefix, which stands inside or outside of a tower's


@dataclass
class Tower:
    """What a checkpoint has of a tower: the name inside it -> the name in the model."""

    tensors: dict[str, str] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()  # those that the tower's tensors have; none where the whole model is the tower


def tower_of(names: Iterable[str], tower: str) -> Tower:
    """The tensors of a tower; all of them, with no prefix, where none has that component."""
    names = list(names)
    found: dict[str, list[str]] = {}
    for name in names:
        at = f".{name}".find(f".{tower}.")
        if at >= 0:
            found.setdefault(name[: at + len(tower) + 1], []).append(name)
    if len(found) > 1:
        return Tower({}, tuple(found))
    if not found:
        return Tower({_inner(name): name for name in names})
    ((prefix, inside),) = found.items()
    tensors = {_inner(name.removeprefix(prefix)): name for name in inside}
    if any(name.endswith(_EMBEDDINGS) for name in tensors):
        # A head that no other tower holds.
        tensors |= {name: name for name in names if name in HEADS and name not in tensors}
    return Tower(tensors, (prefix,))


def top_components(names: Iterable[str]) -> list[str]:
    """What towers of these names could be called."""
    parts = [name.split(".") for name in names]
    found = [part for row in parts for part in row[:2] if len(row) > 2 and not part.isdigit()]
    return [part for part in dict.fromkeys(found) if part + "." not in _OPTIONAL]


def _inner(name: str) -> str:
    for prefix in _OPTIONAL:
        name = name.removeprefix(prefix)
    return name
