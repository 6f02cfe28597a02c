"""--set models.1.parameters.density=0.3: a dotted path into a recipe's documents, and the value to put there."""

from expo.errors import RecipeError, nearest
from expo.recipe.yaml_text import Node, Place, is_nothing, read_documents

UNNAMED = "final"  # what the stage without a name is called


def apply_sets(documents: list[Node], sets: tuple[str, ...] | list[str]) -> None:
    """Change the documents as the texts say, in their order; raises RecipeError with the text that cannot be done.

    A path begins with a stage's name where the file has several documents. New keys are made in mappings, and judged
    like those of the file.
    """
    for text in sets:
        file = f"--set {text}"
        path, equals, value = text.partition("=")
        steps = path.strip().split(".")
        if not equals or not all(steps):
            raise RecipeError(f"{file}: write it as PATH=VALUE, such as parameters.weight=0.4.")
        found = read_documents(value, file, inline=True)
        if len(found) > 1:
            raise RecipeError(f"{file}: the value is more than one.")
        new = found[0] if found else Node(Place(file), "", plain=True)
        document, steps = _document(documents, path.strip(), steps, file)
        _put(document, steps, new, file)


def _document(documents: list[Node], path: str, steps: list[str], file: str) -> tuple[Node, list[str]]:
    """The document that a path leads into, and the steps inside of it."""
    if len(documents) == 1:
        return documents[0], steps
    named = {_name(node) or UNNAMED: node for node in documents}
    # A stage's name may hold dots itself, so the longest that fits is taken.
    for name in sorted(named, key=len, reverse=True):
        if path.startswith(name + "."):
            return named[name], path[len(name) + 1 :].split(".")
    hint = nearest(steps[0], named)
    raise RecipeError(f"{file}: begin with the stage that it is for: {', '.join(named)}.{hint}")


def _name(node: Node) -> str | None:
    name = node.content.get("name") if isinstance(node.content, dict) else None
    return name.content if name is not None and isinstance(name.content, str) and name.content else None


def _put(node: Node, steps: list[str], new: Node, file: str) -> None:
    """Replace what lies at the end of the steps."""
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        here = ".".join(steps[:number]) or "the recipe"
        if is_nothing(node) and not isinstance(node.content, dict | list):
            node.content, node.plain, node.place = {}, False, Place(file)
        if isinstance(node.content, dict):
            if last:
                node.content[step], node.keys[step] = new, Place(file)
                return
            if step not in node.content:
                _new_mapping(node, step, file, here)
            node = node.content[step]
        elif isinstance(node.content, list):
            index = _index(step, len(node.content), here, file)
            if last:
                node.content[index] = new
                return
            node = node.content[index]
        else:
            raise RecipeError(f"{file}: {here} is {node.content[:60]!r}, which has nothing inside.")


def _new_mapping(node: Node, step: str, file: str, here: str) -> None:
    """Only parameters and policy appear by being set: another new mapping is a misspelling."""
    if step not in ("parameters", "policy"):
        known = [*node.content, "parameters"]
        raise RecipeError(f"{file}: {here} has no {step!r}.{nearest(step, known)} It has: {', '.join(node.content)}.")
    node.content[step], node.keys[step] = Node(Place(file), {}), Place(file)


def _index(step: str, n: int, here: str, file: str) -> int:
    if step.isascii() and step.isdigit() and len(step) < 7 and int(step) < n:
        return int(step)
    raise RecipeError(f"{file}: {here} is a list of {n}, counted from 0 to {n - 1}; {step!r} is none of them.")
