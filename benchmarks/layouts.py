"""Times `expo extrapolate` across layouts and on float8 beside the same run on plain checkpoints of the same model.

A mixture of experts (Qwen3-MoE, 300 million parameters unless told otherwise) is written in four forms: experts one
tensor each, experts stacked, experts stacked with their axes swapped, float8 with 128 x 128 blocks. Every contender is
a whole process; they alternate, and ratios are taken round by round. Prints a table on stderr and one JSON line on
stdout.
"""

import argparse
import datetime
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from bars import Bar, Results, judge_all, print_table
from measure import MIB, ChildFailed, filesystem, keep, machine, run_child, versions, warm

PACKAGES = ("expo", "torch", "transformers", "safetensors")
PLAIN = "plain"
# Name -> (sft's form, dpo's form, further options).
CONTENDERS = {
    PLAIN: ("separate", "separate", ()),
    "to_separate": ("stacked", "separate", ()),
    "plain_stacked": ("stacked", "stacked", ()),
    "to_stacked": ("separate", "stacked", ()),
    "from_swapped": ("swapped", "swapped_plain", ()),
    "float8": ("float8", "float8", ()),
    "requantized": ("float8", "float8", ("--requantize",)),
}
BARS = [
    Bar("stacked to separate: plain / this, seconds", f"{PLAIN}.seconds", "to_separate.seconds", at_least=0.5),
    Bar("separate to stacked: plain / this, seconds", "plain_stacked.seconds", "to_stacked.seconds", at_least=0.5),
    Bar("axes swapped: plain / this, seconds", "plain_stacked.seconds", "from_swapped.seconds", at_least=0.5),
    Bar("float8: plain / this, seconds", f"{PLAIN}.seconds", "float8.seconds", at_least=0.5),
    Bar("requantized: plain / this, seconds", f"{PLAIN}.seconds", "requantized.seconds"),
    *(
        Bar(f"{name}: peak memory / plain's", f"{name}.memory_mib", f"{PLAIN}.memory_mib", at_most=1.2)
        for name in CONTENDERS
        if name != PLAIN
    ),
]


def make(work: Path, layers: int, experts: int) -> None:
    """Write all forms of both models; a process of its own runs this, for torch makes a process large."""
    import torch
    import transformers
    from safetensors.torch import save_file

    shape = {
        "vocab_size": 1024, "hidden_size": 1024, "intermediate_size": 1024, "num_hidden_layers": layers,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 128, "num_experts": experts,
        "num_experts_per_tok": 4, "moe_intermediate_size": 768, "decoder_sparse_step": 1,
    }  # fmt: skip
    for role in ("sft", "dpo"):
        torch.manual_seed(0)
        with torch.device("meta"):
            model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**shape))
        state = {name: torch.randn(t.shape).mul_(0.02).bfloat16() for name, t in model.state_dict().items()}
        if role == "dpo":
            state = {name: (t.float() + 1e-3 * torch.randn(t.shape)).bfloat16() for name, t in state.items()}
        config = model.config.to_dict() | {"architectures": ["Qwen3MoeForCausalLM"], "dtype": "bfloat16"}
        separate = dict(_separate(state))
        forms = {"stacked": (state, {}), "separate": (separate, {})}
        forms["float8"] = (_float8(separate), {"quant_method": "fp8", "weight_block_size": [128, 128]})
        for form, (tensors, quantised) in forms.items():
            folder = work / role / form
            folder.mkdir(parents=True)
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            said = config | ({"quantization_config": quantised} if quantised else {})
            (folder / "config.json").write_text(json.dumps(said))
        _swapped(work / role, state, shape)


def _separate(state):
    """The published names: one tensor an expert and projection."""
    for name, tensor in state.items():
        around, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            for i, matrix in enumerate(tensor):
                gate, up = matrix.chunk(2)
                yield f"{around}.{i}.gate_proj.weight", gate.contiguous()
                yield f"{around}.{i}.up_proj.weight", up.contiguous()
        elif last == "down_proj":
            yield from ((f"{around}.{i}.down_proj.weight", matrix.contiguous()) for i, matrix in enumerate(tensor))
        else:
            yield name, tensor


def _swapped(folder: Path, state: dict, shape: dict) -> None:
    """The same experts as Qwen3-VL-MoE's, whose first checkpoints had their axes the other way round."""
    from safetensors.torch import save_file

    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [24, 20, 20]}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 1024,
              "deepstack_visual_indexes": [0]}  # fmt: skip
    config = {"model_type": "qwen3_vl_moe", "architectures": ["Qwen3VLMoeForConditionalGeneration"]}
    config |= {"text_config": shape | rope, "vision_config": vision}
    plain = {re.sub("^model", "model.language_model", name): tensor for name, tensor in state.items()}
    turned = {n: t.transpose(1, 2).contiguous() if ".experts." in n else t for n, t in plain.items()}
    for form, tensors in (("swapped_plain", plain), ("swapped", turned)):
        (folder / form).mkdir()
        save_file(tensors, folder / form / "model.safetensors", metadata={"format": "pt"})
        (folder / form / "config.json").write_text(json.dumps(config))


def _float8(state):
    """Projections as float8 with one scale a block of 128 x 128; all sides here are multiples of 128."""
    import torch

    found = {}
    for name, tensor in state.items():
        if "proj" not in name:
            found[name] = tensor
            continue
        rows, columns = tensor.shape
        blocks = tensor.float().view(rows // 128, 128, columns // 128, 128)
        scales = blocks.abs().amax((1, 3), keepdim=True) / 448
        found[name] = (blocks / scales).view(rows, columns).to(torch.float8_e4m3fn)
        found[name + "_scale_inv"] = scales.view(rows // 128, columns // 128)
    return found


def run_once(name: str, key: tuple[str, int], args: argparse.Namespace, out: Path, results: Results) -> None:
    """Measure one contender once from a warm page cache, and remove what it wrote."""
    sft, dpo, options = CONTENDERS[name]
    sides = (args.work / "sft" / sft, args.work / "dpo" / dpo)
    warm(path for side in sides for path in side.glob("*.safetensors"))
    command = [sys.executable, "-m", "expo", "extrapolate", "--sft", str(sides[0]), "--dpo", str(sides[1])]
    command += ["-o", str(out / "out"), "--threads", str(args.threads), "--json", *options]
    try:
        child = run_child(command, args.threads)
        report = child.report()
        report["memory_mib"] = report["peak_rss_mib"]  # of all its processes together, as it reports itself
        results.add(name, key, report | {n: getattr(child, n) for n in ("wall_s", "cpu_s", "peak_rss_mib")})
        print(f"{key[1] + 1}/{args.rounds}  {name:16}{child.wall_s:8.2f} s", file=sys.stderr)
    except ChildFailed as error:
        results.failed[name] = str(error)
        print(f"{key[1] + 1}/{args.rounds}  {name:16}failed: {error}", file=sys.stderr)
    finally:
        shutil.rmtree(out / "out", ignore_errors=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the inputs; kept, and used again")
    parser.add_argument("--layers", type=int, default=4, help="each has 76 million parameters with 32 experts")
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--out", type=Path, default=Path("/dev/shm"), help="RAM-backed folder for outputs")
    parser.add_argument("--make", action="store_true", help="write the inputs and do nothing else")
    parser.add_argument("--save", action="store_true", help="keep the line in results/layouts-YYYY-MM-DD.json")
    return parser.parse_args()


def main() -> None:
    args = parse()
    args.work = args.work.resolve()
    if args.make:
        return make(args.work, args.layers, args.experts)
    if not args.work.exists():
        made = [sys.executable, str(Path(__file__).resolve()), "--make", "--work", str(args.work)]
        run_child([*made, "--layers", str(args.layers), "--experts", str(args.experts)], args.threads)
    around = {"machine": machine(), "versions": versions(PACKAGES)}
    if (load := around["machine"]["load_before"]) > 0.5:
        print(f"other work runs here (load {load}): no ratio of this run is evidence", file=sys.stderr)
    n_bytes = {form.name: sum(f.stat().st_size for f in form.iterdir()) for form in (args.work / "sft").iterdir()}
    results = Results()
    with tempfile.TemporaryDirectory(dir=args.out) as out:
        places = {"inputs_on": filesystem(args.work), "output_on": filesystem(Path(out))}
        for i in range(args.rounds):
            for name in args.only[:: -1 if i % 2 else 1]:
                run_once(name, ("layouts", i), args, Path(out), results)
    verdicts = judge_all(results, BARS)
    print_table(results, verdicts)
    how = {"threads": args.threads, "rounds": args.rounds, "inputs_mib": {k: v // MIB for k, v in n_bytes.items()}}
    figures = {"bars": verdicts, "contenders": results.by_contender(), "failed": results.failed}
    date = datetime.date.today().isoformat()
    line = {"benchmark": "layouts", "date": date, **around, **places, **how, **figures}
    print(json.dumps(line))
    if args.save:
        keep("layouts", line)
    sys.exit(1 if results.failed else 0)


if __name__ == "__main__":
    main()
