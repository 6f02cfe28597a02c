"""A .bin read through its offsets holds exactly what torch.load gives, or is refused by the tensor's name."""

import io
import json
import pickle
import random
import zipfile

import pytest
import torch

from expo import errors
from expo.checkpoint.index import open_checkpoint
from expo.checkpoint.pickled import read_pickled
from expo.checkpoint.shard import Shards


def saved(path, state, **options):
    torch.save(state, path, **options)
    return path


def refusal(path, error, *words):
    with pytest.raises(error) as caught:
        read_pickled(path, path.name)
    assert type(caught.value) is error
    for word in (str(path), *words):
        assert word in str(caught.value)


def contents(path):
    """name -> (shape, torch dtype's name, bytes), as expo reads them."""
    checkpoint = open_checkpoint(path)
    held = {}
    with Shards(checkpoint) as shards:
        for name, spec in checkpoint.tensors.items():
            out = bytearray(spec.n_bytes)
            shards.read_into(memoryview(out), spec)
            held[name] = (spec.shape, spec.dtype.torch_name, bytes(out))
    return held


def truth(state):
    return {
        name: (
            tuple(t.shape),
            str(t.dtype).removeprefix("torch."),
            t.detach().clone().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, t in state.items()
    }


def test_every_kind_of_plain_tensor_reads_as_torch_loads_it(tmp_path):
    base = torch.randn(40)
    state = {
        "f32": torch.randn(3, 5),
        "bf16": torch.randn(7).bfloat16(),
        "f16": torch.randn(2, 2, 2).half(),
        "f8": torch.randn(5).to(torch.float8_e4m3fn),
        "f64": torch.randn(1).double(),
        "i64": torch.arange(4),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "view": base[10:30].reshape(4, 5),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "one": torch.randn(1, 6).t()[:, :1],
    }
    path = saved(tmp_path / "pytorch_model.bin", state)
    assert contents(path) == truth(torch.load(path, weights_only=True)) == truth(state)


def test_a_large_file_is_described_without_reading_its_tensors(tmp_path):
    path = saved(tmp_path / "m.bin", {"w": torch.zeros(1000, 1000), "v": torch.ones(3)})
    file, specs = read_pickled(path, "m.bin")
    assert [(spec.name, spec.n_bytes) for spec in specs] == [("w", 4_000_000), ("v", 12)]
    assert file.n_bytes == path.stat().st_size and file.metadata == {}


def test_tied_tensors_share_their_bytes_under_both_names(tmp_path):
    tied = torch.randn(4, 4)
    path = saved(tmp_path / "m.bin", {"embed": tied, "head": tied, "other": torch.ones(2)})
    specs = {spec.name: spec for spec in read_pickled(path, "m.bin")[1]}
    assert specs["embed"].offset == specs["head"].offset != specs["other"].offset
    assert contents(path) == truth(torch.load(path))


def test_views_of_one_storage_that_do_not_overlap_are_read(tmp_path):
    fused = torch.randn(6, 4)
    path = saved(tmp_path / "m.bin", {"q": fused[:2], "k": fused[2:4], "v": fused[4:]})
    assert contents(path) == truth(torch.load(path))


def test_views_that_overlap_in_part_are_refused_by_name(tmp_path):
    fused = torch.randn(6, 4)
    refusal(saved(tmp_path / "a.bin", {"x": fused[:4], "y": fused[2:]}), errors.PartlySharedTensor, "'x'", "'y'")
    refusal(saved(tmp_path / "b.bin", {"x": fused, "y": fused[1:2]}), errors.PartlySharedTensor, "'x'", "'y'")
    refusal(saved(tmp_path / "c.bin", {"x": fused, "y": fused.view(4, 6)}), errors.PartlySharedTensor, "'x'", "'y'")


def test_a_state_dict_under_its_usual_key_is_found(tmp_path):
    state = {"w": torch.randn(2)}
    assert contents(saved(tmp_path / "m.bin", {"state_dict": state, "epoch": 3})) == truth(state)


def test_a_transposed_tensor_is_refused_by_name(tmp_path):
    refusal(saved(tmp_path / "m.bin", {"w": torch.randn(3, 4).t()}), errors.NonContiguousTensor, "'w'", "strides")


def test_a_legacy_pickle_is_refused(tmp_path):
    path = saved(tmp_path / "m.bin", {"w": torch.ones(2)}, _use_new_zipfile_serialization=False)
    refusal(path, errors.LegacyPickle, "1.6")


@pytest.mark.parametrize("content", [b"", b"P", b"<html>", b"PK\3\4", b"PK\3\4" + bytes(100)], ids=repr)
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    with pytest.raises(errors.HeaderError):
        read_pickled(path, "m.bin")


def test_a_cut_download_is_truncated(tmp_path):
    path = saved(tmp_path / "m.bin", {"w": torch.ones(2000)})
    path.write_bytes(path.read_bytes()[:5000])
    refusal(path, errors.TruncatedFile, "fetch the file again")


NO_STATE_DICTS = {
    "a tensor": torch.ones(2),
    "a list": [torch.ones(2)],
    "nested": {"model": {"w": torch.ones(2)}},
    "a number": {"w": torch.ones(2), "step": 3},
    "no name": {0: torch.ones(2)},
}


@pytest.mark.parametrize("state", NO_STATE_DICTS.values(), ids=NO_STATE_DICTS)
def test_what_is_no_flat_mapping_of_tensors_is_refused(tmp_path, state):
    refusal(saved(tmp_path / "m.bin", state), errors.NotAStateDict)


def test_a_type_that_safetensors_lacks_is_refused_by_name(tmp_path):
    state = {"w": torch.ones(2, dtype=torch.complex128)}
    refusal(saved(tmp_path / "m.bin", state), errors.UnknownDType, "'w'", "complex128")


@pytest.mark.filterwarnings("ignore")
def test_a_quantized_tensor_is_refused(tmp_path):
    with pytest.raises(errors.HeaderError):
        read_pickled(
            saved(tmp_path / "m.bin", {"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}), "m"
        )


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.complex64).conj()])
def test_sparse_and_conjugated_tensors_are_refused(tmp_path, tensor):
    with pytest.raises(errors.HeaderError):
        read_pickled(saved(tmp_path / "m.bin", {"w": tensor}), "m.bin")


@pytest.mark.parametrize("name", ["a\0b", "__metadata__"])
def test_a_name_that_safetensors_cannot_hold_is_refused(tmp_path, name):
    refusal(saved(tmp_path / "m.bin", {name: torch.ones(2)}), errors.BadName)


class Trap:
    def __reduce__(self):
        return (open, ("/nonexistent/trap", "w"))


def test_code_in_a_pickle_is_never_run(tmp_path):
    refusal(saved(tmp_path / "m.bin", {"w": Trap()}), errors.UnsafePickle)


def test_a_compressed_archive_is_refused(tmp_path):
    path = saved(tmp_path / "m.bin", {"w": torch.zeros(5000)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "z.bin", "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    refusal(tmp_path / "z.bin", errors.UnsafePickle, "compressed")


def rebuilt(path, change):
    """The archive at `path` with each record's bytes put through change(name, bytes)."""
    with zipfile.ZipFile(path) as old:
        records = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, raw in records.items():
            new.writestr(name, change(name, raw))
    return path


def test_a_record_shorter_than_its_tensor_is_truncated(tmp_path):
    path = saved(tmp_path / "m.bin", {"w": torch.zeros(50)})
    rebuilt(path, lambda name, raw: raw[:-4] if "/data/" in name else raw)
    with pytest.raises(errors.HeaderError):
        read_pickled(path, "m.bin")


def test_big_endian_numbers_are_refused(tmp_path):
    path = saved(tmp_path / "m.bin", {"w": torch.zeros(5)})
    refusal(rebuilt(path, lambda name, raw: b"big" if name.endswith("byteorder") else raw), errors.UnsafePickle)


def test_a_large_pickle_needs_the_users_word(tmp_path):
    path = saved(tmp_path / "m.bin", {f"{n}" * 50: torch.zeros(1) for n in range(10)})
    with pytest.raises(errors.HeaderTooLarge, match="--max-header"):
        read_pickled(path, "m.bin", max_header=500)


def test_damaged_archives_raise_a_header_error_or_read_inside_the_file(tmp_path):
    path = saved(tmp_path / "m.bin", {"w": torch.randn(3, 3), "v": torch.ones(2).bfloat16()})
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(300):
        raw = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        path.write_bytes(raw)
        try:
            _, specs = read_pickled(path, "m.bin")
        except errors.HeaderError:
            continue
        assert all(spec.offset >= 0 and spec.offset + spec.n_bytes <= len(raw) for spec in specs)


@pytest.mark.filterwarnings("ignore")
def test_a_hostile_pickle_raises_a_header_error(tmp_path):
    hostile = [
        b"",
        b".",
        b"N.",
        b"}.",
        pickle.dumps({"w": 1}),
        b"(" * 10**5 + b".",
        b"\x80\x02]" + b"]a" * 10**5 + b".",
    ]
    for raw in hostile:
        path = tmp_path / "m.bin"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/data.pkl", raw)
            archive.writestr("m/version", "3\n")
        with pytest.raises(errors.ExpoError):
            open_checkpoint(path)


def test_shards_of_bin_files_follow_their_index(tmp_path):
    one, two = ({"a": torch.randn(2)}, {"b": torch.randn(3)})
    names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    saved(tmp_path / names[0], one)
    saved(tmp_path / names[1], two)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))
    assert contents(tmp_path) == truth({**one, **two})


def test_the_tables_hash_follows_the_table(tmp_path):
    hashes = {
        read_pickled(saved(tmp_path / "m.bin", state), "m.bin")[0].header_hash
        for state in [{"a": torch.ones(2)}, {"b": torch.ones(2)}, {"a": torch.ones(3)}, {"a": torch.zeros(2)}]
    }
    assert len(hashes) == 3


def test_a_file_object_that_torch_wrote_to_memory_reads_too(tmp_path):
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(3)}, buffer)
    (tmp_path / "m.bin").write_bytes(buffer.getvalue())
    assert contents(tmp_path / "m.bin") == truth({"w": torch.arange(3)})
