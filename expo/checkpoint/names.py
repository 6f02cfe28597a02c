"""What a tensor's name says of its place in the model, whatever the architecture: only its numbers are read."""

import re

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def module_group(name: str) -> str:
    """A tensor's name with its numbers struck out: the same module of every layer."""
    return _NUMBER.sub("*", name)


def layer_of(name: str) -> tuple[str, int] | None:
    """The stack and the number of the layer that a tensor lies in: ("model.layers", 3); None outside of layers."""
    found = _NUMBER.search(name)
    # int() refuses more digits than any layer has.
    return (name[: found.start()].rstrip("."), int(found[0])) if found and len(found[0]) < 10 else None
