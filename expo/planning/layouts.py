"""Inputs whose names or layouts differ, brought into the output's; the plan then matches them like any others."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.planning.complaints import of_several
from expo.planning.components import Component, components
from expo.planning.lean import apart
from expo.recipe import Recipe


@dataclass
class InOneLayout:
    """The inputs as they are matched."""

    inputs: dict[str, Checkpoint] = field(default_factory=dict)
    tables: dict[str, dict[str, TensorSpec]] = field(default_factory=dict)  # input -> its tensors, where they changed
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    why_not: dict[str, str] = field(default_factory=dict)  # input -> why no conversion helps it
    outside: set[str] = field(default_factory=set)  # tensors of the output that lie outside of the tower


def in_one_layout(recipe: Recipe, inputs: Mapping[str, Checkpoint], *, wanted: str | None = None) -> InOneLayout:
    """The inputs with the output's names and layout, which are the donor's or the wanted one.

    Costs nothing where the names fit already. An input that no conversion brings nearer stays as it is.
    """
    donor = inputs[recipe.donor]
    others = {role: renamed(recipe, inputs[role], donor) for role in inputs if role != recipe.donor}
    one_config = wanted is not None or recipe.tower is not None
    if problems := _of_several(recipe, inputs, wanted):
        return InOneLayout(dict(inputs), problems=problems)
    parts = [Component("", donor, inputs, others)] if one_config else components(donor, inputs, others)
    if not one_config and not any(part.misfits for part in parts):
        return InOneLayout(dict(inputs))
    found = apart(
        lambda: _together({part: _laid(recipe, part, wanted) for part in parts}),
        _stored(inputs.values()),
        is_whole=lambda found: not (found.problems or found.why_not),
    )
    found.inputs = dict(inputs)
    found.inputs |= {role: replace(inputs[role], tensors=table) for role, table in found.tables.items()}
    return found


def _of_several(recipe: Recipe, inputs: Mapping[str, Checkpoint], wanted: str | None) -> list[str]:
    """A sentence for each input that has several configs where one is asked for something."""
    from expo.checkpoint.views.layouts import LAYOUTS

    live = "a live model" if wanted else "slices" if recipe.is_sliced else None
    asked = "--tower" if recipe.tower else f"--layout {wanted}" if wanted in LAYOUTS else live
    if asked is None:
        return []
    return [
        f"{asked}: {role}: {of_several(checkpoint)}" for role, checkpoint in inputs.items() if checkpoint.source.folders
    ]


def _together(laid: Mapping[Component, InOneLayout]) -> InOneLayout:
    """What was found of the parts, under the models' own names."""
    found = InOneLayout()
    for role in sorted({role for own in laid.values() for role in own.tables}):
        found.tables[role] = {
            part.prefix + name: _called(part.prefix + name, spec)
            for part, own in laid.items()
            for name, spec in (own.tables.get(role) or part.others[role]).items()
        }
    for part, own in laid.items():
        said = f"{part.folder}: " if part.folder else ""
        found.notes += [said + text for text in own.notes]
        found.problems += [said + text for text in own.problems]
        found.outside |= own.outside
        for role, text in own.why_not.items():
            found.why_not[role] = " ".join(filter(None, [found.why_not.get(role), said + text]))
    return found


def _called(name: str, spec: TensorSpec) -> TensorSpec:
    """A tensor under its name in the model, which a view made of a part's tensors does not have yet."""
    return replace(spec, name=name) if name.endswith(f"/{spec.name}") and spec.view else spec


def _laid(recipe: Recipe, part: Component, wanted: str | None) -> InOneLayout:
    """The tables that change, and all that is to be said; loads transformers."""
    from expo.checkpoint.views.layouts import Layout, fits_as_stored

    found, donor = InOneLayout(), part.donor
    if not part.misfits and wanted is None and recipe.tower is None:
        return found
    layout = Layout(donor, wanted, as_named=recipe.tower is not None)
    if layout.problems:
        _explain(found, recipe.donor, donor, wanted, part.misfits, layout.problems)
        return found
    tensors = donor.tensors
    if wanted is not None:
        own = layout.spelled(layout.loaded, donor.tensors)
        tensors = found.tables[recipe.donor] = own.tensors
        found.problems += [f"--layout {wanted}: {recipe.donor}: {text}" for text in own.problems]
    for role, table in part.others.items():
        other = part.inputs[role]
        if recipe.tower:
            _take_tower(found, recipe, role, other, layout.of_tower(other, table, recipe.tower))
        elif role in part.misfits or not fits_as_stored(tensors, table):
            _relay(found, recipe, role, other, table, layout.of(other, table), tensors)
    return found


def _stored(inputs: Iterable[Checkpoint]) -> Iterator[Any]:
    """All that tables in another layout are made of."""
    for spec in (spec for checkpoint in inputs for spec in checkpoint.tensors.values()):
        yield spec
        if spec.view:
            yield spec.view
            yield from spec.parts


def renamed(recipe: Recipe, other: Checkpoint, donor: Checkpoint) -> dict[str, TensorSpec]:
    """Another input's tensors under the names that `--rename` gives them; where two get one name, the first has it."""
    table: dict[str, TensorSpec] = {}
    for name, spec in other.tensors.items():
        table.setdefault(rename(recipe, name, donor), spec)
    return table


def rename(recipe: Recipe, name: str, donor: Checkpoint) -> str:
    """A name after the first rule that takes it; one that fits the donor's stays."""
    if name in donor.tensors:
        return name
    rule = next((rule for rule in recipe.rename if name.startswith(rule[0])), None)
    return rule[1] + name[len(rule[0]) :] if rule else name


def _relay(
    found: InOneLayout,
    recipe: Recipe,
    role: str,
    other: Checkpoint,
    table: Mapping[str, TensorSpec],
    relaid: Any,
    tensors: Mapping[str, TensorSpec],
) -> None:
    """Take an input's new table where it has more of the output's tensors than the old one.

    What could not be put together says why tensors are missing; where a policy lets them be missing, it is a note.
    """
    before, after = (_n_fitting(own, tensors) for own in (table, relaid.tensors))
    if after > before:
        found.tables[role] = relaid.tensors
        found.notes.append(
            f"{role} is in another layout: {after} of {len(tensors)} tensors fit through transformers' conversions, "
            f"{before} as they are stored"
        )
    if relaid.problems:
        why = f"{role} ({other.source.label}): {'; '.join(relaid.problems)}."
        found.why_not[role] = why
        found.notes += [] if recipe.on_mismatch == "error" else [why]
    elif after <= before:
        found.why_not[role] = "transformers' conversions do not cover them."


def _take_tower(found: InOneLayout, recipe: Recipe, role: str, other: Checkpoint, taken: tuple) -> None:
    """Leave of an input only its tower, and of the output only what lies in it to be computed."""
    relaid, outside = taken
    found.tables[role] = relaid.tensors
    found.outside |= outside
    found.problems += [f"--tower {recipe.tower}: {role}: {text}" for text in dict.fromkeys(relaid.problems)]
    found.notes.append(
        f"--tower {recipe.tower}: {len(relaid.tensors)} of {role}'s tensors take part (it stores "
        f"{len(other.tensors)}), and {len(outside)} of {recipe.donor}'s are copied"
    )


def _explain(
    found: InOneLayout, role: str, donor: Checkpoint, wanted: str | None, misfits: list[str], problems: list[str]
) -> None:
    """What stands in the way of the donor's own layout: of the whole run where one is asked for."""
    texts = [f"{role} ({donor.source.label}): {text}" for text in problems]
    if wanted is not None:
        found.problems += [f"--layout {wanted}: {text}" for text in texts]
    found.why_not |= dict.fromkeys(misfits, "; ".join(texts))


def _n_fitting(table: Mapping[str, TensorSpec], tensors: Mapping[str, TensorSpec]) -> int:
    return sum(name in table and table[name].shape == spec.shape for name, spec in tensors.items())
