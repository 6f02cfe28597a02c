"""Against a published checkpoint: how much is bit-identical, how far the rest lies, which alpha it really holds."""

import json
import math

import pytest
import torch
from architectures import save_both_layouts
from engine import command
from float8 import write_float8
from pico import pico_pair, write_checkpoint
from safetensors.torch import load_file, save_file


@pytest.fixture
def work(hub, tmp_path, monkeypatch, capsys):
    """sft and dpo here and on the Hub; tester/ref is what the authors' arithmetic gives, out what expo's gives."""
    pico_pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("sft", "dpo"):
        hub.add(f"tester/{name}", tmp_path / name)
    pair = ["--sft", "tester/sft", "--dpo", "tester/dpo", "--stream", "--quiet"]
    assert command(capsys, "extrapolate", *pair, "--arithmetic", "reference", "-o", "ref")[0] == 0
    assert command(capsys, "extrapolate", *pair, "-o", "out")[0] == 0
    hub.add("tester/ref", tmp_path / "ref")
    return tmp_path


def tensors(folder):
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


def alpha_of(published, folder):
    """The least-squares multiple of dpo - sft in published - dpo, in float64."""
    sft, dpo = tensors(folder / "sft"), tensors(folder / "dpo")
    wide = lambda table, name: table[name].to(torch.float64)  # noqa: E731
    delta = torch.cat([(wide(dpo, name) - wide(sft, name)).flatten() for name in dpo])
    held = torch.cat([(wide(published, name) - wide(dpo, name)).flatten() for name in dpo])
    return float(held @ delta / (delta @ delta)), float(held @ delta / (held.norm() * delta.norm()))


def test_a_published_result_of_the_same_arithmetic_is_found_identical_and_nothing_is_written(hub, work, capsys):
    before = sorted(path.name for path in work.iterdir())
    pair = ["--sft", "tester/sft", "--dpo", "tester/dpo", "--stream", "--arithmetic", "reference"]
    code, out, err = command(capsys, "extrapolate", *pair, "--against", "tester/ref", "--json", "--quiet")
    assert code == 0, err
    found = json.loads(out)
    assert found["same"] and found["n_tensors_identical"] == found["n_tensors"] == len(tensors(work / "dpo"))
    assert found["most_steps"] == 0 and found["n_elements_identical"] == found["n_elements"]
    assert found["published"] == f"tester/ref@{hub.repositories['tester/ref'].head.sha}"
    assert sorted(path.name for path in work.iterdir()) == before


def test_the_effective_alpha_is_that_of_the_published_file_as_float64_gives_it(work, capsys):
    held, cosine = alpha_of(tensors(work / "ref"), work)
    for options in (["extrapolate", "--sft", "tester/sft", "--dpo", "tester/dpo"], ["verify", "out"]):
        code, out, err = command(capsys, *options, "--against", "tester/ref", "--json", "--quiet")
        assert code == 0, err
        found = json.loads(out)
        found = found.get("against", found)
        assert math.isclose(found["effective_alpha"], held, rel_tol=1e-3)
        assert math.isclose(found["cosine"], cosine, abs_tol=1e-3) and found["asked_alpha"] == 0.3


def test_a_file_of_another_alpha_shows_its_own(hub, work, capsys):
    pair = ["--sft", "sft", "--dpo", "dpo", "--quiet"]
    assert command(capsys, "extrapolate", *pair, "--alpha", "0.9", "--dtype", "float32", "-o", "far")[0] == 0
    code, out, _ = command(capsys, "extrapolate", *pair, "--against", "far", "--json", "--dtype", "float32")
    assert code == 0 and math.isclose(json.loads(out)["effective_alpha"], 0.9, rel_tol=1e-4)


def test_counts_and_steps_are_those_of_the_stored_bytes(work, capsys):
    ours, theirs = tensors(work / "out"), tensors(work / "ref")
    same = [name for name in ours if ours[name].view(torch.int16).equal(theirs[name].view(torch.int16))]
    n_same = sum(int((ours[name].view(torch.int16) == theirs[name].view(torch.int16)).sum()) for name in ours)
    place = lambda t: torch.where(t < 0, -(t & 0x7FFF), t)  # noqa: E731
    most = max(
        int((place(ours[n].view(torch.int16).int()) - place(theirs[n].view(torch.int16).int())).abs().max())
        for n in ours
    )
    _, out, _ = command(capsys, "verify", "out", "--against", "ref", "--json", "--quiet")
    found = json.loads(out)["against"]
    assert (found["n_tensors_identical"], found["n_elements_identical"]) == (len(same), n_same)
    assert 0 < len(same) < len(ours) and found["most_steps"] == most


def test_without_the_inputs_the_alpha_is_said_to_be_unknown_and_how_to_give_them(work, capsys):
    pair = ["--sft", "sft", "--dpo", "dpo", "--quiet"]
    assert command(capsys, "extrapolate", *pair, "-o", "local")[0] == 0
    code, out, _ = command(capsys, "verify", "local", "--against", "tester/ref")
    assert code == 0 and "not known" in out and "--input sft=PATH" in out
    given = ["--input", "sft=sft", "--input", "dpo=dpo"]
    code, out, _ = command(capsys, "verify", "local", "--against", "tester/ref", *given)
    assert code == 0 and "in the published file, 0.3 in the recipe" in out


def test_tensors_of_one_side_or_another_form_are_listed(work, capsys):
    shard = sorted((work / "ref").glob("*.safetensors"))[0]
    held = load_file(shard)
    names = sorted(held)
    held[names[1]] = held[names[1]].to(torch.float16)
    save_file(held, shard)
    code, out, err = command(capsys, "verify", "out", "--against", "ref", "--json", "--quiet")
    assert code == 0, err
    found = json.loads(out)["against"]
    assert not found["same"] and [text.split(":")[0] for text in found["unlike"]] == [names[1]]


def test_a_published_model_of_other_names_is_refused(work, capsys):
    save_file({"x": torch.ones(3)}, work / "strange.safetensors")
    code, _, err = command(capsys, "verify", "out", "--against", "strange.safetensors")
    assert code == 1 and "no tensor in common" in err


def test_against_writes_nothing_and_says_so(work, capsys):
    pair = ["--sft", "sft", "--dpo", "dpo", "--against", "ref"]
    code, _, err = command(capsys, "extrapolate", *pair, "-o", "x")
    assert code == 2 and "writes nothing" in err and not (work / "x").exists()
    for words in (["--push-to", "tester/x"], ["--overwrite"], ["--private"], ["--branch", "b"]):
        code, _, err = command(capsys, "extrapolate", *pair, *words)
        assert code == 2 and f"leave out {words[0]}" in err


@pytest.mark.parametrize("words", [["tester/none"], ["tester/ref@gone"]])
def test_a_published_model_that_is_not_there_is_an_error_that_names_it(work, capsys, words):
    code, _, err = command(capsys, "verify", "out", "--against", *words)
    assert code == 1 and "tester/" in err and "Traceback" not in err


def test_the_audit_of_recipes_is_a_table_of_what_their_headers_name(hub, work, capsys):
    (work / "good.yaml").write_text(f"# A\n# published: tester/ref\n{RECIPE}")
    (work / "lost.yaml").write_text(f"# A\n# published: tester/gone\n{RECIPE}")
    (work / "silent.yaml").write_text(RECIPE)
    before = {path.name for path in work.iterdir()}
    code, out, err = command(capsys, "recipes", "audit", "good.yaml", "lost.yaml", "silent.yaml")
    row = next(line for line in out.splitlines() if line.startswith("good.yaml"))
    n = len(tensors(work / "dpo"))
    assert f"{n} of {n}" in row and "100 %" in row and "0 steps" in row
    assert code == 1 and "2 recipes of 3 could not be compared" in err
    assert "tester/gone" in err and "names no repository" in err
    code, out, _ = command(capsys, "recipes", "audit", "good.yaml", "--json")
    assert code == 0 and json.loads(out)["same"] and json.loads(out)["recipe"] == "good.yaml"
    assert {path.name for path in work.iterdir()} == before


def published(hub, work, name, tensors, **options):
    """A checkpoint of these tensors on the Hub, as tester/NAME."""
    config = json.loads((work / "out" / "config.json").read_text())
    hub.add(f"tester/{name}", write_checkpoint(work / name, tensors, config=config, **options))
    return f"tester/{name}"


def compared(capsys, *options):
    """The comparison as data, of a plan or of out."""
    code, out, err = command(capsys, *options, "--json", "--quiet")
    assert code == 0, err
    found = json.loads(out)
    return found.get("against", found)


RECIPE = "merge_method: extrapolate\nbase_model: tester/sft\nmodels: [{model: tester/dpo}]\nparameters: {alpha: 0.3}\n"
PAIR = ["extrapolate", "--sft", "tester/sft", "--dpo", "tester/dpo", "--stream"]


def test_other_shards_and_another_order_make_no_difference(hub, work, capsys):
    held = tensors(work / "out")
    place = published(hub, work, "cut", dict(reversed(held.items())), shards=5)
    for words in (PAIR, ["verify", "out"]):
        assert compared(capsys, *words, "--against", place)["same"]


def test_names_that_a_rule_or_transformers_itself_explains_are_compared(hub, work, capsys):
    held, cut = tensors(work / "ref"), "model."
    alpha = alpha_of(held, work)[0]
    bare = published(hub, work, "bare", {name.removeprefix(cut): t for name, t in held.items()})
    found = compared(capsys, *PAIR, "--against", bare)
    assert found["n_tensors"] == len(held) and "another layout" in found["notes"][0]
    assert math.isclose(found["effective_alpha"], alpha, rel_tol=1e-3)
    strange = published(hub, work, "strange", {f"x.{name}": t for name, t in held.items()})
    found = compared(capsys, *PAIR, "--against", strange, "--rename", "x.=>", "--arithmetic", "reference")
    assert found["same"]
    code, _, err = command(capsys, *PAIR, "--against", strange)
    assert code == 1 and "no tensor in common (model.embed_tokens.weight and x.lm_head.weight" in err


def test_experts_in_another_layout_are_the_same_tensors(tmp_path, capsys):
    home = save_both_layouts(tmp_path, "mixtral")
    pair = ["extrapolate", "--sft", home / "sft" / "original", "--dpo", home / "dpo" / "original"]
    assert command(capsys, *pair, "--layout", "packed", "-o", tmp_path / "out", "--quiet")[0] == 0
    found = compared(capsys, *pair, "--against", tmp_path / "out")
    assert found["same"] and "another layout" in found["notes"][0]
    found = compared(capsys, "verify", tmp_path / "out", "--against", home / "dpo" / "original")
    assert found["n_tensors"] and not found["same"] and not found["only_ours"] and not found["unlike"]


def test_float8_with_fresh_scales_is_found_identical_with_its_inputs_and_without(tmp_path, capsys):
    for seed, name in enumerate(("sft", "dpo")):
        write_float8(tmp_path / name, seed, "block")
    pair = ["extrapolate", "--sft", tmp_path / "sft", "--dpo", tmp_path / "dpo", "--requantize"]
    out = tmp_path / "out"
    assert command(capsys, *pair, "-o", out, "--quiet")[0] == 0
    given = ["--input", f"sft={tmp_path / 'sft'}", "--input", f"dpo={tmp_path / 'dpo'}"]
    for words in (["verify", out], ["verify", out, *given]):
        found = compared(capsys, *words, "--against", out)
        assert found["same"] and found["n_elements"] == found["n_elements_identical"] > 400_000
    held = found["effective_alpha"]
    found = compared(capsys, *pair, "--against", out)
    assert found["effective_alpha"] == held and not found["only_ours"] and not found["only_published"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_published_value_that_is_not_finite_is_left_out_of_the_alpha_and_counted(hub, work, capsys, bad):
    held, name = tensors(work / "ref"), "model.layers.1.mlp.up_proj.weight"
    held[name].view(-1)[5] = bad
    place = published(hub, work, "broken", held)
    rest = tensors(work / "ref")
    rest[name].view(-1)[5] = tensors(work / "dpo")[name].view(-1)[5]
    alpha, cosine = alpha_of(rest, work)
    found = compared(capsys, *PAIR, "--against", place)
    assert found["n_left_out"] == 1 and found["n_elements"] - found["n_elements_identical"] >= 1
    assert math.isclose(found["effective_alpha"], alpha, rel_tol=2e-3) and abs(found["cosine"] - cosine) < 2e-3
    text = command(capsys, "verify", "out", "--against", place)[1]
    assert "without 1 element of NaN or infinity" in text and "every value is the same" not in text


def test_infinities_of_the_inputs_leave_the_alpha_of_the_others_as_it_is(hub, work, capsys):
    for name in ("sft", "dpo", "ref"):
        held = tensors(work / name)
        held["lm_head.weight"].view(-1)[3] = math.inf
        published(hub, work, f"{name}8", held)
    pair = ["extrapolate", "--sft", "tester/sft8", "--dpo", "tester/dpo8", "--stream", "--allow-non-finite"]
    rest = tensors(work / "ref")
    rest["lm_head.weight"].view(-1)[3] = tensors(work / "dpo")["lm_head.weight"].view(-1)[3]
    found = compared(capsys, *pair, "--against", "tester/ref8")
    assert math.isclose(found["effective_alpha"], alpha_of(rest, work)[0], rel_tol=2e-3)


def test_another_type_has_an_alpha_and_is_not_called_identical(hub, work, capsys):
    place = published(hub, work, "wide", {name: t.float() for name, t in tensors(work / "ref").items()})
    code, out, _ = command(capsys, *PAIR, "--against", place)
    assert code == 0 and "100 %" not in out and "no tensor has the same type" in out and "--dtype" in out
    found = compared(capsys, *PAIR, "--against", place)
    assert math.isclose(found["effective_alpha"], alpha_of(tensors(work / "ref"), work)[0], rel_tol=1e-3)
    assert compared(capsys, *PAIR, "--dtype", "float32", "--against", place)["n_elements"] > 0


def test_an_alpha_of_zero_says_how_the_published_one_is_measured(work, capsys):
    code, out, _ = command(capsys, *PAIR, "--alpha", "0", "--against", "tester/ref")
    assert code == 0 and "not known: alpha 0 changes nothing to measure by; with any other --alpha" in out


def test_against_prints_its_plan_as_json_and_warns_of_a_bin(hub, work, capsys):
    code, out, _ = command(capsys, *PAIR, "--against", "tester/ref", "--dry-run", "--json")
    assert code == 0 and json.loads(out)["plan"]["tensors"] == len(tensors(work / "dpo"))
    code, out, _ = command(capsys, *PAIR, "--against", "tester/ref", "--dry-run")
    assert "tester/ref@" in out and "nothing is written" in out
    (work / "pickled").mkdir()
    torch.save(tensors(work / "out"), work / "pickled" / "pytorch_model.bin")
    hub.add("tester/pickled", work / "pickled")
    for words in (PAIR, ["verify", "out"]):
        code, out, err = command(capsys, *words, "--against", "tester/pickled")
        assert code == 0 and "cannot be read by ranges" in err and "holds exactly these tensors" in out


def test_a_published_model_that_is_not_there_is_found_out_before_the_output_is_read(work, capsys):
    for path in (work / "out").glob("*.safetensors"):
        path.unlink()
    code, _, err = command(capsys, "verify", "out", "--against", "tester/none")
    assert code == 1 and "tester/none: no such model" in err
    assert command(capsys, "verify", "out", "--against", "")[0] == 1


def test_a_recipe_file_is_compared_too(work, capsys, tmp_path):
    (work / "one.yaml").write_text(RECIPE)
    words = ["merge", "one.yaml", "--stream", "--against", "tester/ref"]
    before = sorted(path.name for path in work.iterdir())
    assert compared(capsys, *words, "--set", "arithmetic=reference")["same"]
    assert math.isclose(
        compared(capsys, *words)["effective_alpha"], alpha_of(tensors(work / "ref"), work)[0], rel_tol=1e-3
    )
    assert sorted(path.name for path in work.iterdir()) == before
    assert command(capsys, *words, "-o", "x")[0] == 2 and command(capsys, "merge", "one.yaml")[0] == 2
    (work / "two.yaml").write_text(f"name: a\n{RECIPE}---\nname: b\n{RECIPE.replace('tester/dpo', 'a')}")
    code, _, err = command(capsys, "merge", "two.yaml", "--against", "tester/ref")
    assert code == 1 and "one stage" in err


def test_an_audit_takes_recipes_of_other_methods(hub, work, capsys):
    linear = "models: [{model: tester/sft}, {model: tester/dpo}]\nmerge_method: linear\nparameters: {weight: 0.5}\n"
    (work / "mean.yaml").write_text(f"# published: tester/mean\n{linear}")
    assert command(capsys, "merge", "mean.yaml", "-o", "mean", "--quiet")[0] == 0
    hub.add("tester/mean", work / "mean")
    code, out, err = command(capsys, "recipes", "audit", "mean.yaml", "--json")
    assert code == 0 and json.loads(out)["same"], err


def test_an_audit_that_is_interrupted_shows_what_it_has_found(work, capsys, monkeypatch):
    from expo.analysis import audit as module

    for name in ("a.yaml", "b.yaml"):
        (work / name).write_text(f"# published: tester/ref\n{RECIPE}")
    whole = module.audit

    def audit(name, text, **options):
        if name == "b.yaml":
            raise KeyboardInterrupt
        return whole(name, text, **options)

    monkeypatch.setattr(module, "audit", audit)
    code, out, _ = command(capsys, "recipes", "audit", "a.yaml", "b.yaml")
    assert code != 0 and "a.yaml" in out and "0 steps" in out


def test_every_shipped_recipe_of_the_authors_names_what_they_published():
    from expo.analysis.audit import published_of
    from expo.cli.recipes import library

    found = {name: published_of(file.read_text()) for name, file in library().items() if name.startswith("expo/")}
    assert len(found) >= 16 and all(found.values())
