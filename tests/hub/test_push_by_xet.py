"""Pushes by the real hf_xet, into its makers' own stand-in for the storage service."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sharded import sharded
from standin_hub.xet import serve_xet, uploaded

pytest.importorskip("hf_xet")

SCRIPT = """
import json, sys
from expo.output.hub import HubTarget
from expo.publish import push

folder, n_first = sys.argv[1:3]
target = HubTarget("tester/m")
target.check()
target.open()
for number in range(1, int(n_first) + 1):
    name = f"model-{number:05}-of-00003.safetensors"
    target.preupload(name, f"{folder}/{name}")
target.close()
print(json.dumps(push(folder, "tester/m").record()))
print(json.dumps(push(folder, "tester/m").record()))
"""

FETCH = """
import sys
from hf_xet import XetFileInfo, XetSession

cas, own, n_bytes, path = sys.argv[1:]
with XetSession().new_file_download_group(endpoint=cas) as group:
    group.start_download_file(XetFileInfo(own, int(n_bytes)), path)
"""


def run(script, environment, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_push_by_xet_arrives_bit_for_bit_and_what_arrived_before_is_not_sent_again(standin, tmp_path):
    folder, cas = sharded(tmp_path / "out", n_shards=3, n_elements=50_000), serve_xet(standin)
    environment = {**os.environ, **standin.environment(tmp_path / "home"), "HF_HUB_DISABLE_XET": "0"}
    first, second = map(json.loads, run(SCRIPT, environment, folder, 2).splitlines())
    assert (first["n_kept"], first["n_sent"], first["already"], second["already"]) == (2, 1, False, True)
    shown = standin.repositories["tester/m"].head.files
    assert standin.uploads.received == [] and not standin.errors
    names = uploaded(cas)
    for path in Path(folder).glob("*.safetensors"):
        copy = tmp_path / "copy" / path.name
        copy.parent.mkdir(exist_ok=True)
        run(FETCH, environment, f"local://{cas}", names[shown[path.name].sha256], path.stat().st_size, copy)
        assert copy.read_bytes() == path.read_bytes()
