"""An output beside a published checkpoint: its stored bytes, and with its inputs the published file's own alpha."""

from collections.abc import Callable, Mapping
from pathlib import Path

from expo.analysis.against import against
from expo.analysis.beside import Against
from expo.analysis.recompute import Recompute
from expo.checkpoint import open_checkpoint
from expo.checkpoint.files import DEFAULT_MAX_HEADER
from expo.checkpoint.spec import Checkpoint
from expo.errors import ExpoError
from expo.output.manifest import NAME, read_manifest


def verify_against(
    output: str | Path,
    published: str | Path | Checkpoint,
    *,
    inputs: Mapping[str, str] | None = None,
    threads: int | None = None,
    allow_non_finite: bool = False,
    max_header: int = DEFAULT_MAX_HEADER,
    stream: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Against:
    """Compare a checkpoint with a published one, tensor by tensor; the published one is read by ranges.

    inputs: where the recorded inputs are now, as `verify(recompute=...)` takes them. Where they cannot be had, the
    published file's effective alpha stays unknown, and the result says why.
    Raises what opening a checkpoint raises, VerifyError where nothing can be compared, and where an input was given
    that is not the recorded one.
    """
    options = {"max_header": max_header, "stream": stream}
    ours = open_checkpoint(output, **options)
    if not isinstance(published, Checkpoint):
        published = open_checkpoint(published, max_header=max_header, stream=True)
    planned, reason = None, None
    if not (ours.source.folder / NAME).is_file():
        reason = f"{ours.source.text} has no {NAME}, which says what it was made of"
    else:
        try:
            said = read_manifest(ours.source.folder)
            planned = Recompute(ours, said, inputs or {}, allow_non_finite, max_header, stream).plan
        except ExpoError as error:
            if inputs:
                raise
            reason = _shortly(error)
    return against(ours, published, plan=planned, no_alpha=reason, threads=threads, progress=progress)


def _shortly(error: ExpoError) -> str:
    """An error's first line, and the options that would have helped."""
    first, *rest = str(error).split("\n")
    remedy = next((line.split("1% ", 1)[1] for line in rest if "--recompute 1% " in line), None)
    first = first.removeprefix("--recompute needs ").removesuffix(" Say where they are:")
    return f"it needs {first} Give {remedy}" if remedy else first
