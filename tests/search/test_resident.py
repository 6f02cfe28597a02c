"""What is scored is exactly what a run would write, and nothing is written for it."""

import os

import pytest
import torch
from engine import streamed, tree
from oracle import read_stored
from safetensors.torch import load_file

import expo
from expo.checkpoint.held import Held
from expo.checkpoint.shard import Shards
from expo.errors import BadSetting
from expo.recipe import Recipe
from expo.search.errors import DoesNotFit
from expo.search.resident import Resident, check_memory, identity, memory_needed, weights_hash

WAYS = [{}, {"dtype": "float32"}, {"rounding": "stochastic", "seed": 5}, {"arithmetic": "reference"}]


def planned(models, alpha, **settings):
    return expo.plan(expo.extrapolation(**models, alpha=alpha, **settings))


def bytes_in(model, dtype):
    """Every parameter's bytes, in the type of the output."""
    state = {name: tensor.detach().to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    return {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in state.items()}


@pytest.mark.parametrize("settings", WAYS)
@pytest.mark.parametrize("hold", [False, True])
def test_the_weights_in_the_model_are_the_bytes_that_extrapolate_writes(models, tmp_path, settings, hold):
    resident = Resident(device="cpu", hold=hold)
    for alpha in (0.3, 0.0):
        plan = planned(models, alpha, **settings)
        report = resident.fill(plan)
        written = expo.extrapolate(**models, alpha=alpha, output=tmp_path / f"out-{alpha}", **settings)
        stored = read_stored(tmp_path / f"out-{alpha}")
        dtype = torch.float32 if settings.get("dtype") else torch.bfloat16
        live = bytes_in(resident.model, dtype)
        assert resident.model.dtype == torch.float32
        assert {name: raw for name, (_, _, raw) in stored.items()} == {name: live[name] for name in stored}
        assert report.hashes == written.hashes and report.effective() == written.effective()


def test_a_wider_type_holds_the_same_values(models):
    """float32 weights that came from bfloat16 results are those results."""
    resident = Resident(device="cpu")
    resident.fill(planned(models, 0.3))
    for weight in resident.model.parameters():
        assert weight.dtype == torch.float32 and torch.equal(weight, weight.bfloat16().float())


def test_held_inputs_are_read_once_and_the_disk_on_every_try_without(models, monkeypatch):
    reads = []
    real = Shards._read_stored
    monkeypatch.setattr(Shards, "_read_stored", lambda *args: reads.append(args) or real(*args))
    resident = Resident(device="cpu", hold=True)
    resident.fill(planned(models, 0.2))
    first = len(reads)
    resident.fill(planned(models, 0.4))
    assert first > 0 and len(reads) == first
    assert sum(held.n_bytes for held in resident.held.values()) == 2 * sum(
        tensor.nbytes for path in models["dpo"].glob("*.safetensors") for tensor in load_file(path).values()
    )
    other = Resident(device="cpu")
    other.fill(planned(models, 0.2))
    before = len(reads)
    other.fill(planned(models, 0.4))
    assert len(reads) > before


def test_methods_that_survey_get_the_same_bits_from_memory(models):
    recipe = Recipe(
        "ties", {"base": str(models["sft"]), "a": str(models["dpo"])}, {"density": 0.5, "weight": 1.0}, "base"
    )
    plan = expo.plan(recipe)
    resident = Resident(device="cpu", hold=True)
    assert resident.fill(plan).hashes == streamed(plan)[1].hashes


def test_an_alpha_costs_one_read_of_both_inputs(models, monkeypatch):
    resident, plan = Resident(device="cpu"), planned(models, 0.2)
    resident.fill(plan)
    reads = []
    real = Shards._read_stored
    monkeypatch.setattr(Shards, "_read_stored", lambda *args: reads.append(len(args[1])) or real(*args))
    resident.fill(planned(models, 0.4))
    assert sum(reads) == plan.n_bytes_read == sum(
        tensor.nbytes for folder in models.values() for path in folder.glob("*.safetensors")
        for tensor in load_file(path).values()
    )  # fmt: skip


def test_an_adapter_s_tensors_get_the_same_bits_from_memory(models, tmp_path):
    pytest.importorskip("peft")
    from adapters import llama, save_adapter

    llama().save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_bytes((models["dpo"] / "tokenizer.json").read_bytes())
    adapter = save_adapter(tmp_path / "adapter", llama, r=4, target_modules=["q_proj", "down_proj"])
    plan = planned({"sft": tmp_path / "base", "dpo": f"{tmp_path / 'base'}+{adapter}"}, 0.5)
    resident = Resident(device="cpu", hold=True)
    resident._read_tokenizer = lambda planned: None
    for _ in range(2):
        assert resident.fill(plan).hashes == streamed(plan)[1].hashes
        resident._holds = None


def test_held_reads_what_the_files_hold(models):
    checkpoint = expo.open_checkpoint(str(models["dpo"]))
    held = Held(checkpoint)
    with Shards(checkpoint) as disk, held:
        for spec in checkpoint.tensors.values():
            for start, n in ((0, spec.n_bytes), (spec.n_bytes // 2, 2)):
                one, other = bytearray(n), bytearray(n)
                disk.read_into(memoryview(one), spec, start)
                held.read_into(memoryview(other), spec, start)
                assert one == other


def test_the_same_plan_is_not_filled_twice(models):
    resident = Resident(device="cpu")
    one = resident.fill(planned(models, 0.3))
    assert resident.fill(planned(models, 0.3)) is one and resident.fills == 1
    resident.fill(planned(models, 0.4))
    assert resident.fills == 2


def test_one_model_serves_every_try_of_its_shapes(models):
    resident = Resident(device="cpu")
    resident.fill(planned(models, 0.3))
    model, tokenizer = resident.model, resident.tokenizer
    places = [weight.data_ptr() for weight in model.parameters()]
    resident.fill(planned(models, 0.6))
    assert resident.model is model and resident.tokenizer is tokenizer
    assert places == [weight.data_ptr() for weight in model.parameters()]


def test_a_recipe_with_other_layers_gets_a_model_of_its_own(models):
    text = "slices:\n- sources: [{{model: {0}, layer_range: [0, {1}]}}]\nmerge_method: passthrough\n"
    resident = Resident(device="cpu")
    for n in (2, 1):
        resident.fill(expo.plan(expo.read_recipe(text.format(models["dpo"], n)).only))
        assert resident.model.config.num_hidden_layers == n


def test_equal_weights_have_equal_hashes_and_others_do_not(models):
    found = [weights_hash(Resident(device="cpu").fill(planned(models, alpha))) for alpha in (0.3, 0.3, 0.4)]
    assert found[0] == found[1] != found[2]


def test_an_identity_changes_with_the_weights_the_tokenizer_and_the_recipe(models, tmp_path):
    import shutil

    copied = shutil.copytree(models["dpo"], tmp_path / "dpo")
    pair = {"sft": models["sft"], "dpo": copied}
    before = identity(planned(pair, 0.3))
    assert before == identity(planned(pair, 0.3)) != identity(planned(pair, 0.4))
    path = copied / "chat_template.jinja"
    path.write_text(path.read_text() + " ")
    assert identity(planned(pair, 0.3)) != before


def test_the_tokenizer_is_the_one_that_the_output_would_have(models):
    text = f"merge_method: linear\nmodels: [{{model: {models['sft']}}}, {{model: {models['dpo']}}}]\n"
    recipe = expo.read_recipe(text + "parameters: {weight: 0.5}\nchat_template: chatml\n").only
    resident = Resident(device="cpu")
    resident.fill(expo.plan(recipe))
    assert "<|im_start|>" in resident.tokenizer.chat_template


def test_filling_writes_nothing(models, tmp_path, monkeypatch):
    before, opened = tree(models["sft"].parent), os.open

    def no_writing(path, flags, *rest, **named):
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT), path
        return opened(path, flags, *rest, **named)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "open", no_writing)
    for hold in (False, True):
        resident = Resident(device="cpu", hold=hold)
        resident.fill(planned(models, 0.3))
        resident.fill(planned(models, 0.5))
    assert tree(tmp_path) == {} and tree(models["sft"].parent) == before


def test_too_little_memory_is_said_before_anything_is_loaded(models, monkeypatch):
    monkeypatch.setattr("expo.search.resident.free_memory", lambda: 1000)
    with pytest.raises(DoesNotFit, match=r"1 kB are free.*leave out --resident, hold the weights in 16 bits"):
        check_memory(planned(models, 0.1), device="cpu", hold=True)
    needed = memory_needed(planned(models, 0.1), device="cpu")
    assert needed == 2 * memory_needed(planned(models, 0.1), device="cpu", compute="bfloat16")
    assert memory_needed(planned(models, 0.1), device="cpu", hold=True) == 2 * needed  # two inputs of half the width


def test_a_type_that_nothing_is_scored_in_is_refused(models):
    with pytest.raises(BadSetting, match="compute_dtype"):
        Resident(compute="float8_e4m3fn")
