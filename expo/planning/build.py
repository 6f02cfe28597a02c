"""Recipe + Checkpoints -> Plan: every output tensor as a Job with its exact offset. Reads no tensor data."""

import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from expo.checkpoint.spec import Checkpoint
from expo.errors import PlanError
from expo.methods import find_method
from expo.output.header import order_in_shard, shard_header
from expo.planning.jobs import Job, OutputShard, Plan
from expo.planning.resolve import Match, Resolver
from expo.planning.tied import says_tied, tied_heads
from expo.planning.vocabulary import tokenizer_warning
from expo.recipe import Recipe


def plan(recipe: Recipe, inputs: Mapping[str, Checkpoint] | None = None) -> Plan:
    """What a recipe will do: one job for each output tensor, with budgets; nothing is read but headers.

    recipe: from `expo.extrapolation(...)`.
    inputs: opened checkpoints by role, where the caller has them already.
    Raises PlanError with every problem at once, and SourceError, HeaderError or IndexMismatch for a bad input.
    """
    from expo.checkpoint import open_checkpoint

    method = find_method(recipe.method)
    if inputs is None:
        inputs = {role: open_checkpoint(recipe.models[role], max_header=recipe.max_header) for role in method.roles}
    inputs = {role: inputs[role] for role in method.roles}
    found = Resolver(recipe, inputs).resolve()
    if not found.problems and not found.matches:
        found.problems.append("the inputs have no tensor in common: there is nothing to write.")
    if found.problems:
        raise PlanError(found.problems)
    donor = inputs[method.donor]
    opened = [warning for checkpoint in inputs.values() for warning in checkpoint.warnings]
    warnings = [*opened, *found.warnings, *_tokenizer_warnings(donor, inputs)]
    jobs, shards = _lay_out(recipe, donor, found.matches)
    return Plan(recipe, inputs, jobs, shards, tuple(found.tied), tuple(found.left_out), tuple(warnings))


def _tokenizer_warnings(donor: Checkpoint, inputs: Mapping[str, Checkpoint]) -> list[str]:
    found = (tokenizer_warning(donor, other) for other in inputs.values() if other is not donor)
    return [warning for warning in found if warning]


def _lay_out(
    recipe: Recipe, donor: Checkpoint, matches: list[Match]
) -> tuple[tuple[Job, ...], tuple[OutputShard, ...]]:
    """Matches -> jobs with offsets, shard by shard."""
    noise_names = tied_heads(donor.tensors) if says_tied(donor) else {}
    by_name = {match.name: match for match in matches}
    jobs: list[Job] = []
    shards: list[OutputShard] = []
    for file, names, metadata in _assign(recipe, donor, matches):
        rows = [(name, *_form(recipe, by_name[name])) for name in names]
        rows = order_in_shard([(name, dtype, shape, _n_bytes(dtype, shape)) for name, dtype, shape in rows])
        header, starts = shard_header(rows, metadata)
        for name, dtype, shape, _ in rows:
            noise_name = noise_names.get(name, name)
            jobs.append(_job(recipe, by_name[name], dtype, shape, file, starts[name], noise_name))
        shards.append(OutputShard(file, header, len(header) + sum(row[3] for row in rows)))
    return tuple(jobs), tuple(shards)


def _job(recipe: Recipe, match: Match, dtype, shape, file: str, at: int, noise_name: str) -> Job:
    """A computed tensor, or a copy where the match or the parameters say so."""
    method = find_method(recipe.method)
    n_elements = math.prod(shape)
    copied_from = match.copied_from
    if copied_from is None and recipe.arithmetic == "exact" and method.nothing(**recipe.parameters):
        copied_from = method.donor
    if copied_from is None:
        operands = tuple(match.operands[role] for role in method.roles)
        donor = method.roles.index(method.donor)
        return Job(
            match.name, dtype, shape, n_elements, file, at, operands, donor, method.name, recipe.parameters, noise_name
        )
    kept = [match.operands[copied_from]]
    if match.must_equal:
        kept += [operand for role, operand in match.operands.items() if role != copied_from]
    return Job(match.name, dtype, shape, n_elements, file, at, tuple(kept), 0, None, {}, noise_name, match.must_equal)


def _form(recipe: Recipe, match: Match):
    """The element type and shape that a tensor is written in."""
    spec = (match.operands[match.copied_from] if match.copied_from else _donor_operand(recipe, match)).spec
    wanted = recipe.output_dtype()
    return (wanted if wanted and spec.dtype.computed else spec.stored_dtype), spec.shape


def _donor_operand(recipe: Recipe, match: Match):
    return match.operands[find_method(recipe.method).donor]


def _n_bytes(dtype, shape) -> int:
    return dtype.n_bytes(math.prod(shape))


def _assign(recipe: Recipe, donor: Checkpoint, matches: list[Match]) -> list[tuple[str, list[str], dict[str, str]]]:
    """(file, tensor names, metadata) for each output shard: the donor's, or new ones of a wanted size."""
    if recipe.shard_size:
        groups = _by_size(recipe, matches)
        return [(_numbered(i, len(groups)), names, {"format": "pt"}) for i, names in enumerate(groups)]
    names_in: dict[str, list[str]] = {file: [] for file in donor.files}
    last = next(reversed(names_in))
    for match in matches:
        spec = donor.tensors.get(match.name)
        names_in[spec.file if spec else last].append(match.name)
    filled = {file: names for file, names in names_in.items() if names}
    if len(filled) < len(names_in):  # a policy emptied a shard: "-of-" must count the rest
        return [(_numbered(i, len(filled)), names, {"format": "pt"}) for i, names in enumerate(filled.values())]
    return [
        (output_name(file, len(filled)), names, {"format": "pt", **donor.files[file].metadata})
        for file, names in filled.items()
    ]


def _by_size(recipe: Recipe, matches: list[Match]) -> list[list[str]]:
    """Matches in order, as many to a shard as fit; a larger tensor has a shard of its own."""
    groups: list[list[str]] = []
    room = 0
    for match in matches:
        n_bytes = _n_bytes(*_form(recipe, match))
        if not groups or n_bytes > room:
            groups.append([])
            room = recipe.shard_size
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
