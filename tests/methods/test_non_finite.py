"""No method swallows a NaN or an infinity of an input: the run stops, names tensor and index, and writes nothing."""

import pytest
import torch
from engine import streamed
from every_method import CASES, SMALL

import expo
from expo.errors import NonFinite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_value_that_is_not_finite_stops_every_method_and_is_named(case, value, tmp_path):
    for last in (True, False):
        tensors = case.draw(torch.bfloat16, SMALL)
        tensors[-1 if last else 0]["matrix"].view(-1)[77] = value
        with pytest.raises(NonFinite, match=r"^matrix\[77\] is -?(nan|inf) in"):
            streamed(case.recipe(tmp_path / str(last), tensors))


def test_a_run_that_stops_so_leaves_no_folder(tmp_path):
    case = next(case for case in CASES if case.method == "tsv_m")
    tensors = case.draw(torch.bfloat16, SMALL)
    tensors[0]["matrix"].view(-1)[5] = float("nan")
    with pytest.raises(NonFinite):
        expo.run(expo.plan(case.recipe(tmp_path / "in", tensors)), tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
