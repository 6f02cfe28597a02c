"""SciQ, ARC and QuaRTz as pools: SciQ as right or wrong answers to classify, the others as questions to answer.

Their columns are those of the data sets' cards on the Hub. The paper names the data sets; how a row reads is published
for SciQ alone (its code), and ours for ARC and QuaRTz.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from expo.weak_to_strong.answers import field
from expo.weak_to_strong.provenance import text_hash
from expo.weak_to_strong.questions import Load, hub

SPLITS = ("train", "validation", "test")  # the pool holds all of them, as the published split does


class DataSet(NamedTuple):
    """How a data set becomes a pool."""

    kind: str
    configs: tuple[str | None, ...]
    convert: Callable[[Mapping[str, Any], str | None, int], dict[str, Any]]  # row, config, seed


def from_sciq(row: Mapping[str, Any], config: str | None, seed: int) -> dict[str, Any]:
    """A question with its answer (1) or one of the three distractors (0), by a fair coin that the question decides."""
    row = dict(row)
    question = field(row, ("question",), str)
    coin = text_hash(str(seed), "sciq", question)
    right = coin[0] % 2 == 1
    name = "correct_answer" if right else f"distractor{1 + coin[1] % 3}"
    return {"text": f"Q: {question} A: {field(row, (name,), str)}", "label": int(right)}


def from_choices(row: Mapping[str, Any], config: str | None, seed: int) -> dict[str, Any]:
    """A question with its choices; the answer is a choice's letter and text, of which the letter is scored."""
    row = dict(row)
    choices, key = field(row, ("choices",), dict), field(row, ("answerKey",), str)
    texts, letters = list(choices["text"]), [str(one) for one in choices["label"]]
    if key not in letters or len(texts) != len(letters):
        raise ValueError(f"'answerKey' {key!r} is none of the choices {', '.join(letters)}")
    paragraph = f"{row['para'].strip()}\n" if isinstance(row.get("para"), str) and row["para"].strip() else ""
    listed = "\n".join(f"({letter}) {text}" for letter, text in zip(letters, texts, strict=True))
    asked = f"{paragraph}Question: {field(row, ('question',), str)}\n{listed}\nAnswer:"
    made = {"prompt": asked, "completion": f"({key}) {texts[letters.index(key)]}", "gold": key}
    return made | ({"level": int(config == "ARC-Challenge")} if config else {})


DATA_SETS = {
    "allenai/sciq": DataSet("classification", (None,), from_sciq),
    "allenai/ai2_arc": DataSet("generation", ("ARC-Easy", "ARC-Challenge"), from_choices),
    "allenai/quartz": DataSet("generation", (None,), from_choices),
}


def pool_of(name: str, seed: int, load: Load | None = None) -> Iterator[dict[str, Any]]:
    """Every row of a data set in the pool's form. Raises ExpoError where it cannot be loaded or a row is odd."""
    from expo.weak_to_strong.errors import RowError

    found, load = DATA_SETS[name], load or hub
    for config in found.configs:
        for split in SPLITS:
            rows: Iterable[Mapping[str, Any]] = load(name, config, split)
            for number, row in enumerate(rows, start=1):
                try:
                    yield found.convert(row, config, seed)
                except (ValueError, KeyError, TypeError) as error:
                    raise RowError(f"{name}, {config or 'default'}, {split} row {number}", f"{error}.") from error
