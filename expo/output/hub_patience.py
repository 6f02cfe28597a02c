"""A question to the Hub that is asked again where what failed may pass."""

import time
from collections.abc import Callable
from typing import TypeVar

from expo.errors import NotTheHub, PushLost
from expo.output.hub_errors import told

WAITS = (0.0, 0.2, 0.8, 2.0, 5.0)  # seconds before another try
Result = TypeVar("Result")


def patiently(repo_id: str, doing: str, call: Callable[[], Result], *passed: type[Exception]) -> Result:
    """What `call` returns; `doing` says what was tried. passed: what the caller handles. Raises a PushError."""
    for wait in WAITS:
        try:
            with told(repo_id, doing, *passed):
                return call()
        except (PushLost, NotTheHub):
            time.sleep(wait)
    with told(repo_id, doing, *passed):
        return call()
