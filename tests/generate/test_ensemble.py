"""An ensemble writes what adding its members' probabilities from scratch, token by token, would write."""

import json

import numpy as np
import pytest
import talker
import torch
from talker import rows_of

from expo.generate import Sampling, generate, load, load_members
from expo.generate.answers import OtherSettings
from expo.generate.experts import BadExperts
from expo.generate.local import wrap
from expo.generate.members import DifferentTokens, Members
from expo.generate.mixture import mixed
from expo.generate.noise import draw_key, gumbel

LENGTH = 10
ASKED = talker.QUESTIONS[::2]  # of lengths from 5 to 25
KINDS = {"llama": talker.build_model, "sliding": talker.build_sliding, "learned": talker.build_learned}
ENSEMBLES = {
    "two llamas": ([("llama", 0), ("llama", 1)], [1.0, 1.0]),
    "a window and all": ([("sliding", 2), ("llama", 1)], [0.7, 1.9]),
    "learned positions": ([("learned", 3), ("sliding", 2), ("llama", 0)], [2.0, 0.5, 0.25]),
}


@pytest.fixture(scope="module")
def tokenizer():
    return talker.build_tokenizer()


@pytest.fixture(scope="module")
def ensembles(tokenizer):
    """name -> Members of live models."""
    wanted = {key for keys, _ in ENSEMBLES.values() for key in keys}
    built = {(kind, seed): wrap(KINDS[kind](seed), tokenizer, f"{kind}-{seed}") for kind, seed in wanted}
    return {name: Members([built[key] for key in keys], weights) for name, (keys, weights) in ENSEMBLES.items()}


@pytest.fixture
def experts(tmp_path):
    """An experts.json beside the folders e0 and e1."""
    for seed in range(2):
        talker.save(tmp_path / f"e{seed}", seed)
    return write_experts(tmp_path, ("e0", 1.5), ("e1", 0.5))


def write_experts(home, *pairs, **more):
    listed = [{"model": model, "weight": weight} for model, weight in pairs]
    (home / "experts.json").write_text(json.dumps({"kind": "generation", "experts": listed, **more}))
    return home / "experts.json"


def brute_force(members, question, sampling, sample=0):
    """The tokens of one answer: whole forward passes, one row, no cache, no padding, numpy in float64."""
    prompt = members.tokenizer(question["prompt"])["input_ids"]
    key, tokens = draw_key(sampling.seed, question["id"], sample), []
    weights = np.array(members.weights) / sum(members.weights)
    while len(tokens) < sampling.max_tokens and (not tokens or tokens[-1] != 0):
        shares = 0.0
        for model, weight in zip(members.models, weights, strict=True):
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, -1].double().numpy()
            powers = np.exp(logits - logits.max())
            shares = shares + weight * powers / powers.sum()
        if len(tokens) < sampling.min_tokens:
            shares[0] = 0.0
        tokens.append(int(np.argmax(shares)) if sampling.greedy else drawn(shares, sampling, key, len(tokens)))
    return prompt, tokens


def drawn(shares, sampling, key, step):
    """Temperature, nucleus and draw, all on the mixture."""
    with np.errstate(divide="ignore"):
        scaled = np.log(shares) / sampling.temperature
    powers = np.exp(scaled - scaled.max())
    order = np.argsort(-powers, kind="stable")
    before = np.cumsum(powers[order] / powers.sum()) - powers[order] / powers.sum()
    kept = [token for n, token in enumerate(order) if before[n] < sampling.top_p and n < (sampling.top_k or 1 << 30)]
    noise = gumbel([key], [step], len(shares), "cpu")[0].numpy()
    return int(max(kept, key=lambda token: scaled[token] + noise[token]))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=LENGTH),
        Sampling(max_tokens=LENGTH, samples=2, temperature=0.8, top_p=0.9, seed=3),
        Sampling(max_tokens=LENGTH, min_tokens=6, temperature=1.3, top_k=40),
    ],
    ids=["greedy", "nucleus", "top_k"],
)
@pytest.mark.parametrize("name", ENSEMBLES)
def test_answers_are_those_of_cache_free_brute_force(name, sampling, ensembles, tmp_path):
    members = ensembles[name]
    generate(members, ASKED, tmp_path / "a.jsonl", sampling=sampling)
    rows = iter(rows_of(tmp_path / "a.jsonl"))
    for question in ASKED:
        for sample in range(sampling.samples):
            prompt, tokens = brute_force(members, question, sampling, sample)
            text = members.text(prompt, [token for token in tokens if token != 0])
            row = next(rows)
            finish = "stop" if tokens[-1] == 0 else "length"
            assert (row["response"], row["n_tokens"], row["finish"]) == (text, len(tokens), finish), row["id"]


@pytest.mark.parametrize("batch_tokens", [1, 60])
def test_the_batch_changes_no_answer(batch_tokens, ensembles, tmp_path):
    members = ensembles["learned positions"]
    sampling = Sampling(max_tokens=LENGTH, temperature=1.0)
    for name, room in (("whole", None), ("cut", batch_tokens)):
        generate(members, talker.QUESTIONS, tmp_path / name, sampling=sampling, batch_tokens=room)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "cut").read_bytes()


def test_an_answer_ends_before_its_stop_text(ensembles, tmp_path):
    members = ensembles["two llamas"]
    generate(members, talker.QUESTIONS, tmp_path / "free", sampling=Sampling(max_tokens=LENGTH))
    texts = [row["response"] for row in rows_of(tmp_path / "free")]
    stop = next(text[at : at + 2] for text in texts for at in range(2, 7) if text[at : at + 2].isascii())
    generate(members, talker.QUESTIONS, tmp_path / "cut", sampling=Sampling(max_tokens=LENGTH, stop=(stop,)))
    pairs = zip(rows_of(tmp_path / "free"), rows_of(tmp_path / "cut"), strict=True)
    assert all(cut["response"] == whole["response"].split(stop)[0] for whole, cut in pairs)
    assert any(stop in text for text in texts)


def test_members_of_one_model_answer_as_that_model_alone(tokenizer, tmp_path):
    one = wrap(talker.build_model(4), tokenizer, "one")
    sampling = Sampling(max_tokens=30)
    generate(one, talker.QUESTIONS, tmp_path / "one", sampling=sampling)
    generate(Members([one, one, one], [0.3, 1.1, 7.0]), talker.QUESTIONS, tmp_path / "three", sampling=sampling)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "three").read_bytes()


# --- The mixture -----------------------------------------------------------------------------------------------------


def test_probabilities_are_added_by_weight_not_logits():
    logits = [torch.tensor([[0.0, 2.0, -1.0]]), torch.tensor([[3.0, 0.0, 1.0]])]
    powers = [np.exp(one.double().numpy()) for one in logits]
    expected = (0.5 * powers[0] / powers[0].sum() + 1.5 * powers[1] / powers[1].sum()) / 2.0
    np.testing.assert_allclose(mixed(logits, [0.5, 1.5]).numpy(), expected, rtol=1e-15)
    assert torch.equal(logits[0], torch.tensor([[0.0, 2.0, -1.0]]))  # a model's own logits stay as they are


def test_logits_that_differ_in_their_last_bit_stay_in_order():
    logits = torch.randn(64, 500, generator=torch.Generator().manual_seed(0)).clamp(max=0.5)
    best = torch.randint(500, (64,), generator=torch.Generator().manual_seed(1))
    for row, token in enumerate(best):
        logits[row, 0] = 0.7
        logits[row, token] = torch.nextafter(torch.tensor(0.7), torch.tensor(1.0))
    assert torch.equal(mixed([logits, logits], [1.0, 2.5]).argmax(-1), best)


def test_a_member_s_own_word_is_not_lost_where_the_other_is_certain():
    certain = torch.tensor([[0.0, 500.0, 0.0]])
    shares = mixed([certain, torch.zeros(1, 3)], [1.0, 1e-9])
    assert shares[0, 0] > 3e-10 and float(shares.sum()) == pytest.approx(1, abs=1e-15)


# --- experts.json ----------------------------------------------------------------------------------------------------


def test_a_file_lists_folders_beside_it_and_their_weights(experts, questions, tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir("/")
    sampling = Sampling(max_tokens=LENGTH)
    live = Members([wrap(talker.build_model(seed), tokenizer, "x") for seed in range(2)], [1.5, 0.5])
    generate(live, questions, tmp_path / "live", sampling=sampling)
    generate(experts, questions, tmp_path / "file", sampling=sampling)
    generate(load_members(experts, device="cpu, cpu"), questions, tmp_path / "loaded", sampling=sampling)
    assert (tmp_path / "file").read_bytes() == (tmp_path / "live").read_bytes() == (tmp_path / "loaded").read_bytes()
    write_experts(experts.parent, (str(experts.parent / "e0"), 3), ("./e1", 1), rounds=[{"eps": 0.25}])
    assert load(experts).weights == [3.0, 1.0]


def test_an_expert_of_weight_zero_has_no_say_and_its_weights_are_not_loaded(experts, questions, tmp_path):
    write_experts(experts.parent, ("e0", 0), ("e1", 0.5))
    (experts.parent / "e0" / "model.safetensors").write_bytes(b"cut")
    sampling = Sampling(max_tokens=LENGTH)
    generate(experts, questions, tmp_path / "two", sampling=sampling)
    generate(experts.parent / "e1", questions, tmp_path / "one", sampling=sampling)
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()


def test_every_member_and_weight_is_part_of_what_a_file_was_made_with(experts, questions, tmp_path):
    path, sampling = tmp_path / "a.jsonl", Sampling(max_tokens=3)
    generate(experts, questions, path, sampling=sampling)
    before = path.read_bytes()
    write_experts(experts.parent, ("e0", 1.5), ("e1", 0.4))
    with pytest.raises(OtherSettings, match=r"weights: \[1.5, 0.5\] there, \[1.5, 0.4\] now"):
        generate(experts, questions, path, sampling=sampling)
    write_experts(experts.parent, ("e0", 1.5), ("e0", 0.5))
    with pytest.raises(OtherSettings, match="fingerprint"):
        generate(experts, questions, path, sampling=sampling)
    talker.save(experts.parent / "moved", 1)
    write_experts(experts.parent, ("e0", 1.5), ("moved", 0.5))
    assert generate(experts, questions, path, sampling=sampling).n_new == 0 and path.read_bytes() == before


BAD = [
    ({"experts": []}, "its list of experts is empty"),
    ({"models": []}, "no list of experts; it has models"),
    ({"experts": [["e0", 1]]}, "expert 1: ['e0', 1] is no object"),
    ({"experts": [{"model": "e0", "wieght": 1}]}, "expert 1: no weight; it has model, wieght."),
    ({"experts": [{"weight": 1}]}, "expert 1: no model"),
    ({"experts": [{"model": 7, "weight": 1}]}, "expert 1: the model is 7"),
    ({"experts": [{"model": "e0", "weight": "1"}]}, "expert 1: the weight is '1', not a number"),
    ({"experts": [{"model": "e0", "weight": True}]}, "expert 1: the weight is True, not a number"),
    ({"experts": [{"model": "e0", "weight": 1}, {"model": "e1", "weight": -0.5}]}, "expert 2: the weight is -0.5"),
    ({"experts": [{"model": "e0", "weight": float("nan")}]}, "expert 1: the weight is nan"),
    ({"experts": [{"model": "e0", "weight": float("inf")}]}, "expert 1: the weight is inf"),
    ({"experts": [{"model": "e0", "weight": 10**400}]}, "expert 1: the weight is 1000000"),
    ({"experts": [{"model": "e0", "weight": 0}, {"model": "e1", "weight": 0.0}]}, "all weights are 0"),
    ({"experts": [{"model": "e0", "weight": 1e308}, {"model": "e1", "weight": 1e308}]}, "sum of the weights"),
    ({"experts": [{"model": "e0", "weight": 1}, {"model": "e3", "weight": 1}]}, "expert 2: e3: no such folder"),
    ({"experts": [{"model": "./e9/model", "weight": 1}]}, "expert 1: ./e9/model: no such folder"),
    ({"experts": [{"model": "e0+lora", "weight": 1}]}, "expert 1: lora: no such folder"),
    ({"kind": "classification", "experts": [{"model": "e0", "weight": 1}]}, "are of kind classification"),
    ({"kind": "generate", "experts": [{"model": "e0", "weight": 1}]}, "Did you mean 'generation'?"),
]


@pytest.mark.parametrize(("table", "words"), BAD, ids=[words for _, words in BAD])
def test_what_is_wrong_with_a_list_of_experts_is_said(table, words, tmp_path):
    for name in ("e0", "e1"):
        (tmp_path / name).mkdir()
    path = tmp_path / "experts.json"
    path.write_text(json.dumps(table))
    with pytest.raises(BadExperts) as error:
        load_members(path)
    assert words in str(error.value) and str(path) in str(error.value)


def test_all_faults_are_told_at_once(tmp_path):
    path = write_experts(tmp_path, ("e0", -1), ("e1", 2))
    with pytest.raises(BadExperts, match=r"weight is -1(.|\n)*e0: no such folder(.|\n)*e1: no such folder"):
        load_members(path)


def test_a_folder_in_the_working_folder_is_not_taken_for_one_beside_the_file(tmp_path, monkeypatch):
    (tmp_path / "here" / "org" / "e0").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(BadExperts, match="is in the working folder, and not beside the file"):
        load_members(write_experts(tmp_path / "there", ("org/e0", 1)))


@pytest.mark.parametrize(
    ("path", "words"), [("experts.jsn.json", "Did you mean"), ("", "is a folder. Experts are listed in a file")]
)
def test_a_file_that_is_not_there(path, words, experts):
    with pytest.raises(BadExperts, match=words):
        load_members(experts.parent / path)


def test_devices_are_one_or_one_for_each(experts):
    with pytest.raises(BadExperts, match="names 3 devices for 2 experts"):
        load_members(experts, device="cpu,cpu,cpu")
    with pytest.raises(BadExperts, match=r"expert 2: --device 'cuda:99' is not a device"):
        load_members(experts, device="cpu,cuda:99")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize("device", ["cuda", "cuda,cpu", "cpu,cuda"])
def test_members_on_different_devices_answer_as_on_one(device, experts, questions, tmp_path):
    from expo.evaluate.teacher_forced import teacher_forced

    sampling = Sampling(max_tokens=LENGTH, temperature=1.0)
    for name, place in (("cpu", "cpu"), ("other", device)):
        generate(experts, questions, tmp_path / name, sampling=sampling, device=place, dtype="float32")
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "other").read_bytes()
    rows = [{"prompt": "ab=", "completion": "xyz"}]
    found = [teacher_forced(load_members(experts, device=place, dtype="float32"), rows) for place in ("cpu", device)]
    np.testing.assert_allclose(found[0][0].logps, found[1][0].logps, atol=1e-4)


# --- One tokenizer ---------------------------------------------------------------------------------------------------


def change_json(path, change):
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def other_token(folder):
    def change(table):
        vocabulary = table["model"]["vocab"]
        vocabulary["zz"] = vocabulary.pop("b")

    change_json(folder / "tokenizer.json", change)


def one_token_less(folder):
    change_json(folder / "tokenizer.json", lambda table: table["model"]["vocab"].popitem())


def other_cut(folder):
    change_json(folder / "tokenizer.json", lambda table: table["pre_tokenizer"].update(add_prefix_space=True))


def more_rows(folder):
    change_json(folder / "config.json", lambda config: config.update(vocab_size=264))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_token, "e0 and e1 have different tokenizers: token 66 is 'b' in the first and 'zz' in the second"),
        (one_token_less, "e0 and e1 have different tokenizers: token 256 is"),
        (
            other_cut,
            "e0 and e1 have the same tokens, and cut texts into them differently: they differ in their pre_tokenizer",
        ),
        (more_rows, "e0 and e1 have different vocabularies: 257 and 264 rows"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_experts_of_different_tokens_are_named_before_a_weight_is_loaded(
    change, words, experts, questions, tmp_path, monkeypatch
):
    import transformers

    def refuse(*_, **__):
        raise AssertionError("weights were loaded")

    change(experts.parent / "e1")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(DifferentTokens) as error:
        generate(experts, questions, tmp_path / "a.jsonl")
    assert words in str(error.value) and not (tmp_path / "a.jsonl").exists()


def test_a_chat_needs_one_template(experts, tmp_path):
    (experts.parent / "e1" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    chat = [{"id": 1, "messages": [{"role": "user", "content": "hi"}]}]
    with pytest.raises(DifferentTokens, match="e0 and e1 have different chat templates"):
        generate(experts, chat, tmp_path / "a.jsonl", sampling=Sampling(max_tokens=2))
    generate(experts, [{"id": 1, "prompt": "hi"}], tmp_path / "b.jsonl", sampling=Sampling(max_tokens=2))
