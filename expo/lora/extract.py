"""extract_adapter(base, tuned): the best LoRA of a given rank between two checkpoints, tensor by tensor.

A delta that goes in is held whole, and only one a worker; figures state what its rank leaves of it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from expo.analysis.measure import Sums
from expo.analysis.pairs import Pairing, pair_up
from expo.analysis.pool import for_each
from expo.checkpoint import Shards, open_checkpoint
from expo.checkpoint.spec import Checkpoint
from expo.errors import DataError, PlanError, RecipeError
from expo.lora.card import card
from expo.lora.deltas import delta_of, residual, survey, wide
from expo.lora.figures import Approximation, Extraction
from expo.lora.svd import balanced_factors, first_triples, working_bytes
from expo.lora.targets import Targets, is_embedding, is_transposed, module_of, peft_name, sort_targets
from expo.lora.write import AdapterFile, factor_dtype, peft_config
from expo.ops import noise_key, one_thread, torch_dtype
from expo.planning import complaints
from expo.planning.budget import TILE, default_threads, free_memory, size
from expo.planning.identity import input_record
from expo.planning.quantised import quantised
from expo.planning.tied import says_tied
from expo.recipe import extrapolation


def extract_adapter(
    base: str | Path | Checkpoint,
    tuned: str | Path | Checkpoint,
    output: str | Path,
    *,
    rank: int,
    dtype: str = "float32",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    save_modules: bool = False,
    rename: Sequence[tuple[str, str]] = (),
    overwrite: bool = False,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Extraction:
    """Write tuned - base as a LoRA of the base that PEFT loads, to the folder `output`.

    rank: of every factor; a tensor with a shorter side has that side's. dtype: of the factors.
    include, exclude: regular expressions; which 2-D weights are decomposed. save_modules: store what else changed
    (embeddings, norms, biases) whole; without it a warning names what the adapter does not hold.
    Raises RecipeError, PlanError, OutputError or a DataError; the output appears whole or not at all.
    """
    if type(rank) is not int or rank < 1:
        raise RecipeError(f"rank must be a positive whole number, not {rank!r}.")
    job = _Job(base, tuned, rank, dtype, tuple(include), tuple(exclude), save_modules, tuple(rename))
    with one_thread(), Shards(job.base) as read_base, Shards(job.tuned) as read_tuned:
        return job.run((read_base, read_tuned), output, overwrite, threads or default_threads(), progress, warn)


class _Job:
    """One extraction, from opened inputs to the published folder."""

    def __init__(self, base, tuned, rank, dtype, include, exclude, save_modules, rename):
        recipe = extrapolation(sft="base", dpo="tuned", rename=rename, **_COPYING)
        self.base, self.tuned = (c if isinstance(c, Checkpoint) else open_checkpoint(c) for c in (base, tuned))
        if several := [complaints.of_several(own) for own in (self.base, self.tuned) if own.source.folders]:
            raise PlanError(several)
        if problems := quantised({"base": self.base, "tuned": self.tuned}):
            raise PlanError(problems)
        pairing = pair_up(recipe, dict(zip(recipe.models, (self.base, self.tuned), strict=True)))
        _refuse_unpaired(self, pairing)
        self.pairs = pairing.pairs
        self.rank, self.dtype, self.save_modules = rank, factor_dtype(dtype), save_modules
        self.targets: Targets = sort_targets(self.tuned, self.pairs, include, exclude)
        self.settings = {"rank": rank, "dtype": self.dtype.name, "include": include, "exclude": exclude}
        self.settings |= {"save_modules": save_modules, "rename": [f"{old}=>{new}" for old, new in rename]}
        self.transposed = is_transposed(self.base)

    def run(self, readers, output, overwrite, threads, progress, warn) -> Extraction:
        found = Extraction(str(output), self.rank)
        sums = survey(self.pairs, readers, threads, progress)
        changed = [name for name in self.pairs if sums[name].n_changed]
        low_rank = [name for name in self.targets.low_rank if name in set(changed)]
        if not low_rank:
            raise PlanError("no 2-D weight of the chosen ones differs: there is nothing to extract.")
        whole = [name for name in self.targets.whole if name in set(changed)]
        found.saved = whole if self.save_modules else []
        lost = [name for name in changed if name not in {*low_rank, *found.saved}]
        found.not_covered = {name: sums[name].delta for name in lost}
        found.warnings = self._warnings(found, sums)
        for text in found.warnings:
            warn(text)
        file = AdapterFile(output, self._layout(low_rank, found.saved), overwrite=overwrite)
        found.n_bytes = file.shard.n_bytes
        self._write(file, low_rank, found, readers, threads, progress)
        return found

    def _layout(self, low_rank: list[str], saved: list[str]) -> list[tuple]:
        rows = []
        for name in low_rank:
            (n_out, n_in), rank = self._sides(name), self._rank_of(name)
            rows += [(self._factor(name, "A"), self.dtype, (rank, n_in))]
            rows += [(self._factor(name, "B"), self.dtype, (n_out, rank))]
        return rows + [
            (self._saved_name(name), self.pairs[name].b.stored_dtype, self.pairs[name].b.shape) for name in saved
        ]

    def _write(self, file, low_rank, found, readers, threads, progress) -> None:
        inputs = {"base": self.base, "tuned": self.tuned}
        records = {role: input_record(checkpoint) for role, checkpoint in inputs.items()}
        times = [f.mtime_ns for checkpoint in inputs.values() for f in checkpoint.every_file]
        identity = {"method": "lora extract", "settings": self.settings, "inputs": records, "times": times}
        roots = {role: checkpoint.source.folder for role, checkpoint in inputs.items()}
        label = f"lora extract (rank {self.rank}) of {self.tuned.source.label} from {self.base.source.label}"
        if file.open(roots, identity, label):
            recorded = file.sink.recorded()
            found.tensors = [self._figures(name, recorded[k, 0].sums) for k, name in enumerate(low_rank)]
            file.sink.publish()
            return
        drop = False
        try:
            figures = {}

            def work(piece: tuple[int, str]) -> None:
                figures[piece[1]] = self._decompose(file, *piece, readers)
                if progress:
                    progress(2 * self.pairs[piece[1]].b.n_bytes_stored)

            workers = self._workers(low_rank, threads)
            for_each(enumerate(low_rank), lambda: torch.inference_mode()(work), workers)
            found.tensors = [figures[name] for name in low_rank]
            for piece, name in enumerate(found.saved, len(low_rank)):
                self._copy(file, piece, name, readers[1])
            record = {"method": "lora extract", **self.settings}
            file.publish(self._config(low_rank, found), self._card(found), record, records)
        except DataError:
            drop = True
            raise
        finally:
            file.sink.abandon(drop=drop)

    def _decompose(self, file: AdapterFile, piece: int, name: str, readers) -> Approximation:
        names, rank = [self._factor(name, "A"), self._factor(name, "B")], self._rank_of(name)
        kept = file.kept(piece, names)
        if kept is None:
            delta = delta_of(self.pairs[name], readers)
            delta = delta.T.contiguous() if self.transposed else delta  # (n_out, n_in)
            b, a = balanced_factors(*first_triples(delta, rank, noise_key(0, "svd", name)))
            file.put(names[0], a)
            file.put(names[1], b)
            stored = torch_dtype(self.dtype)
            kept = residual(delta, b.to(stored).double(), a.to(stored).double())
            file.done(piece, names, *kept)
        return self._figures(name, kept)

    def _figures(self, name: str, sums: Sequence[float]) -> Approximation:
        return Approximation(name, self._rank_of(name), *sums)

    def _copy(self, file: AdapterFile, piece: int, name: str, reader: Shards) -> None:
        """Store one tensor as the tuned model has it."""
        spec, saved = self.pairs[name].b, self._saved_name(name)
        if file.kept(piece, [saved]) is not None:
            return
        if spec.view is None:
            for at in range(0, spec.n_bytes, 4 * TILE):
                buffer = memoryview(bytearray(min(4 * TILE, spec.n_bytes - at)))
                reader.read_into(buffer, spec, at)
                file.put_bytes(saved, at, buffer)
        else:
            file.put(saved, wide(spec, reader).view(spec.shape))
        file.done(piece, [saved])

    def _config(self, low_rank: list[str], found: Extraction) -> dict[str, Any]:
        ranks = {module_of(peft_name(self.base, name)): self._rank_of(name) for name in low_rank}
        modules = dict.fromkeys(module_of(peft_name(self.base, name)) for name in found.saved)
        biases = [module for module in modules if module in ranks]
        settings: dict[str, Any] = {"fan_in_fan_out": self.transposed, "bias": "lora_only" if biases else "none"}
        settings["modules_to_save"] = [module for module in modules if module not in ranks] or None
        # A head that is tied to a saved embedding must follow it.
        settings["ensure_weight_tying"] = bool(says_tied(self.base) and any(map(is_embedding, found.saved)))
        if any(name.endswith("lm_head.weight") for name in self.base.tensors) or says_tied(self.base):
            settings["task_type"] = "CAUSAL_LM"
        source = self.base.source
        # PEFT looks a folder up by this name, so it is no more than a name where the base is no repository.
        name = source.label if source.adapters else source.repo_id or source.own_label
        return peft_config(name, ranks, settings)

    def _card(self, found: Extraction) -> str:
        figures = {key: value for key, value in found.record().items() if key not in ("output", "tensors", "n_bytes")}
        source = self.base.source
        sources = [source.label, self.tuned.source.label]
        what = f"The part of rank {self.rank} of {sources[1]} - {sources[0]}"
        return card(what, None if source.adapters else source.repo_id, sources, {**self.settings, **figures})

    def _warnings(self, found: Extraction, sums: dict[str, Sums]) -> list[str]:
        texts = complaints.architectures({"base": self.base, "tuned": self.tuned})
        if found.not_covered:
            names = sorted(found.not_covered, key=lambda name: (-(sums[name].relative or 0.0), name))
            shown = ", ".join(f"{name} (by {sums[name].relative or 0:.2%} of its size)" for name in names[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            remedy = "" if self.save_modules else "; --save-modules stores embeddings, norms and biases whole"
            texts.append(f"the adapter does not hold what changed in {shown}{more}{remedy}")
        if any(".experts." in name for name in self.targets.low_rank):
            texts.append(
                "the model has experts: where transformers keeps them in one parameter, PEFT finds no module of "
                r"theirs. To leave them out: --exclude '\.experts\.'"
            )
        return texts

    def _workers(self, names: list[str], threads: int) -> int:
        """As many as memory has room for; raises PlanError where one is too many."""
        largest = max(working_bytes(self.pairs[name].b.shape, self.rank) for name in names)
        free = free_memory()
        if free is not None and largest > free:
            raise PlanError(
                f"decomposing the largest delta needs {size(largest)} of memory, and {size(free)} are free. "
                "Leave such tensors out: --exclude."
            )
        return max(1, min(threads, len(names), free // largest if free is not None else threads))

    def _sides(self, name: str) -> tuple[int, int]:
        """(outputs, inputs) of a linear layer."""
        first, second = self.pairs[name].b.shape
        return (second, first) if self.transposed else (first, second)

    def _rank_of(self, name: str) -> int:
        return min(self.rank, *self.pairs[name].b.shape)

    def _factor(self, name: str, letter: str) -> str:
        return f"{module_of(peft_name(self.base, name))}.lora_{letter}.weight"

    def _saved_name(self, name: str) -> str:
        """As PEFT stores a module that is trained whole, or the bias of one that has factors."""
        module, _, last = peft_name(self.base, name).rpartition(".")
        adapted = last == "bias" and f"{module_of(name)}.weight" in self.targets.low_rank
        return f"{module}.base_layer.{last}" if adapted else f"{module}.{last}"


_COPYING = {"on_mismatch": "copy", "vocabulary": "keep-base", "tied": "keep"}


def _refuse_unpaired(job: _Job, pairing: Pairing) -> None:
    """An adapter holds no tensor that its base lacks or has in another shape."""
    problems = []
    for names, there, lacking in ((pairing.only_b, "tuned", "base"), (pairing.only_a, "base", "tuned")):
        if names:
            problems.append(f"{len(names)} tensors only in {there}, such as {names[0]}: {lacking} lacks them.")
    for a, b in pairing.unlike:
        problems.append(f"{b.name}: {a.dtype} {list(a.shape)} in base, {b.dtype} {list(b.shape)} in tuned.")
    if problems:
        problems.append("An adapter cannot add, drop or reshape a tensor. Where names differ by a prefix: --rename.")
        raise PlanError("\n".join(problems))
