"""Door in: bytes become specs and tiles."""

from expo.checkpoint.index import open_checkpoint
from expo.checkpoint.shard import Shard, Shards
from expo.checkpoint.spec import Checkpoint, Source, TensorSpec, WeightFile

__all__ = ["Checkpoint", "Shard", "Shards", "Source", "TensorSpec", "WeightFile", "open_checkpoint"]
