"""The bytes that a plan says it will move are those that its run moves; the time follows from the rates alone."""

import json

import pytest
import torch
from engine import command, streamed
from every_method import CASES
from merging import random_models, recipe_for
from pico import LLAMA, llama_shapes, llama_tensors, nudged, pico_pair, write_checkpoint
from sparse_models import sparse_checkpoint, sparse_llama

import expo
from expo.checkpoint import Shards
from expo.methods.survey import Place
from expo.methods.windows import Sample
from expo.planning.expected import Rates, duration, in_words, phases, together
from expo.planning.traffic import Traffic, passes, traffic
from expo.stream import survey

N_70B, N_405B = 70_553_706_496, 405_853_388_800  # parameters, as their model cards state them


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """Size -> a pair of that shape without data."""
    home = tmp_path_factory.mktemp("sparse")
    return {
        size: {role: str(sparse_llama(home / size / role, size)) for role in ("sft", "dpo")} for size in ("70b", "405b")
    }


@pytest.mark.parametrize("case", [case for case in CASES if case.method not in ("tsv_m", "iso_c")], ids=lambda c: c.id)
def test_every_methods_surveys_take_the_passes_that_it_states(tmp_path, monkeypatch, case):
    plan = expo.plan(case.recipe(tmp_path, case.draw(torch.bfloat16, {"matrix": (200, 200)})))
    whole, carry_out = [], survey.carry_out

    def counted(work, workers):
        whole.extend(g.request for g in work.groups.values() if not isinstance(g.request, Sample | Place))
        return carry_out(work, workers)

    monkeypatch.setattr(survey, "carry_out", counted)
    streamed(plan)
    assert passes(plan.jobs[0]) == len(whole) + 1


@pytest.mark.parametrize("method, n_passes", [("task_arithmetic", 1), ("model_stock", 2), ("sce", 4)])
def test_as_many_bytes_are_read_as_were_stated(tmp_path, monkeypatch, method, n_passes):
    parameters = {"select_topk": 0.5} if method == "sce" else {}
    base, models = random_models(2, shapes={"matrix": (1500, 1000), "wide": (1000, 900)})
    each = {"weight": (0.5, 0.5)} if method == "task_arithmetic" else {}
    plan = expo.plan(recipe_for(tmp_path, method, models, base=base, each=each, **parameters))
    n_read, read_into = [], Shards.read_into
    monkeypatch.setattr(
        Shards, "read_into", lambda self, out, *rest: (n_read.append(len(out)), read_into(self, out, *rest))[1]
    )
    streamed(plan)
    # A sample of one in 128, and a look into a segment, come on top.
    assert traffic(plan).read <= sum(n_read) <= 1.04 * traffic(plan).read
    assert traffic(plan).passes == n_passes


def test_stochastic_rounding_and_copies_are_read_once_and_tied_copies_before_the_run(tmp_path):
    tensors = llama_tensors()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    config = LLAMA | {"tie_word_embeddings": True}
    for name, each in {"sft": tensors, "dpo": nudged(tensors)}.items():
        each["lm_head.weight"] = each["model.embed_tokens.weight"].clone()
        write_checkpoint(tmp_path / name, each, config=config)
    plan = expo.plan(expo.extrapolation(sft=tmp_path / "sft", dpo=tmp_path / "dpo", rounding="stochastic"))
    copies = 4 * tensors["lm_head.weight"].numel() * 4  # two of each model
    assert len(plan.tied) == 2 and traffic(plan).read == plan.n_bytes_read + copies
    assert traffic(plan).written == plan.n_bytes_written


@pytest.mark.parametrize("size, n_parameters, n_tensors", [("70b", N_70B, 723), ("405b", N_405B, 1137)])
def test_a_model_that_does_not_fit_here_is_planned_from_its_headers(
    sparse, capsys, unreadable, size, n_parameters, n_tensors
):
    pair = sparse[size]
    words = ["plan", "--sft", pair["sft"], "--dpo", pair["dpo"], "--threads", 2]
    code, out, err = command(capsys, *words, "--json", "--disk-rate", 2, "--compute-rate", 1.5)
    assert code == 0, err
    (stage,) = json.loads(out)["stages"]
    budget, time = stage["budget"], stage["time"]
    assert budget["parameters"] == n_parameters and budget["tensors_computed"] == n_tensors
    assert budget["bytes_to_read"] == 2 * 2 * n_parameters
    headers = budget["bytes_to_write"] - 2 * n_parameters
    assert 0 < headers < 2e6 and budget["peak_disk"] == budget["bytes_to_write"]
    assert budget["peak_memory"] < 280 * 2**20 and budget["bytes_to_download"] == budget["bytes_from_hub"] == 0
    moved = budget["bytes_to_read"] + budget["bytes_to_write"]
    assert time["seconds"] == pytest.approx(moved / 1.5e9) and time["phases"][0]["limit"] == "compute"
    assert time["phases"][0]["parts"]["disk"] == {"n_bytes": moved, "seconds": moved / 2e9}
    assert time["not_counted"] == [] and json.loads(out)["time"] == time


def test_a_recipe_of_such_models_counts_each_pass(sparse, capsys, tmp_path, unreadable):
    pair = sparse["70b"]
    (tmp_path / "r.yaml").write_text(
        f"merge_method: ties\nbase_model: {pair['sft']}\n"
        f"models: [{{model: {pair['dpo']}, parameters: {{weight: 1, density: 0.2}}}}]\n"
    )
    code, out, err = command(capsys, "plan", tmp_path / "r.yaml", "--disk-rate", "2.5")
    assert code == 0, err
    assert "reads 564 GB in up to 2 passes" in out and "the disk 706 GB in 4.7 min" in out
    assert "at least 4.7 min; not counted: computing (--compute-rate)" in out


def test_nothing_is_said_about_time_without_a_rate(sparse, capsys, unreadable):
    pair = sparse["70b"]
    words = ["plan", "--sft", pair["sft"], "--dpo", pair["dpo"]]
    code, out, _ = command(capsys, *words)
    assert code == 0 and "not known without rates: --disk-rate, --compute-rate" in out
    assert json.loads(command(capsys, *words, "--json")[1])["time"]["seconds"] is None
    code, out, _ = command(capsys, *words, "--device", "cuda", "--gpu-rate", 20)
    assert code == 0 and "copies to the GPU 282 GB in 14.1 s; copies to the GPU decides" not in out
    assert "copies to the GPU 282 GB in 14.1 s" in out and "--disk-rate, --compute-rate" in out


def test_a_plan_is_of_one_thing(tmp_path, capsys):
    sft, dpo = pico_pair(tmp_path)
    (tmp_path / "r.yaml").write_text("merge_method: linear\n")
    for words, why in (
        ([], "Plan one thing"),
        (["--sft", sft], "Plan one thing"),
        ([tmp_path / "r.yaml", "--sft", sft, "--dpo", dpo], "Plan one thing"),
        (["--sft", sft, "--dpo", dpo, "--set", "alpha=1"], "--set changes a recipe file"),
        (["--sft", sft, "--dpo", dpo, "--disk-rate", "0"], "--disk-rate"),
    ):
        code, _, err = command(capsys, "plan", *words)
        assert code == 2 and why in err, err
    code, out, _ = command(capsys, "plan", "--sft", sft, "--dpo", dpo, "--alpha", "0.5", "--dtype", "float32")
    assert code == 0 and "0.5" in out and "float32" in out and not (tmp_path / "OUT").exists()


def test_the_slowest_part_decides_each_phase():
    moved = Traffic(read=100, from_hub=40, written=20, to_gpu=90, from_gpu=20, passes=2, to_download=40)
    found = phases(moved, 60, Rates(network=1, disk=2, gpu=10, compute=5), gpu=True)
    total = together([found, found])
    assert [phase["limit"] for phase in total["phases"]] == ["network", "network"] * 2
    assert total["seconds"] == 2 * (40 + 40) and total["not_counted"] == []
    seconds = {name: part["seconds"] for name, part in total["phases"][1]["parts"].items()}
    assert seconds == {"network": 40, "disk": 40, "gpu": 9, "compute": 12}
    lacking = together([phases(moved, 60, Rates(disk=2), gpu=True)])
    assert lacking["seconds"] == 20 + 40 and lacking["not_counted"] == ["network", "gpu", "compute"]
    assert "at least 60 s" in in_words(phases(moved, 60, Rates(disk=2), gpu=True))
    assert [duration(s) for s in (0.5, 119, 121, 7200)] == ["0.5 s", "119 s", "2.02 min", "2 h"]


def test_models_on_the_hub_are_planned_without_a_download(read_from, tmp_path, capsys):
    for role in ("sft", "dpo"):
        tensors = {name: ("BF16", shape) for name, shape in llama_shapes().items()}
        read_from.add(f"org/{role}", sparse_checkpoint(tmp_path / role, tensors, LLAMA, 2))
    n = sum(path.stat().st_size for role in ("sft", "dpo") for path in (tmp_path / role).glob("*.safetensors"))
    words = ["plan", "--sft", "org/sft", "--dpo", "org/dpo", "--json", "--network-rate", "0.1", "--disk-rate", "1"]
    budget, time = (json.loads(command(capsys, *words)[1])[key] for key in ("stages", "time"))
    budget = budget[0]["budget"]
    assert budget["bytes_to_download"] == n and budget["bytes_from_hub"] == 0
    assert [phase["name"] for phase in time["phases"]] == ["download", "run"]
    assert time["phases"][0]["limit"] == "network" and time["phases"][0]["parts"]["disk"]["n_bytes"] == n
    by_ranges = json.loads(command(capsys, *words, "--stream")[1])
    budget = by_ranges["stages"][0]["budget"]
    assert budget["bytes_to_download"] == 0 and budget["bytes_from_hub"] == budget["bytes_to_read"] > 0.8 * n
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    assert sum(asked.path.endswith(".safetensors") for asked in read_from.asked) < 20


def test_many_scales_on_the_hub_cost_a_plan_no_request_each(read_from, tmp_path, monkeypatch):
    monkeypatch.setattr("expo.planning.quantised._REQUESTS", 0)
    tensors = {}
    for n in range(40):
        tensors |= {f"w{n}.weight": ("F8_E4M3", (256, 256)), f"w{n}.weight_scale_inv": ("F32", (2, 2))}
    quantised = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    for role in ("sft", "dpo"):
        read_from.add(f"org/{role}", sparse_checkpoint(tmp_path / role, tensors, quantised, 2))
    plan = expo.plan(expo.extrapolation(sft="org/sft", dpo="org/dpo", stream=True))
    assert len(plan.jobs) == 40 and len(read_from.asked) < 40
    with pytest.raises(expo.ExpoError, match=r"w0.weight_scale_inv\[0\] is 0: a scale is a positive number"):
        expo.run(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
