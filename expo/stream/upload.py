"""While a run fills its folder, the shards that are finished go up to the Hub; at the end one commit shows all.

A thread of its own sends them. It starts with the first finished segment, after workers have been forked: no fork may
happen while it runs.
"""

import shlex
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from expo.errors import PushError
from expo.ops import n_segments
from expo.output.folder import FolderSink
from expo.output.hub import HubTarget
from expo.output.hub_commit import MESSAGE, Published, already_there
from expo.output.journal import Following
from expo.planning.jobs import Plan

_POLL = 0.5  # seconds


class Uploads:
    """The shards of one run on their way to one target, which has been opened."""

    def __init__(self, plan: Plan, sink: FolderSink, target: HubTarget):
        self.plan, self.sink, self.target = plan, sink, target
        self.over = threading.Event()
        self.thread: threading.Thread | None = None
        self.lock = threading.Lock()
        self.begun = self.abandoned = False
        # What an earlier run recorded is believed only once this one has read it again.
        old = {plan.jobs[index].file for index, _ in sink.finished}
        self.left = Counter()
        for job in plan.jobs:
            self.left[job.file] += n_segments(job.n_elements)
        self.left = {name: n for name, n in self.left.items() if name not in old}

    def beside(self, progress: Callable[[int], None] | None) -> Callable[[int], None]:
        """A run's progress that also starts the uploads."""

        def advance(n_bytes: int) -> None:
            with self.lock:
                if self.left and not self.begun:
                    self.begun = True
                    self.thread = threading.Thread(target=self._work, daemon=True)
                    self.thread.start()
            if progress:
                progress(n_bytes)

        return advance

    def _work(self) -> None:
        try:
            self._send()
        finally:
            with self.lock:
                self.thread = None
                if self.abandoned:
                    self.target.close()

    def _send(self) -> None:
        following, seen = Following(self.sink.partial.folder), set()
        while not self.over.wait(_POLL):
            for piece in following.new():
                name = self.plan.jobs[piece[0]].file
                if piece in seen or name not in self.left:
                    continue
                seen.add(piece)
                self.left[name] -= 1
                if self.left[name] == 0:
                    try:
                        self.target.preupload(name, self.sink.partial.files / name)
                    except PushError:
                        return  # the commit tries again, and says what is wrong

    def finish(self) -> None:
        """Stop after the shard that is on its way."""
        self.over.set()
        if thread := self.thread:
            thread.join()

    def abandon(self) -> None:
        """Let the target go after a failure: now, or when the shard that is on its way has arrived."""
        self.over.set()
        with self.lock:
            self.abandoned = True
            if self.thread is None:
                self.target.close()

    def commit(self) -> Published:
        """Send what is left of a sealed output, and show all of it.

        Where that fails, the output appears in its own place all the same, and the error says how to go on.
        """
        files = self.sink.sealed
        done = None
        try:
            done = already_there(self.target, files, MESSAGE)
            if done is None:
                self.target.check_room()
                done = self.target.commit(in_order(files), MESSAGE)
        except PushError as error:
            self.sink.publish()
            again = shlex.join(["expo", "push", str(self.sink.output), self.target.repo_id, *options_of(self.target)])
            raise type(error)(
                f"{error}\n{self.sink.output} itself is complete. To go on publishing it: {again}"
            ) from None
        finally:
            self.target.close(forget=done is not None)
        return done


def in_order(files: Mapping[str, Path]) -> dict[str, Path]:
    """Weights first: they take longest, and are remembered."""
    return dict(sorted(files.items(), key=lambda item: (not item[0].endswith(".safetensors"), item[0])))


def options_of(target: HubTarget) -> list[str]:
    """The options of `expo push` for the same target."""
    given = {"--private": target.private and target.main.private, "--pr": target.pr, "--overwrite": target.overwrite}
    branch = ["--branch", target.branch] if target.branch else []
    return [*branch, *(name for name, is_given in given.items() if is_given)]
