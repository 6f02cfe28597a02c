"""What is finished is kept in arrays: every segment's hash and sums come back, from forks and other processes too."""

import os
import pickle

import pytest
import torch
from pico import write_checkpoint

import expo
from expo.ops import SEGMENT
from expo.output.journal import Finished
from expo.stream.done import Done
from expo.stream.pieces import Batches, all_pieces, batches


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Tensors of three segments, of one, and of none."""
    folder = tmp_path_factory.mktemp("done")
    for name in ("sft", "dpo"):
        shapes = {"a.weight": (SEGMENT * 2 + 5,), "b.weight": (3, 4), "c.weight": (0, 4)}
        write_checkpoint(folder / name, {key: torch.zeros(shape) for key, shape in shapes.items()})
    return expo.plan(expo.extrapolation(sft=folder / "sft", dpo=folder / "dpo"))


def noted(plan, done, only=lambda piece: True):
    """Notes one made-up result a segment; returns them by job."""
    rows = {}
    for number, (index, segment) in enumerate(all_pieces(plan.jobs)):
        found = Finished(f"{number + 1:032x}", (0.1 * number, float("nan") if number == 1 else 1e308, -float(number)))
        rows.setdefault(index, []).append(found)
        if only((index, segment)):
            done[index, segment] = found
    return rows


def test_each_job_s_hashes_and_sums_are_those_that_were_noted(plan):
    done = Done(plan.jobs)
    assert done.n_missing == len(list(all_pieces(plan.jobs))) == 5
    for index, rows in noted(plan, done).items():
        assert done.digest_of(index) == "".join(row.digest for row in rows)
        assert repr([tuple(row) for row in done.sums_of(index).tolist()]) == repr([row.sums for row in rows])
    assert done.n_missing == 0


def test_what_a_fork_notes_is_here_and_what_another_process_sends_is_taken(plan):
    done, other = Done(plan.jobs), Done(plan.jobs)
    rows = noted(plan, other, only=lambda piece: piece[0] == 0)
    if not (pid := os.fork()):
        noted(plan, done, only=lambda piece: piece[0] == 1)
        os._exit(0 if done.is_lent else 1)
    assert os.waitpid(pid, 0)[1] == 0 and not done.is_lent
    done.update(pickle.loads(pickle.dumps(other)))
    assert done.n_missing == 1
    for index in (0, 1):
        assert done.digest_of(index) == "".join(row.digest for row in rows[index])


@pytest.mark.parametrize("whole", [False, True])
def test_batches_that_are_worked_out_are_those_of_a_list(plan, whole, monkeypatch):
    monkeypatch.setattr("expo.planning.jobs.Job.reads", "tensor" if whole else "tile")
    listed = batches(plan, all_pieces(plan.jobs))
    worked = Batches(plan.jobs)
    assert list(worked) == listed and len(worked) == len(listed) == (3 if whole else 5)
    with pytest.raises(IndexError):
        worked[len(listed)]
