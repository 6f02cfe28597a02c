"""Runs every recipe of a folder on small stand-ins for its models and says what came out: a checkpoint or an error.

Stand-ins are Llamas of a few kilobytes with as many layers as the recipe cuts, and tokenizers where it asks for one.
Recipes name their models m0, m1, ...; a recipe that makes neither a checkpoint nor one clear error is a failure. Prints
a table on stderr and one JSON line on stdout.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import keep, versions

WIDTH, INNER, HEADS, VOCAB = 32, 64, 4, 300
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": WIDTH // HEADS,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}
FEWEST_LAYERS = 6  # enough for a gradient to have a middle
SHOWN = 88  # characters of an error in the table


@dataclass(frozen=True)
class Needs:
    """What a recipe asks of its models, read off its text: it may be no valid YAML."""

    models: tuple[str, ...]
    n_layers: int
    tokenizers: bool

    @classmethod
    def of(cls, text: str) -> "Needs":
        models = sorted(set(re.findall(r"\bm\d+\b", text)), key=lambda name: int(name[1:]))
        ranges = re.findall(r"layer_range:\s*\[?[\s-]*(\d+)[\s,-]+(\d+)", text)
        ends = [int(end) for _, end in ranges]
        return cls(tuple(models), max([FEWEST_LAYERS, *ends]), bool(re.search(r"^tokenizer", text, re.MULTILINE)))


def write_standins(folder: Path, needs: Needs) -> None:
    """The recipe's models: one random start, and a step of a few percent from it for each."""
    import torch
    from safetensors.torch import save_file

    noise = torch.Generator().manual_seed(0)
    start: dict[tuple, torch.Tensor] = {}
    for i, name in enumerate(needs.models):
        n_rows = VOCAB
        (folder / name).mkdir()
        if needs.tokenizers:
            n_rows = write_tokenizer(folder / name, f"<of {name}>")
        tensors = {}
        for key, shape in shapes(needs.n_layers, n_rows).items():
            if (key, shape) not in start:
                start[key, shape] = torch.randn(shape, generator=noise) * 0.05 + key.endswith("norm.weight")
            step = torch.randn(shape, generator=noise) * 0.002 * (1 + i)
            tensors[key] = (start[key, shape] + step).bfloat16()
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
        config = {**CONFIG, "vocab_size": n_rows, "num_hidden_layers": needs.n_layers}
        (folder / name / "config.json").write_text(json.dumps(config, indent=2))


def shapes(n_layers: int, n_rows: int) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of the stand-ins."""
    kv = 2 * WIDTH // HEADS
    layer = {
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (kv, WIDTH),
        "self_attn.v_proj": (kv, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (INNER, WIDTH),
        "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER),
        "input_layernorm": (WIDTH,),
        "post_attention_layernorm": (WIDTH,),
    }
    found = {"model.embed_tokens.weight": (n_rows, WIDTH), "lm_head.weight": (n_rows, WIDTH)}
    found["model.norm.weight"] = (WIDTH,)
    for i in range(n_layers):
        found |= {f"model.layers.{i}.{part}.weight": shape for part, shape in layer.items()}
    return found


def write_tokenizer(folder: Path, own: str) -> int:
    """A byte-level BPE with one token of the model's own; returns the rows that its ids need."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    asked = {"vocab_size": VOCAB - 1, "initial_alphabet": alphabet, "special_tokens": special, "show_progress": False}
    texts = ["the cat sat on the mat", "a hat and a cat and that mat"]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(**asked))
    tokenizer.add_special_tokens([AddedToken(own, special=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return 1 + max(tokenizer.get_vocab().values())


@dataclass(frozen=True)
class Outcome:
    """What one program made of one recipe."""

    made: bool
    said: str  # "checkpoint", or the first line of the error

    @property
    def record(self) -> dict:
        return {"checkpoint": self.made} | ({} if self.made else {"error": self.said})


def run(command: Sequence[str], folder: Path, out: Path) -> subprocess.CompletedProcess:
    """One program on a recipe, from the folder that holds the models, offline."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, str(out)], cwd=folder, env=environment, capture_output=True, text=True)


def n_tensors(out: Path) -> int:
    """Tensors of a finished checkpoint; 0 where there is none, or one without config.json."""
    from safetensors import safe_open

    if not (out / "config.json").exists():
        return 0
    count = 0
    for path in sorted(out.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            count += len(file.keys())
    return count


def of_expo(done: subprocess.CompletedProcess, out: Path) -> Outcome:
    """A checkpoint, or an error that ends with exit code 1 or 2 and shows no traceback; raises on anything else."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == 0 and n_tensors(out):
        return Outcome(True, "checkpoint")
    if done.returncode not in (1, 2) or "Traceback" in done.stderr or not lines or out.exists():
        raise AssertionError(f"exit {done.returncode}, neither a checkpoint nor one clear error:\n{done.stderr}")
    return Outcome(False, next((line for line in lines if line.lower().startswith("error")), lines[0]).strip())


def of_peer(done: subprocess.CompletedProcess, out: Path) -> Outcome:
    """A checkpoint, or the last line that is an exception's."""
    if done.returncode == 0 and n_tensors(out):
        return Outcome(True, "checkpoint")
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["(nothing on stderr)"]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return Outcome(False, (raised or lines)[-1].strip())


def run_all(recipes: list[Path], mergekit: Path | None) -> dict[str, dict[str, Outcome | str]]:
    """recipe -> program -> what it did; a string is what went wrong with expo."""
    found: dict[str, dict] = {}
    for path in recipes:
        needs = Needs.of(path.read_text())
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            write_standins(folder, needs)
            shutil.copy(path, folder / "recipe.yaml")
            found[path.name] = row = {}
            out = folder / "out"
            done = run([sys.executable, "-m", "expo", "merge", "recipe.yaml", "--quiet", "-o"], folder, out)
            try:
                row["expo"] = of_expo(done, out)
            except AssertionError as error:
                row["expo"] = str(error)
            if mergekit:
                out = folder / "peer"
                done = run([str(mergekit / "bin" / "mergekit-yaml"), "recipe.yaml", "--quiet"], folder, out)
                row["mergekit"] = of_peer(done, out)
        print_row(path.name, row)
    return found


def print_row(name: str, row: dict) -> None:
    """One line a program."""
    for program, outcome in row.items():
        said = outcome if isinstance(outcome, str) else outcome.said
        mark = "FAILS: " if isinstance(outcome, str) else ""
        print(f"{name if program == 'expo' else '':34}{program:10}{(mark + said)[:SHOWN]}", file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipes", type=Path, required=True, help="folder of recipes that name models m0, m1, ...")
    parser.add_argument("--only", default="", help="recipes whose name holds this")
    parser.add_argument("--mergekit", type=Path, metavar="VENV", help="environment that holds mergekit 0.1.5")
    parser.add_argument("--save", action="store_true", help="keep the line in results/recipes-YYYY-MM-DD.json")
    return parser.parse_args()


def main() -> None:
    args = parse()
    recipes = sorted(path for path in args.recipes.glob("*.yaml") if args.only in path.name)
    if not recipes:
        sys.exit(f"{args.recipes} holds no recipes")
    found = run_all(recipes, args.mergekit and args.mergekit.absolute())
    failed = {name: row["expo"] for name, row in found.items() if isinstance(row["expo"], str)}
    counts = {
        program: sum(isinstance(row.get(program), Outcome) and row[program].made for row in found.values())
        for program in ("expo", "mergekit")
        if program in next(iter(found.values()))
    }
    rows = {
        name: {program: outcome if isinstance(outcome, str) else outcome.record for program, outcome in row.items()}
        for name, row in found.items()
    }
    line = {"benchmark": "recipe_standins", "date": datetime.date.today().isoformat(), "versions": versions(["expo"])}
    line |= {"n_recipes": len(recipes), "checkpoints": counts, "failed": sorted(failed), "recipes": rows}
    print(f"\n{len(recipes)} recipes; checkpoints: {counts}; failures: {len(failed)}", file=sys.stderr)
    print(json.dumps(line))
    if args.save:
        keep("recipes", line)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
