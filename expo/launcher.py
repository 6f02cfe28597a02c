"""What a launcher such as torchrun says of this process, read from the environment alone; and the run of one."""

import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from expo.errors import NoRendezvous

# What launchers that start the same command several times call the number of copies.
_COPIES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_NUMBERS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")  # and a copy's own
_OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
_ELASTIC = ("TORCHELASTIC_", "ROLE_")


@dataclass(frozen=True, slots=True)
class Place:
    """One process among those that a launcher started: its rank among all, and on its own node."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    node: int = 0
    n_nodes: int = 1

    @property
    def is_first(self) -> bool:
        """True for the process that prints, locks and publishes."""
        return self.rank == 0


class World:
    """The processes of one run; this class is the world of one."""

    here = Place()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank."""
        return [value]

    def first(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """What rank 0 gets from `act`, which the others do not call; its ExpoError is raised on all."""
        return act(*arguments)

    def together(self, act: Callable[[], Any]) -> list[Any]:
        """What each rank gets from `act`; raises the same ExpoError on all where it failed on one."""
        return [act()]

    def agree(self, plan: Any) -> None:
        """Raise RankError where a process has another recipe, other inputs or another version of expo."""

    def share(self, plan: Any, batches: Sequence[Any]) -> list[Any]:
        """The batches of segments that are this rank's."""
        return list(batches)

    def stop(self) -> Any:
        """An event that any rank may set for all; None where the caller may make its own."""
        return None


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Where this process stands; Place() without a launcher, or where the variables are no numbers."""
    try:
        numbers = {name: int(environment[name]) for name in ("RANK", "WORLD_SIZE")}
        local_rank = int(environment.get("LOCAL_RANK", 0))
        on_this_node = int(environment.get("LOCAL_WORLD_SIZE", numbers["WORLD_SIZE"]))
        node = int(environment.get("GROUP_RANK", 0))
    except (KeyError, ValueError):
        return Place()
    if numbers["WORLD_SIZE"] < 2:
        return Place()
    n_nodes = max(1, numbers["WORLD_SIZE"] // max(1, on_this_node))
    return Place(numbers["RANK"], numbers["WORLD_SIZE"], local_rank, node, n_nodes)


def stay_alone(environment: MutableMapping[str, str] = os.environ) -> None:
    """Forget the launcher: what this process does from now on, it does as the only one."""
    for name in [name for name in environment if name.startswith(_ELASTIC) or name in _OF_RANKS]:
        del environment[name]
    # Not removed: without it, the copies that a cluster's own launcher counts would seem to be lost ones.
    environment |= {"RANK": "0", "WORLD_SIZE": "1"}


def is_first_copy(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the first of copies that may not know of each other; True where nothing numbers them."""
    return next((environment[name] for name in _NUMBERS if name in environment), "0") == "0"


def check_rendezvous(environment: Mapping[str, str] = os.environ) -> None:
    """Raise NoRendezvous where several copies were started that cannot find each other."""
    here = place(environment)
    if here.size > 1:
        if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]:
            verb = "is" if len(missing) == 1 else "are"
            raise NoRendezvous(f"{here.size} processes were started, and {' and '.join(missing)} {verb} not set")
    elif "RANK" not in environment:
        for copies in _COPIES:
            if environment.get(copies, "").isdigit() and int(environment[copies]) > 1:
                raise NoRendezvous(f"{copies} is {environment[copies]}, and no process knows of the others")
