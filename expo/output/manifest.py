"""expo.json: what a checkpoint was made of and what it must hold, so that anyone can check it later.

Nothing in it differs between two equal runs: no time, host, path or thread count.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expo.errors import VerifyError
from expo.version import __version__

NAME = "expo.json"
FORMAT = 1


def manifest(
    recipe: Mapping[str, Any],
    inputs: Mapping[str, Any],
    files: Mapping[str, Any],
    side_files: Mapping[str, str],
    tensors: Mapping[str, str],
    effective: Mapping[str, Any],
    left_out: tuple[str, ...],
    stages: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest as plain data.

    files: weight file -> {"n_bytes", "header"}; side_files: name -> hash; tensors: name -> hash over its segments.
    stages: name -> {"recipe", "inputs"} of each earlier stage that an input comes from; no key where there is none.
    search: how the recipe's parameters were chosen; no key where nothing was searched.
    """
    return {
        "format": FORMAT,
        "expo": __version__,
        "recipe": dict(recipe),
        "inputs": dict(inputs),
        **({"stages": dict(stages)} if stages else {}),
        **({"search": dict(search)} if search else {}),
        "effective": dict(effective),
        "files": dict(files),
        "side_files": dict(side_files),
        "left_out": list(left_out),
        "tensors": dict(tensors),
    }


def as_text(content: Mapping[str, Any]) -> str:
    """The manifest's file, stable to the byte."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; raises VerifyError where there is none that this version reads."""
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise VerifyError(
            f"{folder} has no {NAME}: it was not written by expo, so there is nothing to compare."
        ) from None
    except (ValueError, RecursionError) as error:
        raise VerifyError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise VerifyError(f"{path} has a format that this version of expo ({__version__}) does not read.")
    return content
