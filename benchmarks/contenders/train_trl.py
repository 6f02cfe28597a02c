"""TRL's trainer on the same rows, batch, optimizer and precision; prints what train_expo.py prints."""

import json
import sys
import time
from pathlib import Path

import datasets
import torch
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **_) -> None:
        self.ends.append(time.perf_counter())


def main(kind: str, folder: str, rows: str, output: str, batch: int, steps: int, precision: str, lr: float) -> None:
    began = time.perf_counter()
    precomputed = kind == "dpo-precomputed"
    trainer, config = (trl.SFTTrainer, trl.SFTConfig) if kind == "sft" else (trl.DPOTrainer, trl.DPOConfig)
    more = {"precompute_ref_log_probs": True} if precomputed else {}
    args = config(
        output_dir=output + "-trl", per_device_train_batch_size=batch, max_steps=steps, learning_rate=lr,
        lr_scheduler_type="constant", warmup_steps=0, logging_steps=1, report_to="none", save_strategy="no",
        disable_tqdm=True, bf16=precision == "bf16", use_cpu=not torch.cuda.is_available(), max_length=None,
        gradient_checkpointing=False, optim="adamw_torch", seed=0, **more,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = datasets.Dataset.from_list([json.loads(line) for line in Path(rows).read_text().splitlines()])
    clock = Clock()
    made = trainer(model=model, args=args, train_dataset=data, processing_class=tokenizer, callbacks=[clock])
    made.remove_callback(PrinterCallback)
    made.train()
    made.save_model(output)
    told = {
        "seconds_of_steps": clock.ends[-1] - clock.ends[0],
        "seconds_in_all": time.perf_counter() - began,
        "losses": [line["loss"] for line in made.state.log_history if "loss" in line],
        "peak_device_mib": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    kind, model, rows, output, batch, steps, precision, lr = sys.argv[1:]
    main(kind, model, rows, output, int(batch), int(steps), precision, float(lr))
