"""evaluate: models or files of answers in, one record of accuracies and differences out."""

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from expo.errors import ExpoError
from expo.evaluate.equivalence import SECONDS, judge
from expo.evaluate.extract import extractor
from expo.evaluate.grade import Graded, Reference, grade, read_references
from expo.evaluate.summary import difference, summary
from expo.generate.experts import names_experts, read_experts
from expo.generate.run import generate
from expo.generate.sampling import Sampling
from expo.generate.sharing import on_each, team
from expo.launcher import World
from expo.rows import replace_file, write_rows


class NothingToEvaluate(ExpoError):
    """Neither a model nor answers were given."""


def evaluate(
    data: str | Path,
    *,
    models: Sequence[str] = (),
    answers: Sequence[str | Path] = (),
    compare: Sequence[str] = (),
    output: str | Path | None = None,
    sampling: Sampling | None = None,
    extraction: str = "default",
    equivalence: str = "numeric",
    seconds: float = SECONDS,
    ks: Sequence[int] | None = None,
    gold_field: str | None = None,
    progress: Callable[[str], Callable[[int, int, int], object]] | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Accuracy and pass@k on the questions of `data`, and how all but the first differ from the first, pairwise.

    What is evaluated, in this order: `models`, files of `answers`, and the models of `compare`.
    output: a folder for answers, grades and report.json; answers that it holds are not asked for again.
    progress: from a model's name to what `generate` is to call. how: further settings of `generate`.
    Under a launcher (torchrun) all processes call it and share the questions; the first grades.
    Raises what `generate` and `grade` raise.
    """
    ranks = team()
    comparing = {"extraction": extraction, "equivalence": equivalence, "seconds": seconds}
    references = on_each(ranks, lambda: check(data, [*models, *compare], answers, **comparing, gold_field=gold_field))
    with _folder(output, ranks) as folder:
        graded: dict[str, Graded] = {}
        warnings = []
        files = {str(path): path for path in answers}
        names = _named([*models, *compare])
        for text in (*map(str, models), *files, *map(str, compare)):
            path = files.get(text) or folder / f"answers-{names[text]}.jsonl"
            if text not in files:
                watched = {"progress": progress(text)} if progress else {}
                report = generate(text, data, path, sampling=sampling, **how, **watched)
                warnings += [f"{text}: {warning}" for warning in report.warnings]
            ranks.first(lambda text=text, path=path: graded.update({text: grade(path, references, **comparing)}))

        def told() -> dict[str, Any]:
            record = _record(data, graded, ks, warnings)
            if output is not None:
                _keep(folder, graded, record)
            return record

        return ranks.first(told)


def check(
    data: str | Path,
    models: Sequence[str],
    answers: Sequence[str | Path],
    extraction: str,
    equivalence: str,
    seconds: float,
    gold_field: str | None,
) -> list[Reference]:
    """The references, once everything that can be wrong before a model is asked has been looked at."""
    if not models and not answers:
        raise NothingToEvaluate(
            "nothing to evaluate: name a model (--model M, --ensemble EXPERTS.JSON) or a file "
            "of answers (--answers FILE)."
        )
    twice = {str(text) for text in (*models, *answers) if [*map(str, models), *map(str, answers)].count(str(text)) > 1}
    if twice:
        raise NothingToEvaluate(f"{', '.join(sorted(twice))}: named twice; a model cannot be compared with itself.")
    for path in filter(names_experts, models):
        read_experts(path)
    extractor(extraction)
    judge(equivalence, seconds=seconds)
    return read_references(data, gold_field=gold_field)


def _record(data: str | Path, graded: dict[str, Graded], ks: Sequence[int] | None, warnings: list[str]) -> dict:
    record: dict[str, Any] = {"data": str(data), "models": {name: summary(one, ks) for name, one in graded.items()}}
    first, *others = graded
    record["differences"] = [
        {"from": first, "to": other, **difference(graded[first], graded[other]).record()} for other in others
    ]
    for name, one in record["models"].items():
        if one["undecided"]:
            warnings.append(f"{name}: {one['undecided']} comparisons took too long and count as wrong")
    return {**record, "warnings": warnings}


@contextlib.contextmanager
def _folder(output: str | Path | None, ranks: World) -> Iterator[Path]:
    """Where answers and grades are kept: OUTPUT, or for the time of the run a folder of the first process."""
    if output is not None:
        yield Path(output)
        return
    with contextlib.ExitStack() as stack:
        yield Path(ranks.first(lambda: stack.enter_context(tempfile.TemporaryDirectory(prefix="expo-eval-"))))


def _named(models: Sequence[str]) -> dict[str, str]:
    """A file name for each model: the last part of what it is called, numbered where two are alike."""
    names: list[str] = []
    for text in models:
        name = re.sub(r"[^\w.-]+", "-", str(text).rstrip("/").split("/")[-1]).strip("-.") or "model"
        like = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in names)
        names.append(f"{name}-{like + 1}" if like else name)
    return dict(zip(map(str, models), names, strict=True))


def _keep(folder: Path, graded: dict[str, Graded], record: dict[str, Any]) -> None:
    for text, name in _named(list(graded)).items():
        write_rows(folder / f"grades-{name}.jsonl", (row._asdict() for row in graded[text].grades))
    replace_file(folder / "report.json", (json.dumps(record, indent=2) + "\n").encode())
