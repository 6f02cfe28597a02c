"""A plan gives each output tensor its exact place from headers alone, in the donor's order and shards."""

import json

import pytest
import torch
from engine import tree
from oracle import read_stored
from pico import LLAMA, llama_tensors, nudged, pico_pair, write_checkpoint

import expo
from expo.checkpoint import Shards
from expo.planning import budget
from expo.planning.build import output_name


@pytest.fixture
def unreadable(monkeypatch):
    """Reading any tensor fails the test."""

    def read_into(self, out, spec, start=0):
        raise AssertionError(f"{spec.name} was read")

    monkeypatch.setattr(Shards, "read_into", read_into)


def planned(folder, *, settings=None, **pair):
    sft, dpo = pico_pair(folder, **pair)
    return expo.plan(expo.extrapolation(sft=sft, dpo=dpo, **settings or {})), dpo


def test_planning_reads_no_tensor_and_writes_nothing(tmp_path, unreadable):
    sft, dpo = pico_pair(tmp_path)
    before = tree(tmp_path)
    expo.plan(expo.extrapolation(sft=sft, dpo=dpo, rounding="stochastic", vocabulary="common-rows"))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("dtype", [None, "float32", "float8_e5m2"])
@pytest.mark.parametrize("shard_size", [None, 3000, 10**9])
def test_every_job_lies_where_the_written_header_says_and_the_jobs_fill_the_files(tmp_path, dtype, shard_size):
    plan, _ = planned(tmp_path, shards=3, settings={"dtype": dtype, "shard_size": shard_size})
    expo.run(plan, tmp_path / "out")
    for shard in plan.shards:
        raw = (tmp_path / "out" / shard.name).read_bytes()
        assert len(raw) == shard.n_bytes and raw.startswith(shard.header)
        table = json.loads(raw[8 : len(shard.header)])
        at = len(shard.header)
        for job in (job for job in plan.jobs if job.file == shard.name):
            assert job.at == at == len(shard.header) + table[job.name]["data_offsets"][0]
            assert (job.dtype.name, list(job.shape)) == (table[job.name]["dtype"], table[job.name]["shape"])
            at += job.n_bytes
        assert at == shard.n_bytes
        assert len(shard.header) % 8 == 0
    assert sum(shard.n_bytes for shard in plan.shards) == plan.n_bytes_written


def test_names_shards_and_order_are_the_aligned_models(tmp_path):
    tensors = llama_tensors(dtype=torch.bfloat16)
    names = sorted(tensors, key=lambda name: name[::-1])
    sft = write_checkpoint(tmp_path / "sft", tensors, shards=1, config=LLAMA)
    groups = [names[:5], names[5:6], names[6:]]
    dpo = write_checkpoint(
        tmp_path / "dpo", nudged(tensors), shards=groups, config=LLAMA, metadata={"format": "pt", "by": "me"}
    )
    expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files == sorted(path.name for path in dpo.glob("*.safetensors")) and len(files) == 3
    for file in files:
        assert list(read_stored(tmp_path / "out" / file)) == list(read_stored(dpo / file))
        raw = (tmp_path / "out" / file).read_bytes()
        metadata = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
        assert metadata == {"format": "pt", "by": "me"}


def test_every_tensor_starts_at_a_multiple_of_its_width(tmp_path):
    types = [torch.uint8, torch.bfloat16, torch.float64, torch.float32, torch.float8_e4m3fn, torch.int16]
    tensors = {f"t{i}": torch.ones(2 * i + 1).to(types[i % 6]) for i in range(12)}
    sft, dpo = (write_checkpoint(tmp_path / role, tensors) for role in ("sft", "dpo"))
    plan = expo.plan(expo.extrapolation(sft=sft, dpo=dpo))
    assert all(job.at % max(1, job.dtype.bits // 8) == 0 for job in plan.jobs)


@pytest.mark.parametrize("shard_size", [1, 3000, 5000, 20_000])
def test_no_shard_holds_more_than_was_asked_unless_it_is_one_tensor(tmp_path, shard_size):
    plan, _ = planned(tmp_path, settings={"shard_size": shard_size})
    sizes = {}
    for job in plan.jobs:
        sizes.setdefault(job.file, []).append(job.n_bytes)
    assert all(sum(held) <= shard_size or len(held) == 1 for held in sizes.values())
    if len(sizes) > 1:
        assert list(sizes) == [f"model-{i + 1:05d}-of-{len(sizes):05d}.safetensors" for i in range(len(sizes))]


def test_the_output_can_be_opened_again_whatever_the_shard_size(tmp_path):
    plan, _ = planned(tmp_path, shards=3)
    n_bytes = sum(job.n_bytes for job in plan.jobs)
    for shard_size in (1000, n_bytes, 10**9):
        out = tmp_path / f"out-{shard_size}"
        sft, dpo = tmp_path / "sft", tmp_path / "dpo"
        expo.extrapolate(sft=sft, dpo=dpo, output=out, shard_size=shard_size)
        opened = expo.open_checkpoint(out)
        assert sorted(opened.tensors) == sorted(expo.open_checkpoint(dpo).tensors)
        if len(opened.files) > 1:
            index = json.loads((out / "model.safetensors.index.json").read_text())
            assert index["metadata"]["total_size"] == n_bytes
            assert index["weight_map"] == {spec.name: spec.file for spec in opened.tensors.values()}


def test_an_unsharded_model_has_no_index_and_a_sharded_one_has_a_right_one(tmp_path):
    for shards in (1, 2):
        _, dpo = pico_pair(tmp_path / str(shards), shards=shards)
        out = tmp_path / str(shards) / "out"
        expo.extrapolate(sft=dpo.parent / "sft", dpo=dpo, output=out, dtype="float32")
        assert (out / "model.safetensors.index.json").exists() == (shards > 1)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    stored = {file.name: read_stored(file) for file in out.glob("*.safetensors")}
    assert index["weight_map"] == {name: file for file, held in stored.items() for name in held}
    assert index["metadata"]["total_size"] == sum(len(raw) for held in stored.values() for _, _, raw in held.values())


@pytest.mark.parametrize(
    "file, count, right",
    [
        ("model.safetensors", 1, "model.safetensors"),
        ("odd name.safetensors", 1, "odd name.safetensors"),
        ("pytorch_model.bin", 1, "model.safetensors"),
        ("weights.bin", 1, "model.safetensors"),
        ("pytorch_model-00001-of-00002.bin", 2, "model-00001-of-00002.safetensors"),
        ("consolidated.00.bin", 2, "consolidated.00.safetensors"),
    ],
)
def test_files_get_the_names_that_transformers_looks_for(file, count, right):
    assert output_name(file, count) == right


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_the_plan_states_what_will_really_be_read_and_written(tmp_path, monkeypatch):
    plan, _ = planned(tmp_path, shards=2, settings={"dtype": "float32"})
    stated = budget.totals(plan, threads=2)
    assert stated["bytes_to_write"] == sum(shard.n_bytes for shard in plan.shards)
    assert stated["bytes_to_read"] == sum(checkpoint.n_bytes for checkpoint in plan.inputs.values())
    assert stated["tensors"] == stated["tensors_computed"] == len(plan.jobs) == 21
    assert stated["parameters"] == sum(t.numel() for t in llama_tensors().values())
    expo.run(plan, tmp_path / "out")
    on_disk = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    assert on_disk == stated["bytes_to_write"]


def test_memory_grows_with_threads_and_widths_but_not_with_the_model(tmp_path):
    small, _ = planned(tmp_path / "a")
    wide, _ = planned(tmp_path / "b", dtype=torch.float32)
    large, _ = planned(tmp_path / "c", config={**LLAMA, "hidden_size": 64, "intermediate_size": 256})
    memory = budget.peak_memory
    assert memory(large, 1) == memory(small, 1) < memory(small, 4) and memory(small, 1) < memory(wide, 1)
    assert memory(small, 1) >= budget.INTERPRETER


def test_the_summary_says_what_goes_in_what_comes_out_and_what_it_costs(tmp_path):
    plan, _ = planned(tmp_path, settings={"dtype": "float32", "alpha": 0.25})
    text = budget.summary(plan, threads=2)
    for word in ("extrapolate (alpha 0.25)", "sft", "dpo", "21 tensors", "F32", "2 files", "of memory", "of disk"):
        assert word in text


@pytest.mark.parametrize(
    "n, text", [(0, "0 B"), (999, "999 B"), (999.9, "1 kB"), (2_470_000_000, "2.47 GB"), (8e14, "800 TB")]
)
def test_sizes_read_like_sizes(n, text):
    assert budget.size(n) == text
