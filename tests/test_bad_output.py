"""An output that has no place is refused in one message before any tensor is read; not even a lock is written."""

import fcntl
import os
import shutil
from collections import namedtuple

import pytest
from pico import pico_pair

import expo


def test_an_output_that_exists_is_refused_even_when_it_is_empty_a_file_or_a_link(home, refused):
    (home / "folder").mkdir()
    (home / "file").write_text("mine")
    (home / "link").symlink_to(home / "folder")
    (home / "dangling").symlink_to(home / "nowhere")
    refused("exists", "--overwrite", out="folder")
    refused("exists", "--overwrite", out="link")
    refused("is a file", out="file")
    refused("is a file", out="file", more=["--overwrite"])
    refused("dangling", out="dangling")


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_an_output_never_touches_an_input(home, refused, more):
    (home / "alias").symlink_to(home / "dpo")
    nested = home / "nest" / "inner"
    shutil.copytree(home / "sft", nested)
    refused("inside sft", out="sft", more=more)
    refused("inside dpo", out="dpo", more=more)
    refused("inside dpo", out="dpo/deeper/out", more=more)
    refused("inside dpo", out="alias/out", more=more)
    refused("inside dpo", out="alias", more=more)
    refused("inside dpo", dpo="alias", out="dpo/out", more=more)
    refused("lies inside", sft="nest/inner", out="nest", more=more)
    refused("inside dpo", out="dpo/../dpo/out", more=more)


def test_an_unfinished_folder_that_would_be_an_input_is_refused_and_left_alone(home, refused):
    shutil.copytree(home / "sft", home / "out.partial")
    refused("out.partial", sft="out.partial")
    refused("out.partial")


def test_an_output_that_cannot_be_written_is_refused(home, refused, monkeypatch):
    (home / "file").write_text("mine")
    refused("file cannot be written", out="file/out")
    refused("cannot be written", out="file/deep/out")
    refused("cannot", out="x" * 300)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(home))
    refused(f"{home} cannot be written to", out="out")
    refused(f"{home} cannot be written to", out="new/deep/out")


def test_the_root_folder_is_no_output(refused):
    refused(out="/")
    refused(out="/", more=["--overwrite"])


def test_a_disk_that_is_too_small_is_refused_with_both_numbers(home, refused, monkeypatch):
    free = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free(10**9, 10**9 - 10, 10))
    refused("GB free", "the output needs", "Nothing was written")
    refused("GB free", out="new/deep/out")


def stopped(home, **settings):
    """Leave an unfinished folder behind."""

    def stop(n_bytes):
        raise RuntimeError("stop")

    plan = expo.plan(expo.extrapolation(sft=home / "sft", dpo=home / "dpo", **settings))
    with pytest.raises(RuntimeError):
        expo.run(plan, home / "out", progress=stop)
    assert (home / "out.partial" / "run.json").exists()


@pytest.fixture
def unfinished(tmp_path):
    pico_pair(tmp_path)
    stopped(tmp_path, alpha=0.1)


def test_an_unfinished_folder_of_another_recipe_is_refused_with_the_way_to_drop_it(unfinished, refused, home):
    refused("belongs to another run", "rm -r", "out.partial", more=["--alpha", "0.2"])
    refused("belongs to another run", more=["--alpha", "0.1", "--dtype", "float32"])


def test_an_unfinished_folder_in_use_is_refused_and_says_by_whom(unfinished, refused, home):
    lock = home / "out.partial" / "lock"
    with open(lock, "r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        holder = lock.read_text().strip()
        refused(f"in use by process {holder}", more=["--alpha", "0.1"])


def test_a_folder_in_the_place_of_the_unfinished_one_is_refused_and_left_alone(home, refused):
    (home / "out.partial").mkdir()
    (home / "out.partial" / "notes.txt").write_text("mine")
    refused("in the way", "notes.txt")
