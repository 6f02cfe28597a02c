"""slerp and its kin in float64 numpy, straight from the definitions: the authority of the methods' tests.

Each takes the base (or None), a list of models, and the recipe's parameters; each works on one tensor.
"""

import itertools

import numpy as np


def dot(x, y, axis=None):
    return np.sum(x * y, axis=axis, keepdims=axis is not None)


def unit(x):
    return x / np.sqrt(dot(x, x))


def arc(x, y, t, axis=None):
    """t of the way from x to y on the great circle of their directions."""
    lengths = np.sqrt(dot(x, x, axis) * dot(y, y, axis))
    cos = np.clip(dot(x, y, axis) / np.where(lengths == 0, 1, lengths), -1, 1)
    theta = np.arccos(cos)
    sin = np.sin(theta)
    line = np.abs(cos) > 1 - 1e-15
    safe = np.where(line, 1, sin)
    bent = np.sin((1 - t) * theta) / safe * x + np.sin(t * theta) / safe * y
    return np.where(line, (1 - t) * x + t * y, bent)


def slerp(base, models, *, t):
    x, y = base, models[0]
    cos = dot(x, y) / np.sqrt(dot(x, x) * dot(y, y))
    return (1 - t) * x + t * y if abs(cos) > 0.9995 else arc(x, y, t)


def nuslerp(base, models, *, weight, nuslerp_flatten=True, nuslerp_row_wise=False):
    t = weight[1] / sum(weight)
    axis = None if nuslerp_flatten or not models[0].ndim else 0 if nuslerp_row_wise else -1
    if base is None:
        return arc(*models, t, axis)
    return base + arc(*(x - base for x in models), t, axis)


def multislerp(base, models, *, weight, normalize_weights=True):
    x = [m if base is None else m - base for m in models]
    w = np.array(weight) / (sum(weight) if normalize_weights else 1)
    resultant = unit(sum(a * unit(v) for a, v in zip(w, x, strict=True)))
    moved = resultant * sum(a * np.sqrt(dot(v, v)) for a, v in zip(w, x, strict=True))
    return moved if base is None else base + moved


def karcher(base, models, *, max_iter=10, tol=1e-5):
    """By iteration on the vectors themselves, at equal weights."""
    units = [unit(x) for x in models]
    mean = unit(sum(units))
    for _ in range(max_iter):
        step = 0.0
        for u in units:
            cos = np.clip(dot(u, mean), -1, 1)
            theta = np.arccos(cos)
            if np.sin(theta) > 1e-8:
                step = step + theta / np.sin(theta) * (u - cos * mean) / len(units)
        length = np.sqrt(dot(step, step)) if np.ndim(step) or step else 0.0
        if length < tol:
            break
        mean = unit(np.cos(length) * mean + np.sin(length) / length * step)
    return mean * np.mean([np.sqrt(dot(x, x)) for x in models])


def model_stock(base, models, *, filter_wise=False):
    axis = -1 if filter_wise and base.ndim else None
    d = [x - base for x in models]
    n = len(d)
    pairs = list(itertools.combinations(d, 2))
    cos = sum(dot(x, y, axis) / np.sqrt(dot(x, x, axis) * dot(y, y, axis)) for x, y in pairs) / len(pairs)
    t = n * cos / (1 + (n - 1) * cos)
    return t * sum(models) / n + (1 - t) * base


def nearswap(base, models, *, t):
    (x,) = models
    w = np.clip(t / np.maximum(np.abs(x - base), 1e-6), 0, 1)
    return w * x + (1 - w) * base


def passthrough(base, models, *, scale):
    return models[0] * scale[0]


def importance(base, x):
    """|x - base| times the divergence of each row's softmax."""

    def log_softmax(rows):
        rows = rows - rows.max(-1, keepdims=True)
        return rows - np.log(np.exp(rows).sum(-1, keepdims=True))

    rows = [t.reshape(1, -1) if t.ndim < 2 else t for t in (x, base)]
    p, q = map(log_softmax, rows)
    return (np.abs(rows[0] - rows[1]) * (np.exp(p) * (p - q)).sum(-1, keepdims=True)).reshape(x.shape)


def arcee_fusion(base, models):
    (x,) = models
    found = importance(base, x)
    low, median, high = np.quantile(found, [0.25, 0.5, 0.75])
    return np.where(found >= median + 1.5 * (high - low), x, base)


def polar(matrix):
    """The factor with orthonormal columns, matrix (matrix^T matrix)^-1/2."""
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    return matrix @ (vectors / np.sqrt(values)) @ vectors.T


def by_matrix(merge, base, models, scale):
    d = [x - base for x in models]
    if base.ndim not in (2, 3) or min(base.shape[-2:]) < 2:
        return base + scale * sum(d) / len(d)
    if base.ndim == 2:
        return base + scale * merge(d)
    return base + scale * np.stack([merge([x[i] for x in d]) for i in range(len(base))])


def tsv_m(base, models, *, lambda_=1.0):
    def merge(d):
        kept = min(d[0].shape) // len(d)
        parts = [np.linalg.svd(x, full_matrices=False) for x in d]
        u = np.concatenate([u[:, :kept] for u, _, _ in parts], 1)
        s = np.concatenate([s[:kept] for _, s, _ in parts])
        v = np.concatenate([vt[:kept].T for _, _, vt in parts], 1)
        return polar(u) @ np.diag(s) @ polar(v).T

    return by_matrix(merge, base, models, lambda_)


def iso_c(base, models, *, lambda_=1.0):
    def merge(d):
        u, s, vt = np.linalg.svd(sum(d), full_matrices=False)
        return s.mean() * u @ vt

    return by_matrix(merge, base, models, lambda_)
