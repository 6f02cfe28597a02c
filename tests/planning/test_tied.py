"""Tied heads: B's storage decides, an absent head is its embedding, and copies that differ need a policy."""

import pytest
import torch
from engine import pushed, refused_in, run_in
from pico import LLAMA, llama_tensors, nudged, write_checkpoint

import expo
from expo.checkpoint import TensorSpec
from expo.dtypes import DTYPES
from expo.errors import PlanError
from expo.planning.tied import embedding_of, says_tied, tied_heads

TIED = {**LLAMA, "tie_word_embeddings": True}
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def checkpoint(folder, tensors, **written):
    return expo.open_checkpoint(write_checkpoint(folder, tensors, **written))


def spec_of(shapes):
    """Specs of tensors given by shape, without a file."""
    return {name: TensorSpec(name, DTYPES["BF16"], shape, "m", 0, 0) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "config, said",
    [({}, None), ({"tie_word_embeddings": True}, True), ({"tie_word_embeddings": False}, False),
     ({"text_config": {"tie_word_embeddings": True}}, True), ({"text_config": 3}, None),
     ({"tie_word_embeddings": "yes"}, None),
     ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, False)],
)  # fmt: skip
def test_what_a_config_says_of_tying_is_read_from_it_or_from_its_text_part(tmp_path, config, said):
    assert says_tied(checkpoint(tmp_path / "c", {"w": torch.ones(1)}, config=config)) is said


def test_heads_and_embeddings_are_known_by_whole_parts_of_their_names():
    table = spec_of(
        {"model.embed_tokens.weight": (8, 4), "lm_head.weight": (8, 4), "xlm_head.weight": (8, 4), "w": (8, 4)}
    )
    assert tied_heads(table) == {"lm_head.weight": "model.embed_tokens.weight"}
    assert tied_heads(spec_of({"model.embed_tokens.weight": (8, 4), "lm_head.weight": (9, 4)})) == {}
    assert tied_heads(spec_of({"transformer.wte.weight": (8, 4), "lm_head.weight": (8, 4)})) == {
        "lm_head.weight": "transformer.wte.weight"
    }
    t5 = spec_of({"encoder.embed_tokens.weight": (8, 4), "shared.weight": (8, 4), "lm_head.weight": (8, 4)})
    assert embedding_of("lm_head.weight", t5) == "shared.weight"
    assert embedding_of("w", t5) is None and embedding_of("lm_head.weight", spec_of({"w": (1,)})) is None


def llama(folder, role, *, config, head=None, seed=0):
    """A pico Llama, its head stored as given: "embedding" or its own tensor; returns the tensors."""
    tensors = llama_tensors(dtype=torch.bfloat16, seed=seed, config=TIED)
    if seed:
        tensors = nudged(llama_tensors(dtype=torch.bfloat16, config=TIED), seed=seed)
    if head is not None:
        tensors[HEAD] = tensors[EMBED].clone() if isinstance(head, str) else head
    write_checkpoint(folder / role, tensors, config=config)
    return tensors


@pytest.mark.parametrize("says", [True, None])
def test_a_head_that_only_the_base_stores_is_its_embedding_and_is_not_written(tmp_path, says):
    config = {key: value for key, value in TIED.items() if says or key != "tie_word_embeddings"}
    sft = llama(tmp_path, "sft", config=config, head="embedding")
    dpo = llama(tmp_path, "dpo", config=config, seed=1)
    _, out = run_in(tmp_path)
    assert set(out) == set(dpo) and HEAD not in out
    assert out[EMBED][2] == pushed(sft[EMBED], dpo[EMBED])


@pytest.mark.parametrize("dpo_config", [TIED, LLAMA])
def test_a_head_that_only_the_aligned_model_stores_is_computed_against_the_bases_embedding(tmp_path, dpo_config):
    sft = llama(tmp_path, "sft", config=TIED)
    own = torch.randn(64, 16).to(torch.bfloat16)
    dpo = llama(tmp_path, "dpo", config=dpo_config, seed=1, head="embedding" if dpo_config is TIED else own)
    _, out = run_in(tmp_path)
    assert out[HEAD][2] == pushed(sft[EMBED], dpo[HEAD])
    assert (out[HEAD][2] == out[EMBED][2]) == (dpo_config is TIED)


def test_equal_heads_on_both_sides_stay_equal(tmp_path):
    llama(tmp_path, "sft", config=TIED, head="embedding")
    llama(tmp_path, "dpo", config=TIED, head="embedding", seed=1)
    _, out = run_in(tmp_path)
    assert out[HEAD][2] == out[EMBED][2]


@pytest.mark.parametrize("role", ["sft", "dpo"])
def test_stored_copies_that_differ_although_the_config_ties_them_are_an_error_with_a_policy(tmp_path, role):
    own = torch.randn(64, 16).to(torch.bfloat16)
    made = {
        "sft": llama(tmp_path, "sft", config=TIED, head=own if role == "sft" else "embedding"),
        "dpo": llama(tmp_path, "dpo", config=TIED, head=own if role == "dpo" else "embedding", seed=1),
    }
    refused_in(tmp_path, HEAD, EMBED, f"({role})", "--tied keep")
    _, out = run_in(tmp_path, tied="keep")
    for name in (HEAD, EMBED):
        assert out[name][2] == pushed(made["sft"][name], made["dpo"][name])


def test_no_output_stores_differing_copies_of_what_its_own_config_ties(tmp_path):
    llama(tmp_path, "sft", config=LLAMA, head=torch.randn(64, 16).to(torch.bfloat16))
    llama(tmp_path, "dpo", config=TIED, head="embedding", seed=1)
    try:
        _, out = run_in(tmp_path)
    except PlanError as error:
        assert HEAD in str(error)
        return
    assert out[HEAD][2] == out[EMBED][2], "config.json says tied; transformers would drop the written head"


def test_an_untied_base_that_lacks_its_head_is_refused_in(tmp_path):
    llama(tmp_path, "sft", config=LLAMA)
    llama(tmp_path, "dpo", config=LLAMA, head=torch.randn(64, 16).to(torch.bfloat16), seed=1)
    refused_in(tmp_path, "1 tensor only in dpo", HEAD)
