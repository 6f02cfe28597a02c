"""Reading nodes as what a recipe means by them. A value that cannot be is a problem with its place, and None."""

from collections.abc import Iterable
from typing import Any

from expo.errors import RecipeError, UnknownParameter, nearest
from expo.recipe.yaml_text import Disputed, Node, Place, Problems, is_nothing, plain_value

Where = tuple[str | int, ...]


class Entries:
    """Problems, notes and places of one document, and the ways to read its nodes."""

    def __init__(self, problems: Problems, notes: list[str]):
        self.problems, self.notes = problems, notes  # of the whole file
        self.places: dict[Where, Place] = {}  # part of the Recipe -> where it was written
        self.doubtful: set[Where] = set()  # parts with problems inside: none about the whole is added

    def place(self, problem: RecipeError) -> None:
        """Add a complaint of Recipe's at the place of the part that it is about."""
        where = problem.where
        if where in self.doubtful and not isinstance(problem, UnknownParameter):
            return
        while where not in self.places:
            where = where[:-1]
        self.problems.add(self.places[where], str(problem))

    def wrong(self, node: Node, text: str) -> None:
        """Add a problem."""
        self.problems.add(node.place, text)

    def note(self, at: Node | Place, text: str) -> None:
        """Add something that the user may want to know."""
        self.notes.append(f"{at.place if isinstance(at, Node) else at}: {text}")

    def mapping(self, node: Node, what: str) -> dict[str, Node]:
        """A mapping's entries; {} where there is nothing."""
        if isinstance(node.content, dict):
            return node.content
        if not is_nothing(node):
            self.wrong(node, f"{what} must be a mapping of names to values, not {shown(node)}.")
        return {}

    def list(self, node: Node, what: str) -> list[Node]:
        """A list's items; [] where there is nothing."""
        if isinstance(node.content, list):
            return node.content
        if not is_nothing(node):
            self.wrong(node, f"{what} must be a list (lines that begin with a dash), not {shown(node)}.")
        return []

    def known(self, node: Node, keys: Iterable[str], what: str) -> None:
        """A problem for each key that is none of `keys`, with the nearest one."""
        keys = list(keys)
        for key, place in node.keys.items() if isinstance(node.content, dict) else ():
            if key not in keys:
                text = f"{what} has no key {key!r}.{nearest(key, keys)} It takes: {', '.join(keys)}."
                self.problems.add(place, text)

    def text(self, node: Node | None, what: str) -> str | None:
        """A text as it is written, quoted or not: a revision of digits is no number."""
        if node is None:
            return None
        if not isinstance(node.content, str) or is_nothing(node) or not node.content:
            return self.wrong(node, f"must be {what}, not {shown(node)}.")
        return node.content

    def truth(self, node: Node, what: str) -> bool | None:
        """true or false."""
        value = self.value(node)
        if isinstance(value, bool) or (value is None and not is_nothing(node)):
            return value
        return self.wrong(node, f"{what} must be true or false, not {shown(node)}.")

    def whole(self, node: Node, what: str) -> int | None:
        """A whole number."""
        value = self.value(node)
        if type(value) is int or (value is None and not is_nothing(node)):
            return value
        return self.wrong(node, f"{what} must be a whole number, not {shown(node)}.")

    def value(self, node: Node) -> Any:
        """Plain data: numbers, truth values, texts, lists and mappings of them."""
        if isinstance(node.content, list):
            return [self.value(item) for item in node.content]
        if isinstance(node.content, dict):
            return {key: self.value(item) for key, item in node.content.items()}
        if not node.plain:
            return node.content
        value = plain_value(node.content)
        if isinstance(value, Disputed):
            readings = "YAML 1.1 and 1.2 read it differently. Write true or false, a plain decimal number, or quote it."
            return self.wrong(node, f"{value!s}: {readings}")
        if isinstance(value, float) and not abs(value) < float("inf"):
            return self.wrong(node, f"{node.content[:40]} is no finite number.")
        return value


def shown(node: Node) -> str:
    """A node in a few words."""
    if isinstance(node.content, list):
        return f"a list of {len(node.content)}"
    if isinstance(node.content, dict):
        return "a mapping"
    return "nothing" if is_nothing(node) else repr(node.content[:60])
