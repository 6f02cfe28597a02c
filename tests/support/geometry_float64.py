"""The methods that turn, choose and decompose: formulas on whole float64 arrays. See formulas_float64."""

from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray
Each = Sequence[float]
Draws = Callable[[int, tuple[int, ...]], Array]
FLAT = 1 - 0.9995  # of slerp: a cosine nearer to 1 is a straight line


def length(x: Array) -> float:
    return float(np.sqrt(np.sum(x * x)))


def arc(a: Array, b: Array) -> float:
    """The angle between two vectors."""
    return float(np.arccos(np.clip(np.sum(a * b) / (length(a) * length(b)), -1, 1)))


def along(a: Array, b: Array, t: float, theta: float) -> Array:
    """The point at share t of an arc of angle theta."""
    return (np.sin((1 - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta)


def slerp(base: Array, models: list[Array], draws: Draws, *, t: float):
    """Shoemake 1985 on the whole tensor as one vector; nearly parallel tensors, or one of no length, in a line."""
    (other,) = models
    if not length(base) or not length(other) or abs(np.cos(arc(base, other))) > 1 - FLAT:
        return (1 - t) * base + t * other
    return along(base, other, t, arc(base, other))


def nuslerp(
    base: Array | None, models: list[Array], draws: Draws, *, weight: Each, nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
):  # fmt: skip
    """slerp by weights, of the models or of their deltas; one angle, or one for each vector of a dimension."""
    first, second = models if base is None else [x - base for x in models]
    t = weight[1] / sum(weight) if abs(sum(weight)) >= 1e-6 else 0.5

    def turned(a: Array, b: Array) -> Array:
        if not length(a) or not length(b) or np.sin(arc(a, b)) < 1e-8:
            return (1 - t) * a + t * b
        return along(a, b, t, arc(a, b))

    if nuslerp_flatten or first.ndim < 2:
        moved = turned(first, second)
    else:
        axis = 0 if nuslerp_row_wise else -1
        a, b = np.moveaxis(first, axis, -1), np.moveaxis(second, axis, -1)
        moved = np.empty_like(a)
        for at in np.ndindex(a.shape[:-1]):
            moved[at] = turned(a[at], b[at])
        moved = np.moveaxis(moved, -1, axis)
    return moved if base is None else base + moved


def step_from(point: Array, tangent: Array) -> Array:
    """The exponential map: from a unit vector along a tangent."""
    angle = length(tangent)
    return point if angle == 0 else np.cos(angle) * point + np.sin(angle) / angle * tangent


def multislerp(
    base: Array | None, models: list[Array], draws: Draws, *, weight: Each, normalize_weights: bool = True, eps=1e-8
):
    """One step of the mean on the sphere from the normalised weighted mean, times the weighted mean of the lengths."""
    vectors = models if base is None else [x - base for x in models]
    weight = [w / sum(weight) for w in weight] if normalize_weights else list(weight)
    unit = [x / length(x) if length(x) > eps else 0 * x for x in vectors]
    mean = sum(w * u for w, u in zip(weight, unit, strict=True))
    if length(mean) <= eps:
        moved = sum(w * x for w, x in zip(weight, vectors, strict=True))
    else:
        centre = mean / length(mean)
        tangents = [u - np.sum(u * centre) * centre for u in unit]
        moved = step_from(centre, sum(w * t for w, t in zip(weight, tangents, strict=True)))
        moved = moved * sum(w * length(x) for w, x in zip(weight, vectors, strict=True))
    return moved if base is None else base + moved


def karcher(base: None, models: list[Array], draws: Draws, *, max_iter: int = 10, tol: float = 1e-5):
    """Karcher 1977: the unit vector from which the mean logarithm of all directions is zero, times the mean length."""
    unit = [x / length(x) for x in models if length(x) > tol]
    if not unit:
        return np.zeros_like(models[0])
    centre = sum(unit)
    if length(centre) < tol:
        centre = unit[0]
    centre = centre / length(centre)
    for _ in range(max_iter):
        logs = []
        for u in unit:
            angle = arc(centre, u)
            logs.append((u - np.cos(angle) * centre) * (angle / np.sin(angle)) if angle > 1e-9 else 0 * u)
        tangent = sum(logs) / len(unit)
        if length(tangent) < tol:
            break
        centre = step_from(centre, tangent)
        centre = centre / length(centre)
    return centre * np.mean([length(x) for x in models if length(x) > tol])


def model_stock(base: Array, models: list[Array], draws: Draws, *, filter_wise: bool = False):
    """arXiv:2403.19522, eq. 3: t mean + (1 - t) base, t from the mean cosine between two models' deltas."""
    if filter_wise and base.ndim > 1:
        rows = zip(*(x.reshape(-1, x.shape[-1]) for x in (base, *models)), strict=True)
        return np.stack([model_stock(b, xs, draws) for b, *xs in rows]).reshape(base.shape)
    deltas = [x - base for x in models]
    n = len(models)
    pairs = [(a, b) for i, a in enumerate(deltas) for b in deltas[i + 1 :]]
    cosine = np.mean([np.sum(a * b) / (length(a) * length(b)) if length(a) * length(b) else 0 for a, b in pairs])
    t = n * cosine / (1 + (n - 1) * cosine) if abs(1 + (n - 1) * cosine) >= 1e-6 else 0.0
    return t * sum(models) / n + (1 - t) * base


# --- others -----------------------------------------------------------------------------------------------------------


def nearswap(base: Array, models: list[Array], draws: Draws, *, t: float):
    """The nearer the other is, the more of it: its share is t / distance, at most 1."""
    (other,) = models
    share = np.clip(t / np.maximum(np.abs(base - other), 1e-6), 0, 1)
    return share * other + (1 - share) * base


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def arcee_fusion(base: Array, models: list[Array], draws: Draws):
    """Keep the changes whose importance |delta| * KL(row) is at least median + 1.5 interquartile ranges."""
    (other,) = models
    if not base.size:
        return other
    p, q = softmax(np.atleast_1d(other)), softmax(np.atleast_1d(base))
    divergence = np.sum(p * np.log(p / q), axis=-1, keepdims=True)
    importance = np.abs(np.atleast_1d(other - base)) * divergence
    low, median, high = np.quantile(importance, [0.25, 0.5, 0.75])
    return np.where(importance.reshape(base.shape) >= median + 1.5 * (high - low), other, base)


def passthrough(base: None, models: list[Array], draws: Draws, *, scale: Each | None = None):
    """The model, or a multiple of it."""
    (model,) = models
    return model * scale[0] if scale else model


def by_matrix(merge: Callable[[list[Array]], Array], deltas: list[Array]) -> Array:
    """A merge of matrices; three dimensions are a stack of them, vectors take the mean."""
    if deltas[0].ndim < 2 or not deltas[0].size:
        return sum(deltas) / len(deltas)
    if deltas[0].ndim == 2:
        return merge(deltas)
    return np.stack([by_matrix(merge, list(parts)) for parts in zip(*deltas, strict=True)])


def nearest_orthonormal(x: Array) -> Array:
    """The polar factor: the matrix with orthonormal rows or columns that is nearest."""
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


def tsv_m(base: Array, models: list[Array], draws: Draws, *, scale: float = 1.0, spectral: bool = True):
    """arXiv:2412.00081, algorithm 1: 1/n of each delta's singular vectors, all of them whitened together."""

    def merge(deltas: list[Array]) -> Array:
        us, ss, vts = zip(*(np.linalg.svd(d, full_matrices=False) for d in deltas), strict=True)
        k = int(len(ss[0]) / len(deltas))
        u = np.concatenate([u[:, :k] for u in us], axis=1)
        vt = np.concatenate([vt[:k] for vt in vts], axis=0)
        return nearest_orthonormal(u) @ np.diag(np.concatenate([s[:k] for s in ss])) @ nearest_orthonormal(vt)

    return base + scale * (
        by_matrix(merge, [x - base for x in models]) if spectral else sum(models) / len(models) - base
    )


def iso_c(base: Array, models: list[Array], draws: Draws, *, scale: float = 1.0, spectral: bool = True):
    """arXiv:2502.04959, eq. 5: the summed delta with every singular value replaced by their mean."""

    def merge(deltas: list[Array]) -> Array:
        u, s, vt = np.linalg.svd(sum(deltas), full_matrices=False)
        return s.mean() * (u @ vt)

    return base + scale * (
        by_matrix(merge, [x - base for x in models]) if spectral else sum(models) / len(models) - base
    )
