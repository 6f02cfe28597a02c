"""expo: weight-space model surgery. Extrapolate and merge checkpoints exactly, in constant memory.

    import expo
    expo.extrapolate(sft="A", dpo="B", alpha=0.3, output="OUT")
    expo.merge("recipe.yaml", output="OUT")

Names are loaded when first used, so that `import expo` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from expo.version import __version__

if TYPE_CHECKING:
    from expo.checkpoint import open_checkpoint
    from expo.errors import ExpoError, OutputError, PlanError, RecipeError
    from expo.methods import method
    from expo.output.hub import HubTarget
    from expo.planning import plan
    from expo.publish import push
    from expo.recipe import Recipe, extrapolation, read_recipe
    from expo.stages import merge
    from expo.stream import load_model, run

_HOMES = {
    "ExpoError": "expo.errors",
    "HubTarget": "expo.output.hub",
    "OutputError": "expo.errors",
    "PlanError": "expo.errors",
    "Recipe": "expo.recipe",
    "RecipeError": "expo.errors",
    "extrapolation": "expo.recipe",
    "load_model": "expo.stream",
    "merge": "expo.stages",
    "method": "expo.methods",
    "open_checkpoint": "expo.checkpoint",
    "plan": "expo.planning",
    "push": "expo.publish",
    "read_recipe": "expo.recipe",
    "run": "expo.stream",
}

__all__ = [
    "ExpoError",
    "HubTarget",
    "OutputError",
    "PlanError",
    "Recipe",
    "RecipeError",
    "__version__",
    "extrapolate",
    "extrapolation",
    "load_model",
    "merge",
    "method",
    "open_checkpoint",
    "plan",
    "push",
    "read_recipe",
    "run",
]


def extrapolate(*, sft, dpo, output=None, alpha: float = 0.3, overwrite: bool = False, push_to=None, **settings: Any):
    """Write dpo + alpha * (dpo - sft) to the folder `output`, to the Hub, or to both; returns the run's Report.

    sft, dpo: a folder, a weight file, or a Hub id (org/name or org/name@revision).
    push_to: "org/name", or an expo.HubTarget (private, branch, pr). Without an output the result is kept nowhere else.
    settings: fields of Recipe (dtype, rounding, seed, ...) and options of `expo.run` (threads, device, ...).
    Raises RecipeError, PlanError, OutputError, PushError or a DataError; the output appears whole or not at all.
    Source: Zheng et al., "Model Extrapolation Expedites Alignment", arXiv:2404.16792.
    """
    from dataclasses import fields

    from expo.planning import plan
    from expo.planning.on_the_hub import check_room, checked_target
    from expo.recipe import Recipe, extrapolation
    from expo.stream import run

    of_recipe = {field.name for field in fields(Recipe)}
    asked = {name: value for name, value in settings.items() if name in of_recipe}
    options = {name: value for name, value in settings.items() if name not in of_recipe}
    recipe = extrapolation(sft=sft, dpo=dpo, alpha=alpha, **asked)
    target = checked_target(push_to, output, overwrite=overwrite)
    planned = plan(recipe)
    if target:
        check_room(planned, target)
    return run(planned, output, overwrite=overwrite, target=target, **options)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'expo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
