"""expo lora extract: what PEFT loads comes back to the tuned model, and what is not in the adapter is named."""

import json
import os

import pytest
import torch
from adapters import gpt2, llama, merged, save_adapter, values_of
from engine import command, tree
from pico import write_checkpoint
from safetensors.torch import load_file

from expo.errors import DataError, OutputError, PlanError, RecipeError
from expo.lora import extract_adapter

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")


def moved(model, names, *, rank: int | None = None, seed: int = 5):
    """The model with a step in each parameter whose name holds one of `names`; of low rank where one is given."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in names):
                step = torch.randn(weight.shape, generator=noise) * 0.05
                if rank and weight.dim() == 2:
                    step = torch.randn(len(weight), rank, generator=noise) @ step[:rank]
                weight += step.to(weight.dtype)
    return model


def saved(folder, model):
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def pair(tmp_path):
    """A float32 base, and one whose linear layers have moved by a delta of rank 3."""
    return saved(tmp_path / "base", llama()), saved(tmp_path / "tuned", moved(llama(), LINEAR, rank=3))


def test_a_delta_of_the_wanted_rank_comes_back_whole(pair, tmp_path):
    base, tuned = pair
    found = extract_adapter(base, tuned, tmp_path / "out", rank=3)
    assert len(found.tensors) == 15 and found.captured > 1 - 1e-9 and found.warnings == []
    wanted = {name: tensor.double() for name, tensor in moved(llama(), LINEAR, rank=3).state_dict().items()}
    for held in (merged(llama, tmp_path / "out"), values_of(f"{base}+{tmp_path / 'out'}")):
        for name, tensor in wanted.items():
            assert torch.allclose(held[name], tensor, atol=2e-6), name


def test_the_stated_error_is_what_the_merged_model_shows(pair, tmp_path):
    base, tuned = pair
    found = extract_adapter(base, tuned, tmp_path / "out", rank=1, dtype="bfloat16")
    held, a, b = (values_of(str(place)) for place in (f"{base}+{tmp_path / 'out'}", base, tuned))
    for one in found.tensors:
        error = float((held[one.name] - b[one.name]).norm() / (b[one.name] - a[one.name]).norm())
        assert 0.01 < one.relative_error < 1 and error == pytest.approx(one.relative_error, rel=1e-3)
    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def test_more_rank_holds_more(pair, tmp_path):
    held = [extract_adapter(*pair, tmp_path / str(rank), rank=rank).captured for rank in (1, 2, 3)]
    assert held[0] < held[1] < held[2]


def test_what_else_changed_is_named_or_stored_whole(tmp_path):
    names = (*LINEAR, "norm", "embed_tokens", "bias")

    def tuned_model():
        return moved(llama(attention_bias=True), names, rank=2)

    base = saved(tmp_path / "base", llama(attention_bias=True))
    tuned = saved(tmp_path / "tuned", tuned_model())
    found = extract_adapter(base, tuned, tmp_path / "bare", rank=2)
    assert len(found.not_covered) == 14 and "--save-modules" in found.warnings[0]
    assert "and 11 more" in found.warnings[0]
    found = extract_adapter(base, tuned, tmp_path / "whole", rank=2, save_modules=True)
    assert found.warnings == [] and len(found.saved) == 14
    wanted = tuned_model().state_dict()
    held = merged(lambda: llama(attention_bias=True), tmp_path / "whole")
    view = values_of(f"{base}+{tmp_path / 'whole'}")
    for name, tensor in wanted.items():
        assert torch.allclose(held[name], tensor.double(), atol=2e-6), name
        assert torch.allclose(view[name], tensor.double(), atol=2e-6), name


def test_weights_stored_as_in_out_come_back(tmp_path):
    names = ("c_attn.weight", "c_fc.weight", "c_proj.weight")
    base, tuned = saved(tmp_path / "base", gpt2()), saved(tmp_path / "tuned", moved(gpt2(), names, rank=2))
    extract_adapter(base, tuned, tmp_path / "out", rank=2)
    held, view = merged(gpt2, tmp_path / "out"), values_of(f"{base}+{tmp_path / 'out'}")
    for name, tensor in moved(gpt2(), names, rank=2).state_dict().items():
        assert torch.allclose(held[name], tensor.double(), atol=2e-6), name
        assert name not in view or torch.allclose(view[name], tensor.double(), atol=2e-6)


def test_modules_are_named_as_peft_finds_them_where_the_files_lack_a_prefix(tmp_path):
    names = ("c_attn.weight", "wpe")
    places = []
    for name, model in (("base", gpt2()), ("tuned", moved(gpt2(), names, rank=2))):
        bare = {n.removeprefix("transformer."): t for n, t in model.state_dict().items() if n != "lm_head.weight"}
        places.append(write_checkpoint(tmp_path / name, bare, config=model.config.to_dict()))
    extract_adapter(*places, tmp_path / "out", rank=2, save_modules=True)
    held, view = merged(gpt2, tmp_path / "out"), values_of(f"{places[0]}+{tmp_path / 'out'}")
    for name, tensor in moved(gpt2(), names, rank=2).state_dict().items():
        assert torch.allclose(held[name], tensor.double(), atol=2e-6), name
        bare = name.removeprefix("transformer.")
        assert bare not in view or torch.allclose(view[bare], tensor.double(), atol=2e-6), name


def test_a_chosen_part_is_decomposed(pair, tmp_path):
    found = extract_adapter(*pair, tmp_path / "out", rank=2, include=[r"layers\.1\."], exclude=["mlp"])
    assert [one.name.split(".")[2] for one in found.tensors] == ["1"] * 4
    assert len(found.not_covered) == 11
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert all(module.startswith("model.layers.1.self_attn.") for module in config["target_modules"])
    merged(llama, tmp_path / "out")


def test_a_tensor_with_a_shorter_side_has_that_sides_rank(pair, tmp_path):
    found = extract_adapter(*pair, tmp_path / "out", rank=30)
    assert {one.rank for one in found.tensors} == {24, 30}
    held = merged(llama, tmp_path / "out")
    assert torch.allclose(
        held["model.layers.0.self_attn.k_proj.weight"],
        moved(llama(), LINEAR, rank=3).state_dict()["model.layers.0.self_attn.k_proj.weight"].double(),
        atol=2e-6,
    )


def test_no_thread_count_changes_a_byte(pair, tmp_path):
    for threads in (1, 3):
        extract_adapter(*pair, tmp_path / str(threads), rank=2, threads=threads)
    assert tree(tmp_path / "1") == tree(tmp_path / "3")


def test_a_stopped_run_goes_on_to_the_same_bytes(pair, tmp_path, monkeypatch):
    from expo.lora import extract

    extract_adapter(*pair, tmp_path / "whole", rank=2, threads=1)
    true, calls = extract.first_triples, []

    def counted(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return true(*arguments)

    monkeypatch.setattr(extract, "first_triples", counted)
    with pytest.raises(KeyboardInterrupt):
        extract_adapter(*pair, tmp_path / "out", rank=2, threads=1)
    assert not (tmp_path / "out").exists() and (tmp_path / "out.partial").exists()
    extract_adapter(*pair, tmp_path / "out", rank=2, threads=1)
    assert len(calls) == 6 + 10  # fifteen tensors, five of them kept
    assert tree(tmp_path / "out") == tree(tmp_path / "whole") and not (tmp_path / "out.partial").exists()


def test_mistakes_are_told_before_anything_is_written(pair, tmp_path):
    base, tuned = pair
    before = set(os.listdir(tmp_path))
    for kind, words, options in (
        (RecipeError, "rank", {"rank": 0}),
        (RecipeError, "float32", {"rank": 2, "dtype": "int8"}),
        (RecipeError, "--exclude", {"rank": 2, "exclude": ["("]}),
        (PlanError, "nothing to extract", {"rank": 2, "exclude": ["proj|lm_head"]}),
    ):
        with pytest.raises(kind, match=words):
            extract_adapter(base, tuned, tmp_path / "out", **options)
    with pytest.raises(PlanError, match="nothing to extract"):
        extract_adapter(base, base, tmp_path / "out", rank=2)
    with pytest.raises(OutputError, match="lies inside"):
        extract_adapter(base, tuned, base / "out", rank=2)
    assert set(os.listdir(tmp_path)) == before


def test_models_of_other_tensors_are_refused(pair, tmp_path):
    other = saved(tmp_path / "other", llama(num_hidden_layers=1, vocab_size=160))
    with pytest.raises(PlanError, match=r"(?s)only in.*layers\.1.*\[150, 48\].*\[160, 48\]"):
        extract_adapter(pair[0], other, tmp_path / "out", rank=2)


def test_a_nan_stops_it(pair, tmp_path):
    model = moved(llama(), LINEAR)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 4] = float("nan")
    with pytest.raises(DataError, match=r"up_proj.*1 elements"):
        extract_adapter(pair[0], saved(tmp_path / "broken", model), tmp_path / "out", rank=2)


def test_the_command_says_what_it_holds_and_verify_checks_it(pair, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["lora", "extract", "--base", pair[0], "--tuned", pair[1], "--rank", 2, "-o", out]
    code, said, _ = command(capsys, *arguments)
    assert code == 0 and "15 tensors decomposed" in said and "model.layers.*.mlp.down_proj.weight" in said
    assert command(capsys, *arguments)[0] == 1  # it exists
    code, said, _ = command(capsys, *arguments, "--overwrite", "--json")
    assert code == 0 and len(json.loads(said)["tensors"]) == 15
    assert command(capsys, "verify", out)[0] == 0
    with open(out / "adapter_model.safetensors", "r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\x11")
    assert command(capsys, "verify", out)[0] == 1


def test_an_adapter_is_extracted_again_from_its_view(tmp_path):
    base = saved(tmp_path / "base", llama(torch.bfloat16))
    adapter = save_adapter(
        tmp_path / "adapter", lambda: llama(torch.bfloat16), r=4, target_modules=["q_proj", "up_proj"]
    )
    found = extract_adapter(base, f"{base}+{adapter}", tmp_path / "out", rank=4)
    assert len(found.tensors) == 4 and found.captured > 1 - 1e-9 and not found.warnings
    one, other = (values_of(f"{base}+{folder}") for folder in (adapter, tmp_path / "out"))
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
