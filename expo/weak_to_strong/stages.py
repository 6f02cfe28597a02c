"""A pipeline as a list of stages: each makes one folder, and is passed over while nothing that it depends on changed.

OUT/NAME.partial is where a stage works; a killed stage finds there what it had, if it is still the same stage.
OUT/NAME appears whole; OUT/NAME/.stage.json says what it was made from. Knows nothing of what stages do.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expo.errors import ExpoError, OutputError, nearest
from expo.weak_to_strong.errors import RunFileError, StageError
from expo.weak_to_strong.keyed import write_text
from expo.weak_to_strong.provenance import hash_of, text_hash

RECORD = ".stage.json"
_NAMED = 4  # stages that a plan names as another's reason, before it says "all of the above"
Make = Callable[[Path, Mapping[str, Path | str]], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Of:
    """A file or folder that an earlier stage makes."""

    stage: str
    part: str = "."

    def __str__(self) -> str:
        return f"{self.stage}/{self.part}"


Input = Of | Path | str  # a str names a model: a folder, or one on the Hub, known again by its name and revision


@dataclass(frozen=True)
class Stage:
    """One step: make(folder, inputs) fills a folder and returns facts for the report.

    name: where its folder is, such as llama2_7b/select. kind: its family, which `from_` may name; by default the last
    part of its name. settings: everything besides the inputs that changes what is made; JSON values. A fact called
    `said` is told when the stage is made.
    """

    name: str
    make: Make
    inputs: Mapping[str, Input] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""

    def names(self) -> tuple[str, ...]:
        """What it may be called: its name, the last part of it, its family."""
        last = self.name.rsplit("/", 1)[-1]
        return (self.kind or last, last, self.name)


@dataclass(frozen=True)
class Outcome:
    """What is or will be done about a stage."""

    stage: str
    done: bool  # whether its folder stood already
    why: str  # it is to be made; empty where it is not
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)


def run_stages(
    stages: Sequence[Stage], output: str | Path, *, from_: str | None = None, say: Callable[[str], object] = print
) -> list[Outcome]:
    """Make every stage that is not made yet, or whose inputs or settings changed; what was done.

    from_: a stage's name, or the last part of several names: these and all that depends on them are made anew.
    Raises RunFileError for an unknown `from_`, OutputError while another run works in `output`, StageError where a
    stage fails with an error of its own; the stages before it stay, and the same call goes on there.
    """
    output = Path(output)
    stale = _stale(stages, from_)
    with _held(output):
        for name in stale:
            (output / name / RECORD).unlink(missing_ok=True)
        outcomes = []
        for number, stage in enumerate(stages, 1):
            outcome = _run(stage, output, lambda text, number=number: say(f"[{number}/{len(stages)}] {text}"))
            outcomes.append(outcome)
    return outcomes


def plan_stages(stages: Sequence[Stage], output: str | Path, *, from_: str | None = None) -> list[Outcome]:
    """What run_stages would do, without doing any of it."""
    output = Path(output)
    stale, made = _stale(stages, from_), set()
    outcomes = []
    reached: dict[str, set[str]] = {}  # stage -> all that it depends on
    for stage in stages:
        direct = {item.stage for item in stage.inputs.values() if isinstance(item, Of)}
        reached[stage.name] = direct.union(*(reached[name] for name in direct))
        upstream = sorted(direct & made)
        if stage.name in stale:
            why = "asked for" if from_ in stage.names() else "depends on what is asked for"
        elif len(upstream) > _NAMED and reached[stage.name] >= made:
            why = "after all of the above"
        elif upstream:
            why = f"after {', '.join(upstream)}"
        else:
            why = _why(stage, output)
        if why:
            made.add(stage.name)
        outcomes.append(Outcome(stage.name, not why, why))
    return outcomes


def record_of(output: str | Path, stage: str) -> dict[str, Any] | None:
    """What a finished stage's record says, or None."""
    try:
        return json.loads((Path(output) / stage / RECORD).read_text())
    except (OSError, ValueError):
        return None


def _stale(stages: Sequence[Stage], from_: str | None) -> set[str]:
    if from_ is None:
        return set()
    found = {stage.name for stage in stages if from_ in stage.names()}
    if not found:
        known = [name for stage in stages for name in stage.names()]
        kinds = ", ".join(dict.fromkeys(stage.names()[0] for stage in stages))
        raise RunFileError(f"no stage is called {from_!r}.{nearest(from_, known)} The stages are: {kinds}.")
    for stage in stages:  # in their order, so that one pass reaches all that depends on them
        if any(isinstance(item, Of) and item.stage in found for item in stage.inputs.values()):
            found.add(stage.name)
    return found


def _run(stage: Stage, output: Path, say: Callable[[str], object]) -> Outcome:
    why = _why(stage, output)
    if not why:
        say(f"{stage.name}: done before")
        return Outcome(stage.name, True, "", facts=record_of(output, stage.name)["facts"])
    say(f"{stage.name}: {why}")
    began = time.monotonic()
    partial = output / f"{stage.name}.partial"
    asked = _asked(stage, output)
    _open(partial, asked)
    try:
        facts = dict(stage.make(partial, {role: _path(item, output) for role, item in stage.inputs.items()}) or {})
    except ExpoError as error:
        problem = f"stage {stage.name} failed; what it made so far stays in {partial}.\n{error}"
        raise StageError(problem) from error
    seconds = time.monotonic() - began
    write_text(partial / RECORD, _text({"asked": asked, "facts": facts, "seconds": round(seconds, 3)}))
    _replace(partial, output / stage.name)
    if facts.get("said"):
        say(f"{stage.name}: {facts['said']}")
    say(f"{stage.name}: made in {seconds:.1f} s")
    return Outcome(stage.name, False, why, seconds, facts)


def _why(stage: Stage, output: Path) -> str:
    """The reason to make a stage, or nothing."""
    held = record_of(output, stage.name)
    if held is None:
        return "goes on" if (output / f"{stage.name}.partial").exists() else "not made yet"
    before, now = held["asked"], _asked(stage, output)
    for what in ("settings", "inputs"):
        differ = [name for name in {**before[what], **now[what]} if before[what].get(name) != now[what].get(name)]
        if differ:
            return f"{what} changed: {', '.join(differ)}"
    return ""


def _asked(stage: Stage, output: Path) -> dict[str, Any]:
    """All that decides what a stage makes: JSON values, the same for the same run."""
    inputs = {role: _identity(item, output, f"{stage.name}: {role}") for role, item in stage.inputs.items()}
    return {"stage": stage.name, "settings": json.loads(json.dumps(stage.settings)), "inputs": inputs}


def _identity(item: Input, output: Path, what: str) -> str:
    path = Path(_path(item, output))
    if isinstance(item, str) and not path.exists():
        return f"hub:{item}"
    if not path.exists():
        raise StageError(f"{what}: {path} does not exist.")
    return hash_of(path)


def _path(item: Input, output: Path) -> Path | str:
    """Where an input lies; a model on the Hub keeps its name."""
    return output / item.stage / item.part if isinstance(item, Of) else item


def _open(partial: Path, asked: Mapping[str, Any]) -> None:
    """The folder to work in; what another stage left there is removed."""
    mark = partial / ".asked"
    now = text_hash(_text(asked)).hex()
    held = mark.read_text() if mark.exists() else None
    if partial.exists() and held != now:
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    write_text(mark, now)


def _replace(partial: Path, folder: Path) -> None:
    """Put a finished folder in the place of an earlier one."""
    (partial / ".asked").unlink()
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _held(output: Path) -> Iterator[None]:
    output.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"{output}: another run works there. Wait for it, or choose another folder.") from None
        yield


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
