"""push_to of expo.extrapolate and expo.merge: what --push-to does, with the same checks before any work."""

import pytest
from sharded import sharded
from standin_hub import User
from standin_hub.hub import TOKEN

import expo
from expo.errors import NoWriteAccess, OutputError, RecipeError, TargetHolds

LINEAR = (
    "merge_method: linear\nmodels:\n"
    "  - {model: org/sft, parameters: {weight: 0.25}}\n  - {model: org/dpo, parameters: {weight: 0.75}}\n"
)


@pytest.fixture
def pair(read_from, tmp_path, monkeypatch):
    """org/sft and org/dpo on the Hub; this process stands in an empty folder."""
    for seed, name in enumerate(("sft", "dpo")):
        read_from.add(f"org/{name}", sharded(tmp_path / "inputs" / name, 3, 2_000, seed))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return read_from


def shards(files):
    return {name: content for name, content in files.items() if name.endswith(".safetensors")}


def held(hub, repo_id):
    return shards({name: blob.path.read_bytes() for name, blob in hub.repositories[repo_id].head.files.items()})


def written(folder):
    return shards({path.name: path.read_bytes() for path in folder.iterdir()})


def test_what_is_pushed_is_what_a_folder_would_hold(pair, tmp_path):
    inputs = {"sft": "org/sft", "dpo": "org/dpo", "stream": True}
    expo.extrapolate(**inputs, output="extrapolated")
    expo.merge(LINEAR, "merged", stream=True)
    report = expo.extrapolate(**inputs, push_to="tester/extrapolated")
    assert report.published.commit == pair.repositories["tester/extrapolated"].head.sha
    assert held(pair, "tester/extrapolated") == written(tmp_path / "work" / "extrapolated")
    private = expo.HubTarget("tester/merged", private=True)
    assert expo.merge(LINEAR, push_to=private, stream=True).published.n_sent == 3
    assert pair.repositories["tester/merged"].private
    assert held(pair, "tester/merged") == written(tmp_path / "work" / "merged")
    both = expo.merge(LINEAR, "both", push_to="tester/both")
    assert both.published.n_sent == 3 and written(tmp_path / "work" / "both") == held(pair, "tester/both")
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["both", "extrapolated", "merged"]


@pytest.mark.parametrize(
    "make",
    [
        lambda push_to: expo.extrapolate(sft="org/sft", dpo="org/dpo", stream=True, push_to=push_to),
        lambda push_to: expo.merge(LINEAR, push_to=push_to, stream=True),
    ],
)
def test_what_can_be_known_is_said_before_any_work(pair, make):
    with pytest.raises(TargetHolds, match="org/full exists and holds other content"):
        pair.users[TOKEN] = User("tester", orgs=("org",))
        pair.repositories["org/full"] = pair.repositories["org/sft"]
        make("org/full")
    pair.users[TOKEN] = User("tester", may_write=False)
    with pytest.raises(NoWriteAccess, match="tester/out: the token has no write access"):
        make("tester/out")
    assert not [asked for asked in pair.asked if asked.method in ("PUT", "POST")]
    with pytest.raises(OutputError, match="name a folder"):
        make(None)


def test_several_results_have_no_one_place_on_the_hub(pair):
    two = "".join(f"---\nname: {name}\n{LINEAR}" for name in "ab")
    with pytest.raises(RecipeError, match=r"several results \(a, b\)"):
        expo.merge(two, push_to="tester/out")


def test_stages_that_were_published_are_found_again_as_their_own_result(pair):
    last = LINEAR.replace("org/sft", "mid")
    stages = f"name: mid\n{LINEAR}---\nname: last\n{last}"
    assert expo.merge(stages, push_to="tester/staged").published.n_sent == 3
    assert expo.merge(stages, push_to="tester/staged").published.already
