"""A window finds the same cuts as counting everything, and gives up where its sample misled it."""

import numpy as np
import pytest
import torch
from merging import recipe_for

import expo
from expo.methods import survey as asking
from expo.methods import windows
from expo.methods.windows import Window, _pick, _window
from expo.stream.loop import settings_for
from expo.stream.survey import survey

N = 1_200_000


def deltas(kind):
    noise = torch.Generator().manual_seed(1)
    x = torch.randn(N, generator=noise)
    if kind == "steps":  # as between bfloat16 weights: few values, all of them often
        return (x * 3).round() / 8
    if kind == "sorted":  # neighbours alike: a sample of tiles is a bad sample
        return x.abs().sort().values
    if kind == "unlike its start":
        x[:60_000] *= 1e-3
    if kind == "one value":
        return torch.where(x > 0.5, 0.25, 0.0)
    if kind == "rows":
        return x * torch.exp(0.4 * torch.randn(N // 1000, 1, generator=noise)).expand(-1, 1000).reshape(-1)
    return x


def cuts(folder, kind, *, threads=1, tile=65_536, scope="tensor", density=(0.3, 0.5)):
    delta = deltas(kind)
    base = {"a": torch.zeros(N), "b": torch.zeros(5000), "c": torch.zeros(3)}
    models = [{"a": s * delta, "b": s * delta[:5000], "c": delta[:3]} for s in (1.0, -0.5)]
    each = {"weight": (1.0, 1.0), "density": density}
    plan = expo.plan(recipe_for(folder, "ties", models, base=base, each=each, trim_scope=scope, dtype="bfloat16"))
    return survey(plan, settings_for(plan, tile=tile), threads)


@pytest.fixture
def counted(monkeypatch):
    """Whether the whole was counted after all: a list that grows when it is."""
    seen, usual = [], asking.kth_largest

    def kth_largest(*arguments, **options):
        seen.append(1)
        return (yield from usual(*arguments, **options))

    monkeypatch.setattr(asking, "kth_largest", kth_largest)
    return seen


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("kind", ["normal", "steps", "sorted", "one value", "rows"])
def test_the_cuts_are_those_of_counting_everything(tmp_path, monkeypatch, counted, kind, scope):
    found = cuts(tmp_path / "a", kind, scope=scope)
    assert not counted
    assert cuts(tmp_path / "b", kind, scope=scope, threads=3, tile=9_999) == found
    monkeypatch.setattr(asking, "in_windows", lambda *_: iter(()))  # finds nothing
    counted.clear()
    assert cuts(tmp_path / "c", kind, scope=scope) == found and counted


def test_a_sample_that_misleads_costs_time_and_changes_nothing(tmp_path, monkeypatch, counted):
    usual = cuts(tmp_path / "a", "unlike its start")
    assert not counted
    monkeypatch.setattr(
        windows.Sample, "starts", lambda self, tensor, first, last: range(first, min(last, 50_000), 512)
    )
    assert cuts(tmp_path / "b", "unlike its start") == usual and counted


@pytest.mark.parametrize("foreseen", [True, False])
def test_too_much_in_a_window_is_counted_instead(tmp_path, monkeypatch, counted, foreseen):
    usual = cuts(tmp_path / "a", "normal")
    assert not counted
    if foreseen:
        monkeypatch.setattr(windows, "_INSIDE", 1000)
    else:
        monkeypatch.setattr(windows, "_FEWEST", 1000)
        monkeypatch.setattr(windows, "_window", lambda sample, share: (_window(sample, share)[0], 0.0))
    assert cuts(tmp_path / "b", "normal") == usual and counted


@pytest.mark.parametrize("density", [(1e-6, 1 - 1e-6), (0.001, 0.999), (0.0, 1.0)])
def test_the_ends_of_the_order_lie_in_windows_too(tmp_path, counted, density):
    found = cuts(tmp_path, "normal", density=density)["a"].cuts
    magnitudes = np.sort(np.abs(deltas("normal").numpy()))[::-1]
    for cut, share, scale in zip(found, density, (1.0, 0.5), strict=True):
        if 0 < share < 1:
            assert cut.value == np.float32(magnitudes[int(share * N) - 1]) * scale
    assert not counted


def test_a_window_lies_around_the_asked_share_with_what_is_often_as_atoms():
    sample = np.concatenate([np.arange(10_000) / 10_000, np.full(2000, 0.5)]).astype(np.float32)
    np.random.default_rng(0).shuffle(sample)
    window, inside = _window(sample, 0.5)
    assert window.atoms == (0.5,) and 0.4 < window.low <= 0.5 <= window.high < 0.6 and inside < 0.05
    assert 0.02 < _window(sample, 0.2)[1] < 0.1
    assert _window(sample, 1 / 12_000)[0].high == float("inf") and _window(sample, 1.0)[0].low < 0


def test_a_pick_is_the_kth_of_atoms_and_others_together():
    values = [9, 8, 7, 7, 7, 6, 5, 5, 4, 3]  # falling; the window holds 8 to 4, of which 7 and 5 are atoms
    window = Window(4.0, 8.0, (7.0, 5.0))

    def segment(above, sevens, fives, *inner):
        counts = [np.array([[0, n]]) for n in (sevens, fives)]
        return above, counts, np.array(inner, np.float32), np.arange(len(inner))

    segments = [segment(1, 2, 1, 8, 4), segment(0, 1, 1, 6)]
    for k in range(2, 10):
        value, rank = _pick([segments], window, k)
        assert value == values[k - 1] and rank == k - values.index(value)
    assert _pick([segments], window, 1) is None and _pick([segments], window, 10) is None
    assert _pick([[*segments, (0, [], None, None)]], window, 3) is None
