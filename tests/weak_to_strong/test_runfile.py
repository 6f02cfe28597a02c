"""A run file is read strictly: every mistake is an error with its line and the nearest name."""

import pytest
from engine import command

from expo.weak_to_strong.errors import RunFileError
from expo.weak_to_strong.reasoning import build, check
from expo.weak_to_strong.runfile import load_run, shipped

GOOD = """\
name: small
data: {train_1: a.jsonl, train_2: b.jsonl, test: c.jsonl}
strong: org/strong
weak:
  - {name: one, model: org/one}
strong_sft: {learning_rate: 1e-5}
preference:
  dpo: {learning_rate: 5e-7}
"""


def written(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_a_good_file_is_read(tmp_path):
    run = load_run(written(tmp_path, GOOD))
    assert run.strong == "org/strong" and run.weak[0].model == "org/one" and run.mode == "mended"
    assert run.pairs.agree == 0.6 and run.pairs.disagree == 0.8


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("strong: org", "strnog: org", r"run.yaml:3: 'strnog' is no setting. Did you mean 'strong'\?"),
        ("model: org/one", "modle: org/one", r"run.yaml:5: 'weak.0.modle' is no setting. Did you mean 'model'\?"),
        ("train_1: a", "train1: a", r"run.yaml:2: 'data.train1' is no setting. Did you mean 'train_1'\?"),
        (
            "learning_rate: 1e-5",
            "learning_rat: 1e-5",
            r"run.yaml:6: strong_sft.learning_rat: 'learning_rat' is no setting of SftSettings. .*'learning_rate'",
        ),
        ("learning_rate: 5e-7", "loss: orpo", "the loss of a preference is its name"),
        ("dpo:", "ppo:", "run.yaml:8: preference.ppo: 'ppo' is none of dpo, orpo."),
        ("name: small", "name: ../up", r"run.yaml:1: name: '../up' is no name; it must begin with a letter"),
        ("{name: one, model: org/one}", "{name: one}", "every weak model needs `model`"),
        ("5e-7", "fast", "run.yaml:8: preference.dpo.learning_rate: 'fast' is not a number"),
        ("name: small", "name: small\npairs: {agree: 7}", "run.yaml:2: pairs.agree: 7 is out of range; .* at most 1"),
        ("name: small", "name: small\niterations: x", "run.yaml:2: iterations: 'x' is not a whole number."),
        ("name: small", "name: small\ndemos: 3", "run.yaml:2: demos: 3 is not a mapping."),
        ("train_2: b.jsonl, ", "", "run.yaml:2: data.train_2: is missing."),
        ("train_1: a.jsonl, ", "", "`data.train_1` is needed"),
        ("name: small", "name: small\nembedded: {}", "either `data` or `embedded`"),
        (
            "name: small",
            "name: small\nmode: publshed",
            r"run.yaml:2: mode: 'publshed' is none of .*published.* Did you mean 'published'\?",
        ),
        ("name: small", "name: small\nname: again", "run.yaml:2: the key 'name' is given twice"),
        ("name: small", "name: &x small", "run.yaml:1: anchors and aliases are not read"),
        ("name: small", "name: [", "not YAML that can be read"),
        ("name: small", "name: !!python/object:os.system small", "not YAML that can be read"),
        (
            "name: small",
            "name: small\niterations: 2\nsets: [hybrid]",
            "all three where there is more than one iteration",
        ),
        ("name: small", "name: small\nextrapolate: {alphas: [0.1, 0.3]}", "several alphas need `data.validation`"),
        ("name: small", "name: small\npipeline: evaluate", "an evaluation needs `adapters`"),
        ("org/one}", "org/one}\n  - {name: one, model: org/two}", "run.yaml:4: weak: the name 'one' is given twice"),
        ("dpo: {learning_rate: 5e-7}", "dpo: {learning_rate: 5e-7}\nextrapolate: {alphas: []}", "extrapolate.alphas"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path, old, new, words):
    assert old in GOOD
    with pytest.raises(RunFileError, match=words):
        load_run(written(tmp_path, GOOD.replace(old, new)))


def test_what_is_no_mapping_or_no_file_is_refused(tmp_path):
    for text, words in (
        ("- 1", "a mapping of settings"),
        ("", "a mapping of settings"),
        ("x" * (1 << 20) + "x", "1 MiB"),
    ):
        with pytest.raises(RunFileError, match=words):
            load_run(written(tmp_path, text))
    with pytest.raises(RunFileError, match=r"gsm9k is neither a file nor a shipped run. Did you mean 'gsm8k'\?"):
        load_run("gsm9k")


def test_settings_can_be_changed_from_outside(tmp_path):
    run = load_run(written(tmp_path, GOOD), {"strong": "other/model", "strong_sft.learning_rate": "3e-4", "seed": "7"})
    assert run.strong == "other/model" and run.seed == 7 and float(run.strong_sft["learning_rate"]) == 3e-4
    with pytest.raises(RunFileError, match="'sed' is no setting"):
        load_run(written(tmp_path, GOOD), {"sed": "7"})
    with pytest.raises(RunFileError, match="`weak` is a list"):
        load_run(written(tmp_path, GOOD), {"weak.model": "x"})


@pytest.mark.parametrize("name", list(shipped()))
def test_every_shipped_run_can_be_built(name):
    run = load_run(name)
    stages = build(run)
    names = [stage.name for stage in stages]
    assert run.name == name and names[-1] == "report" and len(set(names)) == len(names)
    made: set[str] = set()
    for stage in stages:  # every stage comes after those that it depends on
        assert {item.stage for item in stage.inputs.values() if hasattr(item, "stage")} <= made
        made.add(stage.name)


def test_shipped_runs_hold_the_published_settings():
    gsm8k, math, olympic = (load_run(name) for name in ("gsm8k", "math", "olympicarena"))
    for run in (gsm8k, math, olympic):
        assert run.mode == "published" and (run.pairs.agree, run.pairs.disagree, run.pairs.seed) == (0.6, 0.8, 42)
        assert (run.drawing.samples, run.drawing.temperature, run.demos.shots) == (10, 1.0, 4)
    assert [run.pairs.most for run in (gsm8k, math, olympic)] == [1, 3, 3]
    assert [run.iterations for run in (gsm8k, math, olympic)] == [2, 1, 2]
    assert [run.answering.max_tokens for run in (gsm8k, math, olympic)] == [1024, 2048, 2048]
    assert len(gsm8k.weak) == len(math.weak) == 3 and not olympic.weak[0].sft and not olympic.ceiling
    assert not any("weak_sft" in stage.name or "ceiling" in stage.name for stage in build(olympic))


def test_a_model_of_the_pipeline_shared_by_all_weak_models_is_made_once():
    names = [stage.name for stage in build(load_run("gsm8k"))]
    assert names.count("shared/ceiling_sft") == 1 and sum(name.endswith("/weak_sft") for name in names) == 3


def test_what_would_stop_a_run_in_its_middle_is_known_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = load_run(written(tmp_path, GOOD))
    with pytest.raises(RunFileError, match=r"a.jsonl: no such file.\nb.jsonl: no such file.\nc.jsonl: no such file."):
        check(run)
    with pytest.raises(RunFileError, match=r"no stage is called 'one/weak_label'. Did you mean 'one/weak_labels'\?"):
        build(load_run(written(tmp_path, GOOD + "given: {one/weak_label: a.jsonl}\n")))


def test_golds_of_train_2_reach_no_stage_but_the_ceilings(tmp_path):
    """Only the ceiling learns from train_2 itself; everything else reads prompts, and golds for the report."""
    stages = build(load_run(written(tmp_path, GOOD)))
    learns = {s.name for s in stages if any(str(item) == "b.jsonl" for r, item in s.inputs.items() if r != "questions")}
    assert learns == {"shared/ceiling_sft"}


def test_a_dry_run_names_everything_that_is_absent(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = GOOD.replace("org/strong", "./strong") + "equivalence: python3 judge.py\nextraction: 'regex:('\n"
    written(tmp_path, text)
    code, _, error = command(capsys, "w2s", "reasoning", "run.yaml", "--dry-run")
    assert code == 1 and error.count("error: ") == 1
    for words in ("a.jsonl: no such file", "c.jsonl: no such file", "judge.py: no such file", "./strong: no such"):
        assert words in error
    assert "regex:( is no regular expression" in error and not (tmp_path / "runs").exists()
    (tmp_path / "judge.py").touch()
    words = ["embedded.train=4001", "embedded.terms=4", "embedded.test=1001", "embedded.validation=1000"]
    sets = [part for word in (*words, "equivalence=python3 judge.py") for part in ("--set", word)]
    code, _, error = command(capsys, "w2s", "reasoning", "running-sum", "--dry-run", *sets)
    assert code == 1 and "embedded.train: 4,001 questions of 4 numbers; there are 4,000." in error
    assert "embedded.test: 1,001" in error and "validation" not in error and "judge" not in error


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pairs.agree", "7", r"^--set pairs.agree=7: pairs.agree: 7 is out of range; it must be at most 1\.$"),
        ("weak_sft.learning_rate", "fast", "^--set weak_sft.learning_rate=fast: weak_sft.learning_rate: 'fast' is not"),
        ("pairs", "{agree: 7}", r"^--set pairs=\{agree: 7\}: pairs.agree: 7 is out of range"),
        ("sed", "7", "^--set sed=7: 'sed' is no setting. Did you mean 'seed'"),
        ("sets", "[weak]", r"gsm8k.yaml, --set sets=\[weak\]: `sets` needs hybrid"),
    ],
)
def test_a_change_from_outside_is_blamed_and_not_the_file(key, value, words):
    with pytest.raises(RunFileError, match=words):
        load_run("gsm8k", {key: value})
