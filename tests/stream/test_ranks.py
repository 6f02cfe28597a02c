"""Several processes under torchrun do one run: the same bytes, one voice, and the same command continues."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from crash import tree
from launching import launch
from pico import write_checkpoint

import expo
from expo.errors import NoRendezvous, RankError
from expo.launcher import Place, check_rendezvous, place
from expo.ops import SEGMENT
from expo.recipe import read_recipe
from expo.stream.ranks import Ranks, check_places, cut_evenly

SHAPES = {"a.weight": (1100, 1000), "b.weight": (700, 1700), "c.weight": (3,), "d.weight": (2300, 1000)}
METHODS = {
    "model_stock": {"merge_method": "model_stock", "base_model": "base"},
    "ties": {"merge_method": "ties", "base_model": "base", "parameters": {"density": 0.3, "trim_scope": "model"}},
    "tsv_m": {"merge_method": "tsv_m", "base_model": "base"},
    "dare_ties": {"merge_method": "dare_ties", "base_model": "base", "parameters": {"density": 0.5}},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three models in three shards each, recipes over them, and what one process makes of those."""
    folder = tmp_path_factory.mktemp("ranks")
    draw = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=draw) * 0.1 for name, shape in SHAPES.items()}
    for model in ("base", "one", "two"):
        moved = {name: (w + 0.01 * torch.randn(w.shape, generator=draw)).bfloat16() for name, w in base.items()}
        write_checkpoint(folder / model, moved, shards=3)
    for name, recipe in METHODS.items():
        models = [{"model": str(folder / model), "parameters": {"weight": 0.5}} for model in ("one", "two")]
        if name in ("model_stock", "tsv_m"):
            models = [{"model": model["model"]} for model in models]
        full = recipe | {"models": models, "base_model": str(folder / "base"), "dtype": "bfloat16"}
        (folder / f"{name}.yaml").write_text(json.dumps(full))
        expo.merge(folder / f"{name}.yaml", folder / f"one-{name}", threads=1)
    return folder


def test_four_processes_write_the_bytes_of_one_into_three_files(home):
    body = """
    for name in ("model_stock", "ties", "tsv_m", "dare_ties"):
        report = merged(name)
        again = expo.stream.ranks.world().gather(report.hashes)
        assert all(hashes == report.hashes for hashes in again)
    """
    done = launch(home, body, processes=4)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in METHODS:
        assert tree(home / f"many-{name}") == tree(home / f"one-{name}"), name
        assert not (home / f"many-{name}.partial").exists()


def test_a_killed_process_stops_the_others_with_one_message_and_any_number_goes_on_to_the_same_bytes(home):
    body = """
    from expo.cli import main
    from expo.output.folder import FolderSink
    record, seen = FolderSink.record, []
    def recorded(self, *finished):
        record(self, *finished)
        seen.append(1)
        if rank == 1 and len(seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    FolderSink.record = recorded
    sys.argv = ["expo", "merge", f"{home}/dare_ties.yaml", "-o", f"{home}/killed-dare_ties"]
    main.main()
    """
    done = launch(home, body, into="killed")
    assert done.returncode != 0 and done.stderr.count("error: ") == 1, done.stderr
    assert "the same command continues" in done.stderr and "Traceback (most" not in done.stderr.split("error: ")[0]
    partial = home / "killed-dare_ties.partial"
    assert len((partial / "journal-1").read_bytes().splitlines()) == 2
    report = expo.merge(home / "dare_ties.yaml", home / "killed-dare_ties", threads=1)
    assert report.segments_resumed >= 2
    assert tree(home / "killed-dare_ties") == tree(home / "one-dare_ties") and not partial.exists()


def test_processes_go_on_where_one_was_killed(home):
    from crash import forked

    def doomed() -> None:
        from expo.output.folder import FolderSink

        record = FolderSink.record

        def recorded(self, *finished):
            record(self, *finished)
            os.kill(os.getpid(), 9)

        FolderSink.record = recorded
        expo.merge(home / "dare_ties.yaml", home / "on-dare_ties", threads=1)

    forked(doomed)
    assert (home / "on-dare_ties.partial" / "journal-0").read_bytes()
    done = launch(home, 'assert merged("dare_ties").segments_resumed == 1', into="on")
    assert done.returncode == 0, done.stderr[-3000:]
    assert tree(home / "on-dare_ties") == tree(home / "one-dare_ties")


def test_what_does_not_fit_together_is_refused_by_one_voice_and_nothing_is_written(home):
    body = """
    import time
    from expo.cli import main
    from expo.errors import RankError
    def refused(*words, **options):
        try:
            merged("dare_ties", **options)
        except RankError as error:
            assert all(word in str(error) for word in words), str(error)
        else:
            raise AssertionError("it ran")
    refused("rank 1", "another recipe", seed=rank)
    os.environ["INTO"] = f"other-{rank}"
    refused("does not see the folder")
    assert not os.path.exists(f"{home}/other-1-dare_ties.partial")
    sys.argv = ["expo", "merge", f"{home}/dare_ties.yaml", "-o", f"{home}/one-dare_ties"]
    main.main()
    """
    done = launch(home, body, into="odd")
    assert done.returncode == 1 and done.stderr.count("error: ") == 1, done.stderr
    assert "one-dare_ties exists. To replace it" in done.stderr


def test_a_bad_value_in_one_processes_share_ends_all_with_its_name_and_leaves_no_folder(home, tmp_path):
    tensors = {"a.weight": torch.ones(SEGMENT * 4), "z.weight": torch.ones(SEGMENT * 2)}
    write_checkpoint(tmp_path / "one", tensors)
    tensors["z.weight"][7] = float("nan")
    write_checkpoint(tmp_path / "two", tensors)
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 1}} for name in ("one", "two")]
    (home / "broken.yaml").write_text(json.dumps({"merge_method": "linear", "models": models}))
    body = """
    from expo.cli import main
    sys.argv = ["expo", "merge", f"{home}/broken.yaml", "-o", f"{home}/bad-broken"]
    main.main()
    """
    done = launch(home, body, into="bad")
    assert done.returncode == 1 and done.stderr.count("error: ") == 1, done.stderr
    assert "z.weight" in done.stderr and "7" in done.stderr
    assert not list(home.glob("bad-broken*"))


# --- Without processes -----------------------------------------------------------------------------------------------


def share_of(plan, rank: int, size: int, n_nodes: int = 1) -> list[tuple[int, int]]:
    """The segments of one rank, without a launcher."""
    from expo.stream.pieces import all_pieces, batches

    ranks = Ranks.__new__(Ranks)
    per_node = size // n_nodes
    ranks.here = Place(rank, size, rank % per_node, rank // per_node, n_nodes)
    return [piece for batch in ranks.share(plan, list(batches(plan, all_pieces(plan.jobs)))) for piece in batch]


@pytest.mark.parametrize("size, n_nodes", [(2, 1), (3, 1), (7, 1), (2, 2), (6, 3)])
def test_every_segment_is_one_processs_and_no_file_is_two_nodes(home, size, n_nodes):
    from expo.stream.pieces import all_pieces

    plan = expo.plan(read_recipe(home / "dare_ties.yaml").stages[0].recipe)
    shares = [share_of(plan, rank, size, n_nodes) for rank in range(size)]
    assert [piece for share in shares for piece in share] == list(all_pieces(plan.jobs))
    files = [{plan.jobs[index].file for index, _ in share} for share in shares]
    per_node = size // n_nodes
    nodes = [set().union(*files[k : k + per_node]) for k in range(0, size, per_node)]
    assert sum(map(len, nodes)) == len(set().union(*nodes)) if n_nodes > 1 else True


def test_shares_are_even_by_bytes():
    parts = cut_evenly([[n] for n in (5, 1, 1, 1, 1, 1)], 2, lambda n: n)
    assert parts == [[[5]], [[1], [1], [1], [1], [1]]]


@pytest.mark.parametrize(
    "environment, found",
    [
        ({}, Place()),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Place()),
        ({"RANK": "x", "WORLD_SIZE": "2"}, Place()),
        (
            {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"},
            Place(5, 8, 1, 1, 2),
        ),
    ],
)
def test_the_environment_says_where_a_process_stands(environment, found):
    assert place(environment) == found


@pytest.mark.parametrize(
    "environment, number",
    [
        ({"WORLD_SIZE": "2"}, "RANK"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, "RANK"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_PROCID"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK"),
    ],
)
def test_copies_that_cannot_find_each_other_are_refused_by_the_first(environment, number, monkeypatch, capsys):
    from engine import command

    for rank, said in (("0", 1), ("1", 0)):
        with pytest.raises(NoRendezvous, match="torchrun"):
            check_rendezvous(environment | {number: rank})
        for name, value in (environment | {number: rank}).items():
            monkeypatch.setenv(name, value)
        with kept_handlers(), pytest.MonkeyPatch.context() as patch:
            patch.setattr("expo.recipe.read_recipe", lambda *_: check_rendezvous())
            code, out, err = command(capsys, "merge", "r.yaml", "-o", "out")
        assert (code, out, err.count("error: ")) == (1, "", said), err


def test_processes_that_never_come_are_not_waited_for_for_ever(monkeypatch):
    from datetime import timedelta

    from expo.stream import ranks

    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "_JOIN", timedelta(seconds=0.5))
    with pytest.raises(RankError, match="have not found each other"):
        Ranks(place())


@pytest.mark.parametrize(
    "places, fits",
    [
        ([Place(0, 2, 0), Place(1, 2, 1)], True),
        ([Place(0, 2, 0, 0, 2), Place(1, 2, 0, 1, 2)], True),
        ([Place(0, 4, 0, 0, 2), Place(1, 4, 1, 0, 2), Place(2, 4, 0, 1, 2), Place(3, 4, 1, 1, 2)], True),
        ([Place(0, 3, 0, 0, 1), Place(1, 3, 1, 0, 1), Place(2, 3, 0, 1, 3)], False),  # two on one node, one on another
        ([Place(0, 2, 0, 1, 2), Place(1, 2, 0, 0, 2)], False),
    ],
)
def test_nodes_must_have_as_many_processes_each(places, fits):
    with contextlib.nullcontext() if fits else pytest.raises(RankError, match="as many processes on each node"):
        check_places(places)


@contextlib.contextmanager
def kept_handlers():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_torchrun_inside_a_slurm_step_is_no_lost_copy():
    check_rendezvous(
        {"SLURM_STEP_NUM_TASKS": "4", "RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
    )


STOPPED = """
import sys
from expo.cli.main import one_voice
sys.argv = ["expo", "merge"]
with one_voice():
    before = set(sys.modules)
    from expo.stream.ranks import is_first_to_tell
    assert is_first_to_tell()  # no launcher answers
    assert set(sys.modules) == before, set(sys.modules) - before
"""


def test_the_handler_that_the_launcher_may_call_at_any_moment_imports_nothing():
    here = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    done = subprocess.run([sys.executable, "-c", STOPPED], env=os.environ | here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
