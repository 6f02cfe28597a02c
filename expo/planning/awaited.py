"""The checkpoint that a plan will have written, before it is: what a later stage is planned from."""

from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from expo.checkpoint.spec import Checkpoint, Source, TensorSpec, WeightFile
from expo.planning.jobs import Plan


@dataclass(frozen=True)
class Awaited(Source):
    """Where a stage will write."""

    @property
    def label(self) -> str:
        return Path(self.text).name


def expected(planned: Plan, folder: Path) -> Checkpoint:
    """The checkpoint that a plan will have written: its table of tensors; side files are still the donor's."""
    tensors = {
        job.name: TensorSpec(job.name, job.dtype, job.shape, job.file, job.at, job.n_bytes) for job in planned.jobs
    }
    hashes = {shard.name: xxhash.xxh3_128_hexdigest(shard.header[8:]) for shard in planned.shards}  # without its length
    files = {
        shard.name: WeightFile(shard.name, folder / shard.name, shard.n_bytes, 0, hashes[shard.name], {})
        for shard in planned.shards
    }
    own = planned.donor.source
    # The names of the files tell it apart from the donor, whose side files it has.
    weights = tuple(str(folder / file) for file in files)
    folders = tuple(replace(part, text=str(folder / part.folder.name)) for part in own.folders)
    source = Awaited(str(folder), own.folder, weights, None, own.side_files, folders=folders)
    return Checkpoint(source, files, tensors, planned.config, configs=planned.configs)
