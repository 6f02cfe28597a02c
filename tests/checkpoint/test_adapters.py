"""BASE+ADAPTER: how it is spelled, what is refused by name, and that every misfit is listed before a tensor is read."""

import json
import os
import subprocess
import sys

import pytest
import torch
from adapters import matrix, read, write_adapter
from pico import LLAMA, llama_tensors, write_checkpoint

from expo.checkpoint import Shards, hub, open_checkpoint
from expo.checkpoint.adapters import split_adapters
from expo.errors import (
    AdapterMismatch,
    AdapterNotModel,
    MalformedAdapter,
    MissingSource,
    NotAnAdapter,
    SourceError,
    UnsupportedAdapter,
)

Q = "model.layers.0.self_attn.q_proj"


def factors(module: str = Q, n_out: int = 16, n_in: int = 16, rank: int = 8) -> dict[str, torch.Tensor]:
    return {f"{module}.lora_A.weight": torch.ones(rank, n_in), f"{module}.lora_B.weight": torch.ones(n_out, rank)}


@pytest.fixture
def base(tmp_path):
    return write_checkpoint(tmp_path / "base", llama_tensors(), shards=2, config=LLAMA)


@pytest.fixture
def refused(base, tmp_path, unreadable):
    """Open the base with an adapter of these tensors and this config; it must refuse, and say all of `words`."""

    def check(kind: type, *words: str, tensors: dict | None = None, **config) -> str:
        adapter = write_adapter(tmp_path / "adapter", factors() if tensors is None else tensors, **config)
        with pytest.raises(kind) as caught:
            open_checkpoint(f"{base}+{adapter}")
        assert type(caught.value) is kind
        for word in (*words, str(adapter)):
            assert word in str(caught.value), str(caught.value)
        return str(caught.value)

    return check


# --- spelling --------------------------------------------------------------------------------------------------------


def test_names_files_and_order_stay_the_bases(base, tmp_path):
    plain = open_checkpoint(str(base))
    adapted = open_checkpoint(f"{base}+{write_adapter(tmp_path / 'adapter', factors())}")
    assert list(adapted.tensors) == list(plain.tensors) and adapted.files == plain.files
    changed = [name for name, spec in adapted.tensors.items() if spec != plain.tensors[name]]
    assert changed == [f"{Q}.weight"]
    assert adapted.tensors[f"{Q}.weight"].file == plain.tensors[f"{Q}.weight"].file
    assert adapted.source.label == "base+adapter"
    assert list(adapted.extra_files) == ["+1/adapter_model.safetensors", "+1/adapter_config.json"]
    assert len(adapted.every_file) == len(plain.every_file) + 2


def test_a_path_with_a_plus_that_exists_is_a_path(tmp_path):
    base = write_checkpoint(tmp_path / "a+b", {"m.weight": torch.ones(2, 2)})
    assert open_checkpoint(str(base)).source.adapters == ()
    adapter = write_adapter(tmp_path / "c+d", factors("m", 2, 2))
    assert split_adapters(f"{base}+{adapter}") == [str(base), str(adapter)]
    assert len(open_checkpoint(f"{base}+{adapter}+{adapter}").source.adapters) == 2


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("org/base@main+me/adapter@v1", ["org/base@main", "me/adapter@v1"]),
        ("org/base+me/one+me/two", ["org/base", "me/one", "me/two"]),
        ("org/base", ["org/base"]),
    ],
)
def test_hub_ids_are_cut_at_each_plus(text, parts):
    assert split_adapters(text) == parts


def test_the_weight_file_itself_names_an_adapter(base, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", factors())
    by_file = open_checkpoint(f"{base}+{adapter}/adapter_model.safetensors")
    assert by_file.tensors == open_checkpoint(f"{base}+{adapter}").tensors


def test_a_pickled_adapter_is_read_too(tmp_path):
    base = matrix(tmp_path / "base", torch.zeros(16, 16))
    adapter = write_adapter(tmp_path / "adapter", factors("m"))
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({f"base_model.model.{k}": v for k, v in factors("m").items()}, adapter / "adapter_model.bin")
    checkpoint = open_checkpoint(f"{base}+{adapter}")
    with Shards(checkpoint) as reader:
        assert torch.equal(read(reader, checkpoint.tensors["m.weight"]), torch.full((16, 16), 8.0).double())


@pytest.mark.parametrize("second", ["", "nothing_here", "base"], ids=["empty", "absent", "a model"])
def test_what_is_no_adapter_is_said_so(base, second):
    kind = NotAnAdapter if second == "base" else MissingSource
    with pytest.raises(kind, match="adapter"):
        open_checkpoint(f"{base}+{base.parent / second if second else ''}")


def test_an_adapter_alone_says_how_to_name_its_base(tmp_path):
    adapter = write_adapter(tmp_path / "adapter", factors())
    with pytest.raises(AdapterNotModel, match=r"BASE\+"):
        open_checkpoint(str(adapter))


# --- refused by name -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["IA3", "LOHA", "LOKR", "ADALORA", "VERA", "OFT", "PROMPT_TUNING"])
def test_other_kinds_of_adapter_are_refused_by_name(kind, refused):
    refused(UnsupportedAdapter, kind, "merge_and_unload", peft_type=kind)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("trainable_token_indices", [1, 2]),
        ("layer_replication", [[0, 1]]),
        ("alora_invocation_tokens", [5]),
        ("use_qalora", True),
        ("lora_bias", True),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "olora"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(key, value, refused):
    refused(UnsupportedAdapter, key, **{key: value})


@pytest.mark.parametrize("name", ["x.lora_E", "x.hada_w1_a", "embed.token_adapter.trainable_tokens_delta"])
def test_a_tensor_of_another_method_is_refused_by_name(name, refused):
    refused(UnsupportedAdapter, name, tensors=factors() | {name: torch.ones(2)})


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a*)*b", ".*.*.*.*x", "a" * 400 + ".*"])
def test_a_pattern_that_could_take_for_ever_is_refused(pattern, refused):
    refused(UnsupportedAdapter, "pattern", rank_pattern={pattern: 4})


# --- what contradicts itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"r": 4}, "rank 8"),
        ({"r": 0}, "r is 0"),
        ({"r": "8"}, "r is '8'"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"use_dora": "yes"}, "use_dora"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"rank_pattern": {"q_proj": 9}}, "9"),
        ({"rank_pattern": {"(": 9}}, "pattern"),
        ({"alpha_pattern": {"q_proj": [1]}}, "alpha_pattern"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(config, word, refused):
    refused(MalformedAdapter, word, **config)


@pytest.mark.parametrize("lost", ["A", "B"])
def test_half_a_pair_is_refused(lost, refused):
    tensors = {name: tensor for name, tensor in factors().items() if f"lora_{lost}" not in name}
    refused(MalformedAdapter, Q, f"no lora_{lost}", tensors=tensors)


def test_factors_of_different_rank_are_refused(refused):
    tensors = factors() | {f"{Q}.lora_B.weight": torch.ones(16, 7)}
    refused(MalformedAdapter, "[8, 16]", "[16, 7]", tensors=tensors)


def test_an_empty_adapter_is_refused(refused):
    refused(MalformedAdapter, "no tensor", tensors={})


def test_two_adapters_in_one_file_are_refused(refused):
    twice = factors() | {name.replace(".weight", ".b.weight"): t.clone() for name, t in factors().items()}
    refused(UnsupportedAdapter, "two adapters", tensors=twice)


# --- another base ----------------------------------------------------------------------------------------------------


def test_every_misfit_is_listed_with_both_shapes(refused):
    tensors = factors(n_out=24) | factors("model.layers.9.mlp.up_proj") | {"model.norm.weight": torch.ones(20)}
    text = refused(AdapterMismatch, tensors=tensors, base_model_name_or_path="org/other")
    for words in (
        [f"{Q}.lora_A.weight", "[8, 16]", "[24, 8]", "[24, 16]", f"{Q}.weight", "[16, 16]"],
        ["model.layers.9.mlp.up_proj.lora_A.weight", "has no", "Did you mean 'model.layers."],
        ["model.norm.weight", "[20]", "[16]"],
        ["org/other"],
    ):
        for word in words:
            assert word in text, text


def test_a_magnitude_of_another_length_is_refused(refused):
    tensors = factors() | {f"{Q}.lora_magnitude_vector": torch.ones(5)}
    refused(AdapterMismatch, "[5]", "16 outputs", tensors=tensors, use_dora=True)


def test_a_resized_vocabulary_is_named(refused):
    refused(AdapterMismatch, "vocabulary", tensors={"lm_head.weight": torch.ones(65, 16)})


def test_a_quantised_base_is_named(tmp_path):
    base = write_checkpoint(tmp_path / "base", {f"{Q}.weight": torch.zeros(128, 1, dtype=torch.uint8)})
    with pytest.raises(AdapterMismatch, match=r"U8.*quantised"):
        open_checkpoint(f"{base}+{write_adapter(tmp_path / 'adapter', factors())}")


def test_a_head_that_is_only_tied_is_named(tmp_path):
    tied = {name: tensor for name, tensor in llama_tensors().items() if name != "lm_head.weight"}
    base = write_checkpoint(tmp_path / "base", tied, config={**LLAMA, "tie_word_embeddings": True})
    with pytest.raises(AdapterMismatch, match="tied to the embedding"):
        open_checkpoint(f"{base}+{write_adapter(tmp_path / 'adapter', factors('lm_head', 64))}")


@pytest.mark.parametrize(("named", "warns"), [("org/base", False), ("", False), ("org/other-model", True)])
def test_an_adapter_of_another_model_is_warned_about(named, warns, base, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", factors(), base_model_name_or_path=named)
    warnings = open_checkpoint(f"{base}+{adapter}").warnings
    assert len(warnings) == warns and all(named in text and "adapter" in text for text in warnings)


def test_a_tokenizer_that_differs_from_the_bases_is_warned_about(base, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", factors())
    (adapter / "chat_template.jinja").write_text("hello")
    assert "chat_template.jinja" in open_checkpoint(f"{base}+{adapter}").warnings[0]
    (base / "chat_template.jinja").write_text("hello")
    assert open_checkpoint(f"{base}+{adapter}").warnings == ()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"r": 1, "r": 2}', "{", '{"peft_type": 5}', "\ud800".encode("utf-8", "surrogatepass")]
)
def test_a_config_that_is_no_object_is_an_error_of_ours(text, base, tmp_path):
    from expo.errors import ExpoError

    adapter = write_adapter(tmp_path / "adapter", factors())
    (adapter / "adapter_config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ExpoError, match=r"adapter"):
        open_checkpoint(f"{base}+{adapter}")


def test_a_file_that_links_out_of_the_adapter_is_refused(base, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", factors())
    (adapter / "adapter_config.json").rename(tmp_path / "elsewhere.json")
    (adapter / "adapter_config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(SourceError, match="outside"):
        open_checkpoint(f"{base}+{adapter}")


def test_a_config_of_the_defaults_is_pefts_own(base, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", factors())
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))  # r 8, alpha 8
    assert open_checkpoint(f"{base}+{adapter}").tensors[f"{Q}.weight"].view.changes[0].scale == 1


# --- on the Hub ------------------------------------------------------------------------------------------------------

SHA = "0123456789abcdef0123456789abcdef01234567"


def cached(home, repo_id: str):
    """The snapshot's folder of a repository in a cache made by hand."""
    repo = home / "hub" / f"models--{repo_id.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(SHA)
    return repo / "snapshots" / SHA


def test_a_cached_adapter_of_a_cached_base_opens_offline(tmp_path):
    write_checkpoint(cached(tmp_path, "org/base"), llama_tensors(), config=LLAMA)
    write_adapter(cached(tmp_path, "me/adapter"), factors())
    code = (
        "import sys\n"
        "from expo.checkpoint import open_checkpoint\n"
        "for text in sys.argv[1:]:\n"
        "    try:\n"
        "        print(open_checkpoint(text).source.label)\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, str(error).replace(chr(10), ' '))\n"
    )
    texts = [f"org/base@{SHA}+me/adapter", "org/base+me/absent@v1"]
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *texts], env=environment, capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first == f"org/base@{SHA}+me/adapter@{SHA}"
    assert second.startswith("HubNotCached") and "hf download me/absent --revision v1" in second


def test_only_an_adapters_own_files_are_downloaded(base, tmp_path, monkeypatch):
    adapter = write_adapter(tmp_path / SHA, factors())
    names = ["README.md", "adapter_config.json", "adapter_model.bin", "adapter_model.safetensors", "optimizer.pt",
             "tokenizer.json", "checkpoint-10/adapter_model.safetensors"]  # fmt: skip
    asked = []

    def download(repo_id, revision, wanted):
        asked.append((repo_id, revision, sorted(wanted)))
        return adapter

    monkeypatch.setattr(hub, "_listing", lambda repo_id, revision: (SHA, names))
    monkeypatch.setattr(hub, "_download", download)
    source = open_checkpoint(f"{base}+me/adapter@v2").source.adapters[0]
    wanted = ["README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]  # the card: a license
    assert asked == [("me/adapter", "v2", wanted)]
    assert (source.repo_id, source.revision, source.weights) == ("me/adapter", SHA, ("adapter_model.safetensors",))


def test_a_repository_without_an_adapter_is_said_so(base, monkeypatch):
    monkeypatch.setattr(hub, "_listing", lambda repo_id, revision: (SHA, ["config.json", "model.safetensors"]))
    with pytest.raises(NotAnAdapter, match="me/model"):
        open_checkpoint(f"{base}+me/model")
