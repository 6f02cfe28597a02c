"""What the plan says of quantised inputs: formats that expo does not compute on, and scales that cannot be right."""

from collections.abc import Iterator, Mapping

import numpy as np

from expo.checkpoint.shard import Shard
from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.checkpoint.views.quantised import find
from expo.checkpoint.views.scaled import widened, wrong_scale
from expo.checkpoint.views.unquantised import named_base


def quantised(inputs: Mapping[str, Checkpoint]) -> list[str]:
    """One refusal for each input whose numbers cannot be read, and one sentence for each scale that is wrong.

    Scales are read here: they are some ten-thousandth of a checkpoint, and a run should not end at the last of them.
    On the Hub they would be a request each, tens of thousands of a large model; there a run ends at the first.
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


def _bad_scales(checkpoint: Checkpoint, scaled: Mapping[str, TensorSpec]) -> Iterator[str]:
    """A sentence for each scale in a file here that holds zero, a negative number, NaN or an infinity."""
    scales = {spec.view.scale.name: spec.view.scale for spec in scaled.values()}
    shards: dict[str, Shard] = {}
    try:
        for scale in scales.values():
            file = checkpoint.files[scale.file]
            if file.remote:
                continue
            if scale.file not in shards:
                shards[scale.file] = Shard(file)
            raw = np.empty(scale.n_bytes, np.uint8)
            shards[scale.file].read_into(memoryview(raw), scale)
            if problem := wrong_scale(widened(raw, scale), scale):
                yield problem
    finally:
        for shard in shards.values():
            shard.close()
