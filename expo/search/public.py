"""Records that may leave this machine: what names a file or folder of it keeps only its last part."""

import os
from typing import Any


def without_folders(value: Any) -> Any:
    """A JSON value in which every local path, alone or as reward:PATH or PATH:function, is its last part."""
    if isinstance(value, dict):
        return {key: without_folders(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(held) for held in value]
    return last_part(value) if isinstance(value, str) else value


def last_part(text: str) -> str:
    """A text without the folders of the path that it is, begins or ends with; any other as it is."""
    kind, colon, rest = text.partition(":")
    for head, path in ((kind + colon, rest), ("", text), ("", text.rpartition(":")[0])):
        if os.sep in path and os.path.exists(path):
            return head + os.path.basename(path.rstrip(os.sep)) + text[len(head) + len(path) :]
    return text
