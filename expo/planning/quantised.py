"""What the plan says of quantised inputs: formats that expo does not compute on, and scales that cannot be right."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from expo.checkpoint.neighbours import Neighbours
from expo.checkpoint.shard import Shard
from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.checkpoint.views.quantised import Wrong, find
from expo.checkpoint.views.scaled import widened, wrong_scale
from expo.checkpoint.views.unquantised import named_base

_REQUESTS = 256  # to the Hub that a plan makes for scales


def quantised(inputs: Mapping[str, Checkpoint]) -> list[str]:
    """One refusal for each input whose numbers cannot be read, and one sentence for each scale that is wrong.

    Scales are read here: they are some ten-thousandth of a checkpoint, and a run should not end at the last of them.
    On the Hub those that do not lie together are a request each, tens of thousands of a large model; where there are so
    many, a run ends at the first that it reads.
    """
    problems = []
    for role, checkpoint in inputs.items():
        known = checkpoint.quantised or find(checkpoint)
        if known is None:
            continue
        who = f"{role} ({checkpoint.source.label})"
        if known.problems:
            problems += [f"{who}: {text}" for text in known.problems]
        elif not known.scaled:
            problems.append(_refusal(who, known.kind, checkpoint))
        else:
            problems += [f"{who}: {text}" for text in _bad_scales(checkpoint, known.scaled)]
    return problems


def _refusal(who: str, kind: str, checkpoint: Checkpoint) -> str:
    base = named_base(checkpoint.source, checkpoint.config)
    named = f": its base is {base}" if base else ""
    return (
        f"{who} is quantised: {kind}. expo computes on floats, and reads quantised weights only as float8 with scales. "
        f"Use the unquantised checkpoint{named}."
    )


def _bad_scales(checkpoint: Checkpoint, scaled: Mapping[str, TensorSpec]) -> Iterable[str]:
    """What is wrong with scales that hold zero, a negative number, NaN or an infinity."""
    wrong = Wrong()
    for scale, raw in _contents(checkpoint, {spec.view.scale: None for spec in scaled.values()}):
        if problem := wrong_scale(widened(np.frombuffer(raw, np.uint8), scale), scale):
            wrong.add("value", problem)
    return wrong.sentences


def _contents(checkpoint: Checkpoint, scales: Iterable[TensorSpec]) -> Iterator[tuple[TensorSpec, Any]]:
    """Each scale that is looked at, with its bytes."""
    there = Neighbours(checkpoint.files, scales)
    if len(there.runs) <= _REQUESTS:
        yield from there.everything()
    open_files: dict[str, Shard] = {}
    try:
        for scale in scales:
            if scale not in there:
                if scale.file not in open_files:
                    open_files[scale.file] = Shard(checkpoint.files[scale.file])
                raw = bytearray(scale.n_bytes)
                open_files[scale.file].read_into(memoryview(raw), scale)
                yield scale, raw
    finally:
        for file in open_files.values():
            file.close()
