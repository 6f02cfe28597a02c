"""--push-to: the run and its publication are one command, which continues from wherever it was stopped."""

import json
import os
import signal

import pytest
from engine import command
from pico import pico_pair
from standin_hub import Faults

import expo
from expo.errors import PushLost
from expo.output.hub import HubTarget
from expo.stream import to_folder, upload


@pytest.fixture
def pair(hub, tmp_path, monkeypatch):
    """Two local checkpoints, sft and dpo, in the current folder."""
    pico_pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    return ["--sft", "sft", "--dpo", "dpo"]


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def held(hub, repo_id, revision="main"):
    found = hub.repositories[repo_id].at(revision).files
    return {name: blob.path.read_bytes() for name, blob in found.items() if not name.startswith(".git")}


def test_the_output_and_what_is_published_are_the_same_files(hub, pair, tmp_path, capsys):
    code, out, _ = command(capsys, "extrapolate", *pair, "-o", "out", "--push-to", "tester/m", "--json")
    assert code == 0 and held(hub, "tester/m") == files(tmp_path / "out")
    assert json.loads(out)["published"]["commit"] == hub.repositories["tester/m"].head.sha


def test_the_same_command_for_another_folder_says_that_all_is_there(hub, pair, tmp_path, capsys):
    command(capsys, "extrapolate", *pair, "-o", "out", "--push-to", "tester/m")
    code, out, err = command(capsys, "extrapolate", *pair, "-o", "out2", "--push-to", "tester/m")
    assert code == 0 and "holds exactly this already: nothing was committed" in out, err
    assert len(hub.repositories["tester/m"].commits) == 3
    code, _, err = command(capsys, "extrapolate", *pair, "-o", "out3", "--alpha", "0.5", "--push-to", "tester/m")
    assert code == 1 and "holds other content" in err


def test_a_dry_run_checks_the_target_and_makes_nothing(hub, pair, tmp_path, capsys):
    assert command(capsys, "extrapolate", *pair, "-o", "out", "--push-to", "tester/m", "--dry-run")[0] == 0
    assert command(capsys, "extrapolate", *pair, "-o", "out", "--push-to", "lab/m", "--dry-run")[0] == 1
    assert hub.repositories == {} and not (tmp_path / "out").exists()


def test_where_the_hub_fails_the_output_is_there_and_the_error_says_how_to_go_on(hub, pair, tmp_path, capsys):
    hub.faults = Faults(1, ["503"], where=lambda request: "/commit/" in request.path)
    code, _, err = command(capsys, "extrapolate", *pair, "-o", "out", "--push-to", "tester/m")
    assert code == 1 and "itself is complete" in err and f"expo push {tmp_path / 'out'} tester/m" in err
    hub.faults = Faults()
    n_sent = len(hub.uploads.received)
    code, out, _ = command(capsys, "push", "out", "tester/m", "--json")
    assert code == 0 and held(hub, "tester/m") == files(tmp_path / "out")
    assert len(hub.uploads.received) == n_sent and json.loads(out)["n_kept"] == 2


@pytest.mark.parametrize("moment", ["between the shards", "before the commit", "after the commit", "before it appears"])
def test_a_kill_at_any_moment_is_continued_by_the_same_command(hub, pair, tmp_path, capsys, moment):
    """The run is a fork that kills itself; the second run is this process."""
    pid = os.fork()
    if pid == 0:
        try:
            _die(moment)
            expo.run(_plan(), tmp_path / "out", target=_target(), threads=1)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / "out").exists()
    n_sent = len(hub.uploads.received)
    code, _, err = command(capsys, "extrapolate", *pair, "-o", "out", "--push-to", "tester/m")
    assert code == 0, err
    assert held(hub, "tester/m") == files(tmp_path / "out") and len(hub.repositories["tester/m"].commits) == 3
    assert len(hub.uploads.received) - n_sent <= (1 if moment == "between the shards" else 0)
    assert not list((tmp_path / "home" / "state").rglob("arrived"))


def _plan():
    return expo.plan(expo.extrapolation(sft="sft", dpo="dpo", alpha=0.3))


def _target():
    target = HubTarget("tester/m")
    target.check()
    return target


def _die(moment):
    """Have the next run kill its process at a moment."""

    def killed(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "between the shards":
        real = HubTarget.preupload

        def preupload(target, name, path):
            real(target, name, path)
            killed()

        HubTarget.preupload = preupload
    elif moment == "before the commit":
        upload.Uploads.commit = _after(HubTarget.preupload, killed)
    elif moment == "after the commit":
        HubTarget.close = killed
    else:
        to_folder.FolderSink.publish = killed


def _after(send, then):
    def commit(uploads):
        for name, path in uploads.sink.sealed.items():
            if uploads.target.is_sent_alone(name, path):
                send(uploads.target, name, path)
        then()

    return commit


def test_shards_go_up_while_the_run_goes_on(hub, tmp_path, monkeypatch):
    """The second shard is held back until the first has arrived."""
    pico_pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(upload, "_POLL", 0.01)
    planned = _plan()
    real, waited = to_folder.Stream.segment, []

    def segment(stream, lane, index, number):
        if stream.plan.jobs[index].file != planned.shards[0].name and not waited:
            waited.append(True)
            for _ in range(1000):
                if any(done.whole for done in hub.uploads.received):
                    break
                stream.stop.wait(0.01)
            assert [done.whole for done in hub.uploads.received] == [True]
        real(stream, lane, index, number)

    monkeypatch.setattr(to_folder.Stream, "segment", segment)
    report = expo.run(planned, tmp_path / "out", target=_target(), threads=1)
    assert waited and report.published.n_sent == 2 and held(hub, "tester/m") == files(tmp_path / "out")


def test_a_merge_is_published_and_several_results_are_refused(hub, pair, tmp_path, capsys):
    recipe = (
        "merge_method: linear\nmodels: [{model: sft, parameters: {weight: 1}}, {model: dpo, parameters: {weight: 1}}]\n"
    )
    (tmp_path / "one.yaml").write_text(recipe)
    assert command(capsys, "merge", "one.yaml", "-o", "out", "--push-to", "tester/m")[0] == 0
    assert held(hub, "tester/m") == files(tmp_path / "out")
    (tmp_path / "two.yaml").write_text(f"name: a\n{recipe}---\nname: b\n{recipe}")
    code, _, err = command(capsys, "merge", "two.yaml", "-o", "both", "--push-to", "tester/n")
    assert code == 1 and "several results" in err and "tester/n" not in hub.repositories


def test_bad_data_leaves_the_target_empty(hub, pair, tmp_path, capsys):
    import torch
    from safetensors.torch import load_file, save_file

    shard = sorted((tmp_path / "dpo").glob("*.safetensors"))[1]
    tensors = load_file(shard)
    tensors[max(tensors)].view(-1)[3] = torch.nan
    save_file(tensors, shard)
    code, _, err = command(capsys, "extrapolate", *pair, "-o", "out", "--push-to", "tester/m")
    assert code == 1 and "is nan in" in err and held(hub, "tester/m") == {}


def test_a_lost_connection_is_an_error_of_its_own_in_python(hub, pair, tmp_path):
    target = _target()
    hub.faults = Faults(1, ["reset"], where=lambda request: "/commit/" in request.path)
    with pytest.raises(PushLost, match="expo push"):
        expo.run(_plan(), tmp_path / "out", target=target)
    assert (tmp_path / "out" / "expo.json").is_file()
