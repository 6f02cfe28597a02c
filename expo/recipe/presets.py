"""Settings with a name: what a recipe may say in one word, written out as gradients and filters."""

from typing import Any

from expo.errors import RecipeError, nearest
from expo.methods import METHODS, Method, Parameter
from expo.recipe.values import Setting

_SCALES = {"extrapolate": "alpha"}  # the parameter that scales all that a method adds; elsewhere it is lambda
# Neither in a numbered layer nor an embedding: the last norm, the head.
_AFTER_LAYERS = r"re:^(?!.*(\.\d+\.|embed|wte|wpe))"


def lines(method: Method, preset: dict[str, Any], given: Setting = None) -> dict[str, Setting]:
    """The parameter that scales what the method adds, growing with depth: times alpha at the first layer, alpha + beta
    at the last and after it, linear between; embeddings count as the first.

    preset: {alpha, beta}, both numbers. given: what the recipe says of that parameter, one number; else the default.
    Raises RecipeError for other keys or values, and for a method that has no such parameter. Wang et al., "LiNeS",
    arXiv:2410.17146, equation 2.
    """
    scale = scale_of(method)
    if scale is None:
        able = ", ".join(name for name, other in METHODS.items() if scale_of(other))
        raise RecipeError(
            f"lines scales what a method adds to a base, but {method.name} has no parameter for it. "
            f"These have: {able}. "
            "Or scale its result in a second stage: task_arithmetic with lines."
        )
    for key in preset:
        if key not in ("alpha", "beta"):
            raise RecipeError(f"lines has no {key!r}; it takes alpha and beta.{nearest(key, ['alpha', 'beta'])}")
    ends = [_number(preset, "alpha"), _number(preset, "alpha") + _number(preset, "beta")]
    times = scale.default if given is None else given
    if isinstance(times, list | tuple | dict):
        raise RecipeError(f"lines makes a gradient of {scale.name}, so that may only be one number beside it.")
    first, last = (scale.checked(times) * end for end in ends)
    return {scale.name: [{"filter": _AFTER_LAYERS, "value": last}, {"value": [first, last]}]}


def scale_of(method: Method) -> Parameter | None:
    """The parameter that scales all that a method adds to its base; None where it has none."""
    return method.parameters.get(_SCALES.get(method.name, "lambda"))


def _number(preset: dict[str, Any], key: str) -> float:
    value = preset.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecipeError(f"lines needs {key}, a number; it has {value!r}.")
    return value
