"""Tiny models of many kinds, saved in every layout that transformers can save: "original" and "module"."""

from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

LAYOUTS = ("original", "module")
_TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


def _mixtral(**more):
    config = transformers.MixtralConfig(**_TEXT, num_local_experts=4, num_experts_per_tok=2, **more)
    return transformers.MixtralForCausalLM(config)


def _qwen3_moe():
    return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**_TEXT, **_EXPERTS, decoder_sparse_step=1))


def _deepseek():
    shape = {
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1,
        "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 8, "kv_lora_rank": 8,
        "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "num_key_value_heads": 4,
    }  # fmt: skip
    return transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**{**_TEXT, **shape}))


def _llava():
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(**shape, image_size=16, patch_size=8)
    text = transformers.LlamaConfig(**_TEXT)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=63,
                                      vision_feature_layer=-1)  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config)


def _qwen2_vl():
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 8}
    config = transformers.Qwen2VLConfig(text_config={**_TEXT, "rope_parameters": _ROPE}, vision_config=vision)
    return transformers.Qwen2VLForConditionalGeneration(config)


def _whisper():
    shape = {
        "vocab_size": 64, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_mel_bins": 8,
        "max_source_positions": 16, "max_target_positions": 16, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "decoder_start_token_id": 1,
    }  # fmt: skip
    return transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**shape))


def _bert():
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=64, max_position_embeddings=32, **shape))


def _dinov2():
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    return transformers.Dinov2Model(transformers.Dinov2Config(**shape, use_swiglu_ffn=True))


def _qwen3_vl_moe():
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32,
              "deepstack_visual_indexes": [0], "patch_size": 4, "num_position_embeddings": 16}  # fmt: skip
    text = {**_TEXT, **_EXPERTS, "moe_intermediate_size": 24, "rope_parameters": _ROPE}  # no matrix is square
    config = transformers.Qwen3VLMoeConfig(text_config=text, vision_config=vision)
    return transformers.Qwen3VLMoeForConditionalGeneration(config)


def _qwen2():
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_TEXT))


MODELS = {
    "mixtral": _mixtral, "qwen3_moe": _qwen3_moe, "deepseek_v3": _deepseek, "llava": _llava, "qwen2_vl": _qwen2_vl,
    "whisper": _whisper, "bert": _bert, "qwen2": _qwen2, "dinov2": _dinov2,
}  # fmt: skip
MORE = {"qwen3_vl_moe": _qwen3_vl_moe}


def save_both_layouts(home: Path, kind: str) -> Path:
    """home/sft and home/dpo: the same random model, and one some way from it, each saved in both layouts."""
    transformers.logging.disable_progress_bar()
    for role in ("sft", "dpo"):
        torch.manual_seed(0)
        model = (MODELS | MORE)[kind]().to(torch.bfloat16)
        if role == "dpo":
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.01 * torch.randn_like(parameter))
        for layout in LAYOUTS:
            model.save_pretrained(home / role / layout, save_original_format=layout == "original")
    return home


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint."""
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two checkpoints hold the same tensors, bit for bit."""
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


def loaded(folder: Path):
    """The model in a folder, from which transformers must miss nothing and have nothing left."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model_class = getattr(transformers, config.architectures[0])
    model, found = model_class.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"], found
    return model.eval()


def logits(model) -> torch.Tensor:
    """What a model says to a few tokens, or to a little noise."""
    tokens = torch.arange(8).view(1, 8)
    with torch.inference_mode():
        if model.config.model_type == "whisper":
            features = torch.linspace(-1, 1, 8 * 32).view(1, 8, 32).to(model.dtype)
            return model(input_features=features, decoder_input_ids=tokens[:, :4]).logits
        if model.config.model_type == "dinov2":
            return model(pixel_values=torch.linspace(-1, 1, 768).view(1, 3, 16, 16).to(model.dtype)).last_hidden_state
        return model(input_ids=tokens).logits
