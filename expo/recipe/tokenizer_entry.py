"""`tokenizer`, its older form `tokenizer_source`, and `chat_template` of a document -> what Recipe takes."""

from collections.abc import Mapping
from typing import Any

from expo.errors import RecipeError
from expo.recipe.entries import Entries
from expo.recipe.inputs import Inputs
from expo.recipe.tokenizer import BASE, UNION, ZERO, TokenizerSpec, TokenRule, TokenSource
from expo.recipe.yaml_text import Node, is_nothing

TOKENS = ("tokenizer", "tokenizer_source", "chat_template")
_KEYS = ("source", "tokens", "pad_to_multiple_of")
_KINDS = ("model_token", "zero")


def tokens(top: Mapping[str, Node], entries: Entries, inputs: Inputs) -> dict[str, Any]:
    """The fields `tokenizer` and `chat_template` of Recipe, where the document gives them."""
    found: dict[str, Any] = {}
    given = [key for key in TOKENS[:2] if not is_nothing(top.get(key))]
    if len(given) == 2:
        entries.wrong(top["tokenizer_source"], "tokenizer_source is an older form of tokenizer: keep one of them.")
    elif given:
        found["tokenizer"] = _spec(top[given[0]], entries, inputs)
    if not is_nothing(top.get("chat_template")):
        found["chat_template"] = entries.text(top["chat_template"], "a template, or the name of one")
    return {key: value for key, value in found.items() if value is not None}


def _spec(node: Node, entries: Entries, inputs: Inputs) -> TokenizerSpec | None:
    entries.places["tokenizer",] = node.place
    if not isinstance(node.content, dict) or "model" in node.content or "path" in node.content:
        source = _source(node, inputs)
        return None if source is None else TokenizerSpec(source)
    entries.known(node, _KEYS, "tokenizer")
    source = node.content.get("source")
    source = BASE if is_nothing(source) else _source(source, inputs)
    rules = {}
    if not is_nothing(node.content.get("tokens")):
        for token, row in entries.mapping(node.content["tokens"], "tokens").items():
            rules[token] = _rule(row, entries, inputs)
    multiple = node.content.get("pad_to_multiple_of")
    multiple = None if is_nothing(multiple) else entries.whole(multiple, "pad_to_multiple_of")
    if source is None or None in rules.values():
        return None
    try:
        return TokenizerSpec(source, rules, multiple)
    except RecipeError as error:
        return entries.wrong(node, str(error))


def _source(node: Node, inputs: Inputs) -> str | None:
    """`union`, `base`, or the name of a model."""
    return node.content if node.content in (UNION, BASE) else inputs.named(node)


def _rule(node: Node, entries: Entries, inputs: Inputs) -> TokenRule | None:
    rows = entries.mapping(node, "a token's entry")
    entries.known(node, ("source", "force"), "a token's entry")
    if "source" not in rows:
        return entries.wrong(node, "a token's entry without `source:`. Name a model there, or {kind: zero}.")
    force = bool(entries.truth(rows["force"], "force")) if not is_nothing(rows.get("force")) else False
    source = _token_source(rows["source"], entries, inputs)
    return None if source is None else TokenRule(source, force)


def _token_source(node: Node, entries: Entries, inputs: Inputs) -> TokenSource | None:
    """A model's row of the same token, a row that {kind: model_token, ...} names, or {kind: zero}."""
    if not isinstance(node.content, dict) or "kind" not in node.content:
        model = inputs.named(node)
        return None if model is None else TokenSource(model)
    kind = node.content["kind"].content
    if kind not in _KINDS:
        return entries.wrong(node.content["kind"], f"kind must be {' or '.join(_KINDS)}.")
    known = ("kind",) if kind == "zero" else ("kind", "model", "token", "token_id")
    entries.known(node, known, f"kind: {kind}")
    if kind == "zero":
        return ZERO
    if "model" not in node.content or ("token" in node.content) == ("token_id" in node.content):
        return entries.wrong(node, "kind: model_token needs model, and token or token_id, one of them.")
    token, number = node.content.get("token"), node.content.get("token_id")
    token = None if token is None else entries.text(token, "a token")
    number = None if number is None else entries.whole(number, "token_id")
    model = inputs.named(node.content["model"])
    return None if model is None or (token is None and number is None) else TokenSource(model, token, number)
