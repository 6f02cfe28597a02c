"""Derive a sample of segments again from the recorded inputs, by the run's own code, and compare the bits."""

import math
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xxhash

from expo.checkpoint import Shards, open_checkpoint
from expo.checkpoint.spec import Checkpoint
from expo.errors import DataError, VerifyError, nearest
from expo.ops import n_segments, torch_dtype
from expo.output.manifest import NAME
from expo.planning import Job, Plan, plan
from expo.planning.identity import input_record
from expo.recipe import Recipe
from expo.stream import Stream
from expo.stream.loop import settings_for
from expo.stream.survey import survey

_ALIASES = {"base": "sft", "a": "sft", "aligned": "dpo", "b": "dpo"}


class Recompute:
    """One checkpoint beside the plan that made it."""

    def __init__(
        self,
        out: Checkpoint,
        manifest: dict[str, Any] | None,
        given: Mapping[str, str],
        allow_non_finite: bool,
        max_header: int,
        stream: bool = False,
    ):
        """Find the inputs and plan again.

        Raises VerifyError where there is no manifest, or an input is not given or is not that of the run; and what
        opening a checkpoint and planning raise.
        """
        if manifest is None:
            raise VerifyError(
                f"--recompute needs {NAME}, which only expo's own output has; {out.source.text} lacks it."
            )
        models = _models(out, manifest["inputs"], given)
        try:
            recipe = Recipe.from_record(manifest["recipe"], models)
        except (TypeError, ValueError, AttributeError):
            raise VerifyError(f"{NAME} holds a recipe that this version of expo does not read.") from None
        recipe = replace(recipe, allow_non_finite=allow_non_finite, max_header=max_header)
        options = {"max_header": max_header, "stream": stream}
        inputs = {role: open_checkpoint(models[role], **options) for role in manifest["inputs"]}
        _check_inputs(inputs, manifest["inputs"])
        self.out = out
        self.plan = plan(recipe, inputs)
        self.segments = sum(n_segments(job.n_elements) for job in self.plan.jobs)
        self.segments_recomputed = 0
        self.seconds = 0.0

    def compare(self, share: float, threads: int, progress: Callable[[int], None] | None = None) -> list[str]:
        """Derive a share of all segments again, at least one; returns what differs, a line a tensor."""
        began = time.perf_counter()
        problems, comparable = self._same_tensors()
        key = xxhash.xxh3_64_intdigest((self.out.source.folder / NAME).read_bytes())
        chosen = [piece for piece in sample(self.plan, share, key) if self.plan.jobs[piece[0]].name in comparable]
        with Shards(self.out) as stored:
            sink = _Compare(stored, self.out)
            settings = settings_for(self.plan)
            try:
                surveyed = survey(self.plan, settings, threads, jobs={index for index, _ in chosen})
                options = {"surveyed": surveyed, "journal": False, "progress": progress, "pieces": chosen}
                Stream(self.plan, sink, settings, **options).run(threads)
            except DataError as error:
                problems.append(f"the recipe cannot be carried out on these inputs: {error}")
        self.segments_recomputed = len(chosen)
        self.seconds = time.perf_counter() - began
        return problems + sink.complaints()

    def _same_tensors(self) -> tuple[list[str], set[str]]:
        """What the recipe gives in another form than is stored, and the names that can be compared."""
        problems, comparable = [], set()
        for job in self.plan.jobs:
            spec = self.out.tensors.get(job.name)
            if spec and (spec.dtype, spec.shape) == (job.dtype, job.shape):
                comparable.add(job.name)
            elif spec:
                forms = [f"{side.dtype} {list(side.shape)}" for side in (spec, job)]
                problems.append(f"{job.name}: stored as {forms[0]}, the recipe gives {forms[1]}.")
        given = {job.name for job in self.plan.jobs}
        problems += [f"{name}: the recipe gives no such tensor." for name in self.out.tensors if name not in given]
        return problems, comparable


def sample(planned: Plan, share: float, key: int) -> list[tuple[int, int]]:
    """(job, segment) of a share of all segments, at least one: one by hash from each of equal runs of the output."""
    every = [
        (index, segment) for index, job in enumerate(planned.jobs) for segment in range(n_segments(job.n_elements))
    ]
    n = min(len(every), max(1, math.ceil(len(every) * share)))
    chosen = []
    for stratum in range(n):
        first, last = len(every) * stratum // n, len(every) * (stratum + 1) // n
        chosen.append(every[first + xxhash.xxh3_64_intdigest(stratum.to_bytes(8, "little"), seed=key) % (last - first)])
    return chosen


# --- inputs -----------------------------------------------------------------------------------------------------------


def _models(out: Checkpoint, recorded: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """role -> where the input is: as given, else the recorded repository at its commit."""
    models = {}
    for word, place in given.items():
        models[_role(word, recorded)] = place
    lost = []
    for role, record in recorded.items():
        places = [record, *record.get("adapters", ())]
        if role not in models and all(place.get("repo_id") for place in places):
            models[role] = "+".join(f"{place['repo_id']}@{place['revision']}" for place in places)
        elif role not in models:
            lost.append(role)
    if lost:
        named = ", ".join(f"{role} was {recorded[role].get('label')}" for role in lost)
        options = " ".join(f"--input {shlex.quote(role)}=PATH" for role in lost)
        raise VerifyError(
            f"--recompute needs inputs that were local folders ({named}). Say where they are:\n"
            f"expo verify {out.source.text} --recompute 1% {options}"
            + "".join(_of_a_stage(role, recorded[role]["stage"]) for role in lost if recorded[role].get("stage"))
        )
    return models


def _of_a_stage(role: str, stage: str) -> str:
    """How to come by an input that an earlier stage made."""
    return (
        f"\nInput {role} was made by an earlier stage, {stage}. `expo merge --keep-stages` keeps it, in "
        f"OUTPUT.stages/{stage}; or run that stage alone, and give --input {shlex.quote(role)}=PATH."
    )


def _role(word: str, recorded: Mapping[str, Any]) -> str:
    """The role that a word of --input means: itself, an alias, or an input's label."""
    if word in recorded:
        return word
    alias = _ALIASES.get(word.lower())
    if alias in recorded:
        return alias
    labelled = [role for role, record in recorded.items() if record.get("label") == word]
    if len(labelled) == 1:
        return labelled[0]
    known = [*recorded, *(alias for alias, role in _ALIASES.items() if role in recorded)]
    raise VerifyError(
        f"--input {word}: the run had no such input.{nearest(word, known)} It had: {', '.join(recorded)}."
    )


def _unlike(role: str, checkpoint: Checkpoint, record: Mapping[str, Any]) -> list[str]:
    """How an input's files differ from what was recorded of them."""
    found, wanted = input_record(checkpoint)["files"], record.get("files", {})
    where = f"{role} ({checkpoint.source.text})"
    problems = [f"{where}: {name} is missing" for name in wanted if name not in found]
    problems += [f"{where}: {name} was not there" for name in found if name not in wanted]
    for name in (name for name in wanted if name in found):
        for field, word in (("n_bytes", "bytes"), ("header", "header hash")):
            if found[name][field] != wanted[name].get(field):
                problems.append(f"{where}: {name}: {word} {found[name][field]}, recorded {wanted[name].get(field)}")
    return problems


def _check_inputs(inputs: Mapping[str, Checkpoint], recorded: Mapping[str, Any]) -> None:
    """Raise VerifyError with every file that is not the one recorded."""
    problems = [problem for role in recorded for problem in _unlike(role, inputs[role], recorded[role])]
    if problems:
        raise VerifyError("these are not the inputs of the run:\n" + "\n".join(f"  {line}" for line in problems))


# --- comparing --------------------------------------------------------------------------------------------------------


class _Compare:
    """A sink that keeps nothing: it compares what a run would write with what is stored."""

    def __init__(self, stored: Shards, out: Checkpoint):
        self.stored = stored
        self.out = out
        self.finished: dict = {}
        self.local = threading.local()
        self.lock = threading.Lock()
        self.different: dict[str, tuple[int, int, str]] = {}  # tensor -> (first element, how many, in words)

    def write(self, job: Job, start: int, data: memoryview) -> None:
        """Compare bytes [start, start + len(data)) of one output tensor."""
        held = getattr(self.local, "held", None)
        if held is None or len(held) < len(data):
            held = self.local.held = memoryview(bytearray(len(data)))
        twin = held[: len(data)]
        self.stored.read_into(twin, self.out.tensors[job.name], start)
        if twin != data:
            self._note(job, start, data, twin)

    def _note(self, job: Job, start: int, wanted: memoryview, stored: memoryview) -> None:
        wanted, stored = (np.frombuffer(side, np.uint8) for side in (wanted, stored))
        width = max(1, job.dtype.bits // 8)
        differ = np.flatnonzero((wanted != stored).reshape(-1, width).any(1))
        at = int(differ[0]) * width
        words = (
            f"it holds {_value(stored[at : at + width], job)}, the recipe gives {_value(wanted[at : at + width], job)}"
        )
        element = (start + at) * 8 // job.dtype.bits
        with self.lock:
            first, n, old = self.different.get(job.name, (element, 0, words))
            self.different[job.name] = (min(first, element), n + len(differ), words if element <= first else old)

    def complaints(self) -> list[str]:
        """One line for each tensor that is not what the recipe gives."""
        return [
            f"{name}: {n} of the recomputed elements differ; at element {first} {words}. "
            "Either the output or an input was changed."
            for name, (first, n, words) in sorted(self.different.items())
        ]


def _value(raw: Any, job: Job) -> str:
    """One element in words."""
    if not job.dtype.computed:
        return raw.tobytes().hex()
    return f"{float(torch.from_numpy(raw.copy()).view(torch_dtype(job.dtype)).to(torch.float64)):.9g}"
