"""expo diff on the command line."""

import json

import pytest
import torch
from click.testing import CliRunner
from pico import llama_tensors, pico_pair, write_checkpoint

from expo.cli.main import group


@pytest.fixture
def pair(tmp_path):
    return pico_pair(tmp_path)


def run(*arguments):
    return CliRunner().invoke(group, ["diff", *map(str, arguments)])


def test_the_table_ends_with_the_verdict(pair):
    result = run(*pair, "--alpha", "0.5")
    assert result.exit_code == 0
    assert "model.layers.*.mlp.up_proj.weight" in result.output
    assert result.output.strip().splitlines()[-1].startswith("alpha 0.5 would hold")


def test_json_is_one_object(pair):
    record = json.loads(run(*pair, "--json").output)
    assert record["alpha"] == 0.3 and len(record["tensors"]) == 21 and len(record["groups"]) == 12


def test_tensors_and_a_plot_are_made_when_asked_for(pair, tmp_path):
    pytest.importorskip("matplotlib")
    result = run(*pair, "--tensors", "--plot", tmp_path / "heat.png", "--threads", "1")
    assert "model.layers.1.mlp.up_proj.weight" in result.output
    assert (tmp_path / "heat.png").stat().st_size > 1000


def test_names_are_mapped(pair, tmp_path):
    tensors = llama_tensors(dtype=torch.bfloat16)
    tower = write_checkpoint(tmp_path / "tower", {f"tower.{name}": tensor for name, tensor in tensors.items()})
    assert "only in A: 21 tensors" in run(tower, pair[1]).output
    assert "only in" not in run(tower, pair[1], "--rename", "tower.=>").output
