"""The one commit that shows a result on the Hub, and whether it shows already."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expo.errors import NotTheHub, PushError, PushLost, TargetMoved
from expo.output.arrived import unpacked
from expo.output.hub import HubTarget
from expo.output.hub_errors import page, patiently, status_of, told
from expo.version import __version__

MESSAGE = f"Checkpoint made with expo {__version__}"
_TRIES = 6


@dataclass(frozen=True)
class Published:
    """What a push came to."""

    repo_id: str
    commit: str
    url: str
    n_files: int
    n_sent: int = 0  # large files that this process sent
    n_bytes_sent: int = 0
    n_kept: int = 0  # large files that an earlier process had sent
    already: bool = False  # it was all there, and nothing was committed

    def record(self) -> dict[str, Any]:
        """The push as one JSON object."""
        return dict(vars(self))


def already_there(target: HubTarget, files: Mapping[str, Path], message: str) -> Published | None:
    """The result, where the target or an open pull request holds exactly these files; raises a PushError."""
    if target.main.commit is None:
        return None
    found = None
    if not target.branch_is_absent and target.holds(files):
        found = _published(target, target.held.commit, f"{page(target.repo_id)}/commit/{target.held.commit}", files)
    elif target.pr:
        found = _in_pull_request(target, files, message)
    return found and replace(found, already=True)


def already_shown(target: HubTarget) -> Published:
    """What the target holds, as a result that needs no commit."""
    commit, n_files = target.held.commit, len(target.held.own)
    return Published(target.repo_id, commit, f"{page(target.repo_id)}/commit/{commit}", n_files, already=True)


def publish(target: HubTarget, files: Mapping[str, str | Path], message: str) -> Published:
    """Show all files in one commit; those that were sent need not exist any more.

    files: path in the repository -> local file. Raises TargetHolds or TargetMoved where someone else wrote to the
    target meanwhile, PushLost, or another PushError.
    """
    paths = {name: Path(path) for name, path in files.items()}
    for attempt in range(_TRIES):
        for name, path in paths.items():
            if path.exists() and target.is_sent_alone(name, path):
                target.preupload(name, path)
        try:
            done, revision = _commit(target, paths, message)
            break
        except (TargetMoved, PushLost, NotTheHub):
            time.sleep(min(attempt, 4))
            if found := _arrived_after_all(target, paths, message):
                return found
            if attempt == _TRIES - 1:
                raise
            target.look_again()
            target.check_room()
            target.drop_stale()
    shown = target.look(revision)
    if shown and (lost := target.lacking(paths, shown)):
        raise PushError(
            f"{target.label}: commit {done.commit[:8]} does not hold what was sent ({', '.join(lost[:5])}). Look at "
            f"{done.url}, and push again with --overwrite."
        )
    return done


def _commit(target: HubTarget, paths: Mapping[str, Path], message: str) -> tuple[Published, str]:
    """What the commit is, and the revision that shows it."""
    from huggingface_hub import CommitOperationDelete

    operations: list[Any] = [_operation(target, name, path) for name, path in paths.items()]
    if target.replaces:
        operations += [CommitOperationDelete(path_in_repo=name) for name in target.held.own if name not in paths]
    with told(target.repo_id, "committing"), _card_explained(target), _lost_files_explained(target):
        if target.branch_is_absent:
            start = target.main.commit
            target.api.create_branch(target.repo_id, branch=target.branch, revision=start, exist_ok=True)
        info = target.api.create_commit(
            target.repo_id,
            operations,
            commit_message=message,
            revision=target.branch,
            parent_commit=target.held.commit,
            create_pr=target.pr,
        )
    return _published(target, info.oid, info.pr_url or info.commit_url, paths), info.pr_revision or info.oid


def _operation(target: HubTarget, name: str, path: Path) -> Any:
    """A file's part of the commit: as its upload left it, or the file itself."""
    from huggingface_hub import CommitOperationAdd

    if kept := target.kept(name, path):
        return unpacked(kept.operation)
    if not path.exists():
        raise PushLost(f"{target.repo_id}: {name} has to be made and sent again. Repeat the command.")
    return CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))


def _published(target: HubTarget, commit: str, url: str, paths: Mapping[str, Path]) -> Published:
    n_kept = len([name for name, path in paths.items() if target.kept(name, path) and name not in target.sent])
    return Published(target.repo_id, commit, url, len(paths), len(target.sent), sum(target.sent.values()), n_kept)


def _arrived_after_all(target: HubTarget, paths: Mapping[str, Path], message: str) -> Published | None:
    """The result, where it shows: an answer may have been lost after all had been done."""
    with contextlib.suppress(PushError):
        if target.pr:
            return _in_pull_request(target, paths, message)
        found = target.look(target.branch)
        if found and target.holds(paths, found):
            return _published(target, found.commit, f"{page(target.repo_id)}/commit/{found.commit}", paths)
    return None


def _in_pull_request(target: HubTarget, paths: Mapping[str, Path], message: str) -> Published | None:
    """The open pull request of the same title that shows exactly these files."""
    kind = {"discussion_type": "pull_request", "discussion_status": "open"}
    doing, call = "looking through its pull requests", target.api.get_repo_discussions
    for pull in patiently(target.repo_id, doing, lambda: list(call(target.repo_id, **kind))):
        wanted = pull.is_pull_request and pull.title == message
        found = target.look(pull.git_reference) if wanted else None
        if found and target.holds(paths, found):
            return _published(target, found.commit, pull.url, paths)
    return None


@contextlib.contextmanager
def _card_explained(target: HubTarget) -> Iterator[None]:
    """The Hub reads the card's metadata before it takes a commit."""
    try:
        yield
    except ValueError as error:
        if "metadata in README.md" not in str(error):
            raise
        said = " ".join(str(error).split())[:500]
        raise PushError(f"{target.repo_id}: {said} Correct README.md, and push again: nothing is sent twice.") from None


@contextlib.contextmanager
def _lost_files_explained(target: HubTarget) -> Iterator[None]:
    """The Hub may tidy up what waits too long for its commit: then it must come again."""
    try:
        yield
    except Exception as error:
        earlier = [name for name in target.arrived.files if name not in target.sent]
        if status_of(error) != 400 or not earlier:
            raise
        for name in earlier:
            target.arrived.drop(name)
        raise PushLost(
            f"{target.repo_id}: the Hub no longer has what arrived earlier ({', '.join(earlier[:3])}). Repeat the "
            "command: it is sent again."
        ) from None
