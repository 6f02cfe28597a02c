"""Slices pick layers, renumber them, and give each its own parameters; modules take the tensors of their name."""

import json

import pytest
import torch
from engine import streamed
from pico import LLAMA, llama_tensors, nudged, write_checkpoint

import expo
from expo.errors import PlanError
from expo.methods.declare import METHODS, Each, method
from expo.recipe import Module, Recipe, Slice, Source

CONFIG = {**LLAMA, "num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"]}


@pytest.fixture(autouse=True)
def methods():
    @method(nothing=lambda: True)
    def carried(model):
        """model, as it is."""

    @method()
    def blended(*models, weight: Each):
        """The sum of weight_i * model_i."""
        return sum(model * w for model, w in zip(models, weight, strict=True))

    yield
    for name in ("carried", "blended"):
        METHODS.pop(name)


@pytest.fixture
def pair(tmp_path):
    tensors = llama_tensors(config=CONFIG)
    write_checkpoint(tmp_path / "x", tensors, config=CONFIG, shards=2)
    write_checkpoint(tmp_path / "y", nudged(tensors, relative=0.5), config=CONFIG)
    return {name: str(tmp_path / name) for name in "xy"}


def stored(pair, name):
    from safetensors.torch import load_file

    found = {}
    for file in sorted(p for p in __import__("pathlib").Path(pair[name]).glob("*.safetensors")):
        found |= load_file(file)
    return found


def bits(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def slices(*rows):
    return (Module(tuple(Slice(tuple(Source(m, layers, dict(p)) for m, layers, p in row)) for row in rows)),)


def test_layers_are_renumbered_and_the_rest_comes_from_the_outer_slices(pair):
    rows = [[("x", (0, 3), ())], [("y", (1, 4), ())]]
    held, _ = streamed(Recipe("carried", pair, modules=slices(*rows)))
    x, y = stored(pair, "x"), stored(pair, "y")
    for out, (source, layer) in enumerate([(x, 0), (x, 1), (x, 2), (y, 1), (y, 2), (y, 3)]):
        for name in (n for n in x if f".layers.{layer}." in n):
            assert held[name.replace(f".{layer}.", f".{out}.", 1)] == bits(source[name])
    assert held["model.embed_tokens.weight"] == bits(x["model.embed_tokens.weight"])
    assert held["model.norm.weight"] == bits(y["model.norm.weight"])
    assert len(held) == sum(".layers.0." in n for n in x) * 6 + sum(".layers." not in n for n in x)


def test_the_config_states_the_picked_layers_and_transformers_loads_the_result(pair, tmp_path):
    from transformers import AutoModelForCausalLM

    config = {k: v for k, v in CONFIG.items() if k != "layer_types"}
    (tmp_path / "x" / "config.json").write_text(json.dumps(config))
    recipe = Recipe("carried", pair, modules=slices([("x", (0, 4), ())], [("x", (2, 4), ())]))
    expo.run(expo.plan(recipe), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {**config, "num_hidden_layers": 6}
    model, said = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"] and model.config.num_hidden_layers == 6
    live = expo.load_model(recipe)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, live.state_dict()[name]), name


def test_lists_with_an_entry_a_layer_follow_the_layers(pair, tmp_path):
    recipe = Recipe("carried", pair, modules=slices([("x", (1, 3), ())], [("x", (0, 1), ())]))
    expo.run(expo.plan(recipe), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["layer_types"] == ["b", "c", "a"]


def test_one_model_may_come_twice_in_a_slice_and_gradients_run_over_the_slice(pair):
    rows = [[("x", (0, 3), {"weight": [0.0, 1.0]}), ("x", (1, 4), {"weight": 2.0})]]
    held, _ = streamed(Recipe("blended", pair, modules=slices(*rows)))
    x = stored(pair, "x")
    for out, weight in enumerate([0.0, 0.5, 1.0]):
        name = "model.layers.{}.mlp.up_proj.weight"
        wanted = x[name.format(out)].double() * weight + x[name.format(out + 1)].double() * 2
        assert held[name.format(out)] == bits(wanted.float())


def test_filters_and_scopes_decide_from_the_narrowest(pair):
    filtered = [{"filter": "mlp", "value": 1.0}, {"filter": "re:q_proj|k_proj", "value": [0.0, 3.0]}, {"value": 0.5}]
    modules = (Module((Slice((Source("x", None, {"weight": filtered}), Source("y")), None, {"weight": 0.25}),)),)
    plan = expo.plan(Recipe("blended", pair, {"weight": 9.0}, modules=modules))
    found = {job.name: job.parameters["weight"] for job in plan.jobs}
    assert found["model.layers.2.mlp.up_proj.weight"] == (1.0, 0.25)
    assert found["model.layers.2.self_attn.k_proj.weight"] == (2.0, 0.25)
    assert found["model.norm.weight"] == (0.5, 0.25)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[("x", (0, 5), ())]], "layer_range [0, 5] lies outside of x, which has 4 layers"),
        ([[("x", None, ())], [("x", (0, 1), ())]], "it must be the only one"),
    ],
)
def test_slices_that_cannot_be_are_refused_in_words(pair, rows, words):
    with pytest.raises(PlanError) as caught:
        expo.plan(Recipe("carried", pair, modules=slices(*rows)))
    assert words in str(caught.value)


def test_modules_split_the_tensors_by_name_and_none_may_be_left(pair):
    x, y = stored(pair, "x"), stored(pair, "y")
    parts = {"layers": "y", "embed_tokens": "x", "norm": "x", "lm_head": "x"}
    modules = tuple(Module((Slice((Source(model),)),), name) for name, model in parts.items())
    held, _ = streamed(Recipe("carried", pair, modules=modules))
    assert all(held[name] == bits((y if ".layers." in name else x)[name]) for name in x)
    with pytest.raises(PlanError, match=r"no module takes lm_head.weight\."):
        expo.plan(Recipe("carried", pair, modules=modules[:3]))
