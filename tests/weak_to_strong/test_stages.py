"""A stage is made once, made anew when what it depends on changed, and a killed pipeline goes on."""

import json
from pathlib import Path

import pytest

from expo.errors import ExpoError, OutputError
from expo.weak_to_strong.errors import RunFileError, StageError
from expo.weak_to_strong.stages import Of, Stage, plan_stages, record_of, run_stages


class Kitchen:
    """Three stages that note when they run: a reads a file, b reads a, c reads b."""

    def __init__(self, folder: Path):
        self.folder, self.ran, self.fail = folder, [], None
        (folder / "in.txt").write_text("1")
        self.settings = {"a": {}, "b": {"times": 2}, "c": {}}

    def stages(self):
        inputs = {"a": {"text": self.folder / "in.txt"}, "b": {"a": Of("m/a", "x.txt")}, "c": {"b": Of("m/b")}}
        return [Stage(f"m/{n}", self.cook(n), inputs[n], self.settings[n]) for n in "abc"]

    def cook(self, name):
        def make(folder, inputs):
            self.ran.append(name)
            found = next(iter(inputs.values()))
            text = (found / "x.txt" if found.is_dir() else found).read_text()
            with open(folder / "log", "a") as log:
                log.write("begun ")
            if self.fail == name:
                raise ExpoError("out of gas")
            (folder / "x.txt").write_text(text * self.settings[name].get("times", 1))
            return {"length": len(text)}

        return make

    def run(self, **more):
        self.ran.clear()
        return run_stages(self.stages(), self.folder / "out", say=lambda text: None, **more)


@pytest.fixture
def kitchen(tmp_path):
    return Kitchen(tmp_path)


def test_a_second_run_makes_nothing(kitchen):
    first = kitchen.run()
    assert kitchen.ran == ["a", "b", "c"] and (kitchen.folder / "out/m/c/x.txt").read_text() == "11"
    second = kitchen.run()
    assert kitchen.ran == [] and all(outcome.done for outcome in second)
    assert [outcome.facts for outcome in second] == [outcome.facts for outcome in first]


def test_a_change_reaches_what_depends_on_it_and_no_further(kitchen):
    kitchen.run()
    kitchen.settings["b"] = {"times": 3}
    assert [outcome.why for outcome in kitchen.run()] == ["", "settings changed: times", "inputs changed: b"]
    (kitchen.folder / "in.txt").write_text("2")
    kitchen.run()
    assert kitchen.ran == ["a", "b", "c"]
    kitchen.settings["a"] = {"colour": "red"}  # a is made anew, with the same result
    kitchen.run()
    assert kitchen.ran == ["a"]


def test_another_tools_file_may_take_the_place_of_a_stages(kitchen):
    kitchen.run()
    (kitchen.folder / "out/m/a/x.txt").write_text("7")
    kitchen.run()
    assert kitchen.ran == ["b", "c"] and (kitchen.folder / "out/m/c/x.txt").read_text() == "77"


def test_a_failed_stage_keeps_what_it_had_and_the_run_goes_on_there(kitchen):
    kitchen.fail = "b"
    with pytest.raises(StageError, match=r"stage m/b failed; .*m/b\.partial\.\nout of gas"):
        kitchen.run()
    assert kitchen.ran == ["a", "b"] and not (kitchen.folder / "out/m/b").exists()
    kitchen.fail = None
    assert [outcome.why for outcome in kitchen.run()] == ["", "goes on", "not made yet"]
    assert (kitchen.folder / "out/m/b/log").read_text() == "begun begun "
    assert not list((kitchen.folder / "out").rglob("*.partial"))


def test_what_a_failed_stage_had_is_dropped_when_its_settings_changed(kitchen):
    kitchen.fail = "b"
    with pytest.raises(StageError):
        kitchen.run()
    kitchen.fail, kitchen.settings["b"] = None, {"times": 5}
    kitchen.run()
    assert (kitchen.folder / "out/m/b/log").read_text() == "begun "


def test_an_interrupted_run_goes_on(kitchen):
    kitchen.run()
    kitchen.settings["c"] = {"times": 4}
    stages = kitchen.stages()

    def interrupt(folder, inputs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages([*stages[:2], Stage("m/c", interrupt, stages[2].inputs, {"times": 4})], kitchen.folder / "out")
    assert (kitchen.folder / "out/m/c/x.txt").read_text() == "11"  # the earlier one stands until the new one is whole
    kitchen.run()
    assert kitchen.ran == ["c"] and (kitchen.folder / "out/m/c/x.txt").read_text() == "11" * 4


def test_from_makes_a_stage_and_all_that_depends_on_it_anew(kitchen):
    kitchen.run()
    kitchen.run(from_="b")
    assert kitchen.ran == ["b", "c"]
    kitchen.run(from_="m/c")
    assert kitchen.ran == ["c"]
    with pytest.raises(RunFileError, match=r"no stage is called 'm/d'. Did you mean 'm/"):
        kitchen.run(from_="m/d")


def test_a_plan_says_why_and_touches_nothing(kitchen):
    out = kitchen.folder / "out"
    plan = plan_stages(kitchen.stages(), out)
    assert [(o.done, o.why) for o in plan] == [(False, "not made yet"), (False, "after m/a"), (False, "after m/b")]
    assert not out.exists()
    kitchen.run()
    assert all(outcome.done for outcome in plan_stages(kitchen.stages(), out))
    plan = plan_stages(kitchen.stages(), out, from_="b")
    assert [o.why for o in plan] == ["", "asked for", "depends on what is asked for"]
    assert record_of(out, "m/b")["facts"] == {"length": 1}


def test_two_runs_never_work_in_one_folder(kitchen):
    stages = kitchen.stages()

    def nested(folder, inputs):
        kitchen.run()

    with pytest.raises(StageError, match="another run works there") as caught:
        run_stages([Stage("n", nested), *stages], kitchen.folder / "out", say=lambda text: None)
    assert isinstance(caught.value.__cause__, OutputError)


def test_a_missing_input_is_named(kitchen):
    (kitchen.folder / "in.txt").unlink()
    with pytest.raises(StageError, match=r"m/a: text: .*in.txt does not exist"):
        kitchen.run()


def test_a_record_says_what_a_stage_was_made_from(kitchen):
    kitchen.run()
    record = json.loads((kitchen.folder / "out/m/b/.stage.json").read_text())
    assert record["asked"]["settings"] == {"times": 2} and len(record["asked"]["inputs"]["a"]) == 32


def test_a_model_is_a_folder_or_a_name_on_the_hub(tmp_path):
    seen = []
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w").write_text("1")
    stages = [Stage("s", lambda at, inputs: seen.append(inputs), {"hub": "org/name@main", "local": str(folder)})]
    run_stages(stages, tmp_path / "out", say=lambda text: None)
    assert seen == [{"hub": "org/name@main", "local": str(folder)}]
    assert record_of(tmp_path / "out", "s")["asked"]["inputs"]["hub"] == "hub:org/name@main"
    (folder / "w").write_text("2")
    assert plan_stages(stages, tmp_path / "out")[0].why == "inputs changed: local"


def test_a_plan_does_not_list_everything_above(tmp_path):
    parts = [Stage(f"part{number}", lambda folder, inputs: None) for number in range(5)]
    some = Stage("some", lambda folder, inputs: None, {f"in{n}": Of(f"part{n}") for n in range(2)})
    last = Stage(
        "report", lambda folder, inputs: None, {f"in{n}": Of(f"part{n}") for n in range(5)} | {"s": Of("some")}
    )
    why = {one.stage: one.why for one in plan_stages([*parts, some, last], tmp_path)}
    assert why["report"] == "after all of the above" and why["some"] == "after part0, part1"
