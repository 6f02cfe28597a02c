"""A pair of tiny models with a tokenizer, and metrics whose scores are easy to foresee."""

import dataclasses

import pytest
import talker
import torch

from expo.evaluate.metrics import Metric, Scored
from expo.ops import one_thread


@pytest.fixture(scope="session", autouse=True)
def single():
    """Models this small are slower on several threads."""
    with one_thread():
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders sft and dpo in bfloat16: a step that is small beside the weights."""
    home, found = tmp_path_factory.mktemp("search"), {}
    model, noise = talker.build_model(window=64), torch.Generator().manual_seed(1)
    model = model.to(torch.bfloat16)
    for role in ("sft", "dpo"):
        found[role] = home / role
        model.save_pretrained(found[role], max_shard_size="40KB")
        talker.build_tokenizer().save_pretrained(found[role])
        with torch.no_grad():
            for weight in model.parameters():
                step = torch.randn(weight.shape, generator=noise) * 0.01 * weight.float().std().nan_to_num(0.1)
                weight += step.to(weight.dtype)
    return found


@pytest.fixture(scope="session")
def moved(models):
    """How far each weight of the embedding moved from sft to dpo, and dpo's."""
    from safetensors.torch import load_file

    def embedding(folder):
        files = sorted(folder.glob("*.safetensors"))
        return next(t["model.embed_tokens.weight"] for t in map(load_file, files) if "model.embed_tokens.weight" in t)

    sft, dpo = embedding(models["sft"]).double(), embedding(models["dpo"]).double()
    return dpo - sft, dpo


@pytest.fixture
def nearness(moved):
    """nearness(best, n=40): a metric that knows how far the model went past dpo, and likes `best` most.

    Example i adds noise of its own, the same for every model.
    """

    def make(best: float, *, n: int = 40, noise: float = 0.0, seen: list | None = None, **changes) -> Metric:
        delta, dpo = moved

        def measure(model, tokenizer, ids):
            if seen is not None:
                seen.append(list(ids))
            now = model.get_input_embeddings().weight.detach().double()
            alpha = float(((now - dpo) * delta).sum() / (delta * delta).sum())
            return [Scored(one, -abs(alpha - best) * (1 + noise * (int(one) % 5 - 2)) + int(one), 3) for one in ids]

        ids = tuple(map(str, range(n)))
        metric = Metric("nearness", ids, tuple(f"asks {one}" for one in ids), "data", measure, {"best": best})
        return dataclasses.replace(metric, **changes)

    return make


@pytest.fixture
def completions(tmp_path):
    """completions(name, n, first): a file of short texts for the metric `loss`."""

    def write(name: str, n: int, first: int = 0, **more):
        rows = [
            {"prompt": "ab" * (i % 3) + f"{i}=", "completion": f"{i * 7 % 10}{i % 10}", **more}
            for i in range(first, first + n)
        ]
        return talker.write_jsonl(tmp_path / name, rows)

    return write
