"""Every merge method as its paper or mergekit's behaviour defines it, on whole float64 arrays; no torch, no tiles.

The tests' authority for methods: written from the sources alone, by the longest way round where there is a shorter one.
Each formula takes (base or None, models, masks, **parameters); a parameter of each model is a sequence, `lambda` is
`scale`. Masks are the random draws, a function (model, shape) -> uniform numbers in [0, 1); no other chance is in here.
"""

from collections.abc import Callable, Sequence

import numpy as np
from geometry_float64 import (
    arcee_fusion,
    iso_c,
    karcher,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    passthrough,
    slerp,
    tsv_m,
)  # fmt: skip

Array = np.ndarray
Each = Sequence[float]
Draws = Callable[[int, tuple[int, ...]], Array]


# --- sums of deltas ---------------------------------------------------------------------------------------------------


def extrapolate(base: Array, models: list[Array], draws: Draws, *, alpha: float = 0.3, weight: Each | None = None):
    """arXiv:2404.16792, eq. 1: aligned + alpha * (aligned - base); of several aligned models, their weighted mean."""
    aligned = np.average(models, axis=0, weights=weight)
    return aligned + alpha * (aligned - base)


def linear(base: Array | None, models: list[Array], draws: Draws, *, weight: Each, normalize: bool = True):
    """arXiv:2203.05482: the weighted mean of the models, or with normalize: false their weighted sum."""
    total = sum(w * x for w, x in zip(weight, models, strict=True))
    return total / sum(weight) if normalize else total


def divisor(total: float | Array) -> float | Array:
    """What a sum of weights divides by: 1 where it is 0."""
    return np.where(np.abs(total) < 1e-8, 1.0, total)


def added(base: Array, deltas: list[Array], weight: Each, normalize: bool, scale: float) -> Array:
    """base + scale * the weighted sum of deltas."""
    total = sum(w * d for w, d in zip(weight, deltas, strict=True))
    return base + scale * (total / divisor(sum(weight)) if normalize else total)


def elected(base: Array, deltas: list[Array], weight: Each, normalize: bool, scale: float) -> Array:
    """arXiv:2306.01708, steps 2 and 3: the sign with the greater mass wins, + in a draw; who disagrees is left out."""
    weighted = [w * d for w, d in zip(weight, deltas, strict=True)]
    majority = np.where(sum(weighted) >= 0, 1.0, -1.0)
    agrees = [np.sign(x) == majority for x in weighted]
    total = sum(np.where(yes, x, 0) for yes, x in zip(agrees, weighted, strict=True))
    if normalize:
        total = total / divisor(sum(np.where(yes, w, 0) for yes, w in zip(agrees, weight, strict=True)))
    return base + scale * total


def task_arithmetic(
    base: Array, models: list[Array], draws: Draws, *, weight: Each, normalize: bool = False, scale: float = 1.0, **_
):
    """arXiv:2212.04089: base + lambda * sum of w_i (x_i - base)."""
    return added(base, [x - base for x in models], weight, normalize, scale)


# --- sparse deltas ----------------------------------------------------------------------------------------------------


def ranked(delta: Array) -> Array:
    """Indices of all elements from the largest magnitude to the smallest, the first of equal ones before the others."""
    return np.argsort(-np.abs(delta), axis=None, kind="stable")


def only(delta: Array, indices: Array) -> Array:
    """The delta at these indices, 0 elsewhere."""
    kept = np.zeros(delta.size)
    kept[indices] = delta.reshape(-1)[indices]
    return kept.reshape(delta.shape)


def largest(delta: Array, density: float) -> Array:
    """The int(density * n) largest elements; of a density above 0 at least one."""
    count = int(density * delta.size)
    return only(delta, ranked(delta)[: max(count, 1) if density > 0 else 0])


def with_l1_of(full: Array, kept: Array) -> Array:
    """`kept` times what gives it the sum of magnitudes of `full`."""
    before, after = np.abs(full).sum(), np.abs(kept).sum()
    return kept * (before / after) if min(before, after) >= 1e-7 else kept


def rescaled(full: list[Array], kept: list[Array], rescale: bool | str, chance: Each) -> list[Array]:
    """rescale: True, back to the same L1 norm; "density", by 1 / the chance to stay; False, as they are."""
    if rescale == "density":
        return [d / p if p else d for d, p in zip(kept, chance, strict=True)]
    return [with_l1_of(f, k) for f, k in zip(full, kept, strict=True)] if rescale else kept


def ties(
    base: Array, models: list[Array], draws: Draws, *, weight: Each, density: Each | None = None,
    normalize: bool = True, scale: float = 1.0, rescale: bool = False, **_,
):  # fmt: skip
    """arXiv:2306.01708 tensor by tensor: trim, elect, merge those that agree."""
    density = density or [1.0] * len(models)
    full = [x - base for x in models]
    trimmed = [largest(d, p) for d, p in zip(full, density, strict=True)]
    return elected(base, rescaled(full, trimmed, rescale, density), weight, normalize, scale)


def drop(deltas: list[Array], chance: Each, draws: Draws) -> list[Array]:
    """Each element stays with its model's chance."""
    return [
        np.where(draws(i, d.shape) < p, d, 0) if p < 1 else d
        for i, (d, p) in enumerate(zip(deltas, chance, strict=True))
    ]


def dare_linear(
    base: Array, models: list[Array], draws: Draws, *, weight: Each, density: Each | None = None,
    normalize: bool = False, scale: float = 1.0, rescale: bool | str = True, merge=added, **_,
):  # fmt: skip
    """arXiv:2311.03099, section 3: drop and rescale, then task arithmetic."""
    chance = [round(p * 65536) / 65536 for p in density or [1.0] * len(models)]  # the draws have 16 bits
    full = [x - base for x in models]
    kept = rescaled(full, drop(full, chance, draws), rescale, chance)
    return merge(base, kept, weight, normalize, scale)


def dare_ties(base: Array, models: list[Array], draws: Draws, **parameters):
    """The same, then the election of TIES."""
    return dare_linear(base, models, draws, merge=elected, **parameters)


def crumbs(delta: Array, density: float, gamma: float) -> Array:
    """arXiv:2312.06795: without the int(gamma n) largest, the int(density n) largest of the rest."""
    n_top, n_kept = int(gamma * delta.size), int(density * delta.size)
    n_top = min(n_top, delta.size - n_kept)  # what density asks for goes first
    return only(delta, ranked(delta)[n_top : n_top + n_kept])


def breadcrumbs(
    base: Array, models: list[Array], draws: Draws, *, weight: Each, density: Each | None = None,
    gamma: Each | None = None, normalize: bool = False, scale: float = 1.0, rescale: bool = False, merge=added, **_,
):  # fmt: skip
    """Mask out the outliers and the small perturbations, then task arithmetic."""
    density, gamma = density or [1.0] * len(models), gamma or [0.01] * len(models)
    full = [x - base for x in models]
    kept = [crumbs(d, p, g) for d, p, g in zip(full, density, gamma, strict=True)]
    return merge(base, rescaled(full, kept, rescale, density), weight, normalize, scale)


def breadcrumbs_ties(base: Array, models: list[Array], draws: Draws, **parameters):
    """The same, then the election of TIES."""
    return breadcrumbs(base, models, draws, merge=elected, **parameters)


def keep_probability(delta: Array, density: float, epsilon: float) -> Array:
    """arXiv:2406.11617, MagPrune: from density - epsilon for a row's smallest to density + epsilon for its largest."""
    rows = np.abs(delta).reshape(-1, delta.shape[-1]) if delta.ndim > 1 else np.abs(delta).reshape(1, -1)
    rank = np.argsort(np.argsort(rows, axis=1, kind="stable"), axis=1, kind="stable")
    share = rank / (rows.shape[1] - 1) if rows.shape[1] > 1 else np.full(rows.shape, 0.5)
    return np.rint((density - epsilon + 2 * epsilon * share).reshape(delta.shape) * 65536) / 65536  # as the draws


def della(
    base: Array, models: list[Array], draws: Draws, *, weight: Each, density: Each | None = None,
    epsilon: Each | None = None, normalize: bool = True, scale: float = 1.0, rescale: bool | str = True,
    merge=elected, **_,
):  # fmt: skip
    """arXiv:2406.11617: drop by magnitude, elect, fuse."""
    density, epsilon = density or [1.0] * len(models), epsilon or [0.15] * len(models)
    full = [x - base for x in models]
    chance = [
        keep_probability(d, p, e) if 0 < p < 1 else np.full(d.shape, p)
        for d, p, e in zip(full, density, epsilon, strict=True)
    ]
    kept = [np.where(draws(i, d.shape) < p, d, 0) for i, (d, p) in enumerate(zip(full, chance, strict=True))]
    if rescale == "density":
        kept = [np.divide(d, p, out=np.zeros_like(d), where=p > 0) for d, p in zip(kept, chance, strict=True)]
        rescale = False
    return merge(base, rescaled(full, kept, rescale, density), weight, normalize, scale)


def della_linear(base: Array, models: list[Array], draws: Draws, **parameters):
    """Without the election; its weights are not divided by their sum."""
    return della(base, models, draws, **{"merge": added, "normalize": False, **parameters})


def sce(base: Array, models: list[Array], draws: Draws, *, select_topk: float = 1.0, **_):
    """arXiv:2408.07990: Select where the deltas vary most, Calculate weights by energy, Erase the minority's signs."""
    deltas = np.stack([x - base for x in models])
    if select_topk < 1:
        variance = deltas.var(axis=0)
        count = int(select_topk * np.count_nonzero(variance))
        deltas = np.stack([only(d, ranked(variance)[:count]) for d in deltas])
    energy = np.array([np.mean(d * d) for d in deltas])
    share = energy / energy.sum() if energy.sum() >= 1e-6 else np.full(len(models), 1 / len(models))
    majority = np.where(deltas.sum(axis=0) >= 0, 1.0, -1.0)
    counts = [w * (np.sign(d) == majority) for w, d in zip(share, deltas, strict=True)]
    return base + sum(c * d for c, d in zip(counts, deltas, strict=True)) / np.maximum(sum(counts), 1e-6)


def ram(base: Array, models: list[Array], draws: Draws, *, epsilon: float = 1e-5, r: float = 0.0, alpha: float = 0.0):
    """arXiv:2601.13572: what one model changed is added whole, what several changed as their mean."""
    deltas = [x - base for x in models]
    changed = [np.abs(d) > epsilon for d in deltas]
    n_changed = sum(c.astype(int) for c in changed)
    out = base.copy()
    for delta, mine in zip(deltas, changed, strict=True):
        alone, shared = mine & (n_changed == 1), mine & (n_changed > 1)
        ratio = shared.sum() / alone.sum() if alone.any() else 0.0
        out += np.where(alone, delta * (1 + r * min(max(ratio, 0.0), alpha)), 0)
        out += np.where(shared, delta / np.maximum(n_changed, 1), 0)
    return out


def ramplus_tl(base: Array, models: list[Array], draws: Draws, *, epsilon=1e-5, r: float = 0.1, alpha: float = 0.2):
    """The same; what a model alone changed is amplified by the share of its changes that overlap."""
    return ram(base, models, draws, epsilon=epsilon, r=r, alpha=alpha)


FORMULAS = {
    formula.__name__: formula
    for formula in (
        extrapolate, linear, task_arithmetic, ties, dare_linear, dare_ties, breadcrumbs, breadcrumbs_ties, della,
        della_linear, sce, ram, ramplus_tl, slerp, nuslerp, multislerp, karcher, model_stock, nearswap, arcee_fusion,
        passthrough, tsv_m, iso_c,
    )
}  # fmt: skip
