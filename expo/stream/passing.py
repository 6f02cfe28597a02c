"""A result that only passes through this machine: each finished shard goes to the Hub and is removed here.

At most two shards lie on the disk: one that is written, one that is on its way. Writers wait for room. The journal lies
under the user's state folder, so that the same command goes on after a kill: shards that arrived are not made again.
"""

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from expo.errors import Interrupted, PushError
from expo.ops import n_segments
from expo.output.folder import FolderSink
from expo.output.hub import HubTarget
from expo.output.hub_commit import MESSAGE, Published, already_shown, already_there
from expo.output.manifest import NAME as MANIFEST
from expo.output.shown import note_shown, shown_at
from expo.planning.budget import PASSING, disk_bytes
from expo.planning.jobs import Plan
from expo.stream.upload import in_order

_POLL = 0.2  # seconds


class PassingSink(FolderSink):
    """Fills at most two shards at a time, and gives each to the Hub when it is finished. For threads, not for forks."""

    in_threads = True

    def __init__(self, plan: Plan, target: HubTarget):
        super().__init__(target.place)
        self.plan, self.target = plan, target
        self.turn = threading.Condition()
        self.shards: dict[str, Any] = {}
        self.away: set[str] = set()  # shards that arrived
        self.full: deque[str] = deque()  # finished shards that wait to be sent
        self.sending = ""
        self.failure: BaseException | None = None
        self.over = False
        self.seen = False  # the target shows the whole result
        self.fingerprint = ""
        self.thread: threading.Thread | None = None
        self.is_stopped: Callable[[], bool] = lambda: False
        self.left = Counter()
        for job in plan.jobs:
            self.left[job.file] += n_segments(job.n_elements)

    # --- before -----------------------------------------------------------------------------------------------------

    def check(self, inputs: Mapping[str, Path], n_bytes: int, fingerprint: str) -> None:
        """Everything that can be known to fail. What lies here at a time is less than the output's n_bytes."""
        super().check(inputs, disk_bytes(self.plan, passes=True), fingerprint)

    def open(self, fingerprint: str, description: str, shards: Any) -> bool:
        """Take the folder; True if all is made and has arrived already. The target must be open."""
        self.fingerprint, self.seen = fingerprint, self._is_shown(fingerprint)
        self.target.make_place()
        complete = super().open(fingerprint, description, shards)
        if self.seen:
            self.add_file(MANIFEST, self.target.read_small(MANIFEST).decode())
            return True
        if complete and not all(self.target.has(shard.name) for shard in shards):
            self.partial.drop()  # the Hub has lost what had arrived
            complete = super().open(fingerprint, description, shards)
        recorded = Counter(self.plan.jobs[index].file for index, _ in self.finished)
        for shard in shards:
            if self.target.has(shard.name) and recorded[shard.name] == self.left[shard.name]:
                self.away.add(shard.name)
                (self.partial.files / shard.name).unlink(missing_ok=True)
                self._close_shard(shard.name)
        return complete

    def _is_shown(self, fingerprint: str) -> bool:
        """Whether the target shows the result; raises TargetHolds where it did, and holds something else now."""
        seen = None if self.target.pr else shown_at(self.target.key, fingerprint)
        if seen is None or self.target.branch_is_absent:
            return False
        if seen.is_in(self.target.held):
            return True
        self.target.check_room()
        return False

    @property
    def sealed(self) -> dict[str, Path]:
        """The files of a result that is complete, as far as they lie here: path inside it -> where."""
        return {MANIFEST: self.partial.files / MANIFEST} if self.seen else super().sealed

    def _open_shard(self, shard: Any) -> None:
        """Only what an earlier run left is opened at once."""
        self.shards[shard.name] = shard
        if (self.partial.files / shard.name).exists():
            super()._open_shard(shard)

    # --- what workers call ------------------------------------------------------------------------------------------

    def write(self, job: Any, start: int, data: memoryview) -> None:
        """Write bytes [start, start + len(data)) of one output tensor; waits for room where its shard is not begun."""
        if job.file not in self.fds:
            self._await_room(job.file)
        super().write(job, start, data)

    def _await_room(self, name: str) -> None:
        with self.turn:
            while name not in self.fds:
                if self.failure:
                    raise self.failure
                if len(self.fds) < PASSING:
                    with self.full_disk_is_clear():
                        super()._open_shard(self.shards[name])
                elif self.is_stopped():
                    raise Interrupted("interrupted")
                else:
                    self.turn.wait(_POLL)

    def read_into(self, job: Any, start: int, data: memoryview) -> bool:
        """Read back bytes of one output tensor; False where its shard does not lie here."""
        return job.file in self.fds and super().read_into(job, start, data)

    def segment_done(self, index: int, segment: int) -> None:
        """Note a segment that is written, or was found written; the last one of a shard sends it."""
        name = self.plan.jobs[index].file
        with self.turn:
            self.left[name] -= 1
            if self.left[name] == 0 and name not in self.away:
                self.full.append(name)
                if self.thread is None:
                    self.thread = threading.Thread(target=self._work, daemon=True)
                    self.thread.start()
                self.turn.notify_all()

    # --- sending ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Send finished shards, one after the other, until the run is over."""
        while True:
            with self.turn:
                self.sending = ""
                self.turn.notify_all()
                while not self.over and (self.failure or not self.full):
                    self.turn.wait()
                if self.over:
                    self.target.close()
                    return
                name = self.sending = self.full.popleft()
            try:
                self._send(name)
            except BaseException as error:
                with self.turn:
                    self.failure = error

    def _send(self, name: str) -> None:
        path = self.partial.files / name
        self.target.preupload(name, path)
        with self.turn:
            self._close_shard(name)
            if self.target.has(name):  # else it is so small that the commit itself carries it
                path.unlink()
            self.away.add(name)
            self.turn.notify_all()

    def _close_shard(self, name: str) -> None:
        fd = self.fds.pop(name, None)
        if fd is not None:
            os.close(fd)

    def sync(self) -> float:
        """Wait until all that is finished has arrived; returns the seconds it took. Raises what sending raised."""
        began = time.perf_counter()
        with self.turn:
            while (self.full or self.sending) and not self.failure:
                self.turn.wait()
            if self.failure:
                raise self.failure
        return time.perf_counter() - began

    def commit(self) -> Published:
        """Show the whole result in one commit; then nothing of it is left here."""
        done = already_shown(self.target) if self.seen else self._commit()
        self.partial.drop()
        with suppress(OSError):  # not empty: stages that are kept
            self.target.place.parent.rmdir()
        self.target.close(forget=True)
        return done

    def _commit(self) -> Published:
        self.seal()
        files = self.sealed | {shard.name: self.partial.files / shard.name for shard in self.plan.shards}
        done = already_there(self.target, files, MESSAGE)
        if done is None:
            self.target.check_room()
            done = self.target.commit(in_order(files), MESSAGE)
        if not self.target.pr:
            with suppress(PushError):  # all is published; the same command would only have more to do
                if content := self.target.look(done.commit):
                    note_shown(self.target.key, self.fingerprint, content)
        return done

    def publish(self) -> None:
        """Nothing appears here."""
        self._close()

    def let_target_go(self) -> None:
        """Let another process push to the target: now, or when the shard that is on its way has arrived."""
        with self.turn:
            self.over = True
            self.turn.notify_all()
            if not self.sending:
                self.target.close()
