"""Float8 that cannot be right, and other quantised formats: each is one clear error in the plan."""

import struct

import pytest
import torch
from float8 import damaged, rewritten, write_float8
from pico import write_checkpoint

import expo
from expo.checkpoint import open_checkpoint
from expo.errors import PlanError, RecipeError, UnsupportedFormat

SCALE = "model.layers.1.mlp.up_proj.weight_scale_inv"


WRONG = {0.0: "is 0", float("nan"): "is nan", float("inf"): "is inf", -1.0: "is -1"}


@pytest.mark.parametrize(("value", "word"), WRONG.items())
def test_scales_that_cannot_be_are_named_in_the_plan(tmp_path, unreadable, value, word):
    for seed, name in enumerate(("sft", "dpo")):
        write_float8(tmp_path / name, seed, "block")
    damaged(tmp_path / "dpo", SCALE, struct.pack("<2f", 1.0, value))
    with pytest.raises(PlanError) as caught:
        expo.plan(expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo"))
    assert f"{SCALE}[1] {word}" in str(caught.value) and "dpo" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda t: t.pop(SCALE), "up_proj.weight is F8_E4M3 and has no scale"),
        (lambda t: t.update({SCALE: torch.ones(5, 2)}), f"{SCALE} [5, 2] is no scale of"),
        (lambda t: t.update({SCALE: t[SCALE].int()}), f"{SCALE} is I32"),
        (lambda t: t.pop(SCALE.removesuffix("_scale_inv")), f"{SCALE} is the scale of no float8 tensor"),
    ],
    ids=["missing", "shape", "type", "no weight"],
)
def test_scales_that_do_not_fit_are_named_in_the_plan(tmp_path, unreadable, change, word):
    for seed, name in enumerate(("sft", "dpo")):
        write_float8(tmp_path / name, seed, "block")
    rewritten(tmp_path / "sft", change)
    with pytest.raises(PlanError) as caught:
        expo.plan(expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo"))
    assert word in str(caught.value)
    assert "only in" not in str(caught.value) and "--on-mismatch" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "extra", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, {"x.qweight": torch.int32}, ("GPTQ, 4 bits",)),
        ({"quant_method": "awq", "bits": 4}, {"x.qweight": torch.int32}, ("AWQ, 4 bits",)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, {"x.weight": torch.uint8}, ("bitsandbytes, 4 bits",)),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, {"x.weight_packed": torch.int32},
         ("packed integers", "pack-quantized")),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, {"x.weight": torch.uint8}, ("NVFP4",)),
        ({"quant_method": "mxfp4"}, {"x.gate_up_proj_blocks": torch.uint8}, ("MXFP4",)),
        (None, {"x.qweight": torch.int32, "x.qzeros": torch.int32}, ("GPTQ or AWQ",)),
        (None, {"x.weight": torch.uint8, "x.weight.absmax": torch.float32}, ("bitsandbytes",)),
    ],
)  # fmt: skip
def test_other_formats_are_one_error_that_names_the_format_and_the_repository_to_use(
    tmp_path, unreadable, config, extra, words
):
    tensors = {name: torch.ones(4, dtype=dtype) for name, dtype in extra.items()}
    stated = {"quantization_config": config} if config else {}
    card = {"README.md": "---\nlicense: mit\nbase_model:\n- org/plain-7B\n---\n# x\n"}
    for name in ("sft", "dpo"):
        write_checkpoint(tmp_path / name, {"w": torch.ones(2), **tensors}, config=stated, side_files=card)
    with pytest.raises(PlanError) as caught:
        expo.plan(expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo"))
    text = str(caught.value)
    assert all(word in text for word in (*words, "(dpo) is quantised", "its base is org/plain-7B")), text


def test_gguf_files_are_named_with_the_repository_that_their_card_names(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/model-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedFormat, match="are GGUF"):
        open_checkpoint(tmp_path / "m")
    (tmp_path / "m/README.md").write_text("---\nbase_model: org/plain-7B\n---\n")
    with pytest.raises(UnsupportedFormat, match=r"are GGUF(.|\n)*org/plain-7B"):
        open_checkpoint(tmp_path / "m")


def test_requantize_needs_a_quantised_donor_and_its_own_types(tmp_path):
    for name in ("sft", "dpo"):
        write_checkpoint(tmp_path / name, {"w": torch.ones(2)}, config={})
    with pytest.raises(PlanError, match="holds no float8 with scales"):
        expo.plan(expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo", requantize=True))
    with pytest.raises(RecipeError, match="leave dtype and layout out"):
        expo.extrapolation(sft="a", dpo="b", requantize=True, dtype="float32")


def test_one_mistake_in_all_scales_is_said_once(tmp_path, unreadable):
    for seed, name in enumerate(("sft", "dpo")):
        write_float8(tmp_path / name, seed, "uneven", weight_block_size=None)
    with pytest.raises(PlanError) as caught:
        expo.plan(expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo"))
    text = str(caught.value)
    assert text.startswith("2 problems") and "13 more are like it" in text
    assert "each block of 128x128, and the config states no other weight_block_size" in text


def test_one_wrong_number_in_all_scales_is_said_once(tmp_path, unreadable):
    for seed, name in enumerate(("sft", "dpo")):
        write_float8(tmp_path / name, seed, "block")
    rewritten(tmp_path / "sft", lambda t: [t[name].zero_() for name in t if name.endswith("_scale_inv")])
    with pytest.raises(PlanError, match="13 more are like it") as caught:
        expo.plan(expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo"))
    assert "problems" not in str(caught.value)
