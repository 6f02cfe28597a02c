"""diff: its figures against float64 numpy, its look ahead against a real run, and what it only lists."""

import json
import math

import numpy as np
import pytest
import torch
from pico import LLAMA, llama_tensors, nudged, pico_pair, write_checkpoint

import expo
from expo.analysis.diff import diff
from expo.analysis.plot import heat_map
from expo.errors import OutputError, PlotUnavailable


def big_pair(tmp_path, dtype=torch.bfloat16):
    """Three tensors, one of them longer than a segment."""
    noise = torch.Generator().manual_seed(5)
    drawn = {"layers.0.w": (1100, 1000), "layers.1.w": (33, 7), "norm": (129,)}
    a = {name: torch.randn(shape, generator=noise).to(dtype) for name, shape in drawn.items()}
    return a, nudged(a, relative=0.02), tmp_path / "a", tmp_path / "b"


def by_numpy(a, b):
    a, b = (x.double().numpy().ravel() for x in (a, b))
    return {
        "relative_delta": np.linalg.norm(b - a) / np.linalg.norm(b),
        "cosine": a @ b / np.linalg.norm(a) / np.linalg.norm(b),
        "changed": np.mean(a != b),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_figures_are_those_of_float64_numpy(tmp_path, dtype):
    a, b, left, right = big_pair(tmp_path, dtype)
    found = diff(write_checkpoint(left, a), write_checkpoint(right, b))
    for tensor in found.tensors:
        record = tensor.record(0.3)
        for key, value in by_numpy(a[tensor.name], b[tensor.name]).items():
            assert record[key] == pytest.approx(value, rel=1e-12), (tensor.name, key)
    whole = [torch.cat([side[name].ravel() for name in a]) for side in (a, b)]
    for key, value in by_numpy(*whole).items():
        assert found.record()[key] == pytest.approx(value, rel=1e-12)
    group = next(group for group in found.groups if group.name == "layers.*.w")
    layers = [torch.cat([side[f"layers.{i}.w"].ravel() for i in (0, 1)]) for side in (a, b)]
    assert group.record(0.3)["relative_delta"] == pytest.approx(by_numpy(*layers)["relative_delta"], rel=1e-12)


def test_figures_by_hand():
    from expo.analysis.measure import Sums

    sums = Sums(delta=4.0, a=9.0, b=16.0, dot=6.0, n_elements=8, n_changed=2)
    assert (sums.relative, sums.cosine, sums.changed) == (0.5, 0.5, 0.25)
    assert Sums().relative == 0.0 and Sums().cosine is None and Sums().changed is None
    assert Sums(delta=1.0, a=1.0).relative is None


@pytest.mark.parametrize("settings", [{}, {"dtype": "float32"}, {"rounding": "stochastic"}], ids=str)
def test_effective_alpha_is_what_a_run_reports(tmp_path, settings):
    sft, dpo = pico_pair(tmp_path, relative=0.003)
    found = diff(sft, dpo, alpha=0.4, **settings)
    report = expo.extrapolate(sft=sft, dpo=dpo, alpha=0.4, output=tmp_path / "out", **settings)
    assert found.record()["effective_alpha"] == report.effective_alpha
    assert found.record()["effective_cosine"] == report.fidelity.cosine
    assert {group.name: group.fidelity for group in found.groups} == report.groups


def test_no_figure_depends_on_the_number_of_threads(tmp_path):
    a, b, left, right = big_pair(tmp_path)
    left, right = write_checkpoint(left, a), write_checkpoint(right, b)
    records = [diff(left, right, threads=threads).record() | {"seconds": 0} for threads in (1, 2, 5)]
    assert records[0] == records[1] == records[2]


def test_a_small_delta_is_warned_about_with_the_ways_out(tmp_path):
    sft, dpo = pico_pair(tmp_path, relative=0.001)
    verdict = diff(sft, dpo).verdict()
    assert "--dtype float32" in verdict and "--rounding stochastic" in verdict
    assert "--dtype float32" not in diff(sft, dpo, dtype="float32").verdict()


def test_equal_checkpoints_move_nothing(tmp_path):
    sft, _ = pico_pair(tmp_path)
    found = diff(sft, sft)
    assert "move nothing" in found.verdict() and found.record()["equal"]
    assert found.record()["relative_delta"] == 0 and found.record()["effective_alpha"] is None


def test_alpha_0_is_measured_without_a_run(tmp_path):
    sft, dpo = pico_pair(tmp_path)
    found = diff(sft, dpo, alpha=0.0)
    assert found.record()["relative_delta"] == diff(sft, dpo).record()["relative_delta"]
    assert "move nothing" in found.verdict()


def test_one_sided_and_unlike_tensors_are_listed(tmp_path):
    a, b = ({**llama_tensors(), **extra} for extra in ({"only.a": torch.ones(2)}, {"only.b": torch.ones(3)}))
    b["model.embed_tokens.weight"] = torch.ones(70, 16)
    b["model.norm.weight"] = torch.ones(16, dtype=torch.int32)
    found = diff(write_checkpoint(tmp_path / "a", a, config=LLAMA), write_checkpoint(tmp_path / "b", b, config=LLAMA))
    assert (found.pairing.only_a, found.pairing.only_b) == (["only.a"], ["only.b"])
    assert {b.name for _, b in found.pairing.unlike} == {"model.embed_tokens.weight", "model.norm.weight"}
    assert len(found.tensors) == len(b) - 3
    json.dumps(found.record(), allow_nan=False)


def test_tensors_that_are_not_floats_are_equal_or_not(tmp_path):
    a = {
        "w": torch.ones(4),
        "same": torch.arange(5),
        "other": torch.arange(5),
        "none": torch.zeros(0, dtype=torch.int8),
    }
    b = {**a, "w": torch.ones(4) * 2, "other": torch.tensor([0, 1, 2, 4, 4])}
    found = diff(write_checkpoint(tmp_path / "a", a), write_checkpoint(tmp_path / "b", b))
    records = {tensor.name: tensor.record(0.3) for tensor in found.tensors}
    assert [records[name]["equal"] for name in ("same", "other", "none")] == [True, False, True]
    assert records["other"]["changed"] == pytest.approx(0.2) and records["other"]["relative_delta"] is None


def test_renamed_tensors_are_compared_under_bs_names(tmp_path):
    b = llama_tensors()
    a = {f"language.{name}": tensor for name, tensor in b.items()}
    left = write_checkpoint(tmp_path / "a", a, config=LLAMA)
    right = write_checkpoint(tmp_path / "b", b, config=LLAMA)
    assert not diff(left, right).tensors
    found = diff(left, right, rename=(("language.", ""),))
    assert {tensor.name for tensor in found.tensors} == set(b) and found.record()["equal"]


def test_quantised_checkpoints_are_compared_and_have_no_effective_alpha(tmp_path):
    a = {"x.weight": torch.ones(4), "y.weight_packed": torch.ones(1, dtype=torch.int32)}
    b = {**a, "x.weight": torch.full((4,), 2.0)}
    found = diff(write_checkpoint(tmp_path / "a", a), write_checkpoint(tmp_path / "b", b))
    assert "quantised" in found.verdict()
    assert {tensor.name: tensor.sums.relative for tensor in found.tensors} == {"x.weight": 0.5, "y.weight_packed": 0.0}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_what_alpha_pushes_beyond_the_types_range_stops_no_comparison(tmp_path, dtype):
    a, b = ({"w": torch.tensor(values).to(dtype)} for values in ([-400.0, 1.0, 2.0], [448.0, 1.5, 2.0]))
    a["v"] = b["v"] = torch.ones(3)
    left, right = write_checkpoint(tmp_path / "a", a), write_checkpoint(tmp_path / "b", b)
    found = diff(left, right, alpha=100.0)
    assert "beyond the largest" in found.verdict() and found.record()["effective_alpha"] is None
    assert found.record()["changed"] == pytest.approx(2 / 6)
    assert diff(left, right, alpha=100.0, saturate=True).refused is None


def test_nan_is_counted_and_left_out_of_the_sums(tmp_path):
    a = {"w": torch.tensor([1.0, math.nan, 3.0, math.nan])}
    b = {"w": torch.tensor([1.0, 2.0, 4.0, math.nan])}
    found = diff(write_checkpoint(tmp_path / "a", a), write_checkpoint(tmp_path / "b", b))
    assert "2 elements are not finite" in found.warnings[-1]
    found = found.tensors[0]
    assert found.sums.n_non_finite == 2 and found.sums.n_changed == 2
    assert found.sums.relative == pytest.approx(1 / math.sqrt(17))


def test_a_layer_is_a_cell_of_the_heat_map(tmp_path):
    sft, dpo = pico_pair(tmp_path)
    cells = diff(sft, dpo).by_layer()
    assert ("model.norm.weight", None) in cells
    assert {layer for group, layer in cells if group == "model.layers.*.mlp.up_proj.weight"} == {0, 1}


def test_the_heat_map_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    sft, dpo = pico_pair(tmp_path)
    for name, other in (("moved", dpo), ("equal", sft)):
        heat_map(diff(sft, other), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputError, match="cannot be written"):
        heat_map(diff(sft, dpo), tmp_path / "no" / "such" / "folder.png")


def test_without_matplotlib_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr("expo.analysis.plot.find_spec", lambda name: None)
    sft, dpo = pico_pair(tmp_path)
    with pytest.raises(PlotUnavailable, match=r"pip install 'expo\[plot\]'"):
        heat_map(diff(sft, dpo), tmp_path / "heat.png")
