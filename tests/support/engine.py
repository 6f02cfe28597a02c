"""Run the engine as a test wants it: into memory with any tile, from folders, as the command line in this process."""

import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from oracle import TORCH_NAMES, encode, read_stored, rounded

import expo
from expo.cli.main import main
from expo.errors import PlanError
from expo.planning import Plan
from expo.recipe import Recipe
from expo.stream.loop import Stream, report_of, settings_for
from expo.stream.survey import survey


class Memory:
    """A sink that keeps the output's files in memory."""

    def __init__(self, plan: Plan):
        self.files = {shard.name: bytearray(shard.header.ljust(shard.n_bytes, b"\xaa")) for shard in plan.shards}
        self.finished: dict = {}

    def write(self, job, start: int, data: memoryview) -> None:
        self.files[job.file][job.at + start : job.at + start + len(data)] = data


def streamed(recipe: Recipe | Plan, *, tile: int = 65_536, threads: int = 1):
    """(tensor name -> bytes, report) of a run into memory."""
    plan = recipe if isinstance(recipe, Plan) else expo.plan(recipe)
    sink = Memory(plan)
    settings = settings_for(plan, tile=tile)
    stream = Stream(plan, sink, settings, surveyed=survey(plan, settings, threads), journal=False)
    stream.run(threads)
    held = {job.name: bytes(sink.files[job.file][job.at : job.at + job.n_bytes]) for job in plan.jobs}
    return held, report_of(stream, None)


def command(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `expo ARGUMENTS`, through the function that the console script calls."""
    capsys.readouterr()
    code = 0
    with mock.patch.object(sys, "argv", ["expo", *map(str, arguments)]):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    said = capsys.readouterr()
    return code, said.out, said.err


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: path -> content, None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
    }


# --- pairs in folders sft and dpo ------------------------------------------------------------------------------------

ALPHA = 0.5  # exact in every type, so that the authority and the engine meet the same ties


def recipe_of(folder: Path, **settings) -> Recipe:
    """The recipe for folder/sft and folder/dpo."""
    return expo.extrapolation(sft=folder / "sft", dpo=folder / "dpo", alpha=ALPHA, **settings)


def run_in(folder: Path, **settings):
    """The run's report, and every tensor that it stored in folder/out."""
    report = expo.run(expo.plan(recipe_of(folder, **settings)), folder / "out")
    assert not list(folder.glob("out.partial"))
    return report, read_stored(folder / "out")


def refused_in(folder: Path, *words: str, **settings) -> str:
    """The text of the PlanError that stops a run before it writes anything; it holds all of `words`."""
    with pytest.raises(PlanError) as caught:
        expo.run(expo.plan(recipe_of(folder, **settings)), folder / "out")
    assert not list(folder.glob("out*"))
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)


def raw(tensor: torch.Tensor) -> bytes:
    """A tensor's bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def pushed(a: torch.Tensor, b: torch.Tensor) -> bytes:
    """The bytes of b + ALPHA (b - a), rounded to b's type, by the authority."""
    dtype = {name: key for key, name in TORCH_NAMES.items()}[str(b.dtype).removeprefix("torch.")]
    a, b = a.double().numpy().reshape(-1), b.double().numpy().reshape(-1)
    return encode(rounded(b + ALPHA * (b - a), dtype), dtype)
