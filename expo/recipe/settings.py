"""How the result is written: the keys of a document that are fields of Recipe, and `policy`."""

from collections.abc import Mapping
from typing import Any

from expo.errors import RecipeError
from expo.recipe.entries import Entries, shown
from expo.recipe.recipe import CHOICES, parse_rename, parse_size
from expo.recipe.yaml_text import Node, is_nothing

FORM = ("dtype", "out_dtype", "seed", "rounding", "arithmetic", "layout", "rename", "saturate", "shard_size",
        "requantize", "tower")  # fmt: skip
POLICIES = ("on_mismatch", "vocabulary", "tied", "allow_non_finite")


def form(top: Mapping[str, Node], entries: Entries) -> dict[str, Any]:
    """The fields that the document's own keys give."""
    given = {key: top[key] for key in FORM if not is_nothing(top.get(key))}
    readers = {
        "seed": lambda node: entries.whole(node, "seed"),
        "tower": lambda node: entries.text(node, "a component of tensors' names, such as language_model"),
        "requantize": lambda node: entries.truth(node, "requantize"),
        "saturate": lambda node: entries.truth(node, "saturate"),
        "rounding": lambda node: _choice(node, "rounding", entries),
        "layout": lambda node: _choice(node, "layout", entries),
        "arithmetic": lambda node: _choice(node, "arithmetic", entries),
        "rename": lambda node: _renames(node, entries),
        "shard_size": lambda node: _size(node, entries),
    }
    found = {"dtype": _dtype(given, entries)}
    for key, read in readers.items():
        if key in given:
            entries.places[key,] = given[key].place
            found[key] = read(given[key])
    return {key: value for key, value in found.items() if value is not None}


def policies(top: Mapping[str, Node], entries: Entries) -> dict[str, Any]:
    """The fields that `policy` gives."""
    if "policy" not in top:
        return {}
    given = entries.mapping(top["policy"], "policy")
    entries.known(top["policy"], POLICIES, "policy")
    found = {}
    for key in POLICIES:
        if not is_nothing(given.get(key)):
            entries.places[key,] = given[key].place
            may_pass = key == "allow_non_finite"
            found[key] = entries.truth(given[key], key) if may_pass else _choice(given[key], key, entries)
    return {key: value for key, value in found.items() if value is not None}


def _dtype(given: Mapping[str, Node], entries: Entries) -> str | None:
    """The output's type. In mergekit `dtype` is also the type of the arithmetic; here nothing is cast on load."""
    names = {key: entries.text(given[key], "a type such as bfloat16") for key in FORM[:2] if key in given}
    for key in names:
        entries.places["dtype",] = given[key].place
    if len(names) == 2:
        entries.note(given["dtype"], "dtype has no effect beside out_dtype: inputs are never cast on load.")
    return names.get("out_dtype") or names.get("dtype")


def _choice(node: Node, key: str, entries: Entries) -> str | None:
    return entries.text(node, " or ".join(filter(None, CHOICES[key])))


def _renames(node: Node, entries: Entries) -> tuple[tuple[str, str], ...]:
    """A list of 'old=>new', or a mapping of old prefixes to new ones."""
    if isinstance(node.content, dict):
        new = {old: "" if _is_empty(text) else entries.text(text, "a prefix") for old, text in node.content.items()}
        return tuple((old, text) for old, text in new.items() if text is not None)
    rules = []
    for item in node.content if isinstance(node.content, list) else [node]:
        text = entries.text(item, "a rule such as 'language_model.=>'")
        try:
            rules += [parse_rename(text)] if text is not None else []
        except RecipeError as error:
            entries.wrong(item, str(error))
    return tuple(rules)


def _is_empty(node: Node) -> bool:
    return is_nothing(node) or node.content == ""


def _size(node: Node, entries: Entries) -> int | None:
    if not isinstance(node.content, str):
        return entries.wrong(node, f"shard_size must be a size such as 5GB, not {shown(node)}.")
    try:
        return parse_size(node.content)
    except RecipeError as error:
        return entries.wrong(node, str(error))
