"""What a checkpoint's README.md says in its metadata: its license, and the models it was made from."""

import re
from typing import Any

import yaml

from expo.checkpoint.spec import Source

_MOST = 1 << 16  # characters read of a card
_LICENSE = ("license", "license_name", "license_link")
# A line that one of them begins, and those below that belong to it.
_ROWS = re.compile(rf"^([\"']?)(?:{'|'.join(_LICENSE)})\1[ \t]*:.*(?:\n(?:[ \t]+|-[ \t]).*)*", re.MULTILINE)


def card_head(source: Source) -> str | None:
    """The block between the first two lines of dashes; None without one."""
    readme = source.folder / "README.md"
    if not readme.is_file():
        return None
    with open(readme, encoding="utf-8-sig", errors="replace") as file:
        found = re.match(r"\s*---[ \t]*\n(.*?)\n---", file.read(_MOST), re.DOTALL)
    return found[1] if found else None


def license_of(source: Source) -> dict[str, str | list[str]]:
    """license, and license_name and license_link where they are given; {} where the card states none.

    Several licenses are a list. Only these lines are read: another key's mistake does not hide them.
    """
    rows = [found[0] for found in _ROWS.finditer(card_head(source) or "")]
    try:
        said: Any = yaml.safe_load("\n".join(rows))
    except (yaml.YAMLError, RecursionError, ValueError):  # a date that is none
        return {}
    found = {key: said.get(key) for key in _LICENSE} if isinstance(said, dict) else {}
    several = found.pop("license", None)
    names = several if isinstance(several, list) else [several]
    if not names or not all(isinstance(name, str) and name for name in names):
        return {}
    more = {key: text for key, text in found.items() if isinstance(text, str) and text}
    return {"license": names if len(names) > 1 else names[0], **more}
