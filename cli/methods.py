"""expo methods: what can be merged how."""

import inspect
import json
from typing import Any

import click

from expo.cli.options import JSON, PLUGIN, load_plugins
from expo.cli.tables import show_facts, show_table


@click.command(short_help="List the merge methods; or one method's formula, parameters and paper.")
@click.argument("name", required=False)
@PLUGIN
@JSON
def methods(name: str | None, plugins: tuple[str, ...], as_json: bool) -> None:
    """List the merge methods, those of plugins too; or show all about the method NAME."""
    from expo.methods import METHODS, find_method
    from expo.methods.plugins import load_entry_points

    load_plugins(plugins)
    if name is not None:
        method = find_method(name)
        click.echo(json.dumps(_record(method))) if as_json else _show(method)
        return
    load_entry_points()
    found = [METHODS[name] for name in sorted(METHODS)]
    if as_json:
        click.echo(json.dumps([_record(method) for method in found]))
        return
    show_table(("method", "formula", "models"), [(m.name, m.formula, _models(m)) for m in found], left=2)
    click.echo("\nexpo methods NAME shows the parameters of one.")


def _show(method) -> None:
    doc = inspect.getdoc(method.apply).splitlines()
    click.echo(f"{method.name}: {doc[0]}")
    if rest := "\n".join(doc[1:]).strip():
        click.echo(f"\n{rest}")
    click.echo()
    reads = "depends on its parameters" if callable(method.reads) else method.reads
    show_facts(
        [
            ("models", _models(method)),
            (
                "config, names",
                "of the base" if method.donor == "base" and method.base != "none" else "of the first model",
            ),
            ("computed by", f"{reads}" + (", after a first pass over the tensors" if method.survey else "")),
            ("same bits", method.exact),
            *([("also called", ", ".join(method.aliases))] if method.aliases else []),
            *([("paper", method.paper)] if method.paper else []),
        ]
    )
    if method.parameters:
        from expo.planning.outline import shown

        click.echo()
        rows = [(p.name, _kind(p), _range(p), shown(p.default)) for p in method.parameters.values()]
        show_table(("parameter", "kind", "range", "default"), rows, left=3)


def _models(method) -> str:
    fewest, most = method.models
    count = str(fewest) if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
    return {"required": f"base + {count}", "optional": f"{count}, or base + {count}", "none": count}[method.base]


def _kind(parameter) -> str:
    kind = {"float": "number", "int": "whole number", "bool": "true or false", "choice": "choice"}[parameter.kind]
    return f"{kind} for each model" if parameter.each else kind


def _range(parameter) -> str:
    if parameter.choices:
        return " | ".join(map(str, parameter.choices))
    if parameter.low is None and parameter.high is None:
        return ""
    low, high = (("" if limit is None else f"{limit:g}") for limit in (parameter.low, parameter.high))
    return f"{low} to {high}"


def _record(method) -> dict[str, Any]:
    """A method for programs."""
    return {
        "name": method.name,
        "aliases": method.aliases,
        "formula": method.formula,
        "base": method.base,
        "models": method.models,
        "donor": method.donor,
        "reads": None if callable(method.reads) else method.reads,
        "survey": method.survey is not None,
        "exact": method.exact,
        "paper": method.paper,
        "parameters": [
            {
                "name": p.name,
                "kind": p.kind,
                "each_model": p.each,
                "required": repr(p.default) == "required",
                "default": None if repr(p.default) == "required" else p.default,
                "low": p.low,
                "high": p.high,
                "choices": p.choices,
            }
            for p in method.parameters.values()
        ],
    }
