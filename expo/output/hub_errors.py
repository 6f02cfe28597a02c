"""What huggingface_hub raises while something is published, as one class each of ours.

Its own texts may hold addresses with signatures and whatever a server chose to say: only a server's short reason is
repeated, and never a token in it.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from expo.errors import (
    ExpoError,
    NoToken,
    NotTheHub,
    NoWriteAccess,
    OutputError,
    PushError,
    PushLost,
    PushOffline,
    TargetMissing,
    TargetMoved,
)

Answer = TypeVar("Answer")
CONTINUES = "What arrived is remembered: the same command continues."
_WAITS = (0.0, 0.3, 1.0, 2.0, 4.0)  # seconds before a question is asked again
_REASON = 300  # characters of a server's own words
_SECRETS = re.compile(r"hf_\w+|Bearer\s+\S+", re.IGNORECASE)


@contextmanager
def told(repo_id: str, doing: str, *passed: type[Exception]) -> Iterator[None]:
    """Raise a PushError for whatever fails inside; `doing` says what was tried. passed: what the caller handles."""
    try:
        yield
    except (ExpoError, *passed):
        raise
    except Exception as error:
        raise push_error(error, repo_id, doing) from None


def patiently(repo_id: str, doing: str, call: Callable[[], Answer], *passed: type[Exception]) -> Answer:
    """What a question answers that may be asked again: where the connection or the Hub fails, it is."""
    for wait in (*_WAITS, None):
        try:
            with told(repo_id, doing, *passed):
                return call()
        except PushOffline:
            raise
        except (PushLost, NotTheHub):
            if wait is None:
                raise
            time.sleep(wait)
    raise AssertionError("the last failure is raised")


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that an error, or what caused it, came from."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return status
        error = error.__cause__
    return None


def push_error(error: Exception, repo_id: str, doing: str) -> ExpoError:
    """The error to raise for one of huggingface_hub's."""
    from huggingface_hub import errors

    status, root = status_of(error), _root(error)
    where = f"{repo_id}: {doing}"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return no_token(repo_id)
    if isinstance(root, errors.OfflineModeIsEnabled):
        return PushOffline(f"{where}: HF_HUB_OFFLINE is set. Unset it, and repeat the command.")
    if isinstance(error, errors.GatedRepoError):
        return NoWriteAccess(
            f"{where}: the repository is gated, and this account has no access. Ask for it at {page(repo_id)}, then "
            "run `hf auth login`."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return TargetMissing(f"{where}: no such branch. See {page(repo_id)}/tree/main for those there are.")
    if isinstance(error, errors.HFValidationError):
        return TargetMissing(f"{repo_id}: not a name that the Hub takes. A target is org/name.")
    if status is not None:
        return _answered(error, status, repo_id, where)
    if type(root).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
        if type(root).__name__ in ("ConnectError", "ConnectTimeout"):
            return PushOffline(f"{where}: {endpoint()} cannot be reached. Check the connection. {CONTINUES}")
        return PushLost(f"{where}: the connection was lost ({type(root).__name__}). {CONTINUES}")
    if isinstance(root, OSError) and root.filename is not None:
        return OutputError(f"{root.filename} cannot be read: {os.strerror(root.errno or 0)}.")
    if isinstance(root, (ValueError, KeyError, TypeError, AttributeError)):
        return not_the_hub(repo_id, doing)
    return PushLost(f"{where}: failed ({type(root).__name__}). {CONTINUES}")


def _answered(error: Exception, status: int, repo_id: str, where: str) -> ExpoError:
    """The error for a server's answer that is none of huggingface_hub's own classes."""
    reason = _reason(error)
    if status == 401 and "RepoNotFound" not in _code(error):
        return NoToken(
            f"{where}: the token is not valid{reason}. Run `hf auth login`, or set HF_TOKEN to a token with write "
            f"access ({endpoint()}/settings/tokens)."
        )
    if status in (402, 403):
        return no_write_access(repo_id, reason)
    if status == 401 or "RepoNotFound" in _code(error):
        return TargetMissing(
            f"{where}: no such repository, or a private one that this account does not see. Check the spelling, and "
            "`hf auth whoami`."
        )
    if status == 404:
        return PushLost(f"{where}: what was sent is not there{reason}. {CONTINUES}")
    if status == 412:
        return TargetMoved(f"{where}: someone else committed to it meanwhile. {CONTINUES}")
    if status == 429:
        return PushLost(f"{where}: the Hub limits the rate of requests{reason}. Wait some minutes. {CONTINUES}")
    if status < 500:
        return PushError(f"{where}: the Hub refused (status {status}{reason}). {CONTINUES}")
    return PushLost(f"{where}: the Hub fails (status {status}{reason}). {CONTINUES}")


def no_token(repo_id: str) -> NoToken:
    """The error where nothing says who pushes."""
    return NoToken(
        f"{repo_id}: no token, and a push needs one. Run `hf auth login`, or set HF_TOKEN to a token with write access "
        f"({endpoint()}/settings/tokens)."
    )


def no_write_access(repo_id: str, reason: str = "") -> NoWriteAccess:
    """The error where the token may read only."""
    return NoWriteAccess(
        f"{repo_id}: the token has no write access to it{reason}. Use a token with write access "
        f"({endpoint()}/settings/tokens), by `hf auth login` or HF_TOKEN; or, where the repository is another's: --pr."
    )


def not_the_hub(repo_id: str, doing: str) -> NotTheHub:
    """The error where an answer is no JSON, or not the JSON that was to come."""
    return NotTheHub(
        f"{repo_id}: {doing}: {endpoint()} answered, but not as the Hub does (a login page, a proxy?). Check the "
        f"network and HF_ENDPOINT. {CONTINUES}"
    )


def endpoint() -> str:
    """The Hub's address."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def page(repo_id: str) -> str:
    """A repository's page."""
    return f"{endpoint()}/{repo_id}"


def _root(error: BaseException) -> BaseException:
    """What an error was raised from in the first place; huggingface_hub wraps what fails in a thread."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _code(error: Exception) -> str:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return str(headers.get("X-Error-Code") or "")


def _reason(error: Exception) -> str:
    """A server's own short reason in brackets, printable and without secrets; empty where it gave none."""
    text = str(getattr(error, "server_message", None) or "")
    if not text or "<" in text:  # a page, no reason
        return ""
    from huggingface_hub import get_token

    token = get_token()
    text = text.replace(token, "***") if token else text
    text = "".join(c if c.isprintable() else " " for c in _SECRETS.sub("***", text))
    return f" ({' '.join(text.split())[:_REASON].rstrip('.')})"
