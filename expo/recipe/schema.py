"""One YAML document -> Recipe: mergekit's schema, and what expo adds to it. Collects every complaint with its place.

What a value must be for a method is checked by Recipe itself; `entries.places` says where each part was written, so
that its complaints get file, line and column too.
"""

from collections.abc import Mapping
from typing import Any

from expo.errors import RecipeError, WrongRecipe, nearest
from expo.methods import find_method
from expo.recipe.entries import Entries
from expo.recipe.inputs import Inputs
from expo.recipe.layout import LAYOUTS, Layout
from expo.recipe.parts import Module, Slice, Source
from expo.recipe.presets import lines, scale_of
from expo.recipe.recipe import Recipe
from expo.recipe.settings import FORM, POLICIES, form, policies
from expo.recipe.tokenizer_entry import TOKENS, tokens
from expo.recipe.yaml_text import Node, is_nothing

KEYS = ("name", "merge_method", "base_model", *LAYOUTS, "parameters", "lines", *TOKENS, *FORM, "policy")
_AVERAGES = ("average", "avg", "mean", "soup", "model_soup", "lerp")


def read_document(node: Node, entries: Entries, inputs: Inputs) -> Recipe | None:
    """The recipe of one document; None where something is wrong, which then is among the entries' problems."""
    entries.places[()] = node.place
    top = entries.mapping(node, "a recipe")
    _check_keys(node, entries)
    base = None
    if not is_nothing(top.get("base_model")):
        entries.places["base",] = top["base_model"].place
        base = inputs.named(top["base_model"])
    layout = Layout(node, entries, inputs)
    modules = tuple(layout.modules(top))
    fields = {**form(top, entries), **policies(top, entries), **tokens(top, entries, inputs)}
    parameters = layout.parameters(node, ())
    method = _method(node, top, entries)
    if method is None or not modules or (base is None and not is_nothing(top.get("base_model"))):
        return None
    if not is_nothing(top.get("lines")):
        parameters |= _lines(top["lines"], method, parameters, entries)
    models = _ordered(inputs, base, modules)
    plain = modules == (Module((Slice(tuple(Source(name) for name in models)),)),)
    return _built(method, models, parameters, base, () if plain else modules, fields, entries)


def _built(method, models, parameters, base, modules, fields, entries: Entries) -> Recipe | None:
    try:
        recipe = Recipe(method, models, parameters, base, modules, **fields)
    except RecipeError as error:
        for problem in error.problems if isinstance(error, WrongRecipe) else [error]:
            entries.place(problem)
        return None
    _note_unused(recipe, entries)
    return recipe


def _lines(node: Node, method: str, parameters: dict[str, Any], entries: Entries) -> dict[str, Any]:
    """The preset `lines` as the parameter that it stands for."""
    known = find_method(method)
    scale = scale_of(known)
    preset = {key: entries.value(value) for key, value in entries.mapping(node, "lines").items()}
    try:
        return lines(known, preset, parameters.get(scale.name) if scale else None)
    except RecipeError as error:
        entries.wrong(node, str(error))
        return {}


def _ordered(inputs: Inputs, base: str | None, modules: tuple[Module, ...]) -> dict[str, str]:
    """Models in the order of the slices; a base that is in none of them first."""
    models = inputs.models()
    sources = [source.model for module in modules for part in module.slices for source in part.sources]
    order = [*([base] if base and base not in sources else []), *sources, *models]
    return {name: models[name] for name in dict.fromkeys(order)}


def _check_keys(node: Node, entries: Entries) -> None:
    """Each key that no recipe has, and what was meant."""
    for key, place in node.keys.items():
        if key in KEYS:
            continue
        hint = nearest(key, KEYS) or f" It takes: {', '.join(KEYS)}."
        text = f"a recipe has no key {key!r}.{hint}"
        if key in POLICIES:
            text = f"{key} is a policy: write it under `policy:`."
        elif key in ("plugin", "plugins"):
            text = "a recipe does not import code. Name the module on the command line: --plugin my_module."
        entries.problems.add(place, text)


def _method(node: Node, top: Mapping[str, Node], entries: Entries) -> str | None:
    """The registered method; None, with a problem, where there is none."""
    if "merge_method" not in top:
        if isinstance(node.content, dict):
            entries.wrong(node, "merge_method is missing. `expo methods` lists what there is.")
        return None
    given = top["merge_method"]
    entries.places["method",] = given.place
    name = entries.text(given, "the name of a method")
    if name is None:
        return None
    try:
        return find_method(name).name
    except RecipeError as error:
        hint = " For the average of models: linear, each with weight: 1." if name.lower() in _AVERAGES else ""
        return entries.wrong(given, f"{error}{hint} `expo methods` lists what there is.")


def _note_unused(recipe: Recipe, entries: Entries) -> None:
    """Parameters of a base that the method only starts from."""
    if find_method(recipe.method).base == "none":
        return
    for m, module in enumerate(recipe.modules):
        for s, part in enumerate(module.slices):
            for i, source in enumerate(part.sources):
                if source.parameters and source.model == (part.base or recipe.base):
                    place = entries.places["modules", m, "slices", s, "sources", i]
                    text = (
                        f"{source.model} is the base, so its parameters ({', '.join(source.parameters)}) mean nothing."
                    )
                    entries.note(place, text)
