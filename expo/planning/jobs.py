"""What will happen: one Job for each output tensor, with exact offsets. Plain records; no tensor data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.checkpoint.views.quantised import ENTRIES, FILES, without_entries
from expo.dtypes import DType
from expo.methods import Reads, find_method
from expo.output.layers import PickedLayers
from expo.recipe import Recipe

if TYPE_CHECKING:
    from expo.planning.side_files import SideFiles


@dataclass(frozen=True, slots=True)
class RowRun:
    """Consecutive rows of a donor's tensor and where an operand keeps them."""

    first: int  # row of the donor
    n_rows: int
    source: int | None  # first of the same rows in the operand; None: it has none, the donor's own stand in


@dataclass(frozen=True, slots=True)
class Operand:
    """One stored tensor that goes into a job."""

    role: str
    spec: TensorSpec
    rows: tuple[RowRun, ...] | None = None  # None: element i of the operand is element i of the output


@dataclass(frozen=True, slots=True)
class Requantised:
    """How a tensor is written in a narrow type, with one scale for each block of its matrices."""

    block: tuple[int, int]  # rows and columns that share a scale
    matrix: tuple[int, int]  # rows and columns of one matrix
    grid: tuple[int, int]  # blocks along both
    n_scales: int  # of all matrices; 1 where one serves all
    scales: str  # the output tensor that holds them
    scale_dtype: DType
    powers: bool  # whether scales are powers of two, also in a type that holds others

    def block_of(self, matrix: int, row: int) -> int:
        """The first scale of a row of one matrix."""
        n = self.grid[0] * self.grid[1]
        return (matrix * n if self.n_scales > n else 0) + row // self.block[0] * self.grid[1]


@dataclass(frozen=True)
class Job:
    """One output tensor: where it goes, and what it is made of."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    n_elements: int
    file: str  # output shard
    at: int  # its first byte in that shard
    operands: tuple[Operand, ...]  # in the order of the method's roles; only the donor for a copy
    donor: int  # the operand that the result is measured against, and that a copy copies
    method: str | None  # None: the donor's values, in the output's type
    parameters: dict[str, Any] = field(default_factory=dict)
    noise_name: str = ""  # the name that keys its noise: tied tensors share one
    must_equal: bool = False  # a copy whose operands must all hold the same bytes
    n_models: int = 0  # operands that are not the base
    requantised: Requantised | None = None  # how it is written with scales; of the scales, how they are
    scales_of: str | None = None  # it is the scales of that tensor

    @property
    def n_bytes(self) -> int:
        return self.dtype.n_bytes(self.n_elements)

    @property
    def reads(self) -> Reads:
        """The smallest piece that the job can be computed in."""
        return find_method(self.method).reads_for(self.parameters) if self.method else "tile"

    @property
    def width(self) -> int:
        """Elements of one row; a tensor of one dimension is one row."""
        return max(1, self.shape[-1]) if self.shape else 1

    @property
    def is_raw_copy(self) -> bool:
        """True when the donor's bytes are the result."""
        return self.method is None and not self.requantised and self.operands[self.donor].spec.dtype == self.dtype


@dataclass(frozen=True, slots=True)
class OutputShard:
    """One file to write: its header, and its size with the header."""

    name: str
    header: bytes
    n_bytes: int


@dataclass(frozen=True, slots=True)
class TiedPair:
    """Two stored tensors of one input that its config ties, so that they must hold the same bytes."""

    role: str
    name: str
    copy: str


@dataclass(frozen=True)
class Plan:
    """Everything known before the first byte is read."""

    recipe: Recipe
    inputs: dict[str, Checkpoint]  # by role, in the method's order
    jobs: tuple[Job, ...]  # in the order of the output's bytes
    shards: tuple[OutputShard, ...]
    sides: "SideFiles"  # tokenizer and chat template
    tied: tuple[TiedPair, ...] = ()
    left_out: tuple[str, ...] = ()  # tensors that a policy keeps out of the output
    warnings: tuple[str, ...] = ()
    picked: tuple[PickedLayers, ...] = ()  # where the recipe picks layers
    uses: Mapping[str, str] = field(default_factory=dict)  # input -> the earlier stage that made it
    stages: Mapping[str, Any] = field(default_factory=dict)  # how the earlier stages were made, as manifests keep it
    search: Mapping[str, Any] = field(default_factory=dict)  # how the parameters were chosen, as manifests keep it

    @property
    def donor(self) -> Checkpoint:
        """The input whose names, config, side files and shards the output takes."""
        return self.inputs[self.recipe.donor]

    @property
    def n_streamed(self) -> int:
        """How many of the inputs are read from the Hub."""
        return sum(any(file.remote for file in c.every_file) for c in self.inputs.values())

    @property
    def unquantises(self) -> bool:
        """Whether the donor stores floats with scales, and the output the numbers that they stand for."""
        return bool(self.donor.quantised and self.donor.quantised.scaled) and not self.recipe.requantize

    @property
    def side_files(self) -> tuple[str, ...]:
        """The donor's, less those that say how its numbers are stored where the output's are not."""
        names = self.donor.source.side_files
        if not self.unquantises:
            return names
        beside = {f"{folder}/{name}" for folder in self.donor.configs for name in FILES}
        return tuple(name for name in names if name not in FILES and name not in beside)

    @property
    def dropped_entries(self) -> tuple[str, ...]:
        """The keys of config.json that say so."""
        return ENTRIES if self.unquantises else ()

    @property
    def config(self) -> dict[str, Any]:
        """The donor's config as the output has it, but for the number of layers."""
        return without_entries(self.donor.config) if self.unquantises else self.donor.config

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The same of each sub-folder."""
        return {
            folder: without_entries(config) if self.unquantises else config
            for folder, config in self.donor.configs.items()
        }

    @property
    def n_bytes_written(self) -> int:
        return sum(shard.n_bytes for shard in self.shards)

    @property
    def n_bytes_read(self) -> int:
        return sum(operand.spec.n_bytes_stored for job in self.jobs for operand in job.operands)

    @property
    def weight_map(self) -> dict[str, str]:
        return {job.name: job.file for job in self.jobs}
