"""Open files that a stranger made: regular files only, bounded reads, and links that stay inside the checkpoint."""

import os
import stat
from pathlib import Path

from expo.errors import HeaderTooLarge, LinkOutside, UnreadableFile

DEFAULT_MAX_HEADER = 16 * 2**20  # 91 MiB of JSON costs 8 s and 900 MiB
FORMAT_MAX_HEADER = 100_000_000  # the safetensors format's own limit


def open_regular(path: Path) -> int:
    """Open a regular file for reading and return its descriptor; anything else is an UnreadableFile."""
    try:
        # Without O_NONBLOCK a named pipe would wait for a writer for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableFile(f"{path}: cannot be opened: {reason}.", "Check the path and its permissions.") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UnreadableFile(f"{path}: not a regular file.", "Pass a checkpoint whose files are plain files.")
    return fd


def read_small(path: Path, limit: int) -> bytes:
    """All bytes of a file that describes weights; HeaderTooLarge beyond `limit`."""
    with os.fdopen(open_regular(path), "rb") as file:
        try:
            raw = file.read(limit + 1)
        except OSError as error:
            raise UnreadableFile(f"{path}: cannot be read: {error.strerror}.") from error
    if len(raw) > limit:
        raise HeaderTooLarge(
            path, f"larger than {limit} bytes.", f"If you trust it, pass `--max-header {os.path.getsize(path)}`."
        )
    return raw


def check_inside(folder: Path, name: str) -> None:
    """Refuse a file that links out of its folder; the Hub cache's snapshots link to blobs beside them."""
    path = folder / name
    home = folder.resolve()
    target = path.resolve()
    if target.is_relative_to(home):
        return
    # <cache>/models--org--name/snapshots/<commit>/<file> -> <cache>/models--org--name/blobs/<etag>
    for root in (home, *home.parents):  # a model's sub-folder lies below its snapshot
        if root.parent.name == "snapshots" and target.parent == root.parent.parent / "blobs":
            return
    raise LinkOutside(f"{path}: links to {target}, outside the checkpoint.")
