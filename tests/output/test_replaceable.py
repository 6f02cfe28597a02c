"""--overwrite replaces checkpoints, and nothing else that a path may name by mistake."""

import pytest
from pico import pico_pair

import expo
from expo.errors import OutputError


def test_a_folder_that_holds_no_checkpoint_is_not_replaced(tmp_path):
    sft, dpo = pico_pair(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "diary.txt").write_text("dear diary")
    with pytest.raises(OutputError, match="holds no checkpoint"):
        expo.extrapolate(sft=sft, dpo=dpo, output=home, overwrite=True)
    assert (home / "diary.txt").read_text() == "dear diary"


@pytest.mark.parametrize("name", [None, "config.json", "model.safetensors", "expo.json", "pytorch_model.bin"])
def test_an_empty_folder_and_a_checkpoint_are_replaced(tmp_path, name):
    sft, dpo = pico_pair(tmp_path)
    old = tmp_path / "old"
    old.mkdir()
    if name:
        (old / name).write_text("old")
    expo.extrapolate(sft=sft, dpo=dpo, output=old, overwrite=True)
    assert (old / "expo.json").stat().st_size > 10
