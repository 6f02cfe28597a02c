"""A published checkpoint under the names and in the layout of a result; as it is stored where these fit already."""

from dataclasses import replace
from pathlib import Path

from expo.checkpoint.spec import Checkpoint
from expo.planning import Plan
from expo.planning.awaited import expected
from expo.planning.layouts import in_one_layout, renamed
from expo.recipe import extrapolation


def named_as(ours: Plan | Checkpoint, published: Checkpoint, made: Plan | None) -> tuple[Checkpoint, list[str]]:
    """(the published checkpoint as it is compared, what was done to it in words).

    made: the plan of the result, whose recipe's renaming counts for the published names too.
    """
    result = expected(ours, Path("result")) if isinstance(ours, Plan) else ours
    # The two are matched like the inputs of a run: the second one's names are kept.
    recipe = replace(extrapolation(sft="published", dpo="result"), rename=made.recipe.rename if made else ())
    found = in_one_layout(recipe, {"sft": published, "dpo": result})
    laid = found.inputs["sft"]
    notes = [f"the published checkpoint{note.removeprefix('sft')}" for note in found.notes]
    return replace(laid, tensors=renamed(recipe, laid, result)), notes
