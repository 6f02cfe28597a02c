"""verify: what was damaged is named, what is sound passes, and a sample can be derived again."""

import json
import os
import shutil

import pytest
import torch
import xxhash
from pico import LLAMA, llama_tensors, nudged, pico_pair, write_checkpoint
from safetensors.torch import load_file, save_file

import expo
from expo.analysis.finite import count_bad, least_bad
from expo.analysis.recompute import sample
from expo.analysis.verify import verify
from expo.dtypes import COMPUTED, DTYPES
from expo.errors import MissingSource, VerifyError
from expo.ops import SEGMENT


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with sft, dpo and a sound OUT of two shards."""
    folder = tmp_path_factory.mktemp("made")
    sft, dpo = pico_pair(folder, side_files={"tokenizer.json": "{}", "README.md": "# dpo\n"})
    expo.extrapolate(sft=sft, dpo=dpo, output=folder / "out")
    return folder


@pytest.fixture
def out(made, tmp_path):
    """A copy of OUT, to be damaged."""
    return shutil.copytree(made / "out", tmp_path / "out")


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def shards(out):
    return sorted(out.glob("*.safetensors"))


def inputs(made):
    return {"sft": str(made / "sft"), "dpo": str(made / "dpo")}


def problems(out, **options):
    return "\n".join(verify(out, **options).problems)


def test_a_sound_output_has_no_problem(out):
    result = verify(out)
    assert result.problems == [] and result.notes == []
    assert (result.n_tensors, result.n_files, result.n_side_files) == (21, 2, 3)
    assert result.n_bytes == 2 * sum(t.numel() for t in llama_tensors().values())
    json.dumps(result.record(), allow_nan=False)


def test_a_changed_card_is_no_problem(out):
    (out / "README.md").write_text("mine")
    assert verify(out).problems == []


def test_a_flipped_byte_of_data_is_found_and_its_tensor_named(out):
    flip(shards(out)[1], -1)
    found = verify(out).problems
    assert len(found) == 1 and "not those that were written" in found[0]


def test_a_flipped_byte_of_a_header_is_found(out):
    path = shards(out)[0]
    flip(path, path.read_bytes().index(b"pt"))  # metadata: the header still parses
    assert "its header is not the one that was written" in problems(out)


def test_a_flipped_byte_of_a_side_file_is_found(out):
    flip(out / "config.json", 10)
    assert "config.json" in problems(out)


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json"])
def test_a_missing_side_file_is_found(out, name):
    (out / name).unlink()
    assert problems(out) == f"{name}: the side file is missing."


def test_an_added_side_file_is_a_note(out):
    (out / "modeling_x.py").write_text("")
    result = verify(out)
    assert result.problems == [] and "modeling_x.py" in result.notes[0]


def test_a_missing_shard_is_found_and_the_other_is_still_checked(out):
    shards(out)[0].unlink()
    flip(shards(out)[0], -1)
    found = problems(out)
    assert "model-00001-of-00002.safetensors: the file is missing" in found
    assert "not those that were written" in found


def test_an_index_that_lost_a_tensor_is_found(out):
    path = out / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["model.norm.weight"]
    path.write_text(json.dumps(index))
    assert "'model.norm.weight', which model.safetensors.index.json does not list" in problems(out)


def test_an_index_with_a_wrong_total_is_found(out):
    path = out / "model.safetensors.index.json"
    path.write_text(path.read_text().replace('"total_size": 1', '"total_size": 2'))
    assert "total_size" in problems(out)


def test_a_truncated_file_is_found(out):
    os.truncate(shards(out)[1], 5000)
    found = problems(out)
    assert "the file at byte 5000" in found and "in the manifest, but in no file" in found


def test_a_tensor_that_the_manifest_does_not_list_is_found(out):
    path = out / "expo.json"
    manifest = json.loads(path.read_text())
    del manifest["tensors"]["lm_head.weight"]
    path.write_text(json.dumps(manifest))
    assert problems(out) == "stored, but not in the manifest: lm_head.weight"


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 1, "recipe": 3}', '{"format": 99}'])
def test_a_damaged_manifest_is_one_problem(out, content):
    (out / "expo.json").write_text(content)
    found = verify(out).problems
    assert len(found) == 1 and "expo.json" in found[0]


def test_a_manifest_that_names_files_outside_is_refused(out):
    path = out / "expo.json"
    manifest = json.loads(path.read_text())
    manifest["side_files"]["../../secret"] = "0"
    path.write_text(json.dumps(manifest))
    assert "outside the checkpoint" in problems(out)


def test_nan_is_a_problem_unless_it_was_written_and_is_allowed(made, tmp_path):
    for name in ("sft", "dpo"):
        shutil.copytree(made / name, tmp_path / name)
        path = shards(tmp_path / name)[1]
        tensors = load_file(path)
        tensors["model.norm.weight"][3] = torch.nan
        save_file(tensors, path, metadata={"format": "pt"})
    out = tmp_path / "out"
    expo.extrapolate(sft=tmp_path / "sft", dpo=tmp_path / "dpo", output=out, allow_non_finite=True)
    assert "model.norm.weight: one element is not finite; element 3 is nan" in problems(out)
    places = {name: str(tmp_path / name) for name in ("sft", "dpo")}
    assert problems(out, allow_non_finite=True, recompute=1.0, inputs=places) == ""
    flip(shards(out)[1], -1)
    assert "not those that were written" in problems(out, allow_non_finite=True)


def test_a_foreign_checkpoint_passes_structural_checks_and_says_so(made):
    result = verify(made / "sft")
    assert result.problems == [] and result.notes == ["no manifest (expo.json): hashes not checked"]


def test_a_foreign_checkpoint_with_nan_or_damage_does_not_pass(made, tmp_path):
    folder = shutil.copytree(made / "sft", tmp_path / "sft")
    tensors = load_file(shards(folder)[0])
    tensors["model.embed_tokens.weight"][2, 1] = -torch.inf
    save_file(tensors, shards(folder)[0], metadata={"format": "pt"})
    assert "element 33 is inf" in problems(folder)
    os.truncate(shards(folder)[1], 5000)
    assert "the file at byte 5000" in problems(folder)
    with pytest.raises(VerifyError, match="only expo's own output"):
        verify(folder, recompute=1.0)


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(MissingSource):
        verify(tmp_path / "nothing")


def test_hashes_agree_over_several_segments_and_any_number_of_threads(tmp_path):
    tensors = {"w": torch.randn(2 * SEGMENT + 12345).to(torch.bfloat16), "none": torch.zeros(0, 3)}
    sft = write_checkpoint(tmp_path / "sft", tensors)
    dpo = write_checkpoint(tmp_path / "dpo", nudged(tensors))
    expo.extrapolate(sft=sft, dpo=dpo, output=tmp_path / "out")
    for threads in (1, 3):
        assert verify(tmp_path / "out", threads=threads).problems == []
    flip(shards(tmp_path / "out")[0], -2 * SEGMENT)
    assert "w: its bytes are not" in problems(tmp_path / "out")


@pytest.mark.parametrize("name", COMPUTED)
def test_a_pattern_of_any_float_type_is_judged_as_torch_judges_it(name):
    dtype = DTYPES[name]
    kind = getattr(torch, dtype.torch_name)
    width = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[dtype.bits]
    sign, infinity = 1 << dtype.bits - 1, least_bad(dtype)
    some = [*range(0, sign, sign // 128), infinity - 1, infinity, infinity + 1, sign - 1]
    some = [pattern for pattern in some if pattern < sign]
    values = torch.tensor([*some, *(pattern - sign for pattern in some)]).to(width).view(kind)
    for value in values.view(-1, 1):
        bad = not bool(torch.isfinite(value.double()))
        n, first, what = count_bad(memoryview(value.view(torch.uint8).numpy()), dtype)
        assert (n, first) == ((1, 0) if bad else (0, -1)) and (not bad or what == str(value.double().abs().item()))


# --- recompute ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"rounding": "stochastic", "seed": 7}, {"arithmetic": "reference"}, {"dtype": "float32"}, {"alpha": 0.0}],
    ids=str,
)
def test_a_sound_output_is_derived_again(made, tmp_path, settings):
    expo.extrapolate(sft=made / "sft", dpo=made / "dpo", output=tmp_path / "out", **settings)
    result = verify(tmp_path / "out", recompute=1.0, inputs=inputs(made))
    assert result.problems == [] and result.segments_recomputed == result.segments == 21


def test_an_output_with_common_rows_is_derived_again(tmp_path):
    sft = llama_tensors(dtype=torch.bfloat16)
    dpo = llama_tensors(dtype=torch.bfloat16, config={**LLAMA, "vocab_size": 70})
    write_checkpoint(tmp_path / "sft", sft, config=LLAMA)
    write_checkpoint(tmp_path / "dpo", dpo, config={**LLAMA, "vocab_size": 70})
    places = {name: str(tmp_path / name) for name in ("sft", "dpo")}
    expo.extrapolate(**places, output=tmp_path / "out", vocabulary="common-rows")
    assert verify(tmp_path / "out", recompute=1.0, inputs=places).problems == []


def test_a_changed_value_is_found_though_its_recorded_hash_was_changed_too(made, out):
    path = shards(out)[1]
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    manifest = json.loads((out / "expo.json").read_text())
    tensor = load_file(path)["model.norm.weight"]  # the last of the file
    digest = xxhash.xxh3_128_hexdigest(bytes(tensor.view(torch.uint8).numpy()))
    manifest["tensors"]["model.norm.weight"] = xxhash.xxh3_128_hexdigest(digest.encode())
    (out / "expo.json").write_text(json.dumps(manifest))
    assert verify(out).problems == []
    found = verify(out, recompute=1.0, inputs=inputs(made)).problems
    assert len(found) == 1 and found[0].startswith("model.norm.weight: 1 of the recomputed elements differ")


@pytest.mark.parametrize("words", [("sft", "dpo"), ("base", "aligned"), ("A", "B")])
def test_an_input_goes_by_role_and_alias(made, words):
    places = dict(zip(words, inputs(made).values(), strict=True))
    assert problems(made / "out", recompute=0.01, inputs=places) == ""


def test_an_input_goes_by_its_recorded_label(made, tmp_path):
    for name in ("start", "end"):
        shutil.copytree(made / {"start": "sft", "end": "dpo"}[name], tmp_path / name)
    expo.extrapolate(sft=tmp_path / "start", dpo=tmp_path / "end", output=tmp_path / "out")
    places = {"start": str(made / "sft"), "end": str(made / "dpo")}
    assert problems(tmp_path / "out", recompute=1.0, inputs=places) == ""


def test_a_missing_input_is_asked_for_with_the_line_to_paste(made):
    with pytest.raises(VerifyError, match=r"expo verify \S+ --recompute 1% --input dpo=PATH"):
        verify(made / "out", recompute=0.01, inputs={"sft": str(made / "sft")})


def test_an_unknown_input_is_named(made):
    with pytest.raises(VerifyError, match=r"--input sfd.*Did you mean 'sft'"):
        verify(made / "out", recompute=0.01, inputs={"sfd": "x"})


def test_another_input_is_refused_with_the_file_that_differs(made, tmp_path):
    other = write_checkpoint(tmp_path / "other", llama_tensors(), shards=2, config=LLAMA)
    with pytest.raises(VerifyError, match=r"sft .*model-00001-of-00002.safetensors: bytes \d+, recorded \d+"):
        verify(made / "out", recompute=0.01, inputs={**inputs(made), "sft": str(other)})


def test_swapped_inputs_do_not_give_the_output(made):
    places = {"sft": str(made / "dpo"), "dpo": str(made / "sft")}
    assert "the recipe gives" in problems(made / "out", recompute=1.0, inputs=places)


def test_hub_inputs_are_found_again_at_their_commit(made, out, monkeypatch):
    manifest = json.loads((out / "expo.json").read_text())
    for role, name in (("sft", "sft"), ("dpo", "dpo")):
        manifest["inputs"][role] |= {"repo_id": f"org/{name}", "revision": "c" * 40}
    (out / "expo.json").write_text(json.dumps(manifest))
    from expo.checkpoint import open_checkpoint

    asked = []

    def opened(text, **options):
        asked.append(text)
        return open_checkpoint(made / text.split("@")[0].removeprefix("org/"), **options)

    monkeypatch.setattr("expo.analysis.recompute.open_checkpoint", opened)
    assert problems(out, recompute=0.01) == ""
    assert asked == [f"org/sft@{'c' * 40}", f"org/dpo@{'c' * 40}"]


def test_a_sample_is_spread_over_the_output_and_never_empty():
    from types import SimpleNamespace

    jobs = [SimpleNamespace(n_elements=n * SEGMENT) for n in (40, 1, 60, 1)]
    plan = SimpleNamespace(jobs=jobs)
    assert len(sample(plan, 0.0001, 3)) == 1
    assert len(sample(plan, 1.0, 3)) == len(set(sample(plan, 1.0, 3))) == 102
    chosen = sample(plan, 0.1, 3)
    assert chosen == sample(plan, 0.1, 3) != sample(plan, 0.1, 4)
    assert len(chosen) == len(set(chosen)) == 11 and {job for job, _ in chosen} >= {0, 2}
