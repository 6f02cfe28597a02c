"""The models of a recipe: references as users write them, and the short names that stand for them."""

import re

from expo.recipe.entries import Entries
from expo.recipe.yaml_text import Node, is_nothing

_KEYS = ("model", "lora", "override_architecture")
_PATH_KEYS = ("path", "revision")


class Inputs:
    """Reference text -> name. Two mentions of one reference are one input; names hold no path."""

    def __init__(self, entries: Entries):
        self.entries = entries
        self.names: dict[str, str] = {}  # reference -> name, in the order of first mention

    def named(self, node: Node | None) -> str | None:
        """The name of the model that a node refers to; None, with a problem, where it refers to none."""
        text = self.reference(node)
        if text is None:
            return None
        name = self.name_of(text)
        self.entries.places.setdefault(("models", name), node.place)
        return name

    def name_of(self, text: str) -> str:
        """A reference's name: what is left of it without folders, unique in the recipe."""
        if text not in self.names:
            short = "+".join(_last(part) for part in text.split("+"))
            taken, name, number = set(self.names.values()), short, 1
            while name in taken:
                number += 1
                name = f"{short}#{number}"
            self.names[text] = name
        return self.names[text]

    def models(self) -> dict[str, str]:
        """Name -> reference, as Recipe takes it."""
        return {name: text for text, name in self.names.items()}

    def reference(self, node: Node | None) -> str | None:
        """BASE[@REVISION][+ADAPTER...] from a text, or from {model: {path, revision}, lora: ...}."""
        if node is None or not isinstance(node.content, dict):
            return self._text(node)
        if "path" in node.content:
            return self._path(node)
        self.entries.known(node, _KEYS, "a model")
        if "model" not in node.content:
            return self.entries.wrong(node, "a model without `model:`. Write its path or Hub id there.")
        base = self._path(node.content["model"])
        if not is_nothing(node.content.get("override_architecture")):
            self.entries.note(node.content["override_architecture"], "override_architecture: not needed, not read.")
        lora = node.content.get("lora")
        adapters = [] if is_nothing(lora) else lora.content if isinstance(lora.content, list) else [lora]
        parts = [base, *(self._path(adapter) for adapter in adapters)]
        return None if None in parts else "+".join(parts)

    def _path(self, node: Node) -> str | None:
        """PATH or PATH@REVISION."""
        if not isinstance(node.content, dict):
            return self._text(node)
        self.entries.known(node, _PATH_KEYS, "a model's place")
        if "path" not in node.content:
            return self.entries.wrong(node, "a model without `path:`. Write its folder or Hub id there.")
        path = self._text(node.content["path"])
        revision = node.content.get("revision")
        if path is None or is_nothing(revision):
            return path
        revision = self.entries.text(revision, "a revision")
        return None if revision is None else f"{path}@{revision}"

    def _text(self, node: Node | None) -> str | None:
        text = self.entries.text(node, "a model: a folder, a file or a Hub id")
        if text is not None and text != text.strip():
            return self.entries.wrong(node, f"{text!r} begins or ends with a space, which no model's name does.")
        return text.rstrip("/") or text if text is not None else None


def _last(part: str) -> str:
    """The last component of a path or Hub id, with its revision."""
    path, at, revision = part.partition("@")
    found = re.findall(r"[^/\\]+", path)
    name = found[-1] if found and found[-1] not in (".", "..", "~") else "model"
    return name + at + revision.replace("/", "-")
