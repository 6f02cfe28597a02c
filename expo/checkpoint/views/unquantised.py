"""Where the unquantised weights of a checkpoint are likely to be: what its card or config names as its base."""

import re
from pathlib import Path
from typing import Any

from expo.checkpoint.files import read_small
from expo.checkpoint.spec import Source
from expo.errors import ExpoError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MOST = 1 << 20  # bytes of a card


def named_base(source: Source, config: dict[str, Any]) -> str | None:
    """The Hub id that a model card names as base_model, or the one that a config was made from."""
    found = [*_of_card(source.folder / "README.md"), config.get("_name_or_path")]
    return next((name for name in found if _is_other(name, source)), None)


def _of_card(path: Path) -> list[str]:
    """base_model of the card's front matter: a name or a list of them."""
    if not path.is_file():
        return []
    try:
        text = read_small(path, _MOST).decode("utf-8", "replace")
    except ExpoError:
        return []
    front = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    # Read by its lines: a stranger's YAML can hold what no parser should build.
    entry = re.search(r"^base_model:[ \t]*(.*(?:\n[ \t]*-[ \t]*.*)*)", front[1], re.MULTILINE) if front else None
    return _HUB_ID.findall(entry[1]) if entry else []


def _is_other(name: Any, source: Source) -> bool:
    return isinstance(name, str) and _HUB_ID.fullmatch(name) is not None and name != source.repo_id
