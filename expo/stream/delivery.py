"""Where a run's result goes: a folder, a folder and the Hub beside it, or through this machine to the Hub alone."""

from pathlib import Path

from expo.errors import OutputError, RankError
from expo.launcher import place
from expo.output.folder import FolderSink
from expo.output.hub import HubTarget
from expo.output.hub_commit import Published
from expo.planning.identity import description, fingerprint
from expo.planning.jobs import Plan
from expo.stream.loop import Stream
from expo.stream.passing import PassingSink
from expo.stream.pieces import Progress
from expo.stream.upload import Uploads


class ToFolder:
    """The result appears as a folder."""

    passes = False  # True where nothing of the result stays on this machine

    def __init__(self, plan: Plan, sink: FolderSink):
        self.plan, self.sink = plan, sink

    @property
    def label(self) -> str:
        """What the result is called."""
        return str(self.sink.output)

    def open(self) -> bool:
        """Take the place of the result; True if it is complete already."""
        return self.sink.open(fingerprint(self.plan), description(self.plan), self.plan.shards)

    def follow(self, stream: Stream) -> None:
        """Learn which pass fills the sink."""

    def beside(self, progress: Progress | None) -> Progress | None:
        """The run's progress, with what is to be done beside it."""
        return progress

    def publish(self) -> Published | None:
        """Make the complete result appear; what became of it on the Hub."""
        self.sink.publish()
        return None

    def close(self) -> None:
        """Let everything go, after success and failure alike."""


class BesideHub(ToFolder):
    """The result appears as a folder, and its finished shards go to the Hub while the others are made."""

    def __init__(self, plan: Plan, sink: FolderSink, target: HubTarget):
        super().__init__(plan, sink)
        self.target, self.uploads = target, None

    def open(self) -> bool:
        """Take the target, then the folder."""
        self.target.open(fingerprint(self.plan))
        complete = super().open()
        self.uploads = Uploads(self.plan, self.sink, self.target)
        return complete

    def beside(self, progress: Progress | None) -> Progress | None:
        """The run's progress, which starts the uploads."""
        return self.uploads.beside(progress)

    def publish(self) -> Published:
        """One commit on the Hub, then the folder."""
        self.sink.seal()
        self.uploads.finish()
        published = self.uploads.commit()
        self.sink.publish()
        return published

    def close(self) -> None:
        """Let the target go, when the shard that is on its way has arrived."""
        self.uploads.abandon() if self.uploads else self.target.close()


class ThroughHere(ToFolder):
    """The result goes to the Hub alone; at most two of its shards lie on the disk at a time."""

    passes = True

    def __init__(self, plan: Plan, target: HubTarget):
        super().__init__(plan, PassingSink(plan, target))
        self.target = target

    @property
    def label(self) -> str:
        """The repository."""
        return self.target.label

    def open(self) -> bool:
        """Take the target, then the place of its journal."""
        self.target.open(fingerprint(self.plan))
        return super().open()

    def follow(self, stream: Stream) -> None:
        """Writers that wait for room give up when the pass is stopped."""
        self.sink.is_stopped = stream.stop.is_set

    def publish(self) -> Published:
        """One commit on the Hub."""
        published = self.sink.commit()
        self.sink.publish()
        return published

    def close(self) -> None:
        """Let the target go, when the shard that is on its way has arrived."""
        self.sink.let_target_go()


def delivery_of(plan: Plan, output: str | Path | None, overwrite: bool, target: HubTarget | None) -> ToFolder:
    """Where the result goes. Raises OutputError where nowhere, RankError for a target of several processes."""
    if target and place().size > 1:
        raise RankError("one process publishes on the Hub: write a folder with torchrun, and then expo push it.")
    if output is None:
        if target is None:
            raise OutputError("there is no output: name a folder, or a target on the Hub.")
        return ThroughHere(plan, target)
    sink = FolderSink(output, overwrite=overwrite)
    return BesideHub(plan, sink, target) if target else ToFolder(plan, sink)
