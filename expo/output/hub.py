"""A Hub repository as the place of a result: large files go up one by one, and one commit shows them all.

Public calls of huggingface_hub only. Nothing is visible before the commit but an empty repository. What arrived is
remembered, so that the same command continues after a kill without sending it again.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from expo.errors import PushError, TargetHolds, TargetMissing
from expo.output.arrived import Arrived, ArrivedFiles, packed, stamp_of, unpacked
from expo.output.hub_access import check_branch, check_may_create, check_may_write, check_token, prepare_library
from expo.output.hub_content import Content, content_of
from expo.output.hub_errors import endpoint, page, patiently, push_error
from expo.output.state import state_folder, state_path
from expo.version import __version__

if TYPE_CHECKING:
    from expo.output.hub_commit import Published

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PATIENCE = (10.0, 300.0, 300.0, 10.0)  # seconds to connect, read, write, get a connection
LARGE = 1 << 20  # bytes from which on any file is sent alone, and remembered
_WEIGHTS = (".safetensors", ".bin")


class HubTarget:
    """One repository, or a branch or pull request of it, that is to hold a result.

    check() asks and changes nothing; open(identity) makes the repository and takes the record of what arrived;
    preupload() sends one finished file; commit() shows all files at once; close() lets go.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        private: bool = False,
        branch: str | None = None,
        pr: bool = False,
        overwrite: bool = False,
        show_progress: bool = False,
    ):
        """private: make a new repository private. overwrite: remove what else the target holds, in the same commit.

        Raises PushError for a name that is none.
        """
        if not _NAME.fullmatch(repo_id):
            raise TargetMissing(f"{repo_id}: not a name that the Hub takes. A target is org/name.")
        if branch and pr:
            raise PushError(f"{repo_id}: a branch and a pull request exclude each other: give one of them.")
        if branch is not None:
            check_branch(repo_id, branch)
        self.repo_id, self.private, self.overwrite = repo_id, private, overwrite
        self.branch, self.pr, self.show_progress = branch, pr, show_progress
        self.main = self.held = Content()
        self.branch_is_absent = False
        self.arrived: ArrivedFiles | None = None
        self.identity = ""
        self.sent: dict[str, int] = {}  # large files that this process sent, and their bytes

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.repo_id}@{self.branch}" if self.branch else self.repo_id

    @property
    def key(self) -> str:
        """What tells it from every other target."""
        place = [endpoint(), self.repo_id, self.branch, self.pr]
        return xxhash.xxh3_128_hexdigest(json.dumps(place).encode())

    @property
    def place(self) -> Path:
        """Where a result that is kept nowhere else has its journal on its way here; nothing is made."""
        return state_path("results", self.key, self.repo_id.replace("/", "--"))

    def make_place(self) -> None:
        """Make what `place` lies in, for its owner alone: a private model's weights pass through it."""
        state_folder("results", self.key)

    # --- before any work ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Everything about access that can be known to fail; changes nothing. Raises a PushError."""
        from huggingface_hub import HfApi

        prepare_library(PATIENCE, progress=self.show_progress)
        self.api = HfApi(library_name="expo", library_version=__version__)
        check_token(self.repo_id)
        self.look_again()
        if self.main.commit is None:
            check_may_create(self.api, self.repo_id, pr=self.pr)
            return
        check_may_write(self.api, self.repo_id, pr=self.pr)
        if self.private and not self.main.private:
            raise PushError(
                f"{self.repo_id} exists and is public; --private counts for a new repository only. Make it private at "
                f"{page(self.repo_id)}/settings, or push to another name."
            )

    def check_room(self) -> None:
        """Raise TargetHolds where the target holds something that the result would be mixed with."""
        if not self.held.own or self.replaces:
            return
        names = sorted(self.held.own)
        more = f" and {len(names) - 3} more files" if len(names) > 3 else ""
        raise TargetHolds(
            f"{self.label} exists and holds other content ({', '.join(names[:3])}{more}, commit "
            f"{self.held.commit[:8]}). To put the result beside it: --branch NAME, or --pr. To replace it in one "
            "commit (its history stays): --overwrite. Or name another repository."
        )

    @property
    def is_new_branch(self) -> bool:
        """Whether the branch has nothing of its own yet: it starts, or will start, where main is."""
        return bool(self.branch) and self.held.commit == self.main.commit

    @property
    def replaces(self) -> bool:
        """Whether files of the target that are not of the result are removed in the same commit."""
        return self.overwrite or self.pr or self.is_new_branch

    def look_again(self) -> None:
        """Ask what the target holds now."""
        self.main = self.held = self.look(None) or Content()
        if self.branch and self.main.commit is not None:
            found = self.look(self.branch)
            self.branch_is_absent, self.held = found is None, found or self.main

    def look(self, revision: str | None) -> Content | None:
        """What the repository holds at a revision; None where there is no such repository or revision."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        absent, doing = RevisionNotFoundError if revision else RepositoryNotFoundError, "asking what it holds"
        options = {"revision": revision, "files_metadata": True, "timeout": PATIENCE[1]}
        try:
            return patiently(
                self.repo_id, doing, lambda: content_of(self.api.repo_info(self.repo_id, **options)), absent
            )
        except absent as error:
            if isinstance(error, GatedRepoError):
                raise push_error(error, self.repo_id, doing) from None
            return None

    def read_small(self, name: str) -> bytes | None:
        """A file of the target, None where it has none of that name."""
        if name not in self.held.files:
            return None
        from huggingface_hub import hf_hub_download

        options = {"revision": self.held.commit}
        found = patiently(self.repo_id, f"reading {name}", lambda: hf_hub_download(self.repo_id, name, **options))
        return Path(found).read_bytes()

    # --- sending ------------------------------------------------------------------------------------------------------

    def open(self, identity: str = "") -> None:
        """Make the repository if it is not there, and go on where an earlier push of the same files stopped.

        identity: of a result whose bytes it decides; then files that arrived count although they are gone here. Empty:
        files count while they are unchanged. Raises a PushError, or OutputError where another process pushes there.
        """
        self.identity = identity
        self.arrived = ArrivedFiles(self.key, {"endpoint": endpoint(), "target": self.label, "pr": self.pr})
        try:
            if self.main.commit is None:
                options = {"private": self.private or None, "exist_ok": True}
                patiently(self.repo_id, "making the repository", lambda: self.api.create_repo(self.repo_id, **options))
                self.look_again()
                self.check_room()  # someone else may have made it meanwhile
            self.drop_stale()
        except BaseException:
            self.close()
            raise

    def drop_stale(self) -> None:
        """Forget what could not be committed as it is remembered."""
        for path, kept in list(self.arrived.files.items()):
            # huggingface_hub leaves a file out of a commit where the target held the same when it was sent.
            gone = kept.held == kept.sha256 != self.held.oid(path)
            if gone or unpacked(kept.operation) is None:
                self.arrived.drop(path)

    @staticmethod
    def is_sent_alone(name: str, path: Path) -> bool:
        """Whether a file goes up before the commit: weights, and whatever else is large."""
        return path.stat().st_size >= (1 if name.endswith(_WEIGHTS) else LARGE)

    def has(self, path_in_repo: str) -> bool:
        """Whether a file of this result arrived already."""
        return self.kept(path_in_repo) is not None

    def kept(self, path_in_repo: str, path: Path | None = None) -> Arrived | None:
        """What is known of a file that arrived: of this result, or from an unchanged local file."""
        found = self.arrived.files.get(path_in_repo) if self.arrived else None
        if found and self.identity and found.identity == self.identity:
            return found
        return found if found and path and path.exists() and stamp_of(path) == found.stamp else None

    def preupload(self, path_in_repo: str, local_path: str | Path) -> None:
        """Send one finished file, which shows only with the commit; it may be removed afterwards.

        Raises PushLost where the connection is lost, or another PushError.
        """
        from huggingface_hub import CommitOperationAdd

        path = Path(local_path)
        if self.kept(path_in_repo, path):
            return
        stamp = stamp_of(path)
        operation = CommitOperationAdd(path_in_repo=path_in_repo, path_or_fileobj=str(path))
        options = {"revision": None if self.is_new_branch else self.branch, "create_pr": self.pr, "num_threads": 1}
        send = self.api.preupload_lfs_files
        patiently(self.repo_id, f"sending {path_in_repo}", lambda: send(self.repo_id, [operation], **options))
        if operation.path_or_fileobj != b"":
            return  # a small file, whose bytes go into the commit itself
        info, held = operation.upload_info, self.held.oid(path_in_repo)
        row = (path_in_repo, info.size, info.sha256.hex(), stamp, self.identity, held, packed(operation))
        self.arrived.add(Arrived(*row))
        self.sent[path_in_repo] = info.size

    def commit(self, files: Mapping[str, str | Path], message: str) -> "Published":
        """Show all files in one commit; see expo.output.hub_commit.publish."""
        from expo.output.hub_commit import publish

        return publish(self, files, message)

    def is_same(self, content: Content, name: str, path: Path) -> bool:
        """Whether a content holds a file of the result as it is; the file is read only where its size agrees."""
        entry = content.files.get(name)
        if entry and (kept := self.kept(name, path)):
            return entry.is_large and (entry.n_bytes, entry.oid) == (kept.n_bytes, kept.sha256)
        return entry is not None and entry.is_file(path)

    def holds(self, files: Mapping[str, Path], content: Content | None = None) -> bool:
        """Whether the target, or a content of it, holds exactly these files."""
        content = content or self.held
        return content.own.keys() == files.keys() and not self.lacking(files, content)

    def lacking(self, files: Mapping[str, Path], content: Content) -> list[str]:
        """The files that a content does not hold as they are."""
        return [name for name, path in files.items() if not self.is_same(content, name, path)]

    def close(self, *, forget: bool = False) -> None:
        """Let another process push here; forget: all is published, so that nothing is left to go on with."""
        if self.arrived:
            self.arrived.close(forget=forget)
            self.arrived = None
