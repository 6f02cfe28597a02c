"""A view gives the same bits however it is read, in the memory of a block, and equals its formula in float64."""

import subprocess
import sys
import threading
from itertools import pairwise

import pytest
import torch
from adapters import matrix, read, values_of, write_adapter
from hypothesis import given, settings
from hypothesis import strategies as st

from expo.checkpoint import Shards, open_checkpoint

ROWS, COLUMNS, RANK = 300, 1500, 7  # more than two blocks of rows, more than one panel of columns


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def factors(n_out: int, n_in: int, seed: int = 1) -> dict[str, torch.Tensor]:
    return {"m.lora_A.weight": drawn(RANK, n_in, seed=seed), "m.lora_B.weight": drawn(n_out, RANK, seed=seed + 1)}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """kind -> BASE+ADAPTER of one bfloat16 matrix."""
    home = tmp_path_factory.mktemp("views")
    base = matrix(home / "base", drawn(ROWS, COLUMNS, seed=0, dtype=torch.bfloat16))
    plain = factors(ROWS, COLUMNS)
    turned = factors(COLUMNS, ROWS)
    magnitude = {"m.lora_magnitude_vector": drawn(ROWS, seed=3).abs()}
    turned_magnitude = {"m.lora_magnitude_vector": drawn(COLUMNS, seed=3).abs()}
    dora = {"r": RANK, "use_dora": True}
    return {
        "plain": f"{base}+{write_adapter(home / 'plain', plain, r=RANK, lora_alpha=5)}",
        "dora": f"{base}+{write_adapter(home / 'dora', plain | magnitude, **dora)}",
        "transposed": f"{base}+{write_adapter(home / 'turned', turned, r=RANK, fan_in_fan_out=True)}",
        "transposed dora": f"{base}+"
        + str(write_adapter(home / "both", turned | turned_magnitude, fan_in_fan_out=True, **dora)),
    }


KINDS = ["plain", "dora", "transposed", "transposed dora"]


def formula(kind: str) -> torch.Tensor:
    """The view's values in float64."""
    w = drawn(ROWS, COLUMNS, seed=0, dtype=torch.bfloat16).double()
    n_out, n_in = (COLUMNS, ROWS) if "transposed" in kind else (ROWS, COLUMNS)
    stored = {name: tensor.double() for name, tensor in factors(n_out, n_in).items()}
    alpha = 5 if kind == "plain" else 8
    delta = stored["m.lora_B.weight"] @ stored["m.lora_A.weight"] * (alpha / RANK)
    w = w.T if "transposed" in kind else w
    if "dora" in kind:
        magnitude = drawn(n_out, seed=3).abs().double()
        w = magnitude[:, None] / (w + delta).norm(dim=1, keepdim=True) * (w + delta)
    else:
        w = w + delta
    return w.T if "transposed" in kind else w


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_is_its_formula_rounded_once(kind, places):
    found, wanted = values_of(places[kind])["m.weight"], formula(kind)
    # Sums of another order in float64 may tip the one rounding to float32 by a step, very rarely.
    assert (found == wanted.float().double()).double().mean() > 0.9999
    assert torch.allclose(found, wanted, rtol=2.0**-23, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, 4 * ROWS * COLUMNS), max_size=6), order=st.randoms(use_true_random=False))
def test_no_cut_of_what_is_read_changes_a_bit(kind, places, cuts, order):
    checkpoint = open_checkpoint(places[kind])
    spec = checkpoint.tensors["m.weight"]
    with Shards(checkpoint) as reader:
        whole = read(reader, spec).reshape(-1).view(torch.uint8)
        edges = sorted({0, spec.n_bytes, *cuts})
        pieces = list(pairwise(edges))
        order.shuffle(pieces)
        for first, last in pieces:
            assert torch.equal(read(reader, spec, first, last - first), whole[first:last])


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_bit(kind, places):
    checkpoint = open_checkpoint(places[kind])
    spec = checkpoint.tensors["m.weight"]
    before = torch.get_num_threads()
    found = []

    def work(reader: Shards) -> None:
        found.append(read(reader, spec))

    try:
        for n in (1, 2, 3, 8):
            torch.set_num_threads(n)
            with Shards(checkpoint) as reader:
                workers = [threading.Thread(target=work, args=(reader,)) for _ in range(2)]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
    finally:
        torch.set_num_threads(before)
    assert len(found) == 8 and all(torch.equal(found[0], other) for other in found)


def test_the_type_is_wider_than_the_bases_which_the_output_takes(tmp_path):
    for dtype, wide, name in ((torch.bfloat16, "F32", "BF16"), (torch.float16, "F32", "F16"),
                              (torch.float32, "F64", "F32"), (torch.float64, "F64", "F64")):  # fmt: skip
        base = matrix(tmp_path / name, drawn(3, 4, seed=0, dtype=dtype))
        spec = open_checkpoint(f"{base}+{write_adapter(tmp_path / 'a', factors(3, 4), r=RANK)}").tensors["m.weight"]
        assert (spec.dtype.name, spec.stored_dtype.name) == (wide, name)
        assert spec.n_bytes == 12 * spec.dtype.bits // 8 and spec.shape == (3, 4)
        assert spec.n_bytes_stored == 12 * spec.stored_dtype.bits // 8 + 4 * (3 + 4) * RANK


def test_four_by_four_by_hand(tmp_path):
    base = matrix(tmp_path / "base", torch.eye(4))
    a = torch.tensor([[1.0, 2.0, 0.0, 0.0]])
    b = torch.tensor([[1.0], [0.0], [0.0], [-1.0]])
    adapter = write_adapter(tmp_path / "a", {"m.lora_A.weight": a, "m.lora_B.weight": b}, r=1, lora_alpha=3)
    wanted = [[4.0, 6.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [-3.0, -6.0, 0.0, 1.0]]
    assert values_of(f"{base}+{adapter}")["m.weight"].tolist() == wanted


def test_an_adapter_that_was_never_trained_keeps_every_bit(tmp_path):
    weight = torch.tensor([[0.0, -0.0, 1.5], [-0.0, 3.0, -1e-38]])
    base = matrix(tmp_path / "base", weight)
    for rank in (1, 2, 16):
        stored = {"m.lora_A.weight": drawn(rank, 3, seed=0), "m.lora_B.weight": torch.zeros(2, rank)}
        adapter = write_adapter(tmp_path / str(rank), stored, r=rank)
        found = values_of(f"{base}+{adapter}")["m.weight"]
        assert torch.equal(found.view(torch.int64), weight.double().view(torch.int64))


def test_a_row_of_zeros_stays_zero_under_dora(tmp_path):
    base = matrix(tmp_path / "base", torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    stored = {"m.lora_A.weight": torch.ones(1, 2), "m.lora_B.weight": torch.zeros(2, 1)}
    stored["m.lora_magnitude_vector"] = torch.tensor([7.0, 10.0])
    adapter = write_adapter(tmp_path / "a", stored, r=1, use_dora=True)
    assert values_of(f"{base}+{adapter}")["m.weight"].tolist() == [[0.0, 0.0], [6.0, 8.0]]


def test_a_convolution_is_changed_like_peft_does(tmp_path):
    weight, a, b = drawn(5, 3, 2, 2, seed=0), drawn(4, 3, 2, 2, seed=1), drawn(5, 4, 1, 1, seed=2)
    base = matrix(tmp_path / "base", weight)
    adapter = write_adapter(tmp_path / "a", {"m.lora_A.weight": a, "m.lora_B.weight": b}, r=4)
    delta = torch.nn.functional.conv2d(a.double().permute(1, 0, 2, 3), b.double()).permute(1, 0, 2, 3)
    assert torch.allclose(values_of(f"{base}+{adapter}")["m.weight"], weight.double() + 2 * delta)


def test_reading_takes_the_memory_of_a_block(tmp_path):
    weight = torch.zeros(8192, 2048, dtype=torch.bfloat16)  # 64 MiB as the view gives it
    base = matrix(tmp_path / "base", weight)
    stored = {"m.lora_A.weight": torch.zeros(8, 2048), "m.lora_B.weight": torch.zeros(8192, 8)}
    adapter = write_adapter(tmp_path / "a", stored, r=8)
    code = (
        "import resource, sys, torch\n"
        "from expo.checkpoint import Shards, open_checkpoint\n"
        "checkpoint = open_checkpoint(sys.argv[1])\n"
        "spec = checkpoint.tensors['m.weight']\n"
        "torch.mm(torch.zeros(64, 8), torch.zeros(8, 64))\n"
        "buffer = memoryview(bytearray(1 << 20))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with Shards(checkpoint) as reader:\n"
        "    for at in range(0, spec.n_bytes, len(buffer)):\n"
        "        reader.read_into(buffer, spec, at)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, spec.view.scratch_bytes)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, f"{base}+{adapter}"], capture_output=True, text=True, check=True)
    grown, promised = map(int, done.stdout.split())
    assert promised < 24 * 2**20
    assert grown * 1024 < promised + 4 * 2**20
