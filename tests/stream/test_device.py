"""Where tiles are computed: a device that is not there, one whose memory is bounded, one that has its own buffers."""

import json

import pytest
import torch
from engine import command
from every_method import CASES
from merging import merged
from pico import pico_pair

import expo
from expo.errors import ExpoError
from expo.ops import SEGMENT
from expo.planning.budget import TILE, scratch_bytes
from expo.stream import device, lane
from expo.stream.device import GpuMemory, largest_tile

FIRST = {case.method: case for case in reversed(CASES)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="an NVIDIA GPU is here")
def test_cuda_without_a_gpu_is_refused_and_writes_nothing(tmp_path):
    sft, dpo = pico_pair(tmp_path)
    with pytest.raises(ExpoError, match="--device cpu"):
        expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out", device="cuda")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_an_unknown_device_is_refused(tmp_path):
    sft, dpo = pico_pair(tmp_path)
    with pytest.raises(ExpoError, match="not a device"):
        expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out", device="gpu-please")


def test_auto_always_finds_a_device(tmp_path):
    sft, dpo = pico_pair(tmp_path)
    report = expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out", device="auto")
    assert report.tensors > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="an NVIDIA GPU is here")
@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_the_command_line_says_so_once_and_writes_nothing(tmp_path, capsys, more):
    sft, dpo = pico_pair(tmp_path)
    out = tmp_path / "out"
    code, said, error = command(
        capsys, "extrapolate", "--sft", sft, "--dpo", dpo, "-o", out, "--device", "cuda", "--gpu-memory", "1GiB", *more
    )
    assert code == 1 and not said and error.count("finds no such GPU") == 1 and "--device cpu" in error
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("size", "words"), [("1GiB", "add --device cuda"), ("a lot", "is not a size"), ("0", "is not a size")]
)
def test_a_bound_that_is_none_or_bounds_nothing_is_refused(tmp_path, capsys, size, words):
    sft, dpo = pico_pair(tmp_path)
    out = tmp_path / "out"
    code, _, error = command(
        capsys, "extrapolate", "--sft", sft, "--dpo", dpo, "-o", out, "--device", "cpu", "--gpu-memory", size
    )
    assert code == 1 and words in error
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_tile_is_the_largest_whose_buffers_the_memory_holds(tmp_path, workers):
    sft, dpo = pico_pair(tmp_path)
    plan = expo.plan(expo.extrapolation(sft=sft, dpo=dpo))
    costs = {n: workers * max(scratch_bytes(job, n) for job in plan.jobs) for n in (TILE, 2 * TILE, SEGMENT)}
    for tile, n_bytes in costs.items():
        assert largest_tile(plan, workers, n_bytes) == tile
    assert largest_tile(plan, workers, costs[2 * TILE] - 1) == TILE
    assert largest_tile(plan, workers, 100 * costs[SEGMENT]) == SEGMENT
    with pytest.raises(GpuMemory, match=r"--threads.*--gpu-memory.*--device cpu"):
        largest_tile(plan, workers, costs[TILE] - 1)


def test_a_tensor_that_is_taken_whole_and_does_not_fit_is_named(tmp_path):
    case = FIRST["tsv_m"]
    plan = expo.plan(case.recipe(tmp_path, case.draw(torch.bfloat16)))
    with pytest.raises(GpuMemory, match="tsv_m takes tensors whole, and experts is the largest"):
        largest_tile(plan, 1, 1000)


class NoQueue:
    """Stands for a GPU's queue on a machine without one."""


@pytest.fixture
def buffers_of_its_own(monkeypatch):
    """What is read goes through the buffers that a GPU has, which here lie in ordinary memory; returns their sizes."""
    made = []

    def host_buffer(n_bytes, queue):
        made.append((n_bytes, type(queue)))
        return torch.empty(n_bytes, dtype=torch.uint8)

    monkeypatch.setattr(lane, "own_queue", lambda where: NoQueue())
    monkeypatch.setattr(lane, "within", lambda queue: device.within(None))
    monkeypatch.setattr(lane, "host_buffer", host_buffer)
    return made


@pytest.mark.parametrize("name", ["extrapolate", "dare_ties", "slerp", "tsv_m", "passthrough"])
def test_buffers_of_a_device_give_the_same_bytes(tmp_path, name, buffers_of_its_own):
    case = FIRST[name]
    recipe = case.recipe(tmp_path, case.draw(torch.bfloat16))
    through = merged(recipe, threads=3)
    assert {kind for _, kind in buffers_of_its_own} == {NoQueue}
    with pytest.MonkeyPatch.context() as plain:
        plain.setattr(lane, "own_queue", lambda where: None)
        expected = merged(recipe, threads=3)
    assert all(torch.equal(through[key].view(-1), expected[key].view(-1)) for key in expected)


def test_a_gpu_that_is_full_ends_the_run_with_one_error_and_the_same_command_continues(tmp_path, capsys, monkeypatch):
    sft, dpo = pico_pair(tmp_path)
    ask = ["extrapolate", "--sft", sft, "--dpo", dpo, "-o", tmp_path / "out", "--threads", 1, "--json"]

    compute, calls = lane.Lane.compute, []

    def full(self, job, start, n):
        calls.append(job.name)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return compute(self, job, start, n)

    with monkeypatch.context() as held:
        held.setattr(lane.Lane, "compute", full)
        code, _, error = command(capsys, *ask)
    assert code == 1 and "the GPU ran out of memory" in error and "--gpu-memory" in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()
    code, said, _ = command(capsys, *ask)
    assert code == 0 and json.loads(said)["segments_resumed"] == 2
