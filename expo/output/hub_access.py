"""Who pushes, and whether that account may: asked before any work, and nothing is changed."""

import re
from typing import Any

from expo.errors import PushError, TargetMissing
from expo.output.hub_errors import no_token, no_write_access, page, patiently, told


def prepare_library(patience: tuple[float, float, float, float], *, progress: bool) -> None:
    """Have huggingface_hub give up on a connection that hangs, and keep addresses and headers to itself."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    if not progress:
        disable_progress_bars()
    get_session().timeout = patience


def check_token(repo_id: str) -> None:
    """Raise NoToken where nobody is logged in."""
    from huggingface_hub import get_token

    if not get_token():
        raise no_token(repo_id)


# What git takes as a part of a branch's name: no dot or dash first, no .lock last, none of these characters.
_PART = re.compile(r"(?![.-])(?!.*\.\.)(?!.*@\{)[^\x00-\x20\x7f ~^:?*\[\\/]+(?<!\.lock)(?<!\.)")


def check_branch(repo_id: str, name: str) -> None:
    """Raise PushError for a name that no branch can have."""
    if name in ("@", "HEAD") or name.startswith("refs/") or not all(map(_PART.fullmatch, name.split("/"))):
        raise PushError(f"{repo_id}: {name!r} cannot be a branch. Letters, digits, . - _ and / inside make a name.")


def check_may_write(api: Any, repo_id: str, *, pr: bool) -> None:
    """Raise NoWriteAccess unless the token may commit to a repository; a pull request needs only to read it."""
    patiently(repo_id, "asking for access", lambda: api.auth_check(repo_id, write=not pr))


def check_may_create(api: Any, repo_id: str, *, pr: bool) -> None:
    """Raise TargetMissing or NoWriteAccess unless the token may make the repository, as far as the account tells."""
    if pr:
        raise TargetMissing(f"{repo_id}: no such repository, so there is none to open a pull request on.")
    account = patiently(repo_id, "asking who pushes", api.whoami)
    with told(repo_id, "asking who pushes"):
        orgs = {org["name"]: org.get("roleInOrg") for org in account.get("orgs") or []}
        name = account["name"]
    role = ((account.get("auth") or {}).get("accessToken") or {}).get("role")
    namespace = repo_id.split("/")[0]
    if role == "read":
        raise no_write_access(repo_id)
    if namespace != name and namespace not in orgs:
        own = " or ".join(f"{place}/..." for place in (name, *orgs))
        raise TargetMissing(
            f"{repo_id}: no such repository, or one that this account does not see; and it cannot be made, because "
            f"{name} is no member of {namespace}. Check the spelling ({page(repo_id)}), or push to {own}."
        )
    if namespace != name and orgs[namespace] == "read":
        raise no_write_access(repo_id)
