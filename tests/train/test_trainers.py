"""Whole runs of a tiny model: what they compute, what they write, and that cutting a step changes nothing."""

import json
import math
import os
import stat

import pytest
import torch
from taught import EXACT, distance, logs, preferences, questions, save_model, weights
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from expo import toy
from expo.train import train_classify, train_dpo, train_sft
from expo.train.errors import BadRows, BadSetting, MissingPackage, NonFiniteLoss, UnfitModel

# --- What a run writes -----------------------------------------------------------------------------------------------


def test_sft_learns_and_writes_an_ordinary_checkpoint(start, tmp_path):
    rows = questions(48)
    seen = []
    out = tmp_path / "out"
    report = train_sft(
        start, rows, out, epochs=6, batch_size=8, learning_rate=3e-3, log_every=6, progress=lambda *x: seen.append(x)
    )
    assert report.steps == 36 and report.rows == 48 and report.trainable > 10_000
    assert (
        report.tokens
        == 6 * report.tokens_each_epoch
        == 6 * sum(len(row["prompt"]) + len(row["completion"]) + 1 for row in rows)
    )
    assert report.loss < 0.8 * logs(out)[0]["loss"]
    assert [x[0] for x in seen if not x[2]] == list(range(1, 37)) and seen[-1][2]["loss"] == report.loss
    assert logs(out)[-1]["step"] == 36
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.float32 and model.config.use_cache
    assert tokenizer("12=")["input_ids"] == toy.build_tokenizer()("12=")["input_ids"]
    assert not (tmp_path / "out.partial").exists()


def test_files_follow_the_umask_and_side_files_arrive_byte_for_byte(start, tmp_path):
    train_sft(start, questions(8), tmp_path / "out", max_steps=1, **EXACT)
    for path in (tmp_path / "out").rglob("*"):
        mask = os.umask(0)
        os.umask(mask)
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~mask, path
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (start / name).read_bytes()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (start, tmp_path / "out"))
    assert before == after


def test_weights_are_written_in_the_type_asked_for(start, tmp_path):
    train_sft(start, questions(8), tmp_path / "out", max_steps=1, save_dtype="bfloat16", **EXACT)
    assert {value.dtype for value in weights(tmp_path / "out").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32], ids=str)
def test_tiny_steps_reach_nearly_every_weight(stored, tmp_path):
    """Master weights are float32: at 5e-7 a bfloat16 weight would stay as it is."""
    tokenizer = toy.build_tokenizer()
    toy.save(toy.build_model(toy.Size(64, 3), 0).to(stored), tokenizer, tmp_path / "start")
    pairs = [{**pair, "prompt": "<pad><unk>" + pair["prompt"]} for pair in preferences(16)]  # every row is looked up
    settings = {"learning_rate": 5e-7, "max_steps": 1, "batch_size": 16, "warmup": 0.0}
    report = train_dpo(tmp_path / "start", pairs, tmp_path / "out", reference_cache=str(tmp_path / "r"), **settings)
    before, after = weights(tmp_path / "start"), weights(tmp_path / "out")
    changed = sum(int((before[name].float() != after[name]).sum()) for name in before)
    assert changed > 0.99 * report.trainable
    assert sum(value.numel() for value in after.values()) == report.trainable


def test_every_form_of_a_row_trains_the_same_weights(tmp_path):
    """Plain texts, rendered messages, and the fields of the published files, with their JSON list."""
    start, plain = save_model(tmp_path / "start", chat=True), questions(8)
    speak = [("user", "prompt", slice(0, -1)), ("assistant", "completion", slice(None))]
    chats = [{"messages": [{"role": who, "content": row[name][cut]} for who, name, cut in speak]} for row in plain]
    published = [{"id": i, "content": row["prompt"], "output": row["completion"]} for i, row in enumerate(plain)]
    (tmp_path / "published.json").write_text(json.dumps(published, indent=4))
    settings = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3, **EXACT}
    for name, rows in (("plain", plain), ("chats", chats), ("published", tmp_path / "published.json")):
        train_sft(start, rows, tmp_path / name, **settings)
    assert distance(tmp_path / "plain", tmp_path / "chats") == 0 == distance(tmp_path / "plain", tmp_path / "published")
    assert AutoTokenizer.from_pretrained(tmp_path / "chats").chat_template


# --- One step, however it is cut -------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [train_sft, train_dpo, train_classify])
def test_four_rows_are_one_batch_or_four(train, start, tmp_path):
    more = {"max_steps": 3, "learning_rate": 1e-3, "optimizer": "sgd", **EXACT}
    if train is train_sft:
        rows = [{**row, "weights": (i % 3) / 2} for i, row in enumerate(questions(8))]
    elif train is train_dpo:
        rows, more = preferences(8), more | {"loss": "orpo"}  # its two parts have masses of their own
    else:
        rows = [{"text": row["prompt"], "label": i % 2, "weight": 1 + i} for i, row in enumerate(questions(8))]
    for size, accumulation in ((4, 1), (1, 4), (2, 2)):
        train(start, rows, tmp_path / f"{size}", batch_size=size, accumulation=accumulation, **more)
    assert distance(tmp_path / "4", tmp_path / "1") < 1e-6 > distance(tmp_path / "4", tmp_path / "2")
    for one, other in zip(logs(tmp_path / "4"), logs(tmp_path / "1"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_the_loss_is_the_weighted_mean_over_completions_tokens(start, tmp_path):
    rows = questions(4)
    for i, row in enumerate(rows):
        row["weights"] = [0.5 * i + j for j in range(len(row["completion"]) + 1)]
    train_sft(start, rows, tmp_path / "out", max_steps=1, batch_size=4, learning_rate=1e-9, **EXACT)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)
    cost = mass = 0.0
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = prompt + tokenizer(row["completion"])["input_ids"] + [tokenizer.eos_token_id]
        logps = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        for at, weight in enumerate(row["weights"], start=len(prompt)):
            cost -= weight * logps[at - 1, ids[at]].item()
            mass += weight
    assert logs(tmp_path / "out")[0]["loss"] == pytest.approx(cost / mass, rel=1e-5)


@pytest.mark.parametrize(("size", "accumulation"), [(2, 4), (8, 1)])
def test_a_step_on_weighted_tokens_is_plain_torch_s_in_float64(size, accumulation, start, tmp_path):
    rows = questions(8)
    for i, row in enumerate(rows):
        row["weights"] = [1e-6 * ((i + j) % 4 + 0.1 * i) for j in range(len(row["completion"]) + 1)]
    rate = 0.5
    how = {"optimizer": "sgd", "max_grad_norm": 0.0, "schedule": "constant", **EXACT}
    steps = {"max_steps": 1, "learning_rate": rate, "batch_size": size, "accumulation": accumulation}
    train_sft(start, rows, tmp_path / "out", **steps, **how)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(start)
    cost = mass = torch.zeros((), dtype=torch.float64)
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
        given = torch.tensor(row["weights"], dtype=torch.float64)
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        cost = cost + (given * torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="none")).sum()
        mass = mass + given.sum()
    (cost / mass).backward()
    before, after = weights(start), weights(tmp_path / "out")
    for name, parameter in model.named_parameters():
        moved = after[name].double() - before[name].double()
        expected = -rate * parameter.grad
        assert float((moved - expected).abs().max()) < 1e-6 + 1e-5 * float(expected.abs().max()), name
    assert max(float((after[name] - before[name]).abs().max()) for name in before) > 1e-2


def test_a_weight_of_zero_is_a_row_left_out(start, tmp_path):
    rows = questions(4)
    silent = [{**row, "weights": float(i < 2)} for i, row in enumerate(rows)]
    settings = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3, "optimizer": "sgd", **EXACT}
    train_sft(start, silent, tmp_path / "a", **settings)
    train_sft(start, rows[:2], tmp_path / "b", **settings)
    assert distance(tmp_path / "a", tmp_path / "b") < 1e-7


def test_padding_is_told_by_length_not_by_its_id(tmp_path):
    """Where padding and end are one id, the end is still taught."""
    tokenizer = toy.build_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    toy.save(toy.build_model(toy.Size(32, 1), 0), tokenizer, tmp_path / "m")
    rows = [{"prompt": "1=", "completion": "1"}, {"prompt": "12345=", "completion": "13605"}]
    train_sft(tmp_path / "m", rows, tmp_path / "both", max_steps=1, batch_size=2, learning_rate=1e-9, **EXACT)
    separate = []
    for i, row in enumerate(rows):
        train_sft(tmp_path / "m", [row], tmp_path / str(i), max_steps=1, learning_rate=1e-9, **EXACT)
        separate.append(logs(tmp_path / str(i))[0]["loss"] * (len(row["completion"]) + 1))
    assert logs(tmp_path / "both")[0]["loss"] == pytest.approx(sum(separate) / 8, rel=1e-5)


def test_activation_checkpointing_changes_no_gradient(start, tmp_path):
    for name, on in (("off", False), ("on", True)):
        settings = {"max_steps": 2, "learning_rate": 1e-3, "optimizer": "sgd", "activation_checkpointing": on}
        train_sft(start, questions(8), tmp_path / name, **settings, **EXACT)
    assert distance(tmp_path / "off", tmp_path / "on") < 1e-7


# --- Preferences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "orpo"])
def test_each_preference_loss_learns_the_preference(loss, start, tmp_path):
    settings = {"loss": loss, "max_steps": 12, "learning_rate": 1e-3, "reference_cache": str(tmp_path / "r")}
    report = train_dpo(start, preferences(32), tmp_path / "out", **settings)
    first, last = logs(tmp_path / "out")[0], logs(tmp_path / "out")[-1]
    assert last["loss"] < first["loss"] and last["margins"] > first["margins"] and report.metrics["accuracy"] > 0.8
    if loss == "sigmoid":
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-3) and abs(first["margins"]) < 1e-3
    assert (tmp_path / "r").exists() == (loss != "orpo")


def test_the_reference_is_computed_once_for_one_model_and_its_pairs(start, tmp_path, monkeypatch):
    from expo.train import reference

    made = []
    original = reference._compute
    monkeypatch.setattr(reference, "_compute", lambda *a: made.append(1) or original(*a))
    settings = {"max_steps": 1, "reference_cache": str(tmp_path / "r"), **EXACT}
    for i, beta in enumerate((0.1, 0.3)):
        train_dpo(start, preferences(8), tmp_path / f"beta{i}", beta=beta, **settings)
    assert len(made) == 1
    train_dpo(start, preferences(9), tmp_path / "more", **settings)
    train_dpo(tmp_path / "beta0", preferences(8), tmp_path / "other", **settings)
    assert len(made) == 3 and len(list((tmp_path / "r").iterdir())) == 3


def test_a_damaged_cache_is_made_again(start, tmp_path):
    settings = {"max_steps": 1, "reference_cache": str(tmp_path / "r"), **EXACT}
    train_dpo(start, preferences(8), tmp_path / "a", **settings)
    (file,) = (tmp_path / "r").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    train_dpo(start, preferences(8), tmp_path / "b", **settings)
    assert file.read_bytes() == whole and distance(tmp_path / "a", tmp_path / "b") == 0


def test_reference_log_probabilities_are_those_of_each_pair_alone(start, tmp_path):
    import numpy as np

    rows = preferences(5)
    train_dpo(start, rows, tmp_path / "a", max_steps=1, batch_size=2, reference_cache=str(tmp_path / "r"), **EXACT)
    (file,) = (tmp_path / "r").iterdir()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start)
    for row, found in zip(rows, np.load(file), strict=True):
        for side, logp in zip(("chosen", "rejected"), found, strict=True):
            prompt, rest = (tokenizer(row[name])["input_ids"] for name in ("prompt", side))
            ids = torch.tensor([*prompt, *rest, tokenizer.eos_token_id])
            alone = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None])[len(prompt) - 1 :]
            assert logp == pytest.approx(alone.sum().item(), rel=1e-5)


# --- Classifiers -----------------------------------------------------------------------------------------------------


def test_a_classifier_learns_names_and_states_them(start, tmp_path):
    rows = [{"text": r["prompt"], "label": "odd" if int(r["prompt"][0]) % 2 else "even"} for r in questions(64)]
    report = train_classify(start, rows, tmp_path / "out", epochs=12, learning_rate=3e-3, batch_size=16)
    assert report.metrics["accuracy"] > 0.8
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "even", 1: "odd"} and model.config.num_labels == 2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    right = 0
    for row in rows:
        logits = model(torch.tensor([tokenizer(row["text"])["input_ids"]])).logits
        right += model.config.id2label[int(logits.argmax())] == row["label"]
    assert right > 0.8 * len(rows)


def test_a_hard_label_is_a_soft_one_with_a_single_share(start, tmp_path):
    hard = [{"text": row["prompt"], "label": i % 2} for i, row in enumerate(questions(8))]
    soft = [{**row, "label": [1.0 - row["label"], float(row["label"])]} for row in hard]
    for name, rows in (("hard", hard), ("soft", soft)):
        train_classify(start, rows, tmp_path / name, max_steps=2, learning_rate=1e-3, **EXACT)
    assert distance(tmp_path / "hard", tmp_path / "soft") == 0


@pytest.mark.parametrize(
    ("rows", "more", "error", "what"),
    [
        ([{"text": "1", "label": "a"}, {"text": "2", "label": "a"}], {}, BadSetting, "only one class"),
        ([{"text": "1", "label": "a"}], {"labels": ["b", "c"]}, BadRows, r"row 1: 'a' is none of \['b', 'c'\]"),
        ([{"text": "1", "label": [0.5, 0.5]}, {"text": "1", "label": 2}], {}, BadRows, "is none of"),
        ([{"text": "1", "label": -1}, {"text": "1", "label": 1}], {}, BadRows, "row 1: -1 is none of"),
    ],
)
def test_labels_that_do_not_fit_are_refused(rows, more, error, what, start, tmp_path):
    with pytest.raises(error, match=what):
        train_classify(start, rows, tmp_path / "out", **more)


# --- Adapters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32], ids=str)
def test_lora_trains_few_weights_and_writes_a_whole_checkpoint(stored, tmp_path):
    start = tmp_path / "start"
    toy.save(toy.build_model(toy.Size(32, 2), 0).to(stored), toy.build_tokenizer(), start)
    settings = {"max_steps": 4, "learning_rate": 1e-2, "lora": {"rank": 4}, **EXACT}
    report = train_sft(start, questions(8), tmp_path / "out", **settings)
    before, after = ({n: w.float() for n, w in weights(f).items()} for f in (start, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert {value.dtype for value in weights(tmp_path / "out").values()} == {torch.float32}
    assert report.trainable < 0.5 * sum(value.numel() for value in before.values())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "_proj" in name}
    for name in moved:
        assert torch.linalg.matrix_rank(after[name].double() - before[name].double(), rtol=1e-4) <= 4


def test_an_adapter_alone_gives_the_same_model(start, tmp_path):
    import peft

    settings = {"max_steps": 3, "learning_rate": 1e-2, **EXACT}
    train_dpo(start, preferences(8), tmp_path / "whole", lora={"rank": 2}, reference_cache=str(tmp_path), **settings)
    alone = {"rank": 2, "merge": False}
    train_dpo(start, preferences(8), tmp_path / "alone", lora=alone, reference_cache=str(tmp_path), **settings)
    assert (tmp_path / "alone" / "adapter_model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(start)
    merged = peft.PeftModel.from_pretrained(base, tmp_path / "alone").merge_and_unload().state_dict()
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(merged[name], value)


def test_four_bits_without_bitsandbytes_name_what_to_install(start, tmp_path, monkeypatch):
    from expo.train import load

    find = load.importlib.util.find_spec
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(MissingPackage, match=r"bitsandbytes.*pip install 'expo\[quant\]'"):
        train_sft(start, questions(4), tmp_path / "out", quantization="nf4", lora={"rank": 2})
    with pytest.raises(BadSetting, match="--lora-rank 16"):
        train_sft(start, questions(4), tmp_path / "out", quantization="nf4")
    assert not list(tmp_path.iterdir())


# --- What goes wrong -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_checkpoint(start, tmp_path, monkeypatch):
    from expo.train import sft

    calls = []

    def spoilt(logps, weights):
        calls.append(1)
        return logps * (float("nan") if len(calls) == 4 else -1.0) * weights

    monkeypatch.setattr(sft, "token_cross_entropy", spoilt)
    with pytest.raises(NonFiniteLoss) as error:
        train_sft(start, questions(32), tmp_path / "out", batch_size=4, save_every=2, **EXACT)
    kept = tmp_path / "out.partial" / "training" / "checkpoint-2"
    text = str(error.value)
    assert "Step 4: the loss is nan" in text and "row " in text and str(kept) in text
    assert all(torch.isfinite(value).all() for value in weights(kept).values())
    assert not (tmp_path / "out").exists()


def test_a_gradient_that_is_not_a_number_never_reaches_the_weights(start, tmp_path, monkeypatch):
    from expo.train import sft

    monkeypatch.setattr(sft, "token_cross_entropy", lambda logps, weights: torch.sqrt(logps * 0) * weights)
    with pytest.raises(NonFiniteLoss, match="Step 1: the gradient is not finite"):
        train_sft(start, questions(8), tmp_path / "out", **EXACT)
    assert not list(tmp_path.iterdir())  # nothing worth keeping is left behind


def test_a_model_that_cannot_be_trained_is_said_so(start, tmp_path):
    with pytest.raises(UnfitModel, match="tokenizer"):
        bare = save_model(tmp_path / "bare")
        for path in bare.glob("tokenizer*"):
            path.unlink()
        train_sft(bare, questions(4), tmp_path / "out")
    with pytest.raises(BadSetting, match="its context is 64"):
        train_sft(start, questions(4), tmp_path / "out", max_length=65)
    rows = [{"text": row["prompt"], "label": i % 2} for i, row in enumerate(questions(4))]
    train_classify(start, rows, tmp_path / "classifier", max_steps=1, **EXACT)
    with pytest.raises(UnfitModel, match=r"lm_head\.weight, and would be trained from random values"):
        train_sft(tmp_path / "classifier", questions(4), tmp_path / "out")


def test_a_tokenizer_of_another_model_is_noticed(tmp_path):
    tokenizer = toy.build_tokenizer()
    tokenizer.add_tokens(["hello"])
    toy.save(toy.build_model(toy.Size(32, 1), 0), tokenizer, tmp_path / "m")
    with pytest.raises(UnfitModel, match="gives the id 14, and the model's embedding has 14 rows"):
        train_sft(tmp_path / "m", [{"prompt": "hello", "completion": "1"}], tmp_path / "out")


def test_a_report_that_cannot_be_written_is_said_so(start, tmp_path):
    with pytest.raises(BadSetting, match=r"Did you mean|not known to transformers"):
        train_sft(start, questions(4), tmp_path / "out", report_to=["tensorbord"])


def test_a_dry_run_counts_and_writes_nothing(start, tmp_path):
    report = train_sft(start, questions(10), tmp_path / "out", batch_size=2, accumulation=2, epochs=2, dry_run=True)
    assert report.steps == 6 and report.rows == 10 and report.tokens == 0
    assert not list(tmp_path.iterdir())
