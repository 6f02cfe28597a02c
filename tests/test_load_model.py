"""load_model gives exactly the weights that a run would write, in a live model, and writes nothing."""

import json
import os

import pytest
import torch
from engine import tree
from live import generated, same, state
from oracle import read_stored, write_stored
from pico import write_checkpoint
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import expo
from expo.errors import ExpoError, NonFinite, OutputError, PlanError


def reloaded(recipe, folder):
    """The model that transformers reads from what a run writes."""
    expo.run(expo.plan(recipe), folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


WAYS = [{}, {"dtype": "float32"}, {"rounding": "stochastic", "seed": 4}, {"arithmetic": "reference"}, {"alpha": 0}]


@pytest.mark.parametrize("tied, settings", [*((True, way) for way in WAYS), (False, {}), (False, {"dtype": "float16"})])
def test_its_weights_are_bit_for_bit_those_of_a_written_and_reloaded_checkpoint(pairs, tmp_path, tied, settings):
    recipe = expo.extrapolation(**pairs[tied], **{"alpha": 0.5, **settings})
    live, right = expo.load_model(recipe, threads=2), reloaded(recipe, tmp_path / "out")
    assert isinstance(live, LlamaForCausalLM) and not live.training
    assert same(state(live), state(right))
    assert generated(live) == generated(right)
    assert (live.lm_head.weight.data_ptr() == live.model.embed_tokens.weight.data_ptr()) == tied


def test_tied_copies_that_the_recipe_pulls_apart_come_apart_in_the_model_too(pair, tmp_path):
    inputs = {}
    for role, folder in pair.items():
        stored = read_stored(folder)
        kind, shape, raw = stored["model.embed_tokens.weight"]
        stored["lm_head.weight"] = (kind, shape, raw[32:] + raw[:32] if role == "sft" else raw)
        inputs[role] = write_stored(tmp_path / role / "model.safetensors", stored, {"format": "pt"}).parent
        (inputs[role] / "config.json").write_bytes((folder / "config.json").read_bytes())
    recipe = expo.extrapolation(**inputs, alpha=0.5, tied="keep")
    right = reloaded(recipe, tmp_path / "out")
    try:
        live = expo.load_model(recipe)
    except OutputError as error:
        assert "lm_head.weight" in str(error)
    else:
        assert same(state(live), state(right))


def test_a_model_is_filled_again_with_another_alpha_in_place(pair, tmp_path):
    live = expo.load_model(expo.extrapolation(**pair, alpha=0.5))
    places = {name: tensor.data_ptr() for name, tensor in live.state_dict().items()}
    for alpha in (1.5, 0, -0.5):
        recipe = expo.extrapolation(**pair, alpha=alpha)
        assert expo.load_model(recipe, model=live) is live
        assert same(state(live), state(reloaded(recipe, tmp_path / str(alpha))))
        assert live.expo_report.alpha == alpha
    assert places == {name: tensor.data_ptr() for name, tensor in live.state_dict().items()}


def test_a_plan_serves_as_well_as_a_recipe(pair):
    recipe = expo.extrapolation(**pair, alpha=0.7)
    assert same(state(expo.load_model(recipe)), state(expo.load_model(expo.plan(recipe))))


def test_nothing_is_written_anywhere(pair, tmp_path, monkeypatch):
    home = pair["sft"].parent
    before = tree(home)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    opened = os.open

    def no_writing(path, flags, *rest, **named):
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT), path
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", no_writing)
    expo.load_model(expo.extrapolation(**pair))
    assert tree(tmp_path) == {} and tree(home) == before


def test_the_report_says_what_a_run_would_say(pair, tmp_path):
    recipe = expo.extrapolation(**pair, alpha=0.5)
    live = expo.load_model(recipe)
    report = expo.run(expo.plan(recipe), tmp_path / "out")
    assert live.expo_report.effective() == report.effective() and live.expo_report.hashes == report.hashes
    assert live.expo_report.output is None


def test_a_loaded_model_can_be_trained_on(pair):
    live = expo.load_model(expo.extrapolation(**pair, dtype="float32"))
    before = state(live)
    tokens = torch.tensor([[1, 2, 3, 4]])
    live(tokens, labels=tokens).loss.backward()
    torch.optim.SGD(live.parameters(), lr=0.1).step()
    assert not same(state(live), before)


def test_bad_data_and_bad_pairs_stop_it_like_a_run(pair, tmp_path):
    bad = {}
    for role, folder in pair.items():
        bad[role] = write_stored(tmp_path / role / "model.safetensors", read_stored(folder)).parent
        (bad[role] / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = read_stored(bad["sft"])
    kind, shape, raw = tensors["model.norm.weight"]
    tensors["model.norm.weight"] = (kind, shape, raw[:2] + b"\xc0\x7f" + raw[4:])
    write_stored(bad["sft"] / "model.safetensors", tensors)
    with pytest.raises(NonFinite, match=r"model\.norm\.weight\[1\] is nan in sft"):
        expo.load_model(expo.extrapolation(**bad))
    del tensors["model.norm.weight"]
    write_stored(bad["sft"] / "model.safetensors", tensors)
    with pytest.raises(PlanError, match=r"model\.norm\.weight"):
        expo.load_model(expo.extrapolation(**bad))


def test_a_checkpoint_without_a_model_is_refused_in_words(pair, tmp_path):
    for config, word in ((None, "no config.json"), ({"model_type": "no-such-model"}, "transformers cannot load")):
        for role in ("sft", "dpo"):
            write_checkpoint(tmp_path / str(config is None) / role, {"w": torch.ones(2)}, config=config)
        recipe = expo.extrapolation(**{r: tmp_path / str(config is None) / r for r in ("sft", "dpo")})
        with pytest.raises(ExpoError, match=word):
            expo.load_model(recipe)


def test_a_tensor_without_a_place_in_the_model_is_an_error_that_names_it(pair, tmp_path):
    live = expo.load_model(expo.extrapolation(**pair))
    before = state(live)
    other = {}
    for role, folder in pair.items():
        stored = read_stored(folder) | {"extra.weight": ("BF16", (2,), bytes(4))}
        other[role] = write_stored(tmp_path / role / "model.safetensors", stored).parent
        (other[role] / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(OutputError, match=r"extra\.weight"):
        expo.load_model(expo.extrapolation(**other), model=live)
    assert same(state(live), before)


def test_a_type_that_no_live_model_has_is_held_in_the_type_that_the_config_computes_in(pair):
    live = expo.load_model(expo.extrapolation(**pair, dtype="float8_e4m3fn"))
    assert live.dtype == torch.bfloat16
    assert all(torch.equal(t, t.to(torch.float8_e4m3fn).to(t.dtype)) for t in live.state_dict().values())


def test_nothing_of_it_needs_the_models_own_code(pair, tmp_path):
    folder = tmp_path / "dpo"
    folder.mkdir()
    for path in pair["dpo"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise RuntimeError\n")
    live = expo.load_model(expo.extrapolation(sft=pair["sft"], dpo=folder))
    assert isinstance(live, LlamaForCausalLM) and not (tmp_path / "ran").exists()


def test_a_model_of_another_type_than_the_recipes_is_not_filled(pair):
    live = expo.load_model(expo.extrapolation(**pair))
    with pytest.raises(OutputError, match="load a new one"):
        expo.load_model(expo.extrapolation(**pair, dtype="float32"), model=live)
