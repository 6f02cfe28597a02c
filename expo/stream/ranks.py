"""Several processes under one launcher do one run: what they agree on, who does which segments, how they stop.

torch.distributed (gloo) carries the few messages; tensor data goes through the shared folder alone. `world()` is the
place to ask; without a launcher it answers for one process, so that callers need not know.
"""

import atexit
import datetime
import functools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist

from expo.errors import DataError, ExpoError, Interrupted, RankError, RankGone, again
from expo.launcher import Place, World, check_rendezvous, place
from expo.planning.identity import fingerprint
from expo.planning.jobs import Plan
from expo.stream.pieces import Piece, byte_range
from expo.version import __version__

_JOIN = datetime.timedelta(minutes=10)  # until all have begun
_WAIT = datetime.timedelta(days=30)  # a rank may wait long for the slowest
_POLL = 0.2  # seconds between two looks at the stop
_STOP, _TOLD = "expo/stop", "expo/told"
_PATIENCE = datetime.timedelta(seconds=3)


class Ranks(World):
    """The processes that a launcher started, joined by torch.distributed."""

    def __init__(self, here: Place):
        self.here, self.dist = here, dist
        self.own = not dist.is_initialized()
        if self.own:
            try:
                _hearing_signals(lambda: dist.init_process_group("gloo", timeout=_JOIN))
            except (RuntimeError, ValueError, OSError) as error:
                raise RankError(
                    f"the {here.size} processes of this run have not found each other at {os.environ['MASTER_ADDR']}, "
                    f"port {os.environ['MASTER_PORT']}: {str(error).splitlines()[0]}\n"
                    "Start them with torchrun, and see that the first node's port can be reached from all."
                ) from error
        self.group = dist.new_group(backend="gloo", timeout=_WAIT)
        self.store = dist.distributed_c10d._get_default_store()
        self.stopping = _SharedStop(self.store)
        atexit.register(self.leave)

    def leave(self) -> None:
        """Let the library's threads end before the interpreter does."""
        self.stopping.end()
        if self.own and self.dist.is_initialized():
            self.dist.destroy_process_group()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank; RankGone where one of them is."""
        values: list[Any] = [None] * self.here.size
        try:
            self.dist.all_gather_object(values, value, group=self.group)
        except RuntimeError as error:
            raise RankGone from error
        return values

    def first(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """What rank 0 gets from `act`."""
        return self.together(lambda: act(*arguments) if self.here.is_first else None)[0]

    def together(self, act: Callable[[], Any]) -> list[Any]:
        """What each rank gets from `act`; the failure of the lowest rank counts, data before all others."""
        value = failure = None
        try:
            value = act()
        except (ExpoError, KeyboardInterrupt) as error:
            failure = error if isinstance(error, ExpoError) else Interrupted("interrupted")
            self.stopping.set()
        outcomes = self.gather((value, failure and (type(failure).__name__, str(failure))))
        failures = [again(*failed) for _, failed in outcomes if failed]
        if failures:
            raise min(failures, key=lambda failed: (not isinstance(failed, DataError), isinstance(failed, Interrupted)))
        return [value for value, _ in outcomes]

    def agree(self, plan: Plan) -> None:
        """Raise RankError where a process has another recipe, other inputs or another version of expo."""
        told = self.gather((fingerprint(plan), __version__, plan.recipe.record(), os.uname().nodename, self.here))
        check_places([other[4] for other in told])
        odd = next((rank for rank, other in enumerate(told) if other[:3] != told[0][:3]), None)
        if odd is not None:
            parts = {1: "another version of expo", 2: "another recipe"}
            what = next((parts[k] for k in parts if told[odd][k] != told[0][k]), "other inputs (sizes, times, headers)")
            raise RankError(
                f"rank {odd} on {told[odd][3]} has {what} than rank 0 on {told[0][3]}. All processes of a run need the "
                "same command, the same expo and the same files, best in a shared folder."
            )
        if self.here.n_nodes > len(plan.shards):
            raise RankError(
                f"{self.here.n_nodes} nodes cannot share {len(plan.shards)} output files: across nodes each file is "
                "written by one. Start fewer nodes, or ask for smaller files: --shard-size."
            )

    def share(self, plan: Plan, batches: Sequence[list[Piece]]) -> list[list[Piece]]:
        """Contiguous in the output's order: shards to nodes, segments to the ranks of a node, by bytes."""
        here, shares = self.here, [list(batches)]
        if here.n_nodes > 1:
            shares = [_flat(part) for part in cut_evenly(_by_file(plan, batches), here.n_nodes, _size(plan))]
        per_node = here.size // here.n_nodes
        mine = [[batch] for batch in shares[here.node if here.n_nodes > 1 else 0]]
        return _flat(cut_evenly(mine, per_node, _size(plan))[here.rank % per_node])

    def stop(self) -> Any:
        """An event that any rank may set for all."""
        return self.stopping


def _hearing_signals(act: Callable[[], Any]) -> None:
    """Do `act` in a thread of its own: this one would hear no signal inside it. Raises what it raises."""
    failures: list[BaseException] = []

    def acting() -> None:
        try:
            act()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=acting, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL)
    if failures:
        raise failures[0]


class _SharedStop:
    """The interface of threading.Event over the launcher's store, looked at by a thread of its own."""

    def __init__(self, store: Any):
        self.store, self.seen, self.ended = store, threading.Event(), threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def is_set(self) -> bool:
        return self.seen.is_set()

    def set(self) -> None:
        self.seen.set()

    def end(self) -> None:
        """Watch no more."""
        self.ended.set()
        self.watcher.join()

    def _watch(self) -> None:
        try:
            while not self.ended.is_set():
                if self.seen.wait(_POLL):
                    self.store.set(_STOP, "1")
                    return
                if self.store.check([_STOP]):
                    self.seen.set()
        except RuntimeError:  # the launcher's store is gone: so is the run
            self.seen.set()


def world() -> World:
    """The world of this process; raises RankError where its launcher left it without the others."""
    check_rendezvous()
    here = place()
    return _joined(here) if here.size > 1 else World()


@functools.cache
def _joined(here: Place) -> Ranks:
    return Ranks(here)


def check_places(places: Sequence[Place]) -> None:
    """Raise RankError where the shares of these processes would overlap or leave gaps: nodes of different sizes."""
    n_nodes = places[0].n_nodes
    per_node = len(places) // n_nodes
    for rank, one in enumerate(places):
        if one.n_nodes != n_nodes or (n_nodes > 1 and one.node != rank // per_node):
            text = "a run takes as many processes on each node as on the others: the same --nproc-per-node for all."
            raise RankError(text)


def is_first_to_tell() -> bool:
    """Whether no other process of this launch has asked before; True where the launcher's store is gone."""
    try:
        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # A connection of its own: this may be asked in a signal's handler, while another one is in use.
        store = dist.TCPStore(*where, is_master=False, timeout=_PATIENCE)
        return store.add(_TOLD, 1) == 1
    except (KeyError, ValueError, RuntimeError):
        return True


def cut_evenly(
    groups: Sequence[list[list[Piece]]], n: int, size: Callable[[list[Piece]], int]
) -> list[list[list[list[Piece]]]]:
    """Consecutive groups in n parts of about as many bytes; a group goes where its middle lies."""
    sizes = [sum(map(size, group)) for group in groups]
    total, done, parts = sum(sizes) or 1, 0, [[] for _ in range(n)]
    for group, n_bytes in zip(groups, sizes, strict=True):
        parts[min(n - 1, (2 * done + n_bytes) * n // (2 * total))].append(group)
        done += n_bytes
    return parts


def _by_file(plan: Plan, batches: Sequence[list[Piece]]) -> list[list[list[Piece]]]:
    """Batches in groups that lie in one output shard."""
    groups: dict[str, list[list[Piece]]] = {}
    for batch in batches:
        groups.setdefault(plan.jobs[batch[0][0]].file, []).append(batch)
    return list(groups.values())


def _size(plan: Plan) -> Callable[[list[Piece]], int]:
    def size(batch: list[Piece]) -> int:
        ranges = (byte_range(plan.jobs[index], segment) for index, segment in batch)
        return sum(last - first for first, last in ranges) + 1

    return size


def _flat(groups: Sequence[Sequence[Any]]) -> list[Any]:
    return [item for group in groups for item in group]
