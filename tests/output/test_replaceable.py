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
    (home / "config.json").write_text("{}")
    with pytest.raises(OutputError, match="holds no checkpoint"):
        expo.extrapolate(sft=sft, dpo=dpo, output=home, overwrite=True)
    assert (home / "diary.txt").read_text() == "dear diary"


@pytest.mark.parametrize("name", [None, "model.safetensors", "expo.json", "pytorch_model.bin"])
def test_an_empty_folder_and_a_checkpoint_are_replaced(tmp_path, name):
    sft, dpo = pico_pair(tmp_path)
    old = tmp_path / "old"
    old.mkdir()
    if name:
        (old / name).write_text("old")
    expo.extrapolate(sft=sft, dpo=dpo, output=old, overwrite=True)
    assert (old / "expo.json").stat().st_size > 10


@pytest.mark.parametrize("output", ["", "."])
def test_an_output_without_a_name_is_refused(tmp_path, monkeypatch, output):
    sft, dpo = pico_pair(tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    (here / "model.safetensors").write_text("mine")
    monkeypatch.chdir(here)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="has no name"):
            expo.extrapolate(sft=sft, dpo=dpo, output=output, overwrite=overwrite)
    with pytest.raises(OutputError, match="is where this command runs"):
        expo.extrapolate(sft=sft, dpo=dpo, output=here, overwrite=True)
    assert (here / "model.safetensors").read_text() == "mine"


def test_a_link_to_a_folder_is_followed(tmp_path):
    sft, dpo = pico_pair(tmp_path)
    disk = tmp_path / "disk" / "out"
    disk.mkdir(parents=True)
    link = tmp_path / "out"
    link.symlink_to(disk)
    expo.extrapolate(sft=sft, dpo=dpo, output=link, overwrite=True)
    expo.extrapolate(sft=sft, dpo=dpo, output=link, alpha=0.5, overwrite=True)
    assert link.is_symlink() and '"alpha": 0.5' in (disk / "expo.json").read_text()
