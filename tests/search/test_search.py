"""search: what is chosen and why, what is written, and how it goes on after a kill."""

import json
import math
from dataclasses import replace

import pytest
import torch
from talker import rows_of, write_jsonl

import expo
from expo.analysis.verify import verify
from expo.errors import AnotherRun, Interrupted, OutputError, RecipeError
from expo.evaluate.metrics import MetricError, Scored, metric_of
from expo.search import picture, search
from expo.search.errors import (
    BadBudget,
    BadValues,
    DoesNotFit,
    NothingVaries,
    OptunaUnavailable,
    OverlappingSets,
    SearchError,
)

GRID = "0.1:0.9:0.2"


@pytest.fixture
def find(models, tmp_path, monkeypatch):
    """Search between the two models, with the report in a folder of the test; no picture unless drawn=True."""
    draw = picture.draw

    def run(*, drawn=False, **asked):
        monkeypatch.setattr(picture, "draw", draw if drawn else lambda result, path: True)
        asked = {"report": tmp_path / "report", "device": "cpu", **asked}
        pair = {} if "recipe" in asked else {"sft": models["sft"], "dpo": models["dpo"]}
        return search(asked.pop("recipe", None), **pair, **asked)

    return run


def points(found):
    return [next(iter(one.point.values()), 0) for one in found.figures]


# --- What is chosen ---------------------------------------------------------------------------------------------------


def test_the_grid_s_best_is_chosen_and_every_try_stands_beside_alpha_0(find, nearness):
    found = find(metric=nearness(0.5), alphas=GRID, settings={"dtype": "float32"})
    assert points(found) == [0, 0.1, 0.3, 0.5, 0.7, 0.9] and found.alpha == 0.5
    assert found.baseline.difference is None and not found.baseline.point
    for one, alpha in zip(found.figures[1:], (0.1, 0.3, 0.5, 0.7, 0.9), strict=True):
        nearer = abs(0 - 0.5) - abs(alpha - 0.5)
        assert one.difference.difference.value == pytest.approx(nearer, abs=1e-5)
        assert one.n == 40 and one.verdict == "better"
        assert one.effective["alpha"] == pytest.approx(alpha, abs=1e-3)


def test_the_search_sees_the_steps_of_the_bfloat16_grid(find, nearness):
    """A delta near the grid's step: what is scored is what would be written, not what was asked."""
    found = find(metric=nearness(0.5), alphas="0.1")
    effective = found.figures[1].effective["alpha"]
    assert effective < 0.08
    assert found.figures[1].difference.difference.value == pytest.approx(effective, abs=0.02)


def test_a_metric_of_which_less_is_better_is_chosen_by_the_least(find, nearness):
    up = nearness(0.5)
    down = replace(
        up,
        higher_is_better=False,
        measure=lambda *args: [Scored(one.id, -one.score, one.length) for one in up.measure(*args)],
    )
    found = find(metric=down, alphas=GRID)
    assert found.alpha == 0.5 and found.chosen.better and found.chosen.difference.difference.high < 0
    assert found.chosen.difference.won == 40 and found.chosen.difference.lost == 0


def test_alpha_0_in_the_list_is_the_baseline_itself(find, nearness):
    seen = []
    found = find(metric=nearness(0.5, seen=seen), alphas="0,0.5")
    assert points(found) == [0, 0.5] and len(seen) == 2


def test_where_nothing_is_better_alpha_0_is_chosen_and_the_report_says_so(find, nearness):
    found = find(metric=nearness(-1.0), alphas="0.3,0.6")
    assert found.alpha == 0 and found.point == {}
    assert any(note.startswith("no alpha is better than 0") for note in found.notes)


def test_differences_within_noise_are_said_to_be_none(find, nearness):
    flat = nearness(0.5)
    flat = replace(flat, measure=lambda model, tokenizer, ids: [Scored(one, float(int(one) % 2)) for one in ids])
    found = find(metric=flat, alphas="0.3,0.6")
    assert any(note.startswith("no alpha is distinguishable from 0") for note in found.notes)
    assert [one.verdict for one in found.figures] == [None, "not distinguishable", "not distinguishable"]


def test_a_larger_best_than_any_other_value_and_long_answers_are_pointed_out(find, nearness):
    far = nearness(5)

    def measure(model, tokenizer, ids):
        scored = far.measure(model, tokenizer, ids)
        return [Scored(one.id, one.score, 10 if one.score < -4.8 + int(one.id) else 30, False) for one in scored]

    found = find(metric=replace(far, measure=measure, generates=True), alphas="0.1,0.6")
    assert found.alpha == 0.6 and found.chosen.length == 30 and found.chosen.length_ratio == 3
    assert any("is the largest that was tried" in note for note in found.notes)
    assert any("3 times as long" in note for note in found.notes)
    assert found.chosen.flags == ["length x 3"] and found.chosen.degenerate == 0


def test_choosing_among_several_is_called_optimistic_unless_there_is_a_test(find, nearness):
    on_test = replace(nearness(0.5), asked=tuple(f"other {i}" for i in range(40)), data="test")
    assert any("optimistic" in note for note in find(metric=nearness(0.5), alphas="0.3,0.5").notes)
    found = find(metric=nearness(0.5), test=on_test, alphas="0.3,0.5")
    assert not any("optimistic" in note for note in found.notes)
    assert [one.point for one in found.test] == [{}, {"alpha": 0.5}] and found.test[1].better


# --- Strategies -------------------------------------------------------------------------------------------------------


def test_a_bracket_closes_in_on_the_best(find, nearness):
    found = find(metric=nearness(0.55), bracket=True)
    assert points(found)[:4] == [0, 0.1, 0.2, 0.4] or 0.8 in points(found)
    assert found.alpha == pytest.approx(0.55, abs=0.05) and len(found.figures) < 14


def test_a_budget_spends_no_more_examples_than_it_says_and_finds_the_best(find, nearness):
    seen = []
    found = find(metric=nearness(0.5, n=100, noise=0.1, seen=seen), alphas=GRID, budget=300)
    assert found.alpha == 0.5 and sum(map(len, seen)) <= 300
    counts = {one.n for one in found.figures}
    assert len(counts) > 1 and found.baseline.n == found.chosen.n == max(counts)


def test_every_try_of_a_round_sees_the_same_examples(find, nearness, tmp_path):
    find(metric=nearness(0.5, n=100), alphas=GRID, budget=300)
    rows = rows_of(tmp_path / "report" / "tries.jsonl")
    by_point: dict = {}
    for row in rows:
        by_point.setdefault(json.dumps(row["point"]), []).extend(one[0] for one in row["scored"])
    longest = max(by_point.values(), key=len)
    assert all(set(ids) <= set(longest) and len(set(ids)) == len(ids) for ids in by_point.values())


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_samplers_search_two_dimensions_and_repeat_themselves(find, nearness, models, tmp_path, sampler):
    pytest.importorskip("optuna")
    pytest.importorskip("cmaes")
    text = (
        f"merge_method: extrapolate\nbase_model: {models['sft']}\nmodels: [{{model: {models['dpo']}}}]\n"
        "parameters: {alpha: [{filter: embed, value: 0.1}, {value: 0.2}]}\n"
    )
    vary = ["parameters.alpha.0.value=0:1:0.25", "parameters.alpha.1.value=0:1"]
    seen = []
    asked = {"recipe": text, "vary": vary, "sampler": sampler, "trials": 6, "metric": nearness(0.5, seen=seen)}
    found = find(**asked)
    assert found.point["parameters.alpha.0.value"] == 0.5 or len(found.figures) < 4
    again = find(**asked, output=tmp_path / "out")
    assert [one.point for one in again.figures] == [one.point for one in found.figures]
    assert len(seen) == len(found.figures)


def test_without_optuna_a_sampler_says_how_to_get_it(find, nearness, monkeypatch):
    monkeypatch.setattr("expo.search.sampled.find_spec", lambda name: None)
    with pytest.raises(OptunaUnavailable, match=r"pip install 'expo\[search\]'"):
        find(metric=nearness(0.5), alphas="0:1", sampler="tpe")


# --- Recipes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(models):
    """A recipe with a gradient over layers for one group of tensors, and a number for the others."""
    return (
        f"merge_method: extrapolate\nbase_model: {models['sft']}\nmodels:\n- model: {models['dpo']}\n"
        "parameters:\n  alpha:\n  - {filter: mlp, value: [0.0, 0.2]}\n  - value: 0.1\n"
    )


@pytest.mark.parametrize(
    "path, filled",
    [
        ("parameters.alpha.1.value", "[{filter: mlp, value: [0.0, 0.2]}, {value: 0.5}]"),
        ("parameters.alpha.0.value.1", "[{filter: mlp, value: [0.0, 0.5]}, {value: 0.1}]"),
        ("parameters.alpha", "0.5"),
    ],
)
def test_module_groups_gradients_and_whole_parameters_vary(find, nearness, models, recipe, tmp_path, path, filled):
    found = find(recipe=recipe, vary=[f"{path}=0.5"], metric=nearness(0.5), output=tmp_path / "out")
    text = recipe[: recipe.index("parameters")] + f"parameters: {{alpha: {filled}}}\n"
    report = expo.merge(text, tmp_path / "right")
    tried = next(row for row in rows_of(tmp_path / "report" / "tries.jsonl") if row["point"])
    assert tried["effective"]["multiple"] == report.effective()["multiple"]
    if found.point:
        assert expo.open_checkpoint(str(tmp_path / "out")).tensors.keys()


def test_the_baseline_of_a_recipe_is_its_donor(find, models, recipe, nearness):
    found = find(recipe=recipe, vary=["parameters.alpha.1.value=0.2,0.5"], metric=nearness(0.5))
    assert found.baseline.score.value == pytest.approx(-0.5 + 19.5, abs=1e-6)  # alpha 0: a distance of 0.5


@pytest.mark.parametrize(
    "vary, words",
    [
        (["parameters.alhpa=0.1,0.2"], "Did you mean 'alpha'"),
        (["parameters.alpha.7.value=0.1,0.2"], "'7' is none of them"),
        (["modles.0.parameters=1"], "modles"),
        (["parameters.alpha.1.value=x,y"], "alpha"),
    ],
)
def test_a_path_that_does_not_exist_is_refused_as_the_option_that_it_is(find, nearness, recipe, vary, words):
    with pytest.raises(RecipeError, match=words) as caught:
        find(recipe=recipe, vary=vary, metric=nearness(0.5))
    assert "--vary" in str(caught.value) and "--set" not in str(caught.value)


def test_a_setting_that_decides_nothing_is_refused_before_anything_is_scored(find, models, nearness):
    text = (
        f"merge_method: task_arithmetic\nbase_model: {models['sft']}\n"
        f"models: [{{model: {models['dpo']}, parameters: {{weight: 1.0}}}}]\n"
    )
    seen = []
    with pytest.raises(NothingVaries, match=r"parameters\.weight changes nothing"):
        find(recipe=text, vary=["parameters.weight=0:1:0.5"], metric=nearness(0.5, seen=seen))
    assert not seen


def test_other_models_of_the_same_name_are_other_tries(find, nearness, models, tmp_path):
    import shutil

    other = shutil.copytree(models["sft"], tmp_path / "dpo")
    text = f"merge_method: linear\nmodels:\n- {{model: {models['sft']}, parameters: {{weight: 0}}}}\n"
    text += f"- {{model: {models['dpo']}, parameters: {{weight: 1}}}}\n"
    found = find(recipe=text, vary=[f"models.1.model={models['dpo']},{other}"], metric=nearness(0.0))
    assert found.point == {"models.1.model": str(models["dpo"])} and found.chosen.better
    assert "models.1.model dpo" in found.summary and str(models["dpo"].parent) not in json.dumps(found.evidence())


def test_equal_weights_under_another_config_or_template_are_scored_under_their_own(find, completions, models, tmp_path):
    """A donor whose config differs is another model, although every tensor is the same."""
    import shutil

    other = shutil.copytree(models["dpo"], tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    text = f"merge_method: linear\nmodels: [{{model: {models['dpo']}, parameters: {{weight: 1.0}}}}]\n"
    data = completions("val.jsonl", 6)
    found = find(recipe=text, vary=[f"models.0.model={models['dpo']},{other}"], metric="loss", data=data)
    own = find(recipe=text.replace(str(models["dpo"]), str(other)), vary=["rounding=nearest"], metric="loss", data=data)
    by = {str(one.point.get("models.0.model")): one.score.value for one in found.figures}
    assert by[str(other)] == own.baseline.score.value != by[str(models["dpo"])]

    chats = [{"messages": [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "1"}]} for i in (1, 2)]
    found = find(
        recipe=text, vary=["chat_template=alpaca,mistral"], metric="loss", data=write_jsonl(tmp_path / "c", chats)
    )
    assert found.figures[1].score.value != found.figures[2].score.value and found.figures[2].same_as is None


# --- What is written --------------------------------------------------------------------------------------------------


def test_the_output_is_an_ordinary_run_s_with_the_evidence_in_manifest_and_card(find, nearness, models, tmp_path):
    found = find(metric=nearness(0.5), alphas=GRID, output=tmp_path / "out")
    expo.extrapolate(**models, alpha=0.5, output=tmp_path / "plain")
    kept = json.loads((tmp_path / "out" / "expo.json").read_text())
    plain = json.loads((tmp_path / "plain" / "expo.json").read_text())
    assert kept.pop("search") == json.loads(json.dumps(found.evidence()))
    assert kept == plain
    card = (tmp_path / "out" / "README.md").read_text()
    assert found.summary in card and "alpha 0.5 was chosen of 5 tried, by nearness" in card
    assert not verify(tmp_path / "out", recompute=1.0, inputs={k: str(v) for k, v in models.items()}).problems
    assert str(tmp_path) not in json.dumps(kept) + json.dumps(found.evidence())


def test_two_equal_searches_write_the_same_bytes(find, nearness, tmp_path):
    for name in ("one", "two"):
        find(metric=nearness(0.5), alphas="0.3,0.5", output=tmp_path / name, report=tmp_path / f"{name}-report")
    for file in ("expo.json", "README.md"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_chosen_checkpoint_reloads_to_its_score(find, completions, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    metric = replace(metric_of("loss", data=completions("val.jsonl", 12)), higher_is_better=True)
    how = {"output": tmp_path / "out", "settings": {"rounding": "stochastic"}}
    found = find(metric=metric, alphas="0.5,5", **how)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    again = metric.score(model, AutoTokenizer.from_pretrained(tmp_path / "out"), metric.ids)
    assert found.point
    assert found.chosen.score.value == math.fsum(one.score for one in again) / len(again)


def test_the_report_holds_everything_and_a_picture(find, nearness, tmp_path):
    found = find(metric=nearness(0.5), alphas=GRID, drawn=True)
    record = json.loads((tmp_path / "report" / "search.json").read_text())
    assert record == json.loads(json.dumps(found.record()))
    assert record["tries"][3]["point"] == {"alpha": 0.5} and record["chosen"] == {"alpha": 0.5}
    picture = (tmp_path / "report" / "search.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


def test_where_alpha_0_is_best_the_output_is_the_aligned_model(find, nearness, models, tmp_path):
    find(metric=nearness(-1.0), alphas="0.3,0.6", output=tmp_path / "out")
    for path in models["dpo"].glob("*.safetensors"):
        assert (tmp_path / "out" / path.name).read_bytes()[-64:] == path.read_bytes()[-64:]
    assert json.loads((tmp_path / "out" / "expo.json").read_text())["search"]["chosen"] == {}


# --- Going on ---------------------------------------------------------------------------------------------------------


def test_a_search_that_was_stopped_scores_only_what_is_missing(find, nearness, tmp_path):
    good = nearness(0.5)
    calls = []

    def dies(model, tokenizer, ids):
        calls.append(ids)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return good.measure(model, tokenizer, ids)

    with pytest.raises(KeyboardInterrupt):
        find(metric=replace(good, measure=dies), alphas=GRID)
    kept = (tmp_path / "report" / "tries.jsonl").read_bytes()
    assert kept.count(b"\n") == 3
    found = find(metric=replace(good, measure=dies), alphas=GRID)
    assert len(calls) == 4 + 3 and found.alpha == 0.5
    assert (tmp_path / "report" / "tries.jsonl").read_bytes().startswith(kept)
    again = find(metric=replace(good, measure=dies), alphas=GRID, output=tmp_path / "out")
    assert len(calls) == 7 and again.evidence() == found.evidence() and again.cost["fills"] == 0


def test_writing_the_output_goes_on_where_it_stopped(find, nearness, tmp_path, monkeypatch):
    from expo.stream import to_folder

    real, asked = to_folder._add_small_files, {"metric": nearness(0.5), "alphas": "0.3,0.5", "output": tmp_path / "out"}

    def stops(*rest):
        raise Interrupted("interrupted")

    monkeypatch.setattr(to_folder, "_add_small_files", stops)
    with pytest.raises(Interrupted):
        find(**asked)
    assert json.loads((tmp_path / "report" / "search.json").read_text())["chosen"] == {"alpha": 0.5}
    assert (tmp_path / "out.partial").is_dir() and not (tmp_path / "out").exists()
    monkeypatch.setattr(to_folder, "_add_small_files", real)
    with pytest.raises(AnotherRun):  # its evidence would be another's
        find(**asked | {"alphas": "0.5"})
    found = find(**asked)
    assert found.report.segments_resumed > 0 and found.cost["fills"] == 0
    assert json.loads((tmp_path / "out" / "expo.json").read_text())["search"] == json.loads(
        json.dumps(found.evidence())
    )
    assert not (tmp_path / "out.partial").exists()


def test_a_half_written_line_costs_one_try(find, nearness, tmp_path):
    seen = []
    find(metric=nearness(0.5, seen=seen), alphas=GRID)
    path = tmp_path / "report" / "tries.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    find(metric=nearness(0.5, seen=seen), alphas=GRID)
    assert len(seen) == 7


@pytest.mark.parametrize("change", [{"data": "other"}, {"settings": {"best": 1}}])
def test_other_data_or_settings_are_scored_anew(find, nearness, change):
    seen = []
    find(metric=nearness(0.5, seen=seen), alphas="0.3")
    find(metric=replace(nearness(0.5, seen=seen), **change), alphas="0.3")
    assert len(seen) == 4


def test_a_finer_grid_scores_only_the_new_values(find, nearness):
    seen = []
    find(metric=nearness(0.5, seen=seen), alphas="0.2,0.4")
    find(metric=nearness(0.5, seen=seen), alphas="0.2,0.3,0.4")
    assert len(seen) == 4


def test_what_an_earlier_search_knew_does_not_show_in_the_evidence(find, nearness, tmp_path):
    fresh = find(metric=nearness(0.5, n=100, noise=0.1), alphas=GRID, budget=300, report=tmp_path / "fresh")
    find(metric=nearness(0.5, n=100, noise=0.1), alphas="0.9")
    known = find(metric=nearness(0.5, n=100, noise=0.1), alphas=GRID, budget=300)
    assert known.evidence() == fresh.evidence()


def test_alphas_that_land_on_the_same_weights_share_their_score(find, nearness, models):
    seen = []
    found = find(metric=nearness(0.5, seen=seen), alphas="0.001,0.002,0.5")
    shared = [one for one in found.figures if one.same_as is not None]
    assert len(seen) == 4 - len(shared)
    for one in shared:
        assert one.score == next(f for f in found.figures if f.point == one.same_as).score


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_a_nan_names_the_try_and_the_example_and_keeps_what_is_finished(find, nearness, tmp_path):
    good = nearness(0.5)

    def measure(model, tokenizer, ids):
        scored = good.measure(model, tokenizer, ids)
        bad = scored[0].score > -0.15  # only near the best
        return [Scored(one.id, float("nan") if bad and one.id == "7" else one.score) for one in scored]

    with pytest.raises(MetricError, match=r"alpha 0\.5: [^\n]*\n?.*7 \(nan\)") as caught:
        find(metric=replace(good, measure=measure), alphas=GRID)
    assert "tries.jsonl" in str(caught.value)
    assert len(rows_of(tmp_path / "report" / "tries.jsonl")) == 3


def test_an_output_that_exists_is_refused_before_anything_is_scored(find, nearness, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("")
    seen = []
    with pytest.raises(OutputError, match="exists"):
        find(metric=nearness(0.5, seen=seen), alphas="0.3", output=tmp_path / "out")
    assert not seen and not (tmp_path / "report").exists()


@pytest.mark.parametrize("dtype, coarse", [("float32", True), ("bfloat16", False)])
def test_weights_scored_in_a_type_that_does_not_hold_them_are_pointed_out(find, nearness, dtype, coarse):
    said = []
    how = {"settings": {"dtype": dtype}, "compute": "bfloat16", "warn": said.append}
    found = find(metric=nearness(0.5), alphas="0.3", **how)
    text = "scores are those of bfloat16 weights, and the output's are F32"
    assert any(text in one for one in said) == any(text in one for one in found.notes) == coarse


def test_a_pair_that_is_one_model_is_called_so_and_more_examples_are_not_asked_for(models, nearness, tmp_path):
    pair = {"sft": models["dpo"], "dpo": models["dpo"], "report": tmp_path / "report", "device": "cpu"}
    found = search(**pair, metric=nearness(0.5, n=3), alphas="0.1,0.2")
    assert "all have its very weights" in found.notes[0] and "More examples" not in found.notes[0]


def test_the_card_s_line_counts_the_tries_where_nothing_was_tested(find, nearness):
    found = find(metric=nearness(0.5, noise=0.4), alphas=GRID)
    low, high = found.chosen.adjusted.low, found.chosen.adjusted.high
    assert f"(95 % {low:+.4g} to {high:+.4g} with all 5 counted)" in found.summary


@pytest.mark.parametrize("where", ["out", "out/report"])
def test_a_report_inside_of_the_output_is_refused_before_anything_is_scored(find, nearness, tmp_path, where):
    seen = []
    with pytest.raises(OutputError, match="appears whole at the end"):
        find(metric=nearness(0.5, seen=seen), alphas="0.3", output=tmp_path / "out", report=tmp_path / where)
    assert not seen and not (tmp_path / "out").exists()


def test_overlapping_sets_are_refused_by_id_by_question_and_by_what_is_asked(find, nearness, completions, tmp_path):
    val = completions("val.jsonl", 6, id_offset=0)
    with pytest.raises(OverlappingSets, match="asks what"):
        find(metric="loss", data=val, test=completions("test.jsonl", 6, 4), alphas="0.3")
    one, two = ([{"id": f"q{i}", "prompt": f"{k}{i}=", "completion": "1"} for i in range(3)] for k in "ab")
    with pytest.raises(OverlappingSets, match="has the id 'q0'"):
        write_jsonl(tmp_path / "one.jsonl", one)
        write_jsonl(tmp_path / "two.jsonl", two)
        find(metric="loss", data=tmp_path / "one.jsonl", test=tmp_path / "two.jsonl", alphas="0.3")
    with pytest.raises(OverlappingSets, match="ask the same"):
        find(metric=nearness(0.5), test=nearness(0.5), alphas="0.3")


def test_sets_that_only_number_their_rows_do_not_overlap(find, completions):
    found = find(metric="loss", data=completions("v.jsonl", 4), test=completions("t.jsonl", 4, 10), alphas="0.3")
    assert found.test


@pytest.mark.parametrize(
    "asked, error, words",
    [
        ({"alphas": "0.1,0.1"}, BadValues, "more than once"),
        ({"alphas": "0.1,much"}, BadValues, "'much' is not a number"),
        ({"alphas": "0.1,nan"}, BadValues, "nan"),
        ({"alphas": "0.1:inf:0.1"}, BadValues, "inf"),
        ({"alphas": "0:1:0"}, BadValues, "no step of 0"),
        ({"alphas": "0:1:-1"}, BadValues, "no step of -1"),
        ({"alphas": "0:1:1e-9"}, BadValues, "at most 1,000"),
        ({"alphas": "0:1"}, BadValues, "Add a step"),
        ({"alphas": ""}, BadValues, "empty"),
        ({"alphas": "0.1,1e99999999"}, BadValues, "1e99999999 is not a number that can be tried"),
        ({"alphas": "0.1,1e-400"}, BadValues, "1e-400 is not a number that can be tried"),
        ({"alphas": "0.1", "bracket": True}, SearchError, "leave out"),
        ({"alphas": "0.1,0.2", "budget": 3}, BadBudget, "6 scored examples at least"),
        ({"bracket": True, "budget": 300}, BadBudget, "known beforehand"),
        ({"alphas": "0.1,0.2", "trials": 3}, BadValues, "a grid has as many tries as values"),
        ({"alphas": "0:1:0.1", "sampler": "cmaes"}, (BadValues, OptunaUnavailable), "two dimensions|not installed"),
        ({"vary": ["parameters.alpha=1"]}, SearchError, "change a recipe"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_scored(find, nearness, asked, error, words):
    seen = []
    with pytest.raises(error, match=words):
        find(metric=nearness(0.5, seen=seen), **asked)
    assert not seen


def test_memory_that_runs_out_is_answered_with_fewer_examples(find, nearness):
    good, sizes = nearness(0.5), []

    def measure(model, tokenizer, ids):
        sizes.append(len(ids))
        if len(ids) > 10:
            raise torch.OutOfMemoryError("no room")
        return good.measure(model, tokenizer, ids)

    found = find(metric=replace(good, measure=measure), alphas="0.5")
    assert found.alpha == 0.5 and found.chosen.n == 40
    assert sizes[:3] == [40, 20, 10] and max(sizes[3:]) == 10

    def not_the_third(model, tokenizer, ids):
        if "2" in ids:
            raise torch.OutOfMemoryError("no room")
        return good.measure(model, tokenizer, ids)

    with pytest.raises(DoesNotFit, match=r"example '2' alone does not fit .*2 others did.*--compute-dtype bfloat16"):
        find(metric=replace(nearness(0.5, n=4), measure=not_the_third, data="x"), alphas="0.5")
