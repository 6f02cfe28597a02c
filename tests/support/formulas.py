"""The task-arithmetic family in float64 numpy, straight from the definitions: the authority of the methods' tests."""

import numpy as np


def trim(delta, k):
    """delta with all but its k largest magnitudes set to zero; of equal ones the first stay."""
    flat = delta.reshape(-1)
    order = np.lexsort((np.arange(flat.size), -np.abs(flat)))
    kept = np.zeros_like(flat)
    kept[order[:k]] = flat[order[:k]]
    return kept.reshape(delta.shape)


def add(base, deltas, weight, *, normalize=False, scale=1.0):
    """base + scale * sum w d [/ sum w]."""
    total = sum(w * d for w, d in zip(weight, deltas, strict=True))
    return base + scale * total / (sum(weight) if normalize and abs(sum(weight)) >= 1e-8 else 1)


def agree(base, deltas, weight, *, normalize=False, scale=1.0, factors=None):
    """base + scale * sum of the w d with the sign of the sum of all [/ sum of their w]."""
    parts = [w * f * d for w, f, d in zip(weight, factors or [1] * len(weight), deltas, strict=True)]
    sign = np.where(sum(parts) >= 0, 1, -1)
    agrees = [np.sign(part) == sign for part in parts]
    found = sum(np.where(yes, part, 0) for yes, part in zip(agrees, parts, strict=True))
    if normalize:
        weights = sum(np.where(yes, w, 0.0) for yes, w in zip(agrees, weight, strict=True))
        found = found / np.where(weights == 0, 1, weights)
    return base + scale * found


def undecided(deltas, weight):
    """Where the sum of the parts nearly cancels, so that rounding may elect either sign."""
    parts = [w * d for w, d in zip(weight, deltas, strict=True)]
    return np.abs(sum(parts)) <= 1e-6 * sum(np.abs(part) for part in parts)
