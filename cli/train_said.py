"""What expo train says at its end: the plan of a dry run, or what was done and what follows."""

import shlex
from typing import Any


def plan(report: Any) -> str:
    rows = f"{_n(report.rows, 'row')}, {_n(report.tokens_each_epoch, 'token')}, at most {report.max_length:,} each"
    left_out = "".join(f"\nleft out: {n:,} ({kind})" for kind, n in report.dropped.items())
    cut = f"\ncut at the end: {_n(report.truncated, 'completion')}" if report.truncated else ""
    return f"{report.kind} of {report.model}: {_n(report.steps, 'step')}\n{rows}{left_out}{cut}\nnothing was written"


def closing(report: Any) -> str:
    rate = report.leg_tokens / report.seconds if report.seconds else 0
    took = f"{report.seconds:.1f} s ({rate:,.0f} tokens/s), peak memory {report.peak_memory / 2**20:,.0f} MiB"
    whole = (
        f"wrote {report.output}: {_n(report.steps, 'step')} on {_n(report.rows, 'row')}, {_n(report.tokens, 'token')}"
    )
    lines = [f"{whole} in {took}"]
    if report.resumed_at:
        here = f"{_n(report.steps - report.resumed_at, 'step')}, {_n(report.leg_tokens, 'token')} in {took}"
        lines = [whole, f"continued from step {report.resumed_at:,} of an earlier run; here: {here}"]
    if report.loss is not None:
        figures = {name: report.metrics[name] for name in ("accuracy", "margins") if name in report.metrics}
        lines.append(", ".join([f"last loss {report.loss:.4f}", *(f"{name} {x:.3f}" for name, x in figures.items())]))
    return "\n".join([*lines, f"next: {_next(report)}"])


def _next(report: Any) -> str:
    model, output = shlex.quote(report.model), shlex.quote(report.output)
    lora = report.settings.get("lora")
    if lora and not lora["merge"]:
        output = shlex.quote(f"{report.model}+{report.output}")  # an adapter is named with its base
    if report.kind == "dpo":
        return f"expo extrapolate --sft {model} --dpo {output} --alpha 0.3 -o {shlex.quote(report.output + '-expo')}"
    if report.kind == "sft":
        pairs, out = "pairs.jsonl", shlex.quote(report.output + "-dpo")
        return f"expo train dpo --model {output} --data {pairs} -o {out}"
    return f"expo inspect {output}"


def _n(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
