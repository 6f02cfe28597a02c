"""What a checkpoint's README.md says in its metadata: its license, and the models it was made from."""

import re
from pathlib import Path
from typing import Any

import yaml

from expo.checkpoint.spec import Source
from expo.errors import UnreadableFile

CARD = "README.md"
_MOST = 1 << 16  # characters read of a card
_LICENSE = ("license", "license_name", "license_link")
# A line that one of them begins, and those below that belong to it.
_ROWS = re.compile(rf"^([\"']?)(?:{'|'.join(_LICENSE)})\1[ \t]*:.*(?:\n(?:[ \t]+|-[ \t]).*)*", re.MULTILINE)


def card_head(source: Source) -> str | None:
    """The block between the first two lines of dashes; None without one."""
    readme = source.folder / CARD
    if not readme.is_file():
        return None
    with open(readme, encoding="utf-8-sig", errors="replace") as file:
        return _head(file.read(_MOST))


def _head(text: str) -> str | None:
    found = re.match(r"\s*---[ \t]*\n(.*?)\n---", text, re.DOTALL)
    return found[1] if found else None


def check_card(path: Path) -> None:
    """Raise UnreadableFile for a card that the Hub could not read, before anything is sent there."""
    try:
        said = yaml.safe_load(_head(path.read_text(encoding="utf-8-sig")) or "")
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"{path}: byte {error.start} is not UTF-8.", "Save it as UTF-8, or remove it.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        place = getattr(error, "problem_mark", None)
        line = f" (line {place.line + 2})" if place else ""
        raise UnreadableFile(f"{path}: its metadata is not YAML{line}.", "Correct the block between the ---.") from None
    if not isinstance(said, dict | None):
        raise UnreadableFile(f"{path}: its metadata is no table of keys.", "Correct the block between the ---.")


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
