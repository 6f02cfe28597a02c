"""Models made of sub-folders: a sentence-transformer and a diffusion pipeline, with random weights."""

import json

import torch
from pico import write_checkpoint

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]
PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": [None, None],
}


def random(seed, *names):
    torch.manual_seed(seed)
    return {name: torch.randn(6, 4, dtype=torch.bfloat16) for name in names}


def sentence_transformer(folder, seed):
    sides = {"modules.json": json.dumps(MODULES), "1_Pooling/config.json": '{"pooling_mode_mean_tokens": true}',
             "config_sentence_transformers.json": "{}"}  # fmt: skip
    write_checkpoint(folder, random(seed, "embeddings.weight", "linear.weight"), config={}, side_files=sides)
    dense = {"in_features": 4, "dtype": "bfloat16"}
    write_checkpoint(folder / "2_Dense", random(seed + 9, "linear.weight", "linear.bias"), config=dense)
    return folder


def diffusion_pipeline(folder, seed):
    unet = random(seed, "conv_in.weight", "down.0.weight", "down.1.weight")
    write_checkpoint(folder / "unet", unet, shards=2, config={"_class_name": "UNet2DConditionModel"})
    for file in sorted((folder / "unet").glob("model*")):
        text = file.name.replace("model", "diffusion_pytorch_model", 1)
        file.rename(file.with_name(text))
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(index.read_text().replace('"model-', '"diffusion_pytorch_model-'))
    vae = random(seed + 5, "conv_in.weight", "decoder.weight")
    write_checkpoint(folder / "vae", vae, config={"_class_name": "AutoencoderKL"})
    (folder / "vae/model.safetensors").rename(folder / "vae/diffusion_pytorch_model.safetensors")
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text('{"steps": 5}')
    (folder / "model_index.json").write_text(json.dumps(PIPELINE))
    return folder


KINDS = {"sentence": (sentence_transformer, ("", "2_Dense")), "diffusion": (diffusion_pipeline, ("unet", "vae"))}
