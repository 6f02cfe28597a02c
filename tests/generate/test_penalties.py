"""Presence and frequency penalties by hand and against a plain loop, and the preset of ExPO's authors."""

import json

import pytest
import talker
import torch
from click.testing import CliRunner

from expo.cli.generate import generate as command
from expo.generate import Sampling, generate
from expo.generate.endpoint import _request
from expo.generate.penalties import Penalties
from expo.generate.prompts import read_questions
from expo.generate.sampling import PRESETS, BadSampling


def test_penalties_by_hand():
    penalties = Penalties(Sampling(presence_penalty=0.5, frequency_penalty=0.25), 2)
    logits = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert torch.equal(penalties.applied(logits, [0, 1]), logits)
    penalties.add([0, 1], torch.tensor([2, 0]))
    penalties.add([0], torch.tensor([2]))
    wanted = torch.tensor([[4.0 - 0.75, 5.0, 6.0], [1.0, 2.0, 3.0 - 0.5 - 0.5]])
    assert torch.equal(penalties.applied(logits.flip(0), [1, 0]), wanted)


def test_greedy_answers_with_penalties_are_those_of_a_plain_loop(live, tmp_path):
    sampling = Sampling(max_tokens=20, presence_penalty=0.3, frequency_penalty=0.6)
    path = tmp_path / "a.jsonl"
    generate(live, talker.QUESTIONS, path, sampling=sampling)
    for row in talker.rows_of(path):
        ids, said = live.tokenizer(row["prompt"])["input_ids"], []
        while len(said) < 20 and said[-1:] != [0]:
            with torch.no_grad():
                logits = live.model(torch.tensor([[*ids, *said]])).logits[0, -1].double()
            for token in set(said):
                logits[token] -= 0.3 + 0.6 * said.count(token)
            said.append(int(logits.argmax()))
        assert row["n_tokens"] == len(said)
        assert row["response"] == live.tokenizer.decode([token for token in said if token])


def test_no_penalty_is_no_setting_and_another_one_is_another_file(live, tmp_path):
    assert not {"presence_penalty", "frequency_penalty"} & Sampling().record().keys()
    assert Sampling(presence_penalty=0.1).record()["presence_penalty"] == 0.1
    with pytest.raises(BadSampling, match="frequency_penalty must be between -2 and 2"):
        Sampling(frequency_penalty=3)


def test_a_server_is_asked_with_the_penalties():
    (question,) = read_questions([{"prompt": "x"}])
    body = _request("m", question, [0], (), Sampling(temperature=1.0, presence_penalty=0.1))[1]
    assert body["presence_penalty"] == 0.1 and "frequency_penalty" not in body


def settings_of(folder, questions, *more) -> dict:
    words = ["--model", folder, "--data", questions, "-o", "unused.jsonl", "--dry-run", "--json", *more]
    done = CliRunner().invoke(command, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["settings"]


def test_the_preset_gives_defaults_that_the_command_line_overrides(folder, questions):
    found = settings_of(folder, questions, "--preset", "expo-paper")
    assert {name: found[name] for name in PRESETS["expo-paper"]} == {
        "temperature": 0.7, "top_k": 50, "top_p": 0.9, "presence_penalty": 0.1, "frequency_penalty": 0.1,
        "max_tokens": 2048, "seed": 42,
    }  # fmt: skip
    found = settings_of(
        folder, questions, "--preset", "expo-paper", "--max-tokens", "64", "--top-k", "0", "--seed", "0"
    )
    assert (found["max_tokens"], found["top_k"], found["seed"], found["temperature"]) == (64, 0, 0, 0.7)
    assert settings_of(folder, questions, "--preset", "expo-paper", "--greedy")["temperature"] == 0
