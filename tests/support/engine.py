"""Run the engine in ways that a test wants: into memory with any tile, and as the command line in this process."""

import sys
from pathlib import Path
from unittest import mock

import expo
from expo.cli.main import main
from expo.planning import Plan
from expo.recipe import Recipe
from expo.stream.loop import Stream, report_of, settings_for


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
    stream = Stream(plan, sink, settings_for(plan, tile=tile), journal=False)
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
