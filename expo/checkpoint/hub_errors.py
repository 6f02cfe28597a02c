"""What huggingface_hub raises while something is read, as one class each of ours.

Its own texts may hold headers and signed addresses, and are not repeated.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from expo.checkpoint.range_answer import wait_asked
from expo.errors import (
    HubAccessDenied,
    HubError,
    HubRepositoryNotFound,
    HubRevisionNotFound,
    HubUnreachable,
)

WAITS = (0.0, 0.2, 0.8, 2.0)  # seconds before another try
LONGEST_WAIT = 300.0  # seconds that a server may ask for: the Hub's limits count over five minutes
Result = TypeVar("Result")


def keep_addresses_unsaid() -> None:
    """Have huggingface_hub log errors alone: what it says of a failed try names addresses, signatures and all."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()


@contextmanager
def translated(repo_id: str, revision: str | None, *passed: type[Exception]) -> Iterator[None]:
    """Turn what huggingface_hub raises into a HubError. passed: what the caller handles."""
    try:
        yield
    except passed:
        raise
    except Exception as error:
        raise refusal(error, repo_id, revision) from None


def patiently(call: Callable[[], Result], repo_id: str, revision: str | None) -> Result:
    """What `call` returns, tried again where what failed may pass; else raises a HubError."""
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:
            if wait is None or not _may_pass(error):
                raise refusal(error, repo_id, revision) from None
            answer = _answer_to(error)
            time.sleep(max(wait, min(wait_asked(answer.headers), LONGEST_WAIT) if answer is not None else 0.0))
    raise AssertionError("unreachable")


def _answer_to(error: BaseException | None) -> Any:
    """The answer that an error, or what caused it, came from; None where there was none."""
    while error is not None:
        if (answer := getattr(error, "response", None)) is not None:
            return answer
        error = error.__cause__
    return None


def _may_pass(error: Exception) -> bool:
    """Whether another try may do better."""
    from huggingface_hub import errors

    answer = _answer_to(error)
    if answer is not None:
        return answer.status_code in (408, 429) or answer.status_code >= 500
    lasting = (errors.HFValidationError, errors.OfflineModeIsEnabled)
    full = isinstance(error, OSError) and error.errno is not None
    return not (full or isinstance(error, lasting) or isinstance(error.__cause__, lasting))


def refusal(error: Exception, repo_id: str, revision: str | None) -> HubError:
    """The error to raise for one of huggingface_hub's: what, and what to do."""
    from huggingface_hub import constants, errors, get_token

    page = f"{constants.ENDPOINT}/{repo_id}"
    status = getattr(_answer_to(error), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return HubRevisionNotFound(
            f"{repo_id}: no branch, tag or commit {revision!r}.", f"See {page}/tree/main for those there are."
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return HubError(f"{repo_id}: a file is not there any more at {revision}.", "Run the command again.")
    if isinstance(error, errors.GatedRepoError) or status == 403:
        who = "this account has no access" if get_token() else "it is gated, and no token is set"
        return HubAccessDenied(f"{repo_id}: {who}.", f"Ask for it at {page}, then run `hf auth login`.")
    if status == 401 and not isinstance(error, errors.RepositoryNotFoundError) and get_token():
        return HubAccessDenied(f"{repo_id}: the Hub does not know this token.", "Run `hf auth login`, or set HF_TOKEN.")
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return HubRepositoryNotFound(
            f"{repo_id}: no such model on the Hub, or a private one.",
            "Check the spelling; for a private one run `hf auth login`, for a folder write ./ before its name.",
        )
    if isinstance(error, errors.HFValidationError):
        return HubRepositoryNotFound(f"{repo_id}: not a valid Hub id.", "A Hub id is org/name.")
    if status == 429:
        return HubError(f"{repo_id}: the Hub limits the rate of requests.", "Wait some minutes, and log in.")
    if status is not None and status < 500:
        return HubError(f"{repo_id}: the Hub answered with status {status}.", "Try again later.")
    if isinstance(error, OSError) and error.errno is not None and status is None:
        return HubError(f"{repo_id}: download stopped: {os.strerror(error.errno)}.", "Run it again to go on.")
    reason = f"status {status}" if status else type(error).__name__
    return HubUnreachable(f"{repo_id}: the Hub cannot be reached ({reason}).", "Check the connection.")
