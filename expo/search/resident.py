"""The one model in memory whose weights each try replaces, and the tokenizer beside it. Nothing is written to disk."""

import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import xxhash

from expo.checkpoint import Checkpoint
from expo.checkpoint.held import Held
from expo.errors import BadSetting, ExpoError
from expo.output.manifest import NAME as MANIFEST
from expo.output.sidecars import hash_file
from expo.planning import Plan
from expo.planning.budget import free_memory, size
from expo.planning.identity import fingerprint
from expo.search.errors import DoesNotFit
from expo.stream import Report, fill, new_model
from expo.stream.device import pick_device
from expo.stream.probe import check_tied

COMPUTE = ("float32", "bfloat16", "float16")


class Resident:
    """Holds exactly the weights that a run of the last plan it was filled from would write.

    device: where it is scored; auto is the GPU where there is one. compute: torch's name of the type that the weights
    are held in while they are scored; default: float32 on the CPU, which holds every narrower type's values as they
    are, and elsewhere the output's. hold: keep the inputs' tensors in memory instead of reading them for each try.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        compute: str | None = None,
        threads: int | None = None,
        hold: bool = False,
        trust_remote_code: bool = False,
    ):
        import torch

        if compute is not None and compute not in COMPUTE:
            raise BadSetting("compute_dtype", compute, COMPUTE)
        if device == "auto" and torch.cuda.is_available():
            device = "cuda"
        self.device = pick_device(device)
        self.compute = compute or ("float32" if self.device.type == "cpu" else None)
        self.threads = threads
        self.trust_remote_code = trust_remote_code
        self.held: dict[int, Held] | None = {} if hold else None  # by the identity of a checkpoint
        self.model: Any = None
        self.tokenizer: Any = None
        self.fills = 0
        self.n_bytes_read = 0
        self.seconds = 0.0  # of filling
        self.load_seconds = 0.0  # of loading models and tokenizers
        self._form: Any = None  # of the model: its type, config, names and shapes
        self._text: Any = None  # what decides the tokenizer
        self._checked: set[str] = set()
        self._holds: tuple[str, Report] | None = None  # what the model was filled from last

    def record(self) -> dict[str, Any]:
        """What of all this can change a score."""
        return {"device": self.device.type, "compute_dtype": self.compute or "the output's"}

    def fill(self, planned: Plan) -> Report:
        """Put a plan's result into the model; the report says how much of the change the output's type holds."""
        key = identity(planned)
        if self._holds and self._holds[0] == key:
            return self._holds[1]
        self._check(planned)
        held = self.compute or planned.recipe.output_dtype()
        form = (held, _side_files(planned), [(job.name, job.shape) for job in planned.jobs])
        self._holds = None  # half of two tries, should this one fail
        began = time.monotonic()
        if self.model is None or form != self._form:
            self.drop()
            self.model = new_model(planned, dtype=self.compute, trust_remote_code=self.trust_remote_code)
            self.model = self.model.to(self.device)
            self._form = form
        self._read_tokenizer(planned)
        readers = self._readers(planned)
        self.load_seconds += time.monotonic() - began
        began = time.monotonic()
        report = fill(self.model, planned, threads=self.threads, readers=readers)
        self.seconds += time.monotonic() - began
        self.fills += 1
        self.n_bytes_read += planned.n_bytes_read
        self._holds = (key, report)
        return report

    def drop(self) -> None:
        """Give the model's memory back."""
        self.model = self._holds = None
        gc.collect()

    def _check(self, planned: Plan) -> None:
        """Stored copies of tied weights, once for each set of inputs: they do not change between tries."""
        labels = repr([(role, checkpoint.source.text) for role, checkpoint in planned.inputs.items()])
        if labels not in self._checked:
            check_tied(planned)
            self._checked.add(labels)

    def _readers(self, planned: Plan) -> dict[str, Held] | None:
        if self.held is None:
            return None
        return {role: self._held(checkpoint) for role, checkpoint in planned.inputs.items()}

    def _held(self, checkpoint: Checkpoint) -> Held:
        """A checkpoint in memory; what a tokenizer entry makes of it reads the same bytes."""
        key = hash(tuple((file.path, file.mtime_ns) for file in checkpoint.every_file))
        if key not in self.held:
            self.held[key] = Held(checkpoint)
        return self.held[key]

    def _read_tokenizer(self, planned: Plan) -> None:
        """The tokenizer that the output would have, with its chat template."""
        donor, sides = planned.donor.source, planned.sides
        text = (str(donor.folder), sides.tokenizer and repr(sides.tokenizer.describe()), sides.chat_template)
        if text == self._text:
            return
        if sides.tokenizer is None and sides.chat_template is None:
            self.tokenizer = self._tokenizer_in(donor.folder, donor.label)
        else:
            from expo.stream.to_folder import write_side_files

            with tempfile.TemporaryDirectory(prefix="expo-search-") as folder:
                write_side_files(planned, Path(folder))
                self.tokenizer = self._tokenizer_in(Path(folder), donor.label)
        self._text = text

    def _tokenizer_in(self, folder: Path, label: str) -> Any:
        import transformers

        try:
            return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=self.trust_remote_code)
        except (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError) as error:
            raise ExpoError(f"transformers cannot load the tokenizer of {label}: {error}") from error


def identity(planned: Plan) -> str:
    """A hash of all that decides what the output says to a prompt: weights, config, tokenizer, chat template."""
    return xxhash.xxh3_128_hexdigest(f"{fingerprint(planned)} {_side_files(planned)}".encode())


def _side_files(planned: Plan) -> str:
    """A hash of the donor's config, tokenizer, chat template and code."""
    source, state = planned.donor.source, xxhash.xxh3_128()
    for name in source.side_files:
        if name.endswith((".json", ".jinja", ".model", ".txt", ".py")) and name != MANIFEST:
            state.update(f"{name} {hash_file(source.folder / name)} ".encode())
    return state.hexdigest()


def coarser(planned: Plan, **how: Any) -> str:
    """What to say where scores are taken in a type that does not hold the output's values; "" where it does."""
    compute, wider = Resident(**how).compute, {"F64", "F32", "F16", "BF16"}
    held = {"float32": {"F32", "F16", "BF16"}, "bfloat16": {"BF16"}, "float16": {"F16"}}.get(compute or "", wider)
    lost = ", ".join(sorted({job.dtype.name for job in planned.jobs} & wider - held))
    return lost and f"scores are those of {compute} weights, and the output's are {lost}: leave out --compute-dtype."


def weights_hash(report: Report) -> str:
    """A hash of every tensor that a run would write; equal weights have equal hashes."""
    return xxhash.xxh3_128_hexdigest(repr(sorted(report.hashes.items())).encode())


def result_hash(planned: Plan, report: Report) -> str:
    """A hash of what a run would write: equal ones answer alike, whichever recipes they come from."""
    tokenizer = planned.sides.tokenizer and planned.sides.tokenizer.describe()
    said = (weights_hash(report), _side_files(planned), tokenizer, planned.sides.chat_template)
    return xxhash.xxh3_128_hexdigest(repr(said).encode())


def check_memory(planned: Plan, **how: Any) -> None:
    """Raise DoesNotFit where the machine has not the memory for the model; on a GPU, loading itself says so."""
    needed, free = memory_needed(planned, **how), free_memory()
    if Resident(**how).device.type != "cpu" or free is None or needed <= free:
        return
    ways = ["hold the weights in 16 bits (--compute-dtype bfloat16)", "use a larger machine"]
    ways = (["leave out --resident"] if how.get("hold") else []) + ways
    raise DoesNotFit(
        f"the search needs {size(needed)} of memory beside what scoring takes, and {size(free)} are free. "
        f"Ways out: {', '.join(ways)}."
    )


def memory_needed(planned: Plan, **how: Any) -> int:
    """Bytes of a resident model, and of both inputs where they are held; activations and caches come on top."""
    resident = Resident(**how)
    bits = {"float32": 32, "bfloat16": 16, "float16": 16}.get(resident.compute or "")
    model = sum(job.n_elements * (bits or job.dtype.bits) // 8 for job in planned.jobs)
    held = {id(checkpoint): checkpoint.n_bytes for checkpoint in planned.inputs.values()}
    return model + (sum(held.values()) if resident.held is not None else 0)
