"""What one config.json describes: a model, or one folder of a model that is made of several. No tensor data."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from expo.checkpoint.spec import Checkpoint, TensorSpec, folder_of, split_name


@dataclass(frozen=True, eq=False)
class Component:
    """One part of all inputs; tensors bear their own names, without the folder's."""

    folder: str  # "" for a model's own
    donor: Checkpoint
    inputs: Mapping[str, Checkpoint]  # all others, at least
    others: Mapping[str, dict[str, TensorSpec]]  # all inputs but the donor -> their tensors, as `--rename` calls them

    @cached_property
    def misfits(self) -> list[str]:
        """The inputs that a change of layout may help."""
        from expo.checkpoint.views.layouts import fits_as_stored

        return [role for role, table in self.others.items() if not fits_as_stored(self.donor.tensors, table)]

    @property
    def prefix(self) -> str:
        """What stands before its tensors' names in the whole model's."""
        return f"{self.folder}/" if self.folder else ""


def components(
    donor: Checkpoint, inputs: Mapping[str, Checkpoint], others: Mapping[str, dict[str, TensorSpec]]
) -> list[Component]:
    """The parts of a model that is made of several folders; any other model is its only one."""
    if not donor.source.folders:
        return [Component("", donor, inputs, others)]
    folders = ["", *(own.folder.name for own in donor.source.folders)]
    found = []
    for folder in folders:
        tables = {role: _inside(table, folder, folders) for role, table in others.items()}
        parts = {role: _part_of(inputs[role], table) for role, table in tables.items()}
        own = _part_of(donor, _inside(donor.tensors, folder, folders))
        found.append(Component(folder, own, parts, tables))
    return found


def _part_of(whole: Checkpoint, table: Mapping[str, TensorSpec]) -> Checkpoint:
    """A part as the folder where it lies describes it, whatever the output calls that."""
    return whole.part(next((folder_of(spec.file) for spec in table.values()), ""), table)


def _inside(table: Mapping[str, TensorSpec], folder: str, folders: Collection[str]) -> dict[str, TensorSpec]:
    """A folder's tensors under their own names; for "" those of no folder."""
    split = ((*split_name(name, folders), spec) for name, spec in table.items())
    return {own: spec for place, own, spec in split if place == folder}
