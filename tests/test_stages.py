"""expo.merge: one recipe or several stages, each as expo.run would write it; what lies between goes, or stays."""

import json

import pytest
from engine import command, tree
from fake_methods import register_fakes, registry
from oracle import read_stored
from pico import llama_tensors, nudged, write_checkpoint

import expo
from expo.analysis.verify import verify
from expo.errors import Interrupted, MissingSource, OutputError, PlanError, RecipeError, VerifyError
from expo.stages import Run
from expo.stream import run as run_plan


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Folders a, b and c, and stages.yaml: mid = a + 0.5 (b - a), result = mid + 0.25 (c - mid)."""
    monkeypatch.chdir(tmp_path)
    tensors = llama_tensors()
    for number, name in enumerate("abc"):
        write_checkpoint(tmp_path / name, nudged(tensors, seed=number) if number else tensors, config={"x": 1})
    (tmp_path / "stages.yaml").write_text(
        "merge_method: fake_step\nbase_model: mid\nmodels: [{model: c}]\nparameters: {t: 0.25}\n---\n"
        "name: mid\nmerge_method: fake_step\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: 0.5}\n"
    )
    with registry():
        register_fakes()
        yield tmp_path


def by_hand(home):
    """What the two stages give, run one by one."""
    step = "merge_method: fake_step\nbase_model: {}\nmodels: [{{model: {}}}]\nparameters: {{t: {}}}\n"
    expo.merge(step.format("a", "b", 0.5), home / "mid-by-hand")
    expo.merge(step.format("mid-by-hand", "c", 0.25), home / "by-hand")
    return read_stored(home / "by-hand")


def test_stages_give_what_their_recipes_give_one_by_one(home):
    report = expo.merge("stages.yaml", "out")
    assert report.tensors == len(llama_tensors())
    assert read_stored(home / "out") == by_hand(home)
    assert not (home / "out.stages").exists() and not (home / "out.partial").exists()


def test_a_recipe_object_and_its_file_write_the_same_bytes(home):
    text = "merge_method: extrapolate\nbase_model: a\nmodels: [{model: b}]\nparameters: {alpha: 0.5}\n"
    (home / "r.yaml").write_text(text)
    expo.merge(home / "r.yaml", "one")
    expo.merge(expo.read_recipe(text).only, "two")
    assert tree(home / "one") == tree(home / "two")


def test_stages_are_kept_when_asked_for_and_used_again(home):
    expo.merge("stages.yaml", "out", keep_stages=True)
    first = (home / "out.stages" / "mid" / "model.safetensors").stat()
    expo.merge("stages.yaml", "out", keep_stages=True, overwrite=True, sets=["final.parameters.t=1"])
    assert (home / "out.stages" / "mid" / "model.safetensors").stat() == first
    expo.merge("stages.yaml", "out", overwrite=True, sets=["mid.parameters.t=1"])
    assert not (home / "out.stages").exists()


def test_a_run_that_was_stopped_between_stages_goes_on(home):
    ran = []

    def stop_at_the_second(stage, planned, folder, overwrite, target):
        ran.append(stage.name)
        if len(ran) == 2:
            raise Interrupted("stop")
        return run_plan(planned, folder, overwrite=overwrite)

    with pytest.raises(Interrupted):
        Run(expo.read_recipe("stages.yaml"), home / "out").run(stop_at_the_second)
    Run(expo.read_recipe("stages.yaml"), home / "out").run(stop_at_the_second)
    assert ran == ["mid", "final", "final"]
    assert read_stored(home / "out") == by_hand(home)


@pytest.mark.parametrize("step", ["_note_done", "_tidy"])
def test_a_kill_between_two_steps_is_no_harm(home, monkeypatch, step):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        expo.merge("stages.yaml", "out")
    assert (home / "out.stages").exists()
    expo.merge("stages.yaml", "out")
    assert read_stored(home / "out") == by_hand(home)
    assert not (home / "out.stages").exists() and not (home / "out.partial").exists()


def test_a_changed_input_makes_a_stage_anew(home):
    expo.merge("stages.yaml", "out", keep_stages=True)
    write_checkpoint(home / "b", nudged(llama_tensors(), seed=9), config={"x": 1})
    expo.merge("stages.yaml", "out", keep_stages=True, overwrite=True)
    assert read_stored(home / "out") == by_hand(home)


def test_several_results_are_written_under_the_output(home):
    (home / "two.yaml").write_text(
        "".join(f"---\nname: of-{n}\nmerge_method: fake_copy\nmodels: [{{model: {n}}}]\n" for n in "ab")
    )
    reports = expo.merge("two.yaml", "out")
    assert reports.keys() == {"of-a", "of-b"}
    assert read_stored(home / "out" / "of-a") == read_stored(home / "a")
    assert not (home / "out.stages").exists()


def test_nothing_runs_when_a_later_stage_cannot(home, unreadable):
    before = tree(home)
    tensors = llama_tensors()
    with pytest.raises(OutputError, match="read-only"):
        expo.merge("stages.yaml", "a")
    write_checkpoint(home / "d", {**tensors, "lm_head.weight": tensors["lm_head.weight"][:, :4]}, config={"x": 1})
    with pytest.raises(PlanError, match=r"lm_head.weight: shapes differ"):
        expo.merge("stages.yaml", "out", sets=["final.models.0.model=d"])
    with pytest.raises(PlanError, match="lies outside of c, which has 2 layers"):
        expo.merge(
            (home / "stages.yaml").read_text().replace("models: [{model: c}]", "slices: [{sources: [{model: mid, "
            "layer_range: [0, 9]}, {model: c, layer_range: [0, 9]}]}]"), "out",
        )  # fmt: skip
    assert {k: v for k, v in tree(home).items() if not k.startswith("d")} == before


def test_load_model_takes_a_file_of_one_recipe(home):
    with pytest.raises(RecipeError, match="2 stages"):
        expo.load_model("stages.yaml")


def test_the_plan_of_a_stage_knows_what_the_stage_before_will_write(home, capsys):
    code, out, _ = command(capsys, "plan", "stages.yaml", "--json", "--dtype", "float16")
    stages = json.loads(out)["stages"]
    assert code == 0 and [stage["name"] for stage in stages] == ["mid", "final"]
    assert [stage["dtype"] for stage in stages] == [["F32"], ["F16"]]
    assert stages[1]["models"] == {"mid": "mid", "c": "c"} and stages[1]["uses"] == {"mid": "mid"}


def test_manifest_and_card_say_how_earlier_stages_were_made(home):
    (home / "three.yaml").write_text(
        (home / "stages.yaml").read_text().replace("base_model: a\n", "base_model: first\n")
        + "---\nname: first\nmerge_method: fake_step\nbase_model: a\nmodels: [{model: c}]\nparameters: {t: 0.1}\n"
        "---\nname: apart\nmerge_method: fake_copy\nmodels: [{model: a}]\n"
    )
    expo.merge("three.yaml", "out")
    expo.merge("three.yaml", "other", keep_stages=True)
    manifest = json.loads((home / "out" / "final" / "expo.json").read_text())
    assert list(manifest["stages"]) == ["first", "mid"]
    assert [row["recipe"]["parameters"] for row in manifest["stages"].values()] == [{"t": 0.1}, {"t": 0.5}]
    assert manifest["inputs"]["mid"]["stage"] == "mid" and "stage" not in manifest["inputs"]["c"]
    assert manifest["stages"]["mid"]["inputs"]["first"]["stage"] == "first"
    assert manifest["stages"]["first"]["inputs"]["a"]["files"].keys() == {"model.safetensors"}
    assert tree(home / "out") == tree(home / "other")
    kept = json.loads((home / "other.stages" / "mid" / "expo.json").read_text())
    assert kept["stages"] == {"first": manifest["stages"]["first"]}
    assert "stages" not in json.loads((home / "out" / "apart" / "expo.json").read_text())
    text = (home / "out" / "final" / "README.md").read_text()
    assert "| mid | made by the stage mid |" in text and "## Stage first" in text and '"t": 0.1' in text


def test_verify_says_how_to_come_by_what_a_stage_made(home):
    expo.merge("stages.yaml", "out", keep_stages=True)
    with pytest.raises(VerifyError, match=r"Input mid was made by an earlier stage, mid\. `expo merge --keep-stages`"):
        verify("out", recompute=1.0, inputs={"c": "c"})
    again = verify("out", recompute=1.0, inputs={"c": "c", "mid": "out.stages/mid"})
    assert again.problems == [] and again.segments_recomputed == again.segments > 0


def test_what_is_wrong_with_a_stage_names_file_and_stage(home):
    tensors = llama_tensors()
    write_checkpoint(home / "d", {**tensors, "lm_head.weight": tensors["lm_head.weight"][:, :4]}, config={"x": 1})
    with pytest.raises(PlanError, match=r"^stages\.yaml: stage final: lm_head.weight: shapes differ"):
        expo.merge("stages.yaml", "out", sets=["final.models.0.model=d"])
    (home / "stages.yaml").write_text((home / "stages.yaml").read_text().replace("base_model: a", "base_model: ./e"))
    with pytest.raises(MissingSource, match=r"^stages\.yaml:8:13: "):
        expo.merge("stages.yaml", "out")
