"""expo inspect on the command line."""

import json

import torch
from click.testing import CliRunner
from pico import pico_pair, write_checkpoint

from expo.cli.main import group


def run(*arguments):
    return CliRunner().invoke(group, ["inspect", *map(str, arguments)])


def test_totals_by_module_group_are_shown(tmp_path):
    sft, _ = pico_pair(tmp_path)
    result = run(sft)
    assert result.exit_code == 0
    assert "model.layers.*.mlp.up_proj.weight" in result.output and "layers.0" not in result.output
    assert "LlamaForCausalLM" in result.output and "model.layers: 2 (0-1)" in result.output


def test_tensors_are_listed_when_asked_for(tmp_path):
    sft, _ = pico_pair(tmp_path)
    output = run(sft, "--tensors").output
    assert "model.layers.0.mlp.up_proj.weight" in output and "32 x 16" in output


def test_json_is_one_object_with_every_tensor(tmp_path):
    sft, _ = pico_pair(tmp_path)
    record = json.loads(run(sft, "--json").output)
    assert len(record["tensors"]) == record["n_tensors"] == 21
    assert record["tensors"][0].keys() >= {"name", "dtype", "shape", "n_bytes", "file"}


def test_a_strange_name_reaches_no_terminal_as_it_is(tmp_path):
    folder = write_checkpoint(tmp_path / "strange", {"a\x1b[2J[red]\n": torch.ones(1)})
    output = run(folder, "--tensors").output
    assert "\x1b" not in output and r"a\x1b[2J[red]\n" in output


def test_a_header_limit_is_obeyed(tmp_path):
    sft, _ = pico_pair(tmp_path)
    assert "--max-header" in str(run(sft, "--max-header", "100B").exception)
