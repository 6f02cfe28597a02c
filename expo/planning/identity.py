"""What identifies a run and its inputs: on this machine (the fingerprint) and anywhere (the record)."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import xxhash

from expo.checkpoint.spec import Checkpoint
from expo.launcher import place
from expo.output.folder import FolderSink
from expo.planning.jobs import Plan
from expo.version import __version__


def input_record(checkpoint: Checkpoint) -> dict[str, Any]:
    """What identifies an input to someone who has it: no path, no time."""
    source = checkpoint.source
    adapters = [{"label": a.label, "repo_id": a.repo_id, "revision": a.revision} for a in source.adapters]
    return {
        "label": source.label,
        "repo_id": source.repo_id,
        "revision": source.revision,
        "files": {f.name: {"n_bytes": f.n_bytes, "header": f.header_hash} for f in checkpoint.every_file},
        **({"adapters": adapters} if adapters else {}),
    }


def every_input(plan: Plan) -> dict[str, Checkpoint]:
    """The inputs, and the models that lend only rows of their embeddings."""
    return {**plan.inputs, **plan.sides.lenders}


def input_records(plan: Plan) -> dict[str, Any]:
    """Every input's record; one that an earlier stage made names that stage."""
    made = {name: {"stage": stage} for name, stage in plan.uses.items()}
    return {name: input_record(checkpoint) | made.get(name, {}) for name, checkpoint in every_input(plan).items()}


def records_after_reading(plan: Plan) -> dict[str, Any]:
    """Every input's record; files that stayed on the Hub say how what was read of them was checked."""
    records = input_records(plan)
    for name, checkpoint in every_input(plan).items():
        for file in checkpoint.every_file:
            if file.remote:
                records[name]["files"][file.name]["read"] = file.remote.record()
    return records


def may_be_result(plan: Plan, manifest: bytes) -> bool:
    """Whether a manifest is of the plan's recipe and inputs, as far as their records tell; its bytes may differ yet."""
    try:
        said = json.loads(manifest)
        inputs = said["inputs"]
        for record in inputs.values():
            for file in record["files"].values():
                file.pop("read", None)
        planned = {"expo": __version__, "recipe": plan.recipe.record(), "inputs": input_records(plan)}
        return json.loads(json.dumps(planned)) == {name: said[name] for name in planned}
    except (ValueError, TypeError, KeyError, AttributeError):
        return False


def identity_of_stages(plans: Sequence[Plan]) -> str:
    """A hash of all that decides the bytes of the last of several stages, whether or not the earlier ones are there."""
    return xxhash.xxh3_128_hexdigest(json.dumps([fingerprint(plan, made=plan.uses) for plan in plans]).encode())


def fingerprint(plan: Plan, *, made: Collection[str] = ()) -> str:
    """A hash of all that decides the output's bytes, and of what identifies the inputs on this machine.

    made: inputs that are made again, so that their files' times do not count.
    """
    inputs = {name: input_record(checkpoint) for name, checkpoint in every_input(plan).items()}
    times = {
        name: [] if name in made else [f.mtime_ns for f in checkpoint.every_file]
        for name, checkpoint in every_input(plan).items()
    }
    # What configs and tokenizers decide, and what an input was allowed to hold.
    made_of = [
        (
            job.name,
            job.noise_name,
            job.method,
            job.parameters,
            [(o.role, o.spec.name, o.rows, o.spec.view) for o in job.operands],
        )
        for job in plan.jobs
    ]
    content = {
        "expo": __version__,
        "recipe": plan.recipe.record(),
        "allow_non_finite": plan.recipe.allow_non_finite,
        "inputs": inputs,
        "times": times,
        "sides": [plan.sides.tokenizer and plan.sides.tokenizer.describe(), plan.sides.chat_template],
        "jobs": xxhash.xxh3_128_hexdigest(repr(made_of).encode()),
        # It decides no byte of a tensor, but the manifest's: one run must not publish another's evidence.
        **({"search": plan.search} if plan.search else {}),
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def description(plan: Plan) -> str:
    """The run in one line, for people who find its unfinished folder."""
    labels = ", ".join(f"{role} {checkpoint.source.label}" for role, checkpoint in plan.inputs.items())
    return f"{plan.recipe.title} of {labels}"


def check_output(plan: Plan, sink: FolderSink, *, key: str | None = None, n_bytes: int | None = None) -> None:
    """Everything about the output's place that can be known to fail; raises OutputError or DiskFull.

    key: the fingerprint that an unfinished folder must have, where it is not the plan's. n_bytes: what lies there at a
    time, where it is not the whole output. Of several processes the first looks: a lock that it holds already is no
    other run's.
    """
    if not place().is_first:
        return
    roots = {role: _root(checkpoint) for role, checkpoint in plan.inputs.items()}
    for role, checkpoint in plan.inputs.items():
        roots |= {f"adapter {k} of {role}": a.folder for k, a in enumerate(checkpoint.source.adapters, 1)}
    sink.check(roots, n_bytes or plan.n_bytes_written, key or fingerprint(plan))


def _root(checkpoint: Checkpoint) -> Path:
    """The folder that an input is, or the one file where a file was named."""
    text = Path(checkpoint.source.text)
    alone = text.is_file() and len(checkpoint.files) == 1 and not checkpoint.source.side_files
    return text if alone else checkpoint.source.folder
