"""Run a script in several processes under torchrun."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

LAUNCH = [sys.executable, "-m", "torch.distributed.run"]
# What each rank runs: one recipe after the other, and then what the test adds.
SCRIPT = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
import expo
home, rank = sys.argv[1], int(os.environ["RANK"])
def merged(name, **options):
    return expo.merge(f"{home}/{name}.yaml", f"{home}/{os.environ['INTO']}-{name}", **options)
"""


def launch(home: Path, body: str, *, processes: int = 2, into: str = "many", **environment: str):
    """Run SCRIPT and `body` in that many processes."""
    script = home / f"{into}.py"
    script.write_text(SCRIPT + textwrap.dedent(body))
    command = [*LAUNCH, "--standalone", "--nproc-per-node", str(processes), str(script), str(home)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment | {"INTO": into, "OMP_NUM_THREADS": "1"},
    )
