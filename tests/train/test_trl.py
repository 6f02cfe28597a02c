"""The same numbers as TRL's trainers on the same batch: losses, gradients, and weights after three steps.

TRL takes ten seconds to import, so this is slow; the formulas themselves are in the fast tests.
"""

import importlib.util

import pytest
import torch
from taught import EXACT, logs, preferences, questions, weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from expo.train import train_dpo, train_sft

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed; it is in expo[dev]"),
]
STEPS = {"max_steps": 3, "learning_rate": 1e-2}


def theirs(kind, start, rows, folder, **settings):
    """(log lines, weights) of a trainer of TRL."""
    import datasets
    import trl
    from trl.experimental import orpo

    trainer, config = {
        "sft": (trl.SFTTrainer, trl.SFTConfig),
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "orpo": (orpo.ORPOTrainer, orpo.ORPOConfig),
    }[kind]
    args = config(
        output_dir=str(folder), per_device_train_batch_size=len(rows), optim="sgd", lr_scheduler_type="linear",
        logging_steps=1, report_to="none", bf16=False, use_cpu=True, save_strategy="no", disable_tqdm=True,
        max_length=64, gradient_checkpointing=False, **STEPS, **settings,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(start)
    made = trainer(model=model, args=args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer)
    made.train()
    return [line for line in made.state.log_history if "loss" in line], model.state_dict()


def ours(train, start, rows, folder, **settings):
    train(start, rows, folder, batch_size=len(rows), optimizer="sgd", **STEPS, **EXACT, **settings)
    return logs(folder), weights(folder)


def assert_equal(one, other):
    for mine, their in zip(one[0], other[0], strict=True):
        assert mine["loss"] == pytest.approx(their["loss"], abs=1e-5)
        assert mine["grad_norm"] == pytest.approx(their["grad_norm"], rel=1e-4, abs=1e-5)
    for name, value in one[1].items():
        torch.testing.assert_close(value, other[1][name], atol=1e-5, rtol=0)


def test_sft(start, tmp_path):
    rows = questions(12)
    assert_equal(ours(train_sft, start, rows, tmp_path / "ours"), theirs("sft", start, rows, tmp_path))


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo(loss, beta, start, tmp_path):
    rows, cache = preferences(12), str(tmp_path / "r")
    mine = ours(train_dpo, start, rows, tmp_path / "ours", loss=loss, beta=beta, reference_cache=cache)
    assert_equal(mine, theirs("dpo", start, rows, tmp_path, loss_type=loss, beta=beta))


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_label_smoothing(smoothing, start, tmp_path):
    """TRL's `aot` sorts a batch's margins; with one pair nothing is sorted, and it is DPO with cDPO's smoothing."""
    rows, cache = preferences(12)[5:6], str(tmp_path / "r")
    settings = {"label_smoothing": smoothing, "beta": 0.5}
    mine = ours(train_dpo, start, rows, tmp_path / "ours", reference_cache=cache, **settings)
    assert_equal(mine, theirs("dpo", start, rows, tmp_path, loss_type="aot", **settings))


def test_orpo(start, tmp_path):
    rows = preferences(12)
    mine = ours(train_dpo, start, rows, tmp_path / "ours", loss="orpo", beta=0.2, orpo_prompt_loss=True)
    assert_equal(mine, theirs("orpo", start, rows, tmp_path, beta=0.2))
