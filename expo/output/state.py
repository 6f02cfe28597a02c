"""Where work that has no folder of its own is remembered: the user's state folder, as the XDG rules place it."""

import os
from pathlib import Path

from expo.errors import OutputError


def state_path(*parts: str) -> Path:
    """$XDG_STATE_HOME/expo/PARTS, or ~/.local/state/expo/PARTS; whether or not it is there."""
    home = os.environ.get("XDG_STATE_HOME", "")
    root = Path(home) if os.path.isabs(home) else Path.home() / ".local" / "state"
    return root.joinpath("expo", *parts)


def state_folder(*parts: str) -> Path:
    """$XDG_STATE_HOME/expo/PARTS, or ~/.local/state/expo/PARTS; made, for its owner alone, if it is not there."""
    folder = state_path()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in parts:
            folder = folder / part
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made: {error.strerror}. What was done so far is remembered there; to remember it "
            "elsewhere, set XDG_STATE_HOME."
        ) from None
    return folder
