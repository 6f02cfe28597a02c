"""Which result a target was last seen to show: so that its command, repeated, need not compute it to see it there.

One small file a target, in the user's state folder. It holds names and hashes; what the Hub lists now is compared with
it, so it never counts for more than the Hub says.
"""

import contextlib
import json
from dataclasses import dataclass

from expo.errors import OutputError
from expo.output.hub_content import Content
from expo.output.state import state_folder, state_path


@dataclass(frozen=True)
class Shown:
    """A result and the files that showed it: path -> hash."""

    identity: str
    files: dict[str, str]

    def is_in(self, content: Content) -> bool:
        """Whether a repository's content is exactly that."""
        return self.files == _hashes(content)


def shown_at(key: str, identity: str) -> Shown | None:
    """What is remembered of a target, if it showed the result of this identity."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        found = Shown(**json.loads(state_path("shown", f"{key}.json").read_text()))
        return found if found.identity == identity and isinstance(found.files, dict) else None
    return None


def note_shown(key: str, identity: str, content: Content) -> None:
    """Remember that a target shows a result. Where that cannot be written, it will be computed again."""
    with contextlib.suppress(OSError, OutputError):
        path = state_folder("shown") / f"{key}.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"identity": identity, "files": _hashes(content)}) + "\n")
        new.replace(path)


def _hashes(content: Content) -> dict[str, str]:
    return {name: entry.oid for name, entry in content.own.items()}
