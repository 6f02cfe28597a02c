"""What a run file names, looked at before its first stage: extractions and judges, files, models."""

from collections.abc import Iterable
from pathlib import Path

from expo.checkpoint.source import looks_local
from expo.errors import ExpoError


def unknown_scoring(extraction: str, equivalence: str) -> list[str]:
    """What is wrong with the names of an extraction and a judge, a sentence each."""
    from expo.evaluate import extractor, judge

    problems = []
    for look, name in ((extractor, extraction), (judge, equivalence)):
        try:
            look(name)
        except ExpoError as error:
            problems.append(str(error))
    return problems


def missing_files(paths: Iterable[str | Path | None]) -> list[str]:
    """A sentence for each file that is named and not there."""
    return [f"{path}: no such file." for path in paths if path and not Path(path).exists()]


def missing_models(names: Iterable[str | None]) -> list[str]:
    """A sentence for each model that looks like a path and is not there.

    BASE+ADAPTER and a revision on the Hub are left to the stage that loads them.
    """
    local = [name for name in dict.fromkeys(names) if name and not set("+@") & set(name)]
    paths = {name: Path(name).expanduser() for name in local}
    return [f"{name}: no such model." for name, path in paths.items() if looks_local(path) and not path.exists()]
