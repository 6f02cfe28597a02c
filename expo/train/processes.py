"""Training under a launcher: copies that know nothing of each other are refused, and a lost one is named as such."""

import contextlib
from collections.abc import Iterator

from expo.errors import RankGone
from expo.launcher import check_rendezvous, place

# What the libraries that carry gradients say when another process is gone; they have no error of their own for it.
_LOST = ("gloo", "nccl", "connection reset by peer", "connection closed by peer")


@contextlib.contextmanager
def among_processes() -> Iterator[None]:
    """Raise NoRendezvous before anything, and RankGone where another process ended inside."""
    check_rendezvous()
    try:
        yield
    except RuntimeError as error:
        if place().size > 1 and any(word in str(error).lower() for word in _LOST):
            raise RankGone from error
        raise
