"""Models with several stacks of layers: slices must say which one they pick from, and config.json must agree."""

import json

import pytest
import torch
from pico import write_checkpoint

import expo
from expo.errors import PlanError
from expo.output.layers import PickedLayers, relayer
from expo.recipe import Module, Recipe, Slice, Source

SIZES = {"d_model": 8, "vocab_size": 60}
BART_LIKE = {
    **SIZES,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}


def donor_of(kind, folder, n_encoder, n_decoder):
    import transformers

    torch.manual_seed(0)
    if kind == "T5":
        counts = {"num_layers": n_encoder, "num_decoder_layers": n_decoder}
        config = transformers.T5Config(**SIZES, **counts, d_kv=4, d_ff=8, num_heads=2)
    else:
        places = (
            {"max_source_positions": 16, "max_target_positions": 16, "num_mel_bins": 4}
            if kind == "Whisper"
            else {"max_position_embeddings": 16}
        )
        counts = {"encoder_layers": n_encoder, "decoder_layers": n_decoder}
        config = getattr(transformers, f"{kind}Config")(**BART_LIKE, **places, **counts)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    model.save_pretrained(folder)
    return model


def picked(*ranges):
    return tuple(Slice((Source("x", layers),)) for layers in ranges)


def recipe(folder, *modules):
    return Recipe("linear", {"x": str(folder)}, {"weight": 1.0}, modules=modules)


@pytest.mark.parametrize("kind", ["T5", "Bart", "Whisper"])
def test_layers_of_two_stacks_must_be_picked_by_module(kind, tmp_path):
    donor_of(kind, tmp_path / "x", 3, 1)
    with pytest.raises(PlanError) as caught:
        expo.plan(recipe(tmp_path / "x", Module(picked((0, 1)))))
    end = "block" if kind == "T5" else "layers"
    assert f"encoder.{end}" in str(caught.value) and f"decoder.{end}" in str(caught.value)
    assert "encoder: ..." in str(caught.value) and "decoder: ..." in str(caught.value)


@pytest.mark.parametrize("kind", ["T5", "Bart", "Whisper"])
@pytest.mark.parametrize("counts", [(3, 3), (3, 2)])
def test_modules_pick_from_either_stack_and_transformers_loads_the_result(kind, counts, tmp_path):
    import transformers

    before = donor_of(kind, tmp_path / "x", *counts).state_dict()
    if kind == "T5" and counts == (3, 3):  # as t5-small's, which states one number for both
        file = tmp_path / "x" / "config.json"
        config = json.loads(file.read_text())
        del config["num_decoder_layers"]
        file.write_text(json.dumps(config))
    asked = recipe(tmp_path / "x", Module(picked((0, 2)), "encoder"), Module(picked((0, 1)), "decoder"))
    plan = expo.plan(asked)
    assert any("they go with the first module, encoder" in text for text in plan.warnings) == (kind != "Whisper")
    expo.run(plan, tmp_path / "out")
    model_class = getattr(transformers, f"{kind}ForConditionalGeneration")
    model, said = model_class.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    keys = ("num_layers", "num_decoder_layers") if kind == "T5" else ("encoder_layers", "decoder_layers")
    assert [getattr(model.config, key) for key in keys] == [2, 1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_stack_alone_is_picked_and_the_other_keeps_its_number(tmp_path):
    donor_of("T5", tmp_path / "x", 2, 2)
    whole = Slice((Source("x"),))
    for name, wanted in (("encoder", (1, 2)), ("decoder", (2, 1))):
        parts = [Module(picked((0, 1)) if n == name else (whole,), n) for n in ("encoder", "decoder")]
        expo.run(expo.plan(recipe(tmp_path / "x", *parts)), tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert (config["num_layers"], config["num_decoder_layers"]) == wanted


@pytest.mark.parametrize("ranges", [[(1, 3)], [(0, 2), (0, 2)]])
def test_what_the_first_layer_alone_has_stays_in_the_first_layer(ranges, tmp_path):
    import transformers

    before = donor_of("T5", tmp_path / "x", 3, 3).state_dict()
    asked = recipe(tmp_path / "x", Module(picked(*ranges), "encoder"), Module((Slice((Source("x"),)),), "decoder"))
    expo.run(expo.plan(asked), tmp_path / "out")
    found = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not found[1]["missing_keys"] and not found[1]["unexpected_keys"]
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert torch.equal(found[0].state_dict()[bias], before[bias])


def test_a_stack_that_no_module_takes_is_a_problem_that_says_what_it_is_called(tmp_path):
    donor_of("T5", tmp_path / "x", 2, 2)
    with pytest.raises(
        PlanError, match=r"no module takes \d+ tensors of layers, such as decoder.*; free are: decoder\."
    ):
        expo.plan(recipe(tmp_path / "x", Module((Slice((Source("x"),)),), "encoder")))


def layered(**stacks):
    """stack -> (layers, width): one square matrix a layer."""
    return {
        f"{stack.replace('__', '.')}.{i}.weight": torch.full((width, width), float(i))
        for stack, (n, width) in stacks.items()
        for i in range(n)
    }


TEXT = {"num_hidden_layers": 4}


@pytest.mark.parametrize(
    ("stacks", "config", "wanted"),
    [
        ({"model__layers": (4, 8), "visual__blocks": (4, 7)}, {**TEXT, "vision_config": {"depth": 4}}, "fine"),
        ({"model__layers": (4, 8), "mtp__layers": (1, 8)}, TEXT, "fine"),
        ({"model__layers": (4, 8), "more__layers": (4, 7)}, TEXT, "refused"),
        ({"text__layers": (4, 4), "vision__layers": (4, 8)}, {"text_config": TEXT, "vision_config": TEXT}, "refused"),
    ],
)
def test_towers_and_small_stacks_stay_whole_and_others_are_rivals(stacks, config, wanted, tmp_path):
    write_checkpoint(tmp_path / "x", layered(**stacks), config=config)
    asked = recipe(tmp_path / "x", Module(picked((0, 3))))
    if wanted == "refused":
        with pytest.raises(PlanError, match="layer_range does not say which layers it picks"):
            expo.plan(asked)
        return
    expo.run(expo.plan(asked), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {**config, "num_hidden_layers": 3}


@pytest.mark.parametrize(
    ("config", "stack", "wanted"),
    [
        (
            {"encoder_layers": 2, "decoder_layers": 2, "num_hidden_layers": 2, "begin_suppress_tokens": [1, 2]},
            "model.encoder.layers",
            {"encoder_layers": 1, "decoder_layers": 2, "num_hidden_layers": 1, "begin_suppress_tokens": [1, 2]},
        ),
        (
            {"encoder_layers": 2, "decoder_layers": 2, "num_hidden_layers": 2, "attention_window": [8, 9]},
            "model.decoder.layers",
            {"encoder_layers": 2, "decoder_layers": 1, "num_hidden_layers": 2, "attention_window": [8, 9]},
        ),
        (
            {"num_hidden_layers": 2, "vision_config": {"depth": 2}},
            "visual.blocks",
            {"num_hidden_layers": 2, "vision_config": {"depth": 1}},
        ),
        ({"num_hidden_layers": 2}, "encoder.layer", {"num_hidden_layers": 1}),
        ({"encoder_layers": 2, "decoder_layers": 3}, "decoder.layers", None),
    ],
)
def test_a_config_states_the_new_number_where_it_stated_the_old_one(config, stack, wanted):
    changed = json.loads(json.dumps(config))
    assert relayer(changed, PickedLayers(stack, 2, (0,))) is (wanted is not None)
    assert changed == (wanted or config)
