"""run.yaml: what a weak-to-strong run is asked to do. An unknown key is an error, with its line and the nearest name.

Shipped run files are found by name (`gsm8k`), others by path. Paths in them are relative to the current directory.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from expo.errors import ExpoError, nearest
from expo.weak_to_strong.errors import RunFileError
from expo.weak_to_strong.mistakes import Misplaced, told
from expo.weak_to_strong.modes import Mode
from expo.weak_to_strong.pairs import AGREE, DISAGREE, SEED

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # of what becomes a folder or a file
_LARGEST = 1 << 20  # bytes of a run file
Sets = tuple[Literal["weak", "icl", "hybrid"], ...]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Data(Part):
    """Files of {id, prompt, completion, gold}; the method itself reads the prompts of train_2 only."""

    train_1: str | None = None  # teaches the weak models; not needed where all come taught
    train_2: str
    test: str
    validation: str | None = None  # chooses alpha; never the test set


class Embedded(Part):
    """The embedded running-sum task: it makes its own questions and base models."""

    terms: int = Field(5, ge=2, le=7)
    train: int = Field(2000, ge=10)  # questions of train_2, and half as many of each length in train_1
    test: int = Field(2000, ge=10)
    validation: int = Field(1000, ge=10)
    shots: int = Field(1, ge=0, le=4)  # demonstrations that the strong base was pretrained with
    pretraining: int = Field(500, ge=1)  # steps of the strong base


class Weak(Part):
    """A weak model. sft: whether it is first taught train_1; otherwise it answers as it comes."""

    name: str = Field(pattern=NAME)
    model: str = ""
    sft: bool = True


class Answering(Part):
    """How a model is asked, apart from temperature and number of samples."""

    max_tokens: int = Field(1024, ge=1)
    stop: tuple[str, ...] = ()
    batch_tokens: int | None = None
    long_prompts: Literal["error", "skip", "cut"] = "error"


class Drawing(Part):
    """How the strong model's samples for the vote are drawn."""

    samples: int = Field(10, ge=2)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)


class Demos(Part):
    """Demonstrations for the strong model: of a file, or `shots` of the weak model's own answers, right or wrong."""

    shots: int = Field(4, ge=0)
    file: str | None = None


class PairSettings(Part):
    """Thresholds and numbers of pair building."""

    agree: float = Field(AGREE, ge=0, le=1)
    disagree: float = Field(DISAGREE, ge=0, le=1)
    most: int = Field(1, ge=1)
    seed: int = SEED


class Extrapolation(Part):
    """Past the preference-trained model: one alpha, or several of which validation questions choose."""

    alphas: tuple[float, ...] = Field((0.3,), min_length=1)


class Adapter(Part):
    """A released LoRA adapter to evaluate; of several, each is merged before the next is laid on."""

    name: str = Field(pattern=NAME)
    adapters: tuple[str, ...] = Field(min_length=1)


class Asked(Part):
    """What every pipeline is told: its name, and how models are asked, scored and run."""

    name: str = Field(pattern=NAME)
    mode: Mode = Mode.MENDED
    seed: int = 0
    extraction: str = "default"
    equivalence: str = "numeric"
    judge_seconds: float | None = Field(None, gt=0)
    space: bool = True  # between prompt and completion in training, as tokenizers of words expect
    answering: Answering = Answering()
    drawing: Drawing = Drawing()
    device: str = "auto"
    threads: int | None = Field(None, ge=1)
    shelf: ClassVar[tuple[str, ...]] = ()  # the folder in runs/ of the shipped ones


class RunFile(Asked):
    """All settings of one run of Weak-to-Strong Reasoning."""

    pipeline: Literal["reasoning", "evaluate"] = "reasoning"
    data: Data | None = None
    embedded: Embedded | None = None
    weak: tuple[Weak, ...] = ()
    strong: str = ""
    adapters: tuple[Adapter, ...] = ()
    weak_sft: Mapping[str, Any] = Field(default_factory=dict)
    strong_sft: Mapping[str, Any] = Field(default_factory=dict)
    ceiling: bool = True
    sets: Sets = ("weak", "icl", "hybrid")
    iterations: int = Field(1, ge=1)
    demos: Demos = Demos()
    pairs: PairSettings = PairSettings()
    preference: Mapping[Literal["dpo", "orpo"], Mapping[str, Any]] = Field(default_factory=dict)
    extrapolate: Extrapolation | None = None
    given: Mapping[str, str] = Field(default_factory=dict)  # stage -> answers (JSONL) or checkpoint made elsewhere

    @field_validator("weak", "adapters")
    @classmethod
    def _different(cls, found: Sequence) -> Sequence:
        names = [one.name for one in found]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"the name {sorted(twice)[0]!r} is given twice")
        return found

    @model_validator(mode="after")
    def _whole(self) -> "RunFile":
        if (self.data is None) == (self.embedded is None):
            raise ValueError("give either `data` or `embedded`")
        if self.pipeline == "evaluate" and not self.adapters:
            raise ValueError("an evaluation needs `adapters`")
        if self.pipeline == "reasoning" and not self.weak:
            raise ValueError("a reasoning run needs at least one model in `weak`")
        if self.data and not self.strong:
            raise ValueError("`strong` names no model")
        if self.data and any(not one.model for one in self.weak):
            raise ValueError("every weak model needs `model`, a folder or a Hub id")
        if self.data and self.data.train_1 is None and any(one.sft for one in self.weak):
            raise ValueError("`data.train_1` is needed to teach the weak models; or give each of them `sft: false`")
        if "hybrid" not in self.sets or (self.iterations > 1 and len(set(self.sets)) < 3):
            raise ValueError("`sets` needs hybrid, and all three where there is more than one iteration")
        several = self.extrapolate and len(self.extrapolate.alphas) > 1
        if several and self.data and self.data.validation is None:
            raise ValueError("several alphas need `data.validation` to choose on, which is never the test set")
        if self.extrapolate and not self.preference:
            raise ValueError("`extrapolate` goes past a preference-trained model; there is no `preference`")
        return self

    @model_validator(mode="after")
    def _trainers(self) -> "RunFile":
        from expo.train import DpoSettings, SftSettings

        check_trainer(SftSettings, self.weak_sft, "weak_sft")
        check_trainer(SftSettings, self.strong_sft, "strong_sft")
        for name, settings in self.preference.items():
            if "loss" in settings:
                raise Misplaced(
                    ("preference", name, "loss"),
                    "the loss of a preference is its name: `dpo` is sigmoid, `orpo` is orpo",
                )
            check_trainer(DpoSettings, settings, "preference", name)
        return self


def check_trainer(kind: Any, settings: Mapping[str, Any], *at: str) -> None:
    """Raise Misplaced, which says whose setting it is, where a trainer refuses its settings."""
    try:
        kind.of(settings)
    except ExpoError as error:
        message = str(error)
        name = next((key for key in settings if message.startswith((f"{key}: ", repr(key)))), None)
        place = (*at, name) if name else at
        raise Misplaced(place, message.removeprefix(f"{name}: ").rstrip(".")) from error


Run = TypeVar("Run", bound=Asked)


def shipped(kind: type[Asked] = RunFile) -> dict[str, Path]:
    """Name -> run file, of those that come with expo for that kind of run."""
    folder = (files("expo.weak_to_strong") / "runs").joinpath(*kind.shelf)
    return {path.name.removesuffix(".yaml"): path for path in sorted(folder.iterdir()) if path.name.endswith(".yaml")}


def load_run(source: str | Path, changes: Mapping[str, str] | None = None, kind: type[Run] = RunFile) -> Run:
    """The run file at a path, or the shipped one of that name; `changes` are dotted keys with YAML values.

    kind: RunFile, or another pipeline's. Raises RunFileError with file and line.
    """
    path = Path(source)
    if not path.is_file():
        known = shipped(kind)
        if str(source) not in known:
            offer = nearest(str(source), known)
            raise RunFileError(f"{source} is neither a file nor a shipped run.{offer} Shipped: {', '.join(known)}.")
        path = known[str(source)]
    lines: dict[tuple, int] = {}
    found = _read(path, lines)
    for key, text in (changes or {}).items():
        set_key(found, key, text)
    return validated(found, kind, path, lines, changes or {})


def validated(
    found: Mapping, kind: type[Run], path: Path, lines: Mapping[tuple, int], changes: Mapping[str, str]
) -> Run:
    """A run of that kind with these settings; RunFileError names every mistake and its place."""
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        problems = [told(problem, path, lines, changes, kind) for problem in error.errors()]
        raise RunFileError("\n".join(dict.fromkeys(problems))) from error


def _read(path: Path, lines: dict[tuple, int]) -> dict:
    try:
        text = path.read_bytes()
        if len(text) > _LARGEST:
            raise RunFileError(f"{path}: a run file has at most 1 MiB, this one {len(text):,} bytes.")
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if getattr(event, "anchor", None):
                line = event.start_mark.line + 1
                raise RunFileError(f"{path}:{line}: anchors and aliases are not read. Write the value out.")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise RunFileError(f"{path}: a mapping of settings is expected.")
        _walk(node, (), lines, path)
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise RunFileError(f"{path}: not YAML that can be read: {error}") from error


def _walk(node: yaml.Node, at: tuple, lines: dict[tuple, int], path: Path) -> None:
    lines[at] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _walk(item, (*at, number), lines, path)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                raise RunFileError(f"{path}:{line}: the key {key.value!r} is given twice, or is no word.")
            seen.add(key.value)
            _walk(value, (*at, key.value), lines, path)
            lines[*at, key.value] = line


def set_key(found: dict, key: str, text: str) -> None:
    """Give one setting, by its dotted key, the value of a YAML text."""
    *parents, last = key.split(".")
    for name in parents:
        child = found.setdefault(name, {})
        if isinstance(child, list) and name == "weak":
            raise RunFileError(f"--set {key}: `weak` is a list; copy the run file and change it there.")
        if not isinstance(child, dict):
            raise RunFileError(f"--set {key}: {name!r} holds no settings of its own.")
        found = child
    try:
        found[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RunFileError(f"--set {key}: {text!r} is no YAML value.") from error
