"""What a checkpoint's README.md says in its metadata: its license, and the models it was made from."""

import re
from typing import Any

import yaml

from expo.checkpoint.spec import Source

_MOST = 1 << 16  # characters read of a card
_LICENSE = ("license", "license_name", "license_link")


def card_head(source: Source) -> str | None:
    """The block between the first two lines of dashes; None without one."""
    readme = source.folder / "README.md"
    if not readme.is_file():
        return None
    with open(readme, encoding="utf-8", errors="replace") as file:
        found = re.match(r"---[ \t]*\n(.*?)\n---", file.read(_MOST), re.DOTALL)
    return found[1] if found else None


def license_of(source: Source) -> dict[str, str]:
    """license, and license_name and license_link where they are given; {} where the card states none."""
    head = card_head(source) or ""
    rows = re.findall(r"^(?:license|license_name|license_link):.*(?:\n\s*- .*)*", head, re.MULTILINE)
    try:
        said: Any = yaml.safe_load("\n".join(rows))
    except (yaml.YAMLError, RecursionError):
        return {}
    found = {key: said.get(key) for key in _LICENSE} if isinstance(said, dict) else {}
    one = found.get("license")
    found["license"] = one[0] if isinstance(one, list) and len(one) == 1 else one
    kept = {key: text for key, text in found.items() if isinstance(text, str) and text}
    return kept if "license" in kept else {}
