"""What the plan says of quantised inputs: formats that expo does not compute on, and scales that cannot be right."""

from collections.abc import Iterator, Mapping

import numpy as np

from expo.checkpoint.shard import RemoteShard, Shard
from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.checkpoint.views.quantised import find
from expo.checkpoint.views.scaled import widened
from expo.checkpoint.views.unquantised import named_base


def quantised(inputs: Mapping[str, Checkpoint]) -> list[str]:
    """One refusal for each input whose numbers cannot be read, and one sentence for each scale that is wrong.

    Scales are read here: they are some ten-thousandth of a checkpoint, and a run should not end at the last of them.
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
    """A sentence for each scale that holds zero, a negative number, NaN or an infinity."""
    scales = {spec.view.scale.name: spec.view.scale for spec in scaled.values()}
    shards: dict[str, Shard | RemoteShard] = {}
    try:
        for scale in scales.values():
            if scale.file not in shards:
                file = checkpoint.files[scale.file]
                shards[scale.file] = RemoteShard(file, None) if file.remote else Shard(file)
            raw = np.empty(scale.n_bytes, np.uint8)
            shards[scale.file].read_into(memoryview(raw), scale)
            values = widened(raw, scale)
            wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
            if len(wrong):
                more = f", and {len(wrong) - 1} more of it are wrong too" if len(wrong) > 1 else ""
                yield (
                    f"{scale.name}[{wrong[0]}] is {values[wrong[0]]:g}: a scale is a positive number{more}. "
                    "The file is damaged: download it again."
                )
    finally:
        for shard in shards.values():
            shard.close()
