"""The budget: memory does not depend on the size of the checkpoint, and a run that lacks it is refused."""

import pytest
import torch
from pico import pico_pair, write_checkpoint

import expo
from expo.errors import PlanError
from expo.planning.budget import TILE, check_memory, peak_memory


def planned(folder, n):
    one = write_checkpoint(folder / "one", {"w": torch.ones(n)})
    return expo.plan(expo.extrapolation(sft=one, dpo=write_checkpoint(folder / "two", {"w": torch.zeros(n)})))


def test_memory_does_not_grow_with_the_tensors(tmp_path):
    small, large = planned(tmp_path / "small", TILE), planned(tmp_path / "large", 10 * TILE)
    assert peak_memory(small, 2) == peak_memory(large, 2) < 320 * 2**20


def test_more_workers_than_memory_has_room_for_are_refused_before_the_run(tmp_path):
    sft, dpo = pico_pair(tmp_path)
    check_memory(expo.plan(expo.extrapolation(sft=sft, dpo=dpo)), 2)
    with pytest.raises(PlanError, match="--threads"):
        expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out", threads=10**7)
    assert not (tmp_path / "out.partial").exists()
