"""expo w2s boost and label as a user types them, and the mistakes that they name."""

import json
import math
import shutil
from unittest import mock

import pytest
from engine import command
from taught import save_model
from w2s_files import read, write

from expo import toy
from expo.weak_to_strong.ensemble import boost_run
from expo.weak_to_strong.ensemble_stages import given_stage

SOLVED = [{"id": n, **example._asdict()} for n, example in enumerate(toy.draw(3, 40, "train", 0))]
JUDGED = [{"id": row["id"], "text": row["prompt"], "label": int(row["completion"][-1] >= "5")} for row in SOLVED]
TRAIN = {"max_steps": 15, "learning_rate": 5e-3, "precision": "float32", "save_every": 0}
SETS = {
    **{f"expert.{name}": value for name, value in TRAIN.items()},
    "space": False,
    "answering.max_tokens": 6,
    "extraction": "whole",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory, few_objects):
    """A tiny weak model, and files of easy questions in both forms."""
    home = tmp_path_factory.mktemp("home")
    save_model(home / "weak", seed=1)
    for name, rows in (("solved", SOLVED), ("judged", JUDGED)):
        write(home / f"{name}.jsonl", rows[:30])
        write(home / f"{name}-validation.jsonl", rows[30:])
    return home


def boost(home, kind, name, out, *more):
    sets = [word for key, value in SETS.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    files = ["--data", home / f"{name}.jsonl", "--validation", home / f"{name}-validation.jsonl"]
    return ["w2s", "boost", "--kind", kind, "--model", home / "weak", *files, "-o", out, "--rounds", 2, *sets, *more]


def test_classes_are_boosted_and_labelled_softly(home, capsys):
    out = home / "judges"
    code, stdout, stderr = command(capsys, *boost(home, "classification", "judged", out, "--prior", 0.9, "--json"))
    assert code == 0, stderr
    assert json.loads(stdout)["chosen round"] in (0, 1) and "on its own: validation" in stderr
    listed = json.loads((out / "experts.json").read_text())
    assert listed["kind"] == "classification" and (out / listed["experts"][0]["model"] / "config.json").exists()
    hard = write(home / "hard.jsonl", ({"id": row["id"], "text": row["text"]} for row in JUDGED))
    asked = ["w2s", "label", "--ensemble", out / "experts.json", "--data", hard, "-o", home / "soft.jsonl"]
    code, _, stderr = command(capsys, *asked, "--dry-run")
    assert code == 0 and not (home / "soft.jsonl").exists()
    code, stdout, stderr = command(capsys, *asked, "--json")
    assert code == 0, stderr
    rows = read(home / "soft.jsonl")
    assert json.loads(stdout)["rows"] == len(rows) == 40 and all(abs(sum(row["label"]) - 1) < 1e-9 for row in rows)
    code, _, stderr = command(capsys, *asked)
    assert code == 1 and "--overwrite" in stderr
    from expo.train.rows import labelled, read_rows

    assert len(labelled(read_rows(home / "soft.jsonl")).rows) == 40  # what expo train classify reads


def test_answers_are_boosted_and_generate_reads_the_same_experts(home, capsys):
    out = home / "writers"
    code, stdout, stderr = command(capsys, *boost(home, "generation", "solved", out, "--quiet"))
    assert code == 0, stderr
    assert stdout == "" == stderr
    listed = json.loads((out / "experts.json").read_text())
    prior = json.loads((out / "prior/state.json").read_text())["error"]  # of the weak model, before any training
    first = listed["rounds"][0]["error"]
    assert listed["prior"] == "pretrained" and 0.8 < prior < 1
    assert listed["rounds"][0]["alpha"] == pytest.approx(math.log((1 - first) / first) + math.log(prior / (1 - prior)))
    hard = write(home / "asked.jsonl", ({"id": row["id"], "prompt": row["prompt"]} for row in SOLVED[:8]))
    asked = ["--ensemble", out / "experts.json", "--data", hard, "--max-tokens", 6]
    with mock.patch("expo.weak_to_strong.labels.finish", side_effect=RuntimeError), pytest.raises(RuntimeError):
        command(capsys, "w2s", "label", *asked, "-o", home / "labels.jsonl")
    (partial,) = home.glob(".labels.jsonl.*.partial")
    code, _, stderr = command(capsys, "w2s", "label", *asked, "-o", home / "labels.jsonl")
    assert code == 0, stderr
    assert not partial.exists()  # what it held was gone on with
    assert command(capsys, "generate", *asked, "-o", home / "answers.jsonl")[0] == 0
    labels, answers = read(home / "labels.jsonl"), read(home / "answers.jsonl")
    assert [row["completion"] for row in labels] == [row["response"].strip() for row in answers]
    assert set(labels[0]) == {"id", "prompt", "completion"}


def test_an_expert_that_has_gone_is_made_again_the_same(home, capsys):
    asked = boost(home, "generation", "solved", home / "writers")  # the last test's, or made now
    assert command(capsys, *asked)[0] == 0
    model = home / "writers/round_1/expert/model"
    before = (model / "model.safetensors").read_bytes()
    shutil.rmtree(model)
    code, _, stderr = command(capsys, *asked)
    assert code == 1 and f"{model} is missing" in stderr.replace("/./", "/") and "--from round_1/expert" in stderr
    code, _, stderr = command(capsys, *asked, "--from", "round_1/expert")
    assert code == 0 and "round_0/tests: done before" in stderr and "round_1/expert: made" in stderr
    assert (model / "model.safetensors").read_bytes() == before


def listed(path, *experts, kind="generation", **more):
    found = [{"model": str(model), "weight": weight} for model, weight in experts]
    path.write_text(json.dumps({"kind": kind, "experts": found, **more}))
    return path


@pytest.mark.parametrize(
    ("weights", "problem"),
    [((0, 0), "all weights are 0"), ((1, "NaN"), "not a number"), ((1, -1), "finite and at least 0")],
)
def test_weights_that_make_no_ensemble_are_refused(home, capsys, tmp_path, weights, problem):
    file = listed(tmp_path / "experts.json", *((home / "weak", weight) for weight in weights))
    asked = ["--ensemble", file, "--data", home / "solved.jsonl", "-o", tmp_path / "out.jsonl"]
    code, _, stderr = command(capsys, "w2s", "label", *asked)
    assert code == 1 and problem in stderr and not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("kind", "more", "problem"),
    [
        ("classification", {"labels": 5}, "labels: 5 is not a list"),
        ("classification", {"labels": ["a"]}, "at least two different classes"),
        ("classification", {"combine": "votes"}, "boost.combine"),
        ("generation", {"combine": "discrete"}, "counts votes for classes"),
        ("generation", {"space": "maybe"}, "is not true or false"),
    ],
)
def test_a_list_of_experts_from_elsewhere_is_read_with_care(home, capsys, tmp_path, kind, more, problem):
    file = listed(tmp_path / "experts.json", (home / "weak", 1), kind=kind, **more)
    asked = ["--ensemble", file, "--data", home / "judged.jsonl", "-o", tmp_path / "out.jsonl", "--dry-run"]
    code, _, stderr = command(capsys, "w2s", "label", *asked)
    assert code == 1 and f"{file}: " in stderr and problem in stderr


def test_experts_of_different_tokenizers_are_refused(home, capsys, tmp_path):
    save_model(tmp_path / "other")
    table = json.loads((tmp_path / "other/tokenizer.json").read_text())
    vocabulary = table["model"]["vocab"]
    vocabulary["1"], vocabulary["2"] = vocabulary["2"], vocabulary["1"]
    (tmp_path / "other/tokenizer.json").write_text(json.dumps(table))
    file = listed(tmp_path / "experts.json", (home / "weak", 1), (tmp_path / "other", 1))
    asked = ["--ensemble", file, "--data", home / "solved.jsonl", "-o", tmp_path / "out.jsonl", "--dry-run"]
    code, _, stderr = command(capsys, "w2s", "label", *asked)
    assert code == 1 and "different tokenizers" in stderr


@pytest.mark.parametrize(
    ("more", "problem"),
    [({}, "score.weight is missing"), ({"labels": ["a", "b", "c"]}, "missing")],
)
def test_a_model_that_is_no_classifier_is_refused(home, capsys, tmp_path, more, problem):
    file = listed(tmp_path / "experts.json", (home / "weak", 1), kind="classification", **more)
    asked = ["--ensemble", file, "--data", home / "judged.jsonl", "-o", tmp_path / "out.jsonl"]
    code, _, stderr = command(capsys, "w2s", "label", *asked)
    assert code == 1 and problem in stderr


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"id": 1, "text": "t", "label": 1}, {"id": 2, "text": "u", "label": 1}], "rows are of one class"),
        ([{"id": 1, "text": "t", "label": "perhaps"}], "the label 'perhaps' is none of the classes (0, 1)"),
        ([], "there are no rows in it"),
    ],
)
def test_easy_questions_that_teach_nothing_are_refused(home, capsys, tmp_path, rows, problem):
    write(tmp_path / "easy.jsonl", rows)
    asked = boost(home, "classification", "judged", tmp_path / "out")
    asked[asked.index("--data") + 1] = tmp_path / "easy.jsonl"
    code, _, stderr = command(capsys, *asked)
    assert code == 1 and problem in stderr


def test_a_round_is_not_chosen_on_what_was_learnt(home, capsys, tmp_path):
    asked = boost(home, "classification", "judged", tmp_path / "out")
    asked[asked.index("--validation") + 1] = home / "judged.jsonl"
    code, _, stderr = command(capsys, *asked)
    assert code == 1 and "30 of 30 questions are also learnt from. The round is chosen there" in stderr
    run = boost_run(str(home / "weak"), {"kind": "classification", "seed": 0, "labels": ""}, {})
    write(tmp_path / "mixed.jsonl", JUDGED[25:])
    facts = given_stage(run, tmp_path, {"train": home / "judged.jsonl", "validation": tmp_path / "mixed.jsonl"})
    assert facts["said"].endswith("mixed.jsonl: 5 of 15 questions are also learnt from")


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--prior", "binray"], "Did you mean 'binary'?"),
        (["--prior", "1.5"], "1.5 is no error; it must lie between 0 and 1"),
        (["--labels", "a"], "at least two different classes"),
        (["--labels", "a,b,c", "--prior", "binary"], "binary` is for two classes; there are 3"),
        (["--prior", "pretrained"], "needs a model that answers before it is trained"),
        (["--set", "expert.learning_rat=1"], "Did you mean 'learning_rate'?"),
        (["--set", "extraction=regexp"], "regexp"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_runs(home, capsys, tmp_path, more, problem):
    code, _, stderr = command(capsys, *boost(home, "classification", "judged", tmp_path / "out", *more))
    assert code == 1 and problem in stderr and not (tmp_path / "out").exists()


# --- What experts say of questions, beside transformers' own answer to one question at a time ------------------------


def test_probabilities_of_classes_do_not_depend_on_what_they_are_batched_with(home, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from expo.train import ClassifySettings
    from expo.weak_to_strong.classifying import probabilities
    from expo.weak_to_strong.errors import BoostingError

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        home / "weak", num_labels=2, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}
    )
    tokenizer = AutoTokenizer.from_pretrained(home / "weak")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "judge")
    rows = [{"id": n, "text": "123456789"[: 1 + n] + "="} for n in range(9)]
    found = probabilities(tmp_path / "judge", rows, ("no", "yes"), ClassifySettings(), "cpu")
    with torch.no_grad():
        for row, own in zip(rows, found, strict=True):
            logits = model(**tokenizer(row["text"], return_tensors="pt", return_token_type_ids=False)).logits
            assert own == pytest.approx(logits.double().softmax(-1)[0].numpy(), abs=1e-6)
    with pytest.raises(BoostingError, match="its classes are no, yes, not right, wrong"):
        probabilities(tmp_path / "judge", rows, ("right", "wrong"), ClassifySettings(), "cpu")


def test_what_an_expert_misses_is_one_minus_the_mean_probability_of_the_true_tokens(home):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from expo.weak_to_strong import as_tokens
    from expo.weak_to_strong.ensemble_run import BoostRun

    run = BoostRun(name="x", kind="generation", space=False, device="cpu")
    rows = [{**row, "id": n} for n, row in enumerate(SOLVED[:6])]
    missed, sampled = as_tokens.missed(run, home / "weak", rows), as_tokens.sampled(run, home / "weak", rows)
    model = AutoModelForCausalLM.from_pretrained(home / "weak").eval()
    tokenizer = AutoTokenizer.from_pretrained(home / "weak")
    wrong = []
    for row, own in zip(rows, missed, strict=True):
        prompt, taught = (tokenizer(row[name])["input_ids"] for name in ("prompt", "completion"))
        taught = [*taught, tokenizer.eos_token_id]
        with torch.no_grad():
            shares = model(torch.tensor([prompt + taught])).logits[0, len(prompt) - 1 : -1].softmax(-1)
        assert own == pytest.approx(1 - float(shares[range(len(taught)), taught].mean()), abs=1e-5)
        wrong += [int(one) != token for one, token in zip(shares.argmax(-1), taught, strict=True)]
    assert sampled.wrong.tolist() == wrong and sampled.lengths == [4] * 6 and sampled.classes == len(toy.VOCABULARY)
