"""expo verify on the command line: exit codes and what is said."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from pico import pico_pair

import expo
from expo.cli.main import group


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    sft, dpo = pico_pair(folder)
    expo.extrapolate(sft=sft, dpo=dpo, output=folder / "out")
    return folder


def run(*arguments):
    return CliRunner().invoke(group, ["verify", *map(str, arguments)])


def test_a_sound_output_is_all_well(made):
    result = run(made / "out", "--recompute", "all", "--input", f"sft={made / 'sft'}", "--input", f"dpo={made / 'dpo'}")
    assert result.exit_code == 0
    assert "all well" in result.output and "recomputed 21 of 21 segments" in result.output


def test_json_is_one_object(made):
    record = json.loads(run(made / "out", "--json").output)
    assert record["ok"] is True and record["n_tensors"] == 21 and record["problems"] == []


def test_a_foreign_checkpoint_passes_with_a_note(made):
    result = run(made / "sft")
    assert result.exit_code == 0 and "note: no manifest" in result.output


def test_problems_are_listed_and_exit_1(made, tmp_path):
    import shutil

    out = shutil.copytree(made / "out", tmp_path / "out")
    (out / "generation_config.json").unlink()
    os.truncate(next(out.glob("*2-of*")), 4000)
    done = subprocess.run([sys.executable, "-m", "expo", "verify", out], capture_output=True, text=True)
    assert done.returncode == 1 and "all well" not in done.stdout
    assert "generation_config.json: the side file is missing" in done.stderr and "byte 4000" in done.stderr


@pytest.mark.parametrize("arguments", [["--recompute", "0%"], ["--recompute", "lots"], ["--input", "PATH"]])
def test_what_cannot_be_meant_is_a_usage_error(made, arguments):
    assert run(made / "out", *arguments).exit_code == 2
