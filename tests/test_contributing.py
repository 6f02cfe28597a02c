"""The method that CONTRIBUTING adds works as it stands there."""

import re
from pathlib import Path

import torch

from expo.methods.declare import METHODS

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def test_the_example_method_registers_itself_and_computes_its_formula():
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
    try:
        exec(compile(code, "midpoint.py", "exec"), {"__name__": "midpoint"})
        midpoint = METHODS["midpoint"]
        assert midpoint.roles == ("base", "aligned") and midpoint.parameters["scale"].default == 0.5
        assert midpoint.apply(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 8.0])).tolist() == [2.0, 6.0]
    finally:
        METHODS.pop("midpoint", None)
