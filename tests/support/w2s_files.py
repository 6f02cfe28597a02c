"""Small files of weak-to-strong runs, and where the published ones lie."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("EXPO_SHARED_DATA", ROOT.parent / "shared" / "data"))


def published(name: str) -> Path:
    """A file of the published data; the test is skipped, saying so, where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the shared data is absent: {path} (EXPO_SHARED_DATA names its folder)")
    return path


def answer(key, pred: str, **more) -> dict:
    """An answer whose response shows its prediction."""
    return {"id": key, "prompt": f"q{key}", "response": f"so {pred}", "pred": pred} | more


def write(path: Path, rows, *, array: bool = False) -> Path:
    """A JSONL file, or an array as LLaMA-Factory indents it."""
    rows = list(rows)
    path.write_text(json.dumps(rows, indent=4) if array else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict]:
    """All rows of a JSONL file or an array."""
    text = Path(path).read_text()
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
