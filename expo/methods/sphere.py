"""Angles between whole tensors: what slerp and its kin share. Numbers about tensors are Python floats here.

All these methods stay in the span of their inputs, so products of the inputs decide everything but the last sum.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Gram = list[list[float]]  # of n tensors: the products of each with each


def products(vectors: Sequence["Tensor"]) -> Iterator["Tensor"]:
    """x_i * x_j for i <= j, element by element: the terms whose sums `gram` takes."""
    return (x * y for i, x in enumerate(vectors) for y in vectors[i:])


def exact_products(vectors: Sequence["Tensor"]) -> Iterator["Tensor"]:
    """The same in float64, for methods that look at differences of angles."""
    return products([x.double() for x in vectors])


def gram(sums: Sequence[float], n: int) -> Gram:
    """The sums of `products` as a matrix; an empty tensor has none, and only zeros."""
    values = iter(sums or [0.0] * (n * (n + 1) // 2))
    matrix = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i, n):
            matrix[i][j] = matrix[j][i] = next(values)
    return matrix


def cosine(xx: float, xy: float, yy: float) -> float:
    """The cosine of the angle between x and y from their products; 0 where one of them is 0."""
    squares = xx * yy  # one root of the product: it is exact where x and y are equal
    return max(-1.0, min(1.0, xy / math.sqrt(squares))) if squares > 0 else 0.0


def arc(cos: float, t: float) -> tuple[float, float]:
    """The factors of two vectors at that angle, which lead the way t from the first to the second."""
    theta = math.acos(cos)
    return math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)


def turn(xx: float, xy: float, yy: float, t: float) -> tuple[float, float]:
    """(p, q) such that p x + q (y - x) lies at t on the arc from x to y, or on the line where they are parallel."""
    cos = cosine(xx, xy, yy)
    if abs(cos) == 1:
        return 1.0, t
    of_x, of_y = arc(cos, t)
    return of_x + of_y, of_y


def product(matrix: Gram, left: Sequence[float], right: Sequence[float]) -> float:
    """The scalar product of two combinations of the tensors."""
    return math.fsum(a * row[j] * b for a, row in zip(left, matrix, strict=True) for j, b in enumerate(right))


def combined(vectors: Sequence["Tensor"], factors: Sequence[float]) -> "Tensor":
    """The sum of each tensor times its factor; spends all but the first."""
    total = vectors[0] * factors[0]
    for x, factor in zip(vectors[1:], factors[1:], strict=True):
        total += x.mul_(factor)
    return total
