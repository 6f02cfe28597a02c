"""BASE+ADAPTER is what PEFT's merge_and_unload gives in float32, for every kind of LoRA that PEFT saves."""

import warnings

import pytest
import torch
from adapters import edited, gpt2, llama, merged, save_adapter, values_of

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SOME = {"r": 5, "lora_alpha": 7, "target_modules": LINEAR}
# Two float32 roundings in PEFT's B @ A and sum, and one of its norm: all of them relative to the largest element.
BOUND = 4 * 2.0**-24

KINDS = {
    "all linear layers": (llama, SOME),
    "a bfloat16 base": (lambda: llama(torch.bfloat16), SOME),
    "rank-stabilised": (llama, {**SOME, "use_rslora": True}),
    "rank and alpha by pattern": (
        llama,
        {
            **SOME,
            "rank_pattern": {"k_proj": 3, "layers.1.mlp.up_proj": 9},
            "alpha_pattern": {r"layers\.[01]\..*q_proj": 3, "^model.layers.0.mlp.gate_proj": 11},
        },
    ),
    "DoRA": (llama, {**SOME, "use_dora": True}),
    "whole modules": (llama, {**SOME, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}),
    "embedding and head": (llama, {**SOME, "target_modules": ["v_proj", "embed_tokens", "lm_head"]}),
    "embedding with DoRA": (llama, {**SOME, "target_modules": ["embed_tokens"], "use_dora": True}),
    "all biases": (lambda: llama(attention_bias=True), {**SOME, "target_modules": ["q_proj"], "bias": "all"}),
    "its layers' biases": (lambda: llama(attention_bias=True), {**SOME, "target_modules": ["q_proj"],
                                                              "bias": "lora_only"}),
    "weights stored as (in, out)": (gpt2, {**SOME, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "DoRA of weights stored as (in, out)": (
        gpt2,
        {**SOME, "target_modules": ["c_attn", "wpe"], "fan_in_fan_out": True, "use_dora": True},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A maker of models -> the folder of the model that it makes, saved once."""
    saved = {}

    def folder(model):
        key = tuple((name, weight.dtype) for name, weight in model().named_parameters())
        if key not in saved:
            saved[key] = tmp_path_factory.mktemp("base")
            model().save_pretrained(saved[key])
        return saved[key]

    return folder


def largest_error(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest difference in any tensor, by that tensor's largest element."""
    errors = {name: (found[name] - wanted[name]).abs().max() for name in found}
    return max(float(error / wanted[name].abs().max()) if error else 0.0 for name, error in errors.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_is_what_peft_merges(kind, bases, tmp_path):
    model, config = KINDS[kind]
    base = bases(model)
    adapter = save_adapter(tmp_path / "adapter", model, **config)
    found, wanted = values_of(f"{base}+{adapter}"), merged(model, adapter)
    assert largest_error(found, wanted) <= BOUND
    before = {name: tensor.double() for name, tensor in model().state_dict().items()}
    assert largest_error(before, wanted) > 0.01, "the adapter changes nothing, so nothing is tested"


def test_adapters_are_applied_one_after_the_other(bases, tmp_path):
    first = save_adapter(tmp_path / "first", llama, r=3, target_modules=LINEAR, use_dora=True)
    second = save_adapter(tmp_path / "second", llama, seed=2, r=4, target_modules=["q_proj", "down_proj"])
    base = bases(llama)
    assert largest_error(values_of(f"{base}+{first}+{second}"), merged(llama, first, second)) <= BOUND
    assert largest_error(values_of(f"{base}+{second}+{first}"), merged(llama, first, second)) > 1e-4


def test_an_adapters_own_name_in_its_keys_changes_nothing(bases, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", llama, **SOME, use_dora=True)
    named = edited(
        adapter,
        tmp_path / "named",
        lambda name: name.replace("_A.", "_A.mine.").replace("_B.", "_B.mine.").replace("_vector", "_vector.mine"),
    )
    base = bases(llama)
    one, other = (values_of(f"{base}+{folder}") for folder in (adapter, named))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_names_may_differ_from_the_bases_by_a_prefix(bases, tmp_path):
    adapter = save_adapter(tmp_path / "adapter", llama, **SOME)
    longer = edited(adapter, tmp_path / "longer", lambda name: name.replace("model.model.", "model.outer.model."))
    shorter = edited(adapter, tmp_path / "shorter", lambda name: name.replace("model.model.model.", "model.model."))
    base = bases(llama)
    wanted = values_of(f"{base}+{adapter}")
    for folder in (longer, shorter):
        found = values_of(f"{base}+{folder}")
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
