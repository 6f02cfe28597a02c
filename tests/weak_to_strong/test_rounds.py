"""Guards of boosting: what happens to experts that are perfect, no better than the prior, or of no use together.

The experts are stand-ins whose mistakes are written down; stages, files and records are the real ones.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from w2s_files import read, write

from expo.train.values import weight_of
from expo.weak_to_strong import ensemble_stages, rounds
from expo.weak_to_strong.ensemble import boost_run, build_boosting
from expo.weak_to_strong.errors import StageError
from expo.weak_to_strong.forms import Sampled
from expo.weak_to_strong.keyed import read_json, write_rows
from expo.weak_to_strong.stages import run_stages

N = 20


class Script:
    """A form whose expert of each training misses the rows named, and is right on so many of the validation rows."""

    def __init__(self, misses, right):
        self.misses, self.right = misses, right
        self.given, self.again = [], []

    def train(self, run, settings, model, rows, folder, *, weights=None, again=0):
        self.given.append(weights or [row["id"] for row in rows])
        self.again.append(again)
        (folder / "model").mkdir(parents=True)
        (folder / "model/config.json").write_text(json.dumps(len(self.given) - 1))
        return {"rows": len(rows)}

    def sampled(self, run, model, rows):
        number = json.loads((model / "config.json").read_text())
        wrong = np.array([row["id"] in self.misses[number] for row in rows])
        return Sampled(list(range(len(rows))), [1] * len(rows), wrong, 2)

    def test(self, run, model, rows, folder):
        return self._results(json.loads((Path(model) / "config.json").read_text()), folder)

    def test_ensemble(self, run, experts, tested, rows, folder):
        listed = json.loads(experts.read_text())["experts"]
        return self._results(len(self.given) - 1, folder) | {"experts": len(listed)}

    def _results(self, number, folder):
        right = self.right[number]
        write_rows(folder / "results.jsonl", ({"id": n, "result": n < right} for n in range(10)))
        return {"accuracy": {"correct": right, "n": 10, "accuracy": right / 10}}


@pytest.fixture
def boosted(tmp_path, monkeypatch):
    """Run the rounds with a script; the folder, what was told, and the outcomes."""

    def go(script, *, rounds=4, **asked):
        form = SimpleNamespace(**{n: getattr(script, n) for n in ("train", "sampled", "test", "test_ensemble")})
        monkeypatch.setattr(ensemble_stages, "form_of", lambda run: form)
        files = [tmp_path / "easy.jsonl", tmp_path / "validation.jsonl"]
        for file in files:
            write(file, ({"id": n, "text": f"{file.stem} {n}", "label": n % 2} for n in range(N)))
        (tmp_path / "weak").mkdir(exist_ok=True)
        options = {"kind": "classification", "seed": 0, "labels": "", "rounds": rounds, "patience": 0} | asked
        told: list[str] = []
        stages = build_boosting(boost_run(str(tmp_path / "weak"), options, {}), *files)
        outcomes = run_stages(stages, tmp_path / "out", say=told.append)
        return tmp_path / "out", told, outcomes

    return go


def experts(out):
    return [(one["model"], one["weight"]) for one in json.loads((out / "ensemble/experts.json").read_text())["experts"]]


def test_an_expert_no_better_than_the_prior_is_left_out_and_weights_begin_anew(boosted):
    script = Script([{0, 1, 2, 3}, set(range(12)), {4}, {5}], [5, 4, 6, 7])
    out, told, _ = boosted(script)
    assert [name for name, _ in experts(out)] == [f"../round_{n}/expert/model" for n in (0, 2, 3)]
    assert any("round_1/weigh" in line and "it is left out" in line for line in told)
    assert script.given[2] == [1.0] * N and script.again == [0, 0, 1, 1]
    assert script.given[1] != [1.0] * N and script.given[3] != [1.0] * N
    first, again = (read(out / f"round_{n}/tests/ensemble/validation/results.jsonl") for n in (0, 1))
    assert first == again  # the ensemble is the same one


def test_weights_stay_what_the_trainer_takes_with_a_large_vocabulary(tmp_path):
    """SAMME's odds of 50,000 classes leave less than 1e-30 of the weight with what each of seven experts knew."""
    found = Sampled([0, 1], [1, 1], np.array([True, False]), 2)
    rows = [{"id": "a"}, {"id": "b"}]
    rounds.write_weights(tmp_path / "weights.jsonl", rows, found, np.array([1.0, 1e-33]))
    (heavy,), (light,) = rounds.of_rows(tmp_path / "weights.jsonl", rows)
    assert weight_of(light) == light == rounds.LEAST and heavy == 2
    assert rounds.read_weights(tmp_path / "weights.jsonl", rows, found).tolist() == [2, rounds.LEAST]


def test_or_ends_boosting(boosted):
    script = Script([{0}, set(range(19))], [5, 4])
    out, told, _ = boosted(script, not_better="stop")
    assert len(script.given) == 2 and len(experts(out)) == 1
    assert any("round_2/expert: not trained: an expert is not better than the prior" in line for line in told)


def test_a_perfect_expert_counts_and_ends_boosting(boosted):
    script = Script([{0, 1}, set()], [5, 9])
    out, told, _ = boosted(script)
    assert len(script.given) == 2
    (_, first), (_, second) = experts(out)
    assert second == pytest.approx(0.5 * np.log((1 - 1 / 40) / (1 / 40))) and second > first
    assert any("makes no mistake" in line for line in told)


def test_boosting_ends_where_validation_gains_nothing_and_the_best_round_is_chosen(boosted):
    script = Script([{0}, {1}, {2}, {3}, {4}], [5, 8, 8, 7, 9])
    out, told, outcomes = boosted(script, rounds=5, patience=2)
    assert len(script.given) == 4 and len(experts(out)) == 2
    facts = outcomes[-1].facts
    assert facts["chosen round"] == 1 and facts["stopped"] == "2 rounds brought no better ensemble on validation"
    assert "chosen on validation" in facts["said"]
    for number in range(4):
        assert any(f"round_{number}/tests: on its own: validation" in line for line in told)


def test_without_patience_all_rounds_are_made(boosted):
    script = Script([{0}, {1}, {2}, {3}], [5, 4, 4, 4])
    out, _, outcomes = boosted(script)
    assert len(script.given) == 4 and outcomes[-1].facts["chosen round"] == 0 and len(experts(out)) == 1


def test_no_expert_at_all_is_an_error_that_says_what_to_do(boosted):
    script = Script([set(range(15))] * 4, [1] * 4)
    with pytest.raises(StageError, match=r"no expert is better than the prior .*0.7500(.|\n)*Train the experts longer"):
        boosted(script)


def test_rows_may_be_drawn_by_weight_instead(boosted):
    script = Script([{0}, {1}], [5, 6])
    boosted(script, rounds=2, weighting="resample")
    assert len(script.given[1]) == N and script.given[1].count(0) >= 4  # half of the weight lies on it


def test_a_killed_run_goes_on_with_the_round_that_was_not_finished(boosted, tmp_path):
    class Killed(Exception):
        pass

    script = Script([{0}, {1}, {2}], [5, 6, 7])
    train = script.train

    def dies(*arguments, **how):
        if len(script.given) == 2:
            raise Killed
        return train(*arguments, **how)

    script.train = dies
    with pytest.raises(Killed):
        boosted(script, rounds=3)
    script.train = train
    out, told, _ = boosted(script, rounds=3)
    assert sum("done before" in line for line in told) == 7 and len(script.given) == 3 and len(experts(out)) == 3
    assert list(read_json(out / "round_1/weigh/weights.jsonl"))
