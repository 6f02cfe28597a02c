"""The outline of a plan: layers drawn together where parameters keep still or change evenly."""

from unittest import mock

import pytest
from fake_methods import register_fakes, registry
from pico import LLAMA, llama_tensors, nudged, write_checkpoint

import expo
from expo.planning.outline import _copied, joined, outline
from expo.recipe import read_recipe


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("outline")
    config = {**LLAMA, "num_hidden_layers": 9}
    tensors = llama_tensors(config=config)
    for number, name in enumerate("ab"):
        write_checkpoint(home / name, nudged(tensors, seed=number) if number else tensors, config=config)
    return home


def outline_of(home, parameters: str):
    text = f"merge_method: fake_step\nbase_model: {home}/a\nmodels: [{{model: {home}/b}}]\nparameters: {parameters}\n"
    with registry():
        register_fakes()
        return outline(expo.plan(read_recipe(text).only))


def test_one_value_for_all_is_said_once(home):
    found = outline_of(home, "{t: 0.5}")
    assert found.shared == {"t": 0.5} and found.runs == () and found.copied == ()


def test_a_gradient_is_cut_where_its_slope_changes(home):
    found = outline_of(home, "{t: [{filter: mlp, value: [0, 1, 0]}, {value: 0.5}]}")
    mlp = [run for run in found.runs if "mlp" in run.label]
    assert [(run.layers, run.text("t")) for run in mlp] == [((0, 4), "0 to 1"), ((5, 8), "0.75 to 0")]
    assert all(run.n_tensors == 3 * (run.layers[1] - run.layers[0] + 1) for run in mlp)
    still = [run for run in found.runs if "mlp" not in run.label]
    assert {run.text("t") for run in still} == {"0.5"} and {run.layers for run in still} == {None, (0, 8)}


def test_every_tensor_is_counted_once(home):
    for parameters in ("{t: [0, 1]}", "{t: [{filter: 're:layers.[37].mlp', value: 0}, {value: 1}]}"):
        assert sum(run.n_tensors for run in outline_of(home, parameters).runs) == 9 * 9 + 3


def test_single_layers_stand_alone(home):
    found = outline_of(home, "{t: [{filter: 're:layers.4.mlp', value: 0}, {value: 1}]}")
    assert [run.layers for run in found.runs if "mlp" in run.label] == [(0, 3), (4, 4), (5, 8)]


def test_what_is_copied_names_its_layers():
    plan = mock.Mock(jobs=[job("m.0.q", "step"), job("m.0.k", None), job("m.1.q", None), job("m.0.s", None)])
    assert _copied(plan) == ("m.*.{k, s}", "m.*.q of layers 1")


def job(name: str, method: str | None) -> mock.Mock:
    found = mock.Mock(method=method)
    found.name = name
    return found


def test_names_are_joined_by_what_they_share():
    assert joined(("a.x.weight",)) == "a.x.weight"
    assert joined(("a.q.weight", "a.k.weight")) == "a.{q, k}.weight"
    assert joined(("a.q.bias", "b.weight")) == "{a.q.bias, b.weight}"
