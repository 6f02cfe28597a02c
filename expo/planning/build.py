"""Recipe + Checkpoints -> Plan: every output tensor as a Job with its exact offset. Reads no tensor data."""

import copy
import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from expo.checkpoint.pipelines import own_name
from expo.checkpoint.spec import Checkpoint, folder_of, split_name
from expo.errors import PlanError
from expo.methods import Method, find_method
from expo.output.header import order_in_shard, shard_header
from expo.output.layers import PickedLayers, relayer
from expo.planning.jobs import Job, Operand, OutputShard, Plan
from expo.planning.layouts import in_one_layout
from expo.planning.parameters import idle_filters, parameters_of_all
from expo.planning.quantised import quantised
from expo.planning.requantise import as_donor_stores, form, with_stored_copies
from expo.planning.resolve import Match, Resolution, Resolver
from expo.planning.side_files import SideFiles, side_files
from expo.planning.targets import picked_layers
from expo.planning.tied import says_tied, tied_heads
from expo.planning.vocabulary import tokenizer_warning
from expo.recipe import Recipe


def plan(recipe: Recipe, inputs: Mapping[str, Checkpoint] | None = None, *, as_held: bool = False) -> Plan:
    """What a recipe will do: one job for each output tensor, with budgets; nothing is read but headers.

    recipe: from `expo.extrapolation(...)` or `expo.read_recipe(...)`.
    inputs: opened checkpoints by the recipe's names of the models, where the caller has them already.
    as_held: names and layout of the output are those of transformers' model class, for a sink that fills one.
    Raises PlanError with every problem at once, and SourceError, HeaderError or IndexMismatch for a bad input.
    """
    from expo.checkpoint import open_checkpoint

    if inputs is None:
        options = {"max_header": recipe.max_header, "stream": recipe.stream}
        inputs = {name: open_checkpoint(text, **options) for name, text in recipe.models.items()}
    merged = {name: inputs[name] for name in recipe.models if name in recipe.merged}
    refused = quantised(merged)
    laid = in_one_layout(recipe, merged, wanted="held" if as_held else recipe.layout)
    sides = side_files(recipe, {name: laid.inputs.get(name, inputs[name]) for name in recipe.models})
    resolver = Resolver(recipe, sides.inputs, why_not=laid.why_not, outside=laid.outside)
    found = resolver.resolve()
    if recipe.requantize:
        stored = as_donor_stores(recipe, laid.inputs[recipe.donor], found.matches)
        found.matches = stored.matches
        found.problems += stored.problems
    parameters = _parameters(recipe, found)
    if not found.problems and not found.matches:
        found.problems.append("the inputs have no tensor in common: there is nothing to write.")
    picked = () if found.problems else picked_layers(recipe, find_method(recipe.method), resolver.tables)
    found.problems += _unstated(sides.inputs[recipe.donor], picked)
    if recipe.shard_size and laid.inputs[recipe.donor].source.folders:
        found.problems.append("--shard-size: a model made of sub-folders keeps its files. Leave it out.")
    # What a tokenizer or a layout lacks makes the rest not fit, and so do scales that are not there.
    without_scales = any(
        own.quantised and (own.quantised.problems or (own.configs and not own.quantised.scaled))
        for own in merged.values()
    )
    fitting = [] if without_scales else laid.problems or found.problems
    if problems := sides.problems or [*refused, *fitting]:
        raise PlanError(problems)
    jobs, shards = _lay_out(recipe, sides.inputs[recipe.donor], found.matches, parameters)
    return Plan(
        recipe,
        sides.inputs,
        jobs,
        shards,
        tied=tuple(found.tied),
        left_out=tuple(found.left_out),
        warnings=tuple([*laid.notes, *found.warnings, *_warnings(recipe, sides)]),
        picked=picked,
        sides=sides,
    )


def _warnings(recipe: Recipe, sides: SideFiles) -> list[str]:
    """What opening and tokenizers give to say."""
    donor = sides.inputs[recipe.donor]
    opened = [warning for checkpoint in sides.inputs.values() for warning in checkpoint.warnings]
    rows = [] if recipe.tokenizer else _tokenizer_warnings(donor, sides.inputs)
    return [*opened, *sides.notes, *rows]


def _unstated(donor: Checkpoint, picked: tuple[PickedLayers, ...]) -> list[str]:
    """A sentence for each number of layers that config.json does not state, so that it would belie the tensors."""
    config = copy.deepcopy(donor.config)
    return [
        f"config.json of {donor.source.label} does not state the {part.before} layers of {part.stack}, so it cannot be "
        f"changed to {len(part.sources)}. Correct it, or take all {part.before} layers in their order."
        for part in picked
        if config and not relayer(config, part) and not part.are_all
    ]


def _tokenizer_warnings(donor: Checkpoint, inputs: Mapping[str, Checkpoint]) -> list[str]:
    found = (
        tokenizer_warning(donor.part(folder, {}), other.part(folder, {}))
        for other in inputs.values()
        for folder in ("", *donor.configs)
        if other is not donor and (not folder or folder in other.configs)
    )
    return [warning for warning in found if warning]


def _parameters(recipe: Recipe, found: Resolution) -> dict[str, dict[str, Any]]:
    """Each computed tensor's parameters; what is wrong with them joins the problems, and idle filters the warnings."""
    method = find_method(recipe.method)
    targets = [match.target for match in found.matches if match.target]
    copied = [*found.left_out, *(match.name for match in found.matches if match.target is None)]
    parameters, problems = parameters_of_all(recipe, method, targets)
    together = {
        len(m.operands) for m in found.matches if parameters.get(m.name) and method.model_scope(**parameters[m.name])
    }
    if len(together) > 1:
        found.problems.append(f"{method.name} ranks all tensors as one, so every slice must have as many models.")
    found.problems += problems
    found.warnings += idle_filters(recipe, targets, copied)
    return parameters


def _lay_out(
    recipe: Recipe, donor: Checkpoint, matches: list[Match], parameters: Mapping[str, dict[str, Any]]
) -> tuple[tuple[Job, ...], tuple[OutputShard, ...]]:
    """Matches -> jobs with offsets, shard by shard."""
    heads = tied_heads(donor.tensors, donor.configs)
    noise_names = {head: heads[head] for head in heads if says_tied(donor, donor.tensors[head])}
    by_name = {match.name: match for match in matches}
    jobs: list[Job] = []
    shards: list[OutputShard] = []
    for file, names, metadata in _assign(recipe, donor, matches):
        rows = [(name, *_form(recipe, by_name[name])) for name in names]
        rows = order_in_shard([(name, dtype, shape, _n_bytes(dtype, shape)) for name, dtype, shape in rows])
        header, starts = shard_header([(own_name(row[0], file), *row[1:]) for row in rows], metadata)
        for name, dtype, shape, _ in rows:
            place = (dtype, shape, math.prod(shape), file, starts[own_name(name, file)])
            jobs.append(_job(recipe, by_name[name], place, parameters.get(name, {}), noise_names.get(name, name)))
        shards.append(OutputShard(file, header, len(header) + sum(row[3] for row in rows)))
    return tuple(with_stored_copies(jobs, recipe.donor) if recipe.requantize else jobs), tuple(shards)


def _job(recipe: Recipe, match: Match, place: tuple, parameters: dict[str, Any], noise_name: str) -> Job:
    """A computed tensor, or a copy where the match or the parameters say so."""
    method = find_method(recipe.method)
    operands, name = match.operands, method.name
    donor = next((i for i, operand in enumerate(operands) if operand.spec is match.spec), 0)
    if match.target is None:
        name = None
        operands = operands if match.must_equal else operands[:1]
    elif recipe.arithmetic == "exact" and method.nothing(**parameters):
        name, operands, donor, parameters = None, [_unchanged(recipe, method, operands)], 0, {}
    based = method.base != "none" and bool(match.target) and bool(match.target.part.base or recipe.base)
    n_models = len(operands) - based if name else 0
    written = (match.requantised, match.scales_of)
    return Job(
        match.name, *place, tuple(operands), donor, name, parameters, noise_name, match.must_equal, n_models, *written
    )  # fmt: skip


def _unchanged(recipe: Recipe, method: Method, operands: list[Operand]) -> Operand:
    """The operand that a method returns when its parameters mean nothing."""
    return operands[0] if method.donor == "base" or method.base == "none" else operands[1]


def _form(recipe: Recipe, match: Match):
    """The element type and shape that a tensor is written in."""
    if match.requantised:
        return form(match)
    wanted = recipe.output_dtype()
    return (wanted if wanted and match.spec.dtype.computed else match.spec.stored_dtype), match.spec.shape


def _n_bytes(dtype, shape) -> int:
    return dtype.n_bytes(math.prod(shape))


def _assign(recipe: Recipe, donor: Checkpoint, matches: list[Match]) -> list[tuple[str, list[str], dict[str, str]]]:
    """(file, tensor names, metadata) for each output shard: the donor's, or new ones of a wanted size."""
    room = recipe.shard_size or (max(file.n_bytes for file in donor.files.values()) if recipe.is_sliced else None)
    if room:
        groups = _by_size(recipe, matches, room)
        return [(_numbered(i, len(groups)), names, {"format": "pt"}) for i, names in enumerate(groups)]
    names_in: dict[str, list[str]] = {file: [] for file in donor.files}
    last = {folder_of(file) if donor.configs else "": file for file in names_in}  # folder -> where extra tensors go
    for match in matches:
        spec = match.spec if match.requantised else donor.tensors.get(match.name)
        names_in[spec.file if spec else last[split_name(match.name, donor.configs)[0]]].append(match.name)
    filled = {file: names for file, names in names_in.items() if names}
    if len(filled) < len(names_in) and not donor.source.folders:  # a policy emptied a shard: "-of-" must count the rest
        return [(_numbered(i, len(filled)), names, {"format": "pt"}) for i, names in enumerate(filled.values())]
    return [
        (output_name(file, len(filled)), names, {"format": "pt", **donor.files[file].metadata})
        for file, names in filled.items()
    ]


def _by_size(recipe: Recipe, matches: list[Match], size: int) -> list[list[str]]:
    """Matches in order, as many to a shard as fit; a larger tensor has a shard of its own."""
    groups: list[list[str]] = []
    room = 0
    for match in matches:
        n_bytes = _n_bytes(*_form(recipe, match))
        if not groups or n_bytes > room:
            groups.append([])
            room = size
        groups[-1].append(match.name)
        room -= n_bytes
    return groups


def _numbered(index: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def output_name(file: str, count: int) -> str:
    """A donor's file name as a safetensors name: PyTorch's own names become the ones that transformers looks for."""
    path = PurePosixPath(file)
    if path.suffix == ".safetensors":
        return file
    stem = re.sub(r"^pytorch_model", "model", path.stem) if count > 1 else "model"
    return str(path.with_name(f"{stem}.safetensors"))
