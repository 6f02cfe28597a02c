"""Log-probabilities of the taught tokens are those of the whole logits, values and gradients."""

import pytest
import torch
from taught import TINY

from expo import toy
from expo.train import head
from expo.train.head import IGNORED, evaluating, teach_tokens


def batch():
    ids = torch.randint(3, 14, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    targets = ids.clone()
    targets[:, :4] = IGNORED
    targets[1, 9:] = IGNORED
    return ids, mask, targets


def expected(model, ids, mask, targets):
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    logps = logits.log_softmax(-1).gather(-1, targets[:, 1:, None].clamp(min=0))[..., 0]
    return logps * (targets[:, 1:] != IGNORED)


@pytest.mark.parametrize("piece", [1 << 25, 14 * 5], ids=["at once", "in pieces of 5"])
def test_values_and_gradients_are_those_of_the_whole_logits(piece, monkeypatch):
    monkeypatch.setattr(head, "PIECE", piece)
    ids, mask, targets = batch()
    plain, taught = toy.build_model(TINY, 0), toy.build_model(TINY, 0)
    teach_tokens(taught)
    assert taught.selective_head
    wanted = expected(plain, ids, mask, targets)
    found = taught(input_ids=ids, attention_mask=mask, targets=targets)["logps"]
    torch.testing.assert_close(found, wanted)
    (wanted * torch.arange(11)).sum().backward()
    (found * torch.arange(11)).sum().backward()
    for one, other in zip(plain.parameters(), taught.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_calls_without_targets_are_as_before():
    ids, mask, _ = batch()
    plain, taught = toy.build_model(TINY, 0), toy.build_model(TINY, 0)
    teach_tokens(taught)
    found = [model(input_ids=ids, attention_mask=mask).logits for model in (plain, taught)]
    assert torch.equal(*found)
    assert taught.training == plain.training


def test_evaluating_switches_dropout_off_and_leaves_every_module_as_it_was():
    class Linear4bit(torch.nn.Linear):
        """Stands for bitsandbytes' layer, which must not be evaluated."""

    model = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Linear(2, 2), Linear4bit(2, 2))
    model[1].eval()
    with evaluating(model):
        assert [module.training for module in model] == [False, False, True]
    assert [module.training for module in model] == [True, False, True]


def test_a_head_that_caps_its_logits_is_noticed_and_goes_through_them():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=14, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.5, initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(config).eval()
    ids, mask, targets = batch()
    wanted = expected(model, ids, mask, targets)
    teach_tokens(model)
    assert not model.selective_head
    found = model(input_ids=ids, attention_mask=mask, targets=targets)["logps"]
    torch.testing.assert_close(found, wanted)


def test_a_batch_that_teaches_nothing_still_has_a_gradient():
    ids, mask, _ = batch()
    model = toy.build_model(TINY, 0)
    teach_tokens(model)
    found = model(input_ids=ids, attention_mask=mask, targets=torch.full_like(ids, IGNORED))["logps"]
    found.sum().backward()
    assert found.abs().sum() == 0
