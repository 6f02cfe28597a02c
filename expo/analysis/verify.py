"""verify(OUT): does a checkpoint hold what its manifest says, to the byte? Collects every problem; writes nothing."""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from expo.analysis.content import Content, Found
from expo.checkpoint import open_checkpoint
from expo.checkpoint.adapters import resolve_adapter
from expo.checkpoint.files import DEFAULT_MAX_HEADER, check_inside
from expo.checkpoint.header import read_header
from expo.checkpoint.source import resolve
from expo.checkpoint.spec import Checkpoint, Source, WeightFile
from expo.errors import AdapterNotModel, ExpoError, VerifyError
from expo.output.manifest import NAME, read_manifest
from expo.output.sidecars import hash_file
from expo.planning.budget import default_threads

Progress = Callable[[int], None]


@dataclass
class Verification:
    """What was looked at, and everything that is wrong with it."""

    output: str
    has_manifest: bool = False
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_tensors: int = 0
    n_files: int = 0
    n_side_files: int = 0
    n_bytes: int = 0  # of tensors, read and hashed
    seconds: float = 0.0  # of reading them
    segments_recomputed: int = 0
    segments: int = 0
    recompute_seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """The verification as one JSON object."""
        speed = self.n_bytes / 1e9 / self.seconds if self.seconds else None
        return {**vars(self), "ok": not self.problems, "gb_per_second": speed and round(speed, 3)}


def verify(
    output: str | Path,
    *,
    recompute: float | None = None,
    inputs: Mapping[str, str] | None = None,
    threads: int | None = None,
    allow_non_finite: bool = False,
    max_header: int = DEFAULT_MAX_HEADER,
    stream: bool = False,
    progress: Progress | None = None,
) -> Verification:
    """Check headers, index, sizes, side files and every tensor's hash and finiteness; problems are collected.

    output: a folder, a weight file, an index or a Hub id. Without a manifest beside it only structure and
    finiteness are checked. recompute: the share of segments, up to 1.0, to derive again from the inputs; at least
    one. inputs: where local inputs are now, by role, alias (sft, dpo, A, B) or recorded label.
    allow_non_finite: NaN and infinities are no problem where the hash says that they were written.
    stream: read the weights of Hub ids there, by ranges.
    Raises SourceError where there is no checkpoint at all, VerifyError where inputs for recompute are not given.
    """
    result = Verification(str(output))
    threads = threads or default_threads()
    source, manifest = _find(output, result, max_header, stream)
    checkpoint = _structure(source, manifest, result, max_header)
    if manifest:
        _check_side_files(source, manifest, result)
        _check_index(checkpoint, result)
    again = None
    if recompute is not None:
        from expo.analysis.recompute import Recompute

        # Before the long reading, for it may lack an input.
        again = Recompute(checkpoint, manifest, inputs or {}, allow_non_finite, max_header, stream)
    began = time.perf_counter()
    found = Content(checkpoint).read(threads, progress)
    result.seconds = time.perf_counter() - began
    result.n_tensors, result.n_files = len(checkpoint.tensors), len(checkpoint.files)
    result.n_bytes = checkpoint.n_bytes
    _check_tensors(found, manifest, allow_non_finite, result)
    for file in checkpoint.files.values():
        if file.remote and not file.remote.is_sound:
            result.problems.append(f"{file.name}: its bytes have another hash than the Hub states.")
    if again:
        result.problems += again.compare(recompute, threads, progress)
        result.segments, result.segments_recomputed = again.segments, again.segments_recomputed
        result.recompute_seconds = again.seconds
    return result


def _find(
    output: str | Path, result: Verification, max_header: int, stream: bool
) -> tuple[Source, dict[str, Any] | None]:
    """Where the checkpoint is, and its manifest if there is one that can be read."""
    trouble, source = None, None
    try:
        source = resolve(output, max_header=max_header, stream=stream)
    except AdapterNotModel:
        source = resolve_adapter(str(output))
    except ExpoError as error:
        trouble = error
    folder = source.folder if source else Path(output).absolute()
    manifest = None
    result.has_manifest = (folder / NAME).is_file()
    if result.has_manifest:
        try:
            manifest = _checked(read_manifest(folder), folder)
        except ExpoError as error:
            result.problems.append(str(error))
    else:
        result.notes.append(f"no manifest ({NAME}): hashes not checked")
    if trouble and manifest is None:
        raise trouble
    if trouble:
        result.problems.append(str(trouble))
        source = Source(str(output), folder, tuple(manifest["files"]), None, ())
    return source, manifest


def _checked(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The manifest, if its tables have the form that the checks rely on."""
    tables = ("recipe", "inputs", "files", "side_files", "tensors")
    sound = all(isinstance(manifest.get(name), dict) for name in tables)
    rows = [*manifest["files"].values(), *manifest["inputs"].values()] if sound else []
    sound = sound and all(isinstance(row, dict) for row in rows)
    rows = [row.get("files") for row in manifest["inputs"].values()] if sound else []
    if not sound or not all(isinstance(row, dict) and all(isinstance(f, dict) for f in row.values()) for row in rows):
        raise VerifyError(f"{folder / NAME} is damaged: it lacks one of its tables ({', '.join(tables)}).")
    return manifest


def _structure(source: Source, manifest: dict[str, Any] | None, result: Verification, max_header: int) -> Checkpoint:
    """Every file and tensor that can be read, whatever is wrong with the others."""
    try:
        checkpoint = open_checkpoint(source, max_header=max_header, stored=True)
    except ExpoError as error:
        result.problems.append(str(error))
        checkpoint = Checkpoint(source, {}, {})
        for name in dict.fromkeys((*source.weights, *(manifest["files"] if manifest else ()))):
            with contextlib.suppress(ExpoError):
                _add_file(checkpoint, name, result, max_header)
    if manifest:
        _check_files(checkpoint, manifest, result)
        stored, listed = checkpoint.tensors, manifest["tensors"]
        result.problems += _counted("in the manifest, but in no file that can be read", listed, stored)
        result.problems += _counted("stored, but not in the manifest", stored, listed)
    return checkpoint


def _counted(what: str, names: Iterable[str], others: Mapping[str, Any]) -> list[str]:
    """One line about the names that the others lack, if there are any."""
    lost = [name for name in names if name not in others]
    more = f", ... and {len(lost) - 5} more" if len(lost) > 5 else ""
    return [f"{what}: {', '.join(lost[:5])}{more}"] if lost else []


def _add_file(checkpoint: Checkpoint, name: str, result: Verification, max_header: int) -> None:
    """One file's table, where the checkpoint as a whole does not open."""
    folder = checkpoint.source.folder
    check_inside(folder, name)
    if not (folder / name).exists() or not name.endswith(".safetensors"):
        return
    try:
        file, specs = read_header(folder / name, name, max_header=max_header)
    except ExpoError as error:
        if str(error) not in result.problems:
            result.problems.append(str(error))
        return
    checkpoint.files[name] = file
    checkpoint.tensors.update({spec.name: spec for spec in specs})


def _check_files(checkpoint: Checkpoint, manifest: dict[str, Any], result: Verification) -> None:
    """Sizes and headers of the weight files."""
    for name, recorded in manifest["files"].items():
        file = checkpoint.files.get(name)
        if file is None:
            if not (checkpoint.source.folder / name).exists():
                result.problems.append(f"{name}: the file is missing.")
            continue
        if file.n_bytes != recorded.get("n_bytes"):
            result.problems.append(f"{name}: {file.n_bytes} bytes, recorded {recorded.get('n_bytes')}.")
        if _header_hash(file) != recorded.get("header"):
            result.problems.append(f"{name}: its header is not the one that was written.")
    for name in checkpoint.files:
        if name not in manifest["files"]:
            result.problems.append(f"{name}: a weight file that the manifest does not list.")


def _header_hash(file: WeightFile) -> str | None:
    """xxh3-128 of the header with the 8 bytes of its length, as the manifest has it; None for another format."""
    if not file.name.endswith(".safetensors"):
        return None
    if file.remote:
        start = bytearray(8)
        file.remote.read_into(memoryview(start), 0)
        header = bytearray(int.from_bytes(start, "little"))
        file.remote.read_into(memoryview(header), 8)
        return xxhash.xxh3_128_hexdigest(start + header)
    with open(file.path, "rb") as stored:
        length = stored.read(8)
        return xxhash.xxh3_128_hexdigest(length + stored.read(int.from_bytes(length, "little")))


def _check_side_files(source: Source, manifest: dict[str, Any], result: Verification) -> None:
    """Every recorded side file is there, with the bytes that were written; the card may change."""
    recorded = manifest["side_files"]
    for name, digest in recorded.items():
        try:
            check_inside(source.folder, name)
            if not (source.folder / name).is_file():  # a pipe would be waited for
                raise OSError(name)
            found = hash_file(source.folder / name)
        except OSError:
            result.problems.append(f"{name}: the side file is missing.")
        except ExpoError as error:
            result.problems.append(str(error))
        else:
            result.n_side_files += 1
            if found != digest:
                result.problems.append(f"{name}: changed since it was written (hash {found}, recorded {digest}).")
    added = [name for name in source.side_files if name not in recorded]
    if added:
        result.notes.append(f"not of the run: {', '.join(added)}")


def _check_index(checkpoint: Checkpoint, result: Verification) -> None:
    """The index states the true total; that it lists each tensor is a matter of opening the checkpoint."""
    index = checkpoint.source.index
    if not index or result.problems:  # a broken index or shard has its complaint already
        return
    said = json.loads((checkpoint.source.folder / index).read_bytes()).get("metadata")
    total = said.get("total_size") if isinstance(said, dict) else None
    own = sum(spec.n_bytes_stored for spec in checkpoint.tensors.values() if "/" not in spec.file)
    if total != own:
        result.problems.append(f"{index}: total_size is {total}, but the tensors have {own} bytes.")


def _check_tensors(
    found: dict[str, Found], manifest: dict[str, Any] | None, allow_non_finite: bool, result: Verification
) -> None:
    """Hashes and finiteness, in the stored order."""
    recorded = manifest["tensors"] if manifest else {}
    for name, tensor in found.items():
        if tensor.error:
            result.problems.append(tensor.error)
            continue
        same = name not in recorded or tensor.digest == recorded[name]
        if not same:
            result.problems.append(
                f"{name}: its bytes are not those that were written (hash {tensor.digest}, recorded {recorded[name]})."
            )
        if tensor.n_bad and not (allow_non_finite and same):
            what = f"{tensor.n_bad} elements are not finite" if tensor.n_bad > 1 else "one element is not finite"
            way_out = "" if allow_non_finite else " If that is meant: --allow-non-finite."
            result.problems.append(f"{name}: {what}; element {tensor.first_bad} is {tensor.kind}.{way_out}")
