"""push: one commit shows all, nothing shows before, nothing is sent twice, and other content is never mixed in."""

import shutil

import pytest
import torch
from adapters import write_adapter
from hub_client import use
from standin_hub import Faults, User
from standin_hub.hub import TOKEN

from expo import push
from expo.errors import (
    NoToken,
    NotTheHub,
    NoWriteAccess,
    OutputError,
    PushError,
    PushLost,
    PushOffline,
    SourceError,
    TargetHolds,
    TargetMissing,
)
from expo.output import hub_commit
from expo.output.hub import HubTarget


def held(hub, repo_id, revision="main"):
    """path -> bytes of what a revision shows, git's own settings left out."""
    files = hub.repositories[repo_id].at(revision).files
    return {name: blob.path.read_bytes() for name, blob in files.items() if not name.startswith(".git")}


def local(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def received(hub):
    return [upload for upload in hub.uploads.received if upload.whole]


def test_a_push_makes_the_repository_and_shows_every_file_in_one_commit(hub, folder):
    done = push(folder, "tester/m")
    repository = hub.repositories["tester/m"]
    assert held(hub, "tester/m") == local(folder)
    assert repository.head.sha == done.commit and repository.commits[repository.head.parent].message == "initial commit"
    assert (done.n_sent, done.n_kept, done.already) == (3, 0, False) and not repository.private
    assert done.url == f"{hub.url}/tester/m/commit/{done.commit}"


@pytest.mark.parametrize("multipart_from", [None, 1])
def test_basic_and_multipart_uploads_arrive_whole(hub, folder, multipart_from):
    hub.uploads.multipart_from, hub.uploads.part_size = multipart_from, 3_000
    push(folder, "tester/m")
    assert held(hub, "tester/m") == local(folder)
    assert (len(hub.uploads.received) > 3) == (multipart_from is not None)


def test_nothing_shows_before_the_commit(hub, folder):
    target = HubTarget("tester/m")
    target.check()
    assert hub.repositories == {}
    target.open("run")
    for name in ("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"):
        target.preupload(name, folder / name)
        assert held(hub, "tester/m") == {}
    target.close()


def test_files_that_arrived_may_be_removed_before_the_commit(hub, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    target = HubTarget("tester/m")
    target.check()
    target.open("run")
    for shard in sorted(copy.glob("*.safetensors")):
        target.preupload(shard.name, shard)
        shard.unlink()
    target.close()
    again = HubTarget("tester/m")  # as another process would
    again.check()
    again.open("run")
    assert all(again.has(name) for name in local(folder) if name.endswith(".safetensors"))
    done = again.commit({name: copy / name for name in local(folder)}, "shown")
    again.close(forget=True)
    assert held(hub, "tester/m") == local(folder)
    assert (done.n_sent, done.n_kept) == (0, 3) and len(received(hub)) == 3


def test_what_arrived_for_another_result_does_not_count(hub, folder):
    target = HubTarget("tester/m")
    target.check()
    target.open("one recipe")
    target.preupload("model-00001-of-00003.safetensors", folder / "model-00001-of-00003.safetensors")
    target.close()
    target.open("another recipe")
    assert not target.has("model-00001-of-00003.safetensors")
    target.close()


def test_pushing_the_same_again_says_so_and_commits_nothing(hub, folder):
    first = push(folder, "tester/m")
    n_commits = len(hub.repositories["tester/m"].commits)
    again = push(folder, "tester/m")
    assert again.already and again.commit == first.commit
    assert len(hub.repositories["tester/m"].commits) == n_commits and len(received(hub)) == 3


def test_other_content_is_refused_with_the_ways_out_and_nothing_is_sent(hub, folder, other):
    push(folder, "tester/m")
    with pytest.raises(TargetHolds, match="tester/m exists and holds other content") as refused:
        push(other, "tester/m")
    assert all(way in str(refused.value) for way in ("--branch", "--pr", "--overwrite"))
    assert len(received(hub)) == 3 and held(hub, "tester/m") == local(folder)


def test_overwrite_replaces_everything_in_one_commit(hub, folder, other):
    first = push(folder, "tester/m")
    second = push(other, "tester/m", overwrite=True)
    repository = hub.repositories["tester/m"]
    assert held(hub, "tester/m") == local(other) and repository.commits[second.commit].parent == first.commit
    assert held(hub, "tester/m", first.commit) == local(folder)


def test_a_new_branch_holds_the_result_alone_and_main_stays(hub, folder, other):
    push(folder, "tester/m")
    push(other, "tester/m", branch="v2")
    assert held(hub, "tester/m", "v2") == local(other) and held(hub, "tester/m") == local(folder)
    assert push(other, "tester/m", branch="v2").already
    with pytest.raises(TargetHolds, match="tester/m@v2"):
        push(folder, "tester/m", branch="v2")


def test_a_branch_of_a_new_repository(hub, folder):
    push(folder, "tester/m", branch="v1")
    assert held(hub, "tester/m", "v1") == local(folder) and held(hub, "tester/m") == {}


@pytest.mark.parametrize("name", ["a b", "../x", "a//b", "/a", "a/", ".a", "a.lock", "-x", "a~1", "refs/pr/1", "@", ""])
def test_a_name_that_no_branch_can_have_is_refused_before_anything_is_asked(hub, folder, name):
    with pytest.raises(PushError, match="cannot be a branch"):
        push(folder, "tester/m", branch=name)
    assert not hub.asked and not hub.repositories


@pytest.mark.parametrize("name", ["main", "v1.2", "a/b-c_d", "été"])
def test_any_name_that_git_takes_is_a_branch(hub, folder, name):
    push(folder, "tester/m", branch=name)
    assert held(hub, "tester/m", name) == local(folder)


def test_a_private_repository_of_an_organisation(hub, folder):
    hub.users[TOKEN] = User("tester", orgs=("org",))
    push(folder, "org/m", private=True)
    assert held(hub, "org/m") == local(folder) and push(folder, "org/m", private=True).already


def test_a_pull_request_is_opened_once(hub, folder, other):
    push(folder, "tester/m")
    done = push(other, "tester/m", pr=True)
    assert held(hub, "tester/m", "refs/pr/1") == local(other) and held(hub, "tester/m") == local(folder)
    assert done.url.endswith("/tester/m/discussions/1")
    again = push(other, "tester/m", pr=True)
    assert again.already and again.url == done.url and len(hub.uploads.pulls) == 1


def test_a_pull_request_needs_no_write_access(hub, folder, monkeypatch, tmp_path):
    hub.add("lab/m", folder)
    with pytest.raises(NoWriteAccess, match=r"lab/m: the token has no write access.*--pr"):
        push(folder, "lab/m", overwrite=True)
    assert push(folder, "lab/m", pr=True).already
    (changed := shutil.copytree(folder, tmp_path / "changed")).joinpath("README.md").write_text("# Changed\n")
    assert push(changed, "lab/m", pr=True).url.endswith("/lab/m/discussions/1")


def test_private_counts_for_a_new_repository(hub, folder):
    push(folder, "tester/m", private=True)
    assert hub.repositories["tester/m"].private
    hub.add("tester/open")
    with pytest.raises(PushError, match="tester/open exists and is public"):
        push(folder, "tester/open", private=True)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_without_a_token_nothing_is_asked(hub, folder, monkeypatch, tmp_path):
    use(hub, monkeypatch, tmp_path / "home", token=None)
    with pytest.raises(NoToken, match=r"tester/m: no token.*hf auth login.*HF_TOKEN"):
        push(folder, "tester/m")
    assert hub.asked == []


@pytest.mark.parametrize("exists", [False, True])
def test_a_token_that_may_only_read_is_refused_before_anything_is_sent(hub, folder, exists):
    hub.users[TOKEN] = User("tester", may_write=False)
    if exists:
        hub.add("tester/m")
    with pytest.raises(NoWriteAccess, match="tester/m: the token has no write access"):
        push(folder, "tester/m")
    assert received(hub) == []


def test_a_token_that_nobody_has_is_refused(hub, folder, monkeypatch, tmp_path):
    use(hub, monkeypatch, tmp_path / "home", token="hf_" + "unknown")
    with pytest.raises(NoToken, match=r"tester/m: .*the token is not valid"):
        push(folder, "tester/m")


def test_a_namespace_of_others_is_refused(hub, folder):
    with pytest.raises(TargetMissing, match=r"lab/m: no such repository.*tester is no member of lab.*tester/\.\.\."):
        push(folder, "lab/m")
    assert hub.repositories == {}


def test_a_gated_target_of_others_is_refused(hub, folder):
    hub.add("lab/m", folder, gated=True)
    with pytest.raises(NoWriteAccess, match=r"lab/m: .*(gated|no write access)"):
        push(folder, "lab/m", pr=True)


def test_a_pull_request_on_nothing_is_refused(hub, folder):
    with pytest.raises(TargetMissing, match="tester/m: no such repository"):
        push(folder, "tester/m", pr=True)


@pytest.mark.parametrize("name", ["m", "a/b/c", "tester/", "../x", "tester/m@main", "https://huggingface.co/tester/m"])
def test_a_name_that_is_none_is_refused(hub, folder, name):
    with pytest.raises(TargetMissing, match="A target is org/name"):
        push(folder, name)


def test_a_folder_that_holds_no_whole_checkpoint_is_refused(hub, folder, tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        push(tmp_path / "nowhere", "tester/m")
    shutil.copytree(folder, tmp_path / "part")
    (tmp_path / "part" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(Exception, match="model-00002"):
        push(tmp_path / "part", "tester/m")
    assert hub.asked == []


@pytest.mark.parametrize("where", ["/api/models/tester/m", "/preupload/", "/objects/batch", "/commit/", "/uploads/"])
@pytest.mark.parametrize("kind", ["html", "reset", "503"])
def test_a_server_that_fails_for_good_is_named_and_the_next_push_goes_on(hub, folder, where, kind):
    hub.add("tester/m").commit({}, message="second")
    hub.faults = Faults(1, [kind], where=lambda request: where in request.path)
    with pytest.raises(PushError, match="tester/m") as failed:
        push(folder, "tester/m")
    if kind == "html" and where != "/uploads/":
        assert isinstance(failed.value, NotTheHub) and "HF_ENDPOINT" in str(failed.value)
    elif kind != "html":
        assert isinstance(failed.value, PushLost) and "the same command continues" in str(failed.value)
    assert held(hub, "tester/m") == {}
    hub.faults = Faults()
    push(folder, "tester/m")
    assert held(hub, "tester/m") == local(folder)
    assert len(received(hub)) == 3


@pytest.mark.parametrize("multipart_from", [None, 1])
@pytest.mark.parametrize("kind", ["500", "429", "reset", "drop"])
def test_one_failure_in_four_does_not_show(hub, folder, kind, multipart_from):
    hub.uploads.multipart_from, hub.uploads.part_size = multipart_from, 3_000
    storage = lambda request: request.host == "storage" or "/preupload/" in request.path  # noqa: E731
    hub.faults = Faults(4 if multipart_from else 2, [kind], where=storage)
    push(folder, "tester/m")
    assert hub.faults.failed and held(hub, "tester/m") == local(folder)


def test_an_answer_that_is_lost_after_the_commit_is_no_failure(hub, folder):
    hub.faults = Faults(1, ["close"], where=lambda request: "/commit/" in request.path)
    done = push(folder, "tester/m")
    assert hub.faults.failed and hub.repositories["tester/m"].head.sha == done.commit
    assert held(hub, "tester/m") == local(folder) and len(hub.repositories["tester/m"].commits) == 3


def test_someone_elses_commit_during_the_push_is_not_overwritten(hub, folder, monkeypatch):
    def meanwhile(target, paths, message, real=hub_commit._commit):
        if "notes.txt" not in hub.repositories["tester/m"].head.files:
            hub.repositories["tester/m"].commit({"notes.txt": hub.blob(b"mine", is_large=False)})
        return real(target, paths, message)

    monkeypatch.setattr(hub_commit, "_commit", meanwhile)
    with pytest.raises(TargetHolds, match=r"notes\.txt"):
        push(folder, "tester/m")
    assert held(hub, "tester/m") == {"notes.txt": b"mine"}
    push(folder, "tester/m", overwrite=True)
    assert held(hub, "tester/m") == local(folder) and len(received(hub)) == 3


def test_a_stale_parent_is_looked_at_again_and_nothing_is_sent_twice(hub, folder, other, monkeypatch):
    push(other, "tester/m")

    def meanwhile(target, paths, message, real=hub_commit._commit):
        if "notes.txt" not in hub.repositories["tester/m"].head.files:
            hub.repositories["tester/m"].commit({"notes.txt": hub.blob(b"mine", is_large=False)})
        return real(target, paths, message)

    monkeypatch.setattr(hub_commit, "_commit", meanwhile)
    n_before = len(received(hub))
    push(folder, "tester/m", overwrite=True)
    assert [asked.status for asked in hub.asked if "/commit/" in asked.path][-2:] == [412, 200]
    assert held(hub, "tester/m") == local(folder) and len(received(hub)) == n_before + 3


@pytest.mark.parametrize("kind", ["500", "429", "reset", "close"])
@pytest.mark.parametrize("first", range(4))
def test_a_push_survives_one_failed_request_in_four_wherever_it_falls(hub, folder, kind, first):
    hub.faults = Faults(4, [kind], limit=40)
    hub.faults.seen = first
    push(folder, "tester/m")
    assert len(hub.faults.failed) > 3 and held(hub, "tester/m") == local(folder)
    assert len(hub.repositories["tester/m"].commits) == 3


def test_a_hub_that_cannot_be_reached_is_named_at_once(hub, folder, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PushOffline, match=r"tester/m: .*http://127\.0\.0\.1:9 cannot be reached"):
        push(folder, "tester/m")


def test_what_the_hub_tidied_up_is_sent_again(hub, folder):
    target = HubTarget("tester/m")
    target.check()
    target.open()
    target.preupload("model-00001-of-00003.safetensors", folder / "model-00001-of-00003.safetensors")
    target.close()
    hub.uploads.forget("tester/m")
    push(folder, "tester/m")
    assert held(hub, "tester/m") == local(folder) and len(received(hub)) == 4


def test_a_file_that_changed_after_it_arrived_is_sent_as_it_is_now(hub, folder, tmp_path):
    copy, name = shutil.copytree(folder, tmp_path / "copy"), "model-00001-of-00003.safetensors"
    target = HubTarget("tester/m")
    target.check()
    target.open()
    target.preupload(name, copy / name)
    target.close()
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)
    push(copy, "tester/m")
    assert held(hub, "tester/m")[name] == bytes(content)


def test_two_pushes_to_one_target_exclude_each_other(hub, folder):
    target = HubTarget("tester/m")
    target.check()
    target.open()
    with pytest.raises(OutputError, match="in use by process"):
        push(folder, "tester/m")
    target.close()


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (b"\xff", "byte 0 is not UTF-8"),
        (b"---\nlicense: mit\ntags: [a\n---\n", "not YAML"),
        (b"---\n- a\n---\n", "no table"),
        (b"---\ndate: 2024-99-99\n---\n", "not YAML"),
    ],
)
def test_a_card_that_nobody_can_read_is_refused_before_anything_is_asked(hub, folder, tmp_path, card, words):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_bytes(card)
    with pytest.raises(SourceError, match=f"README.md: .*{words}"):
        push(copy, "tester/m")
    assert not hub.asked


@pytest.mark.parametrize("card", ["", "# Mine\n", "\ufeff---\n\n---\n", "---\n# nothing\n---\n", "--- no end"])
def test_a_card_without_metadata_is_no_mistake(hub, folder, tmp_path, card):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text(card)
    push(copy, "tester/m")
    assert held(hub, "tester/m")["README.md"] == card.encode()


def test_an_adapter_arrives_with_every_side_file_and_no_trainers_state(hub, tmp_path):
    factors = {f"m.lora_{k}.weight": torch.ones(1, 1) for k in "AB"}
    folder = write_adapter(tmp_path / "adapter", factors, r=1)
    for name in ("README.md", "LICENSE", "tokenizer.json", "special_tokens_map.json", "merges.txt"):
        (folder / name).write_text("{}")
    wanted = local(folder)
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "adapter_config.json").write_text("{}")
    push(folder, "tester/adapter")
    assert held(hub, "tester/adapter") == wanted and "LICENSE" in wanted


def test_a_card_that_the_hub_refuses_is_named_and_nothing_is_sent_twice(hub, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text("---\nbase_model_relation: cousin\n---\n")
    with pytest.raises(PushError, match=r"tester/m: .*base_model_relation.*README.md"):
        push(copy, "tester/m")
    (copy / "README.md").write_text("---\nbase_model_relation: merge\n---\n")
    push(copy, "tester/m")
    assert len(received(hub)) == 3


def test_the_record_of_arrivals_runs_no_code_of_others(hub, folder, tmp_path):
    import pickle

    from expo.output.arrived import packed, unpacked

    class Harmful:
        def __reduce__(self):
            return (tmp_path.joinpath("harmed").mkdir, ())

    content = packed(Harmful())
    assert pickle.loads(content.partition(b"\n")[2]) is None and tmp_path.joinpath("harmed").is_dir()
    tmp_path.joinpath("harmed").rmdir()
    assert unpacked(content) is None and not tmp_path.joinpath("harmed").exists()
