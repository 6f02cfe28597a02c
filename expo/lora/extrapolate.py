"""extrapolate_adapters(A, B): ExPO between two adapters of one base, as an adapter: exact, by putting factors together.

(1 + alpha) s_B B_B A_B - alpha s_A B_A A_A = [(1 + alpha) s_B B_B, -alpha s_A B_A] [A_B; A_A], of rank r_A + r_B.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expo.checkpoint import Shards
from expo.checkpoint.adapters import resolve_adapter
from expo.checkpoint.files import DEFAULT_MAX_HEADER
from expo.checkpoint.source import HUB_ID, looks_local
from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.checkpoint.views.adapter import Adapter, open_adapter
from expo.errors import DataError, PlanError, RecipeError
from expo.lora.card import card
from expo.lora.deltas import wide
from expo.lora.svd import balanced_factors, product_triples
from expo.lora.write import AdapterFile, factor_dtype, peft_config
from expo.ops import one_thread

_REMEDY = "To extrapolate the whole models instead: expo extrapolate --sft BASE+A --dpo BASE+B."


@dataclass
class Extrapolation:
    """What was written."""

    output: str
    alpha: float
    ranks: dict[str, int] = field(default_factory=dict)  # module -> rank
    saved: list[str] = field(default_factory=list)  # tensors that are stored whole
    captured: float | None = None  # the share of the exact change's energy, where the rank was cut
    n_bytes: int = 0
    warnings: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """The same as plain data."""
        return dict(vars(self))


def extrapolate_adapters(
    sft: str | Path,
    dpo: str | Path,
    output: str | Path,
    *,
    alpha: float = 0.3,
    rank: int | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    max_header: int = DEFAULT_MAX_HEADER,
    warn: Callable[[str], None] = lambda text: None,
) -> Extrapolation:
    """Write the adapter whose change is dpo's + alpha * (dpo's - sft's), to the folder `output`.

    sft, dpo: folders, weight files or Hub ids of two adapters of one base. rank: cut each product to it, by its
    singular values; None keeps it exact. dtype: of the factors.
    Raises RecipeError, PlanError, OutputError, a DataError, or what opening an adapter raises.
    """
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise RecipeError(f"alpha must be a finite number, not {alpha!r}.")
    if rank is not None and (type(rank) is not int or rank < 1):
        raise RecipeError(f"rank must be a positive whole number, not {rank!r}.")
    adapters = [
        open_adapter(resolve_adapter(str(place)), prefix=f"+{k}/", max_header=max_header)
        for k, place in enumerate((sft, dpo), 1)
    ]
    return _Pair(*adapters, float(alpha), rank, dtype).run(output, overwrite, warn)


class _Pair:
    """Two adapters and what becomes of each of their modules."""

    def __init__(self, sft: Adapter, dpo: Adapter, alpha: float, rank: int | None, dtype: str):
        self.sft, self.dpo, self.alpha, self.rank, self.dtype = sft, dpo, alpha, rank, factor_dtype(dtype)
        self.modules = list(dict.fromkeys([*dpo.changes, *sft.changes]))
        if problems := self._problems():
            raise PlanError([*problems, _REMEDY])
        files = {**sft.files, **dpo.files}
        self.files = Checkpoint(dpo.source, files, {})

    def _problems(self) -> list[str]:
        """All that stands in the way; reads headers only."""
        found = []
        for adapter in (self.sft, self.dpo):
            if adapter.config.dora:
                found.append(f"{adapter.config.where} is a DoRA: its change is no product of factors.")
        if self.sft.config.fan_in_fan_out != self.dpo.config.fan_in_fan_out:
            found.append("fan_in_fan_out differs between the two: they are no adapters of one base.")
        for module in self.modules:
            one, other = self.sft.changes.get(module), self.dpo.changes.get(module)
            if one and other and (_sides(one), one.embedding) != (_sides(other), other.embedding):
                found.append(f"{module}: shapes differ: {_shapes(one)} in sft, {_shapes(other)} in dpo.")
        for name in dict.fromkeys([*self.dpo.replaced, *self.sft.replaced]):
            one, other = self.sft.replaced.get(name), self.dpo.replaced.get(name)
            if one is None or other is None:
                found.append(f"{name} is stored whole in {'dpo' if other else 'sft'} only; its base is not known here.")
            elif one.shape != other.shape:
                found.append(f"{name}: shapes differ: {list(one.shape)} in sft, {list(other.shape)} in dpo.")
        return found

    def run(self, output: str | Path, overwrite: bool, warn: Callable[[str], None]) -> Extrapolation:
        found = Extrapolation(str(output), self.alpha, saved=list(self.dpo.replaced), warnings=self._warnings())
        for text in found.warnings:
            warn(text)
        found.ranks = {module: self._rank(module) for module in self.modules}
        file = AdapterFile(output, self._layout(found), overwrite=overwrite)
        found.n_bytes = file.shard.n_bytes
        settings = {"alpha": self.alpha, "rank": self.rank, "dtype": self.dtype.name}
        inputs = {role: _record(adapter) for role, adapter in (("sft", self.sft), ("dpo", self.dpo))}
        times = [f.mtime_ns for f in self.files.files.values()]
        roots = {"sft": self.sft.source.folder, "dpo": self.dpo.source.folder}
        method = {"method": "lora extrapolate", **settings}
        if file.open(roots, {**method, "inputs": inputs, "times": times}, f"lora extrapolate (alpha {self.alpha:g})"):
            file.sink.publish()
            return found
        drop = False
        try:
            with one_thread(), torch.inference_mode(), Shards(self.files) as reader:
                self._write(file, reader, found)
            file.publish(self._config(found), self._card(found, settings), method, inputs)
        except DataError:
            drop = True
            raise
        finally:
            file.sink.abandon(drop=drop)
        return found

    def _write(self, file: AdapterFile, reader: Shards, found: Extrapolation) -> None:
        kept, total = [], []
        for module in self.modules:
            b, a = self._factors(module, reader)
            if self.rank is not None:
                triples = product_triples(b.flatten(1), a.flatten(1), found.ranks[module])
                # |B A|^2 = trace((B^T B)(A A^T)), from factors alone.
                total.append(float(((b.flatten(1).T @ b.flatten(1)) * (a.flatten(1) @ a.flatten(1).T)).sum()))
                kept.append(float(triples[1].square().sum()))
                shapes = (b.shape[0], found.ranks[module], *b.shape[2:]), (found.ranks[module], *a.shape[1:])
                b, a = (factor.reshape(shape) for factor, shape in zip(balanced_factors(*triples), shapes, strict=True))
            for letter, factor in (("A", a), ("B", b)):
                file.put(self._name(module, letter), factor)
        if self.rank is not None:
            found.captured = math.fsum(kept) / math.fsum(total) if math.fsum(total) > 0 else 1.0
        for name, spec in self.dpo.replaced.items():
            ours, theirs = (_load(one, reader) for one in (spec, self.sft.replaced[name]))
            moved = ours - (theirs - ours) * self.alpha
            file.put(name, torch.where(ours == theirs, ours, moved))

    def _factors(self, module: str, reader: Shards) -> tuple[Tensor, Tensor]:
        """B and A of the extrapolated change, in float64, the scale in B."""
        sides = []
        for adapter, weight in ((self.dpo, 1 + self.alpha), (self.sft, -self.alpha)):
            if module in adapter.changes and weight:
                change = adapter.changes[module]
                sides.append((_load(change.b, reader) * (weight * adapter.scale(module)), _load(change.a, reader)))
        if not sides:  # all that there is of it has the weight 0
            change = self.dpo.changes.get(module) or self.sft.changes[module]
            sides.append((_load(change.b, reader) * 0.0, _load(change.a, reader)))
        return torch.cat([b for b, _ in sides], dim=1), torch.cat([a for _, a in sides], dim=0)

    def _rank(self, module: str) -> int:
        weights = ((self.dpo, 1 + self.alpha), (self.sft, -self.alpha))
        ranks = [adapter.changes[module].rank for adapter, weight in weights if module in adapter.changes and weight]
        change = self.dpo.changes.get(module) or self.sft.changes[module]
        together = sum(ranks) or change.rank
        return together if self.rank is None else min(self.rank, together, *_sides(change))

    def _layout(self, found: Extrapolation) -> list[tuple]:
        rows = []
        for module, rank in found.ranks.items():
            change = self.dpo.changes.get(module) or self.sft.changes[module]
            rows.append((self._name(module, "A"), self.dtype, (rank, *change.a.shape[1:])))
            rows.append((self._name(module, "B"), self.dtype, (change.b.shape[0], rank, *change.b.shape[2:])))
        rows += [(name, self.dtype, spec.shape) for name, spec in self.dpo.replaced.items()]
        return rows

    def _name(self, module: str, letter: str) -> str:
        change = self.dpo.changes.get(module) or self.sft.changes[module]
        return f"{module}.lora_embedding_{letter}" if change.embedding else f"{module}.lora_{letter}.weight"

    def _config(self, found: Extrapolation) -> dict[str, Any]:
        said = dict(self.dpo.config.raw)
        # Which layers, and what training did: the modules are named one by one, and their values are there.
        for key in ("layers_to_transform", "layers_pattern", "exclude_modules", "eva_config", "corda_config",
                    "lora_ga_config", "auto_mapping"):  # fmt: skip
            said.pop(key, None)
        said |= {"loftq_config": {}, "init_lora_weights": True, "inference_mode": True}
        return peft_config(said.get("base_model_name_or_path"), found.ranks, said)

    def _card(self, found: Extrapolation, settings: dict[str, Any]) -> str:
        labels = [self.dpo.source.label, self.sft.source.label]
        base = self.dpo.config.base_name
        found_id = HUB_ID.fullmatch(base)
        hub_id = base if found_id and not found_id[2] and not looks_local(Path(base)) else None
        what = f"{labels[0]} + {self.alpha:g} ({labels[0]} - {labels[1]})"
        figures = {} if found.captured is None else {"captured": float(f"{found.captured:.4g}")}
        return card(what, hub_id, labels, {**settings, **figures})

    def _warnings(self) -> list[str]:
        one, other = self.sft.config.base_name, self.dpo.config.base_name
        if one and other and Path(one).name != Path(other).name:
            return [f"the adapters name different bases: {one} (sft) and {other} (dpo)"]
        return []


def _load(spec: TensorSpec, reader: Shards) -> Tensor:
    """A stored tensor in float64, which must be finite."""
    whole = wide(spec, reader).to(torch.float64).view(spec.shape)
    if not bool(torch.isfinite(whole).all()):
        raise DataError(f"{spec.name}: it holds NaN or infinities. Nothing is written.")
    return whole


def _sides(change: Any) -> tuple[int, int]:
    return change.b.shape[0], math.prod(change.a.shape[1:])


def _shapes(change: Any) -> str:
    return f"{list(change.a.shape)} and {list(change.b.shape)}"


def _record(adapter: Adapter) -> dict[str, Any]:
    source = adapter.source
    files = {f.path.name: {"n_bytes": f.n_bytes, "header": f.header_hash} for f in adapter.files.values()}
    return {"label": source.label, "repo_id": source.repo_id, "revision": source.revision, "files": files}
