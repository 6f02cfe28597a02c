"""Open a checkpoint: join its shards' headers, its index and its config into one table. Holds no tensor data."""

from dataclasses import replace
from pathlib import Path

from expo.checkpoint.files import DEFAULT_MAX_HEADER, check_inside, read_small
from expo.checkpoint.header import read_header
from expo.checkpoint.remote_header import read_heads, read_remote_header
from expo.checkpoint.source import resolve
from expo.checkpoint.spec import Checkpoint, Source, TensorSpec, WeightFile
from expo.checkpoint.strict_json import parse_object, shown
from expo.checkpoint.views.adapted import with_adapters
from expo.checkpoint.views.quantised import dequantised
from expo.checkpoint.weight_map import read_weight_map
from expo.errors import MissingShard, MissingTensor, NotACheckpoint, RepeatedTensor, UnlistedTensor


def open_checkpoint(
    source: str | Path | Source,
    *,
    max_header: int = DEFAULT_MAX_HEADER,
    stream: bool = False,
    stored: bool = False,
) -> Checkpoint:
    """Every tensor that a checkpoint stores, shard by shard in the order of file names, by offset inside a shard.

    source: a folder, a weight file, an index, or a Hub id `org/name[@revision]`; or BASE+ADAPTER+..., whose adapted
    tensors are views, as are float8 tensors with scales. max_header: in bytes. stream: leave the weights of a Hub id
    there, and read them by ranges. stored: True gives float8 tensors and their scales as they lie in the files.
    Raises a SourceError, HeaderError or IndexMismatch; no tensor is ever left out.
    """
    if not isinstance(source, Source):
        source = resolve(source, max_header=max_header, stream=stream)
    files, tensors = _read_all(source, max_header)
    for part in source.folders:
        _add_folder(files, tensors, part.folder.name + "/", *_read_all(part, max_header))
    configs = {part.folder.name: read_config(part) for part in source.folders}
    checkpoint = Checkpoint(source, files, tensors, read_config(source), warnings=source.notes, configs=configs)
    if not stored:
        checkpoint = dequantised(checkpoint)
    return with_adapters(checkpoint, max_header=max_header) if source.adapters else checkpoint


def _read_all(source: Source, max_header: int) -> tuple[dict[str, WeightFile], dict[str, TensorSpec]]:
    """The weight files of one folder, and every tensor in them."""
    listed = read_weight_map(source.folder / source.index, max_header=max_header) if source.index else None
    if listed is not None:
        _check_shards_exist(source, listed)
    if source.remote:
        read_heads(source.remote.values())
    files: dict[str, WeightFile] = {}
    tensors: dict[str, TensorSpec] = {}
    for name in source.weights:
        file, specs = _read_table(source, name, max_header)
        files[name] = file
        for spec in specs:
            _check_place(source, spec, tensors, listed)
            tensors[spec.name] = spec
    if source.weights:
        _check_all_found(source, tensors, listed)
    return files, tensors


def _add_folder(files: dict, tensors: dict, prefix: str, more: dict, specs: dict[str, TensorSpec]) -> None:
    """Add a sub-folder's files and tensors, each under its path."""
    files |= {prefix + name: replace(file, name=prefix + name) for name, file in more.items()}
    tensors |= {
        prefix + name: replace(spec, name=prefix + name, file=prefix + spec.file) for name, spec in specs.items()
    }


def read_config(source: Source) -> dict:
    """config.json as an object, {} where the checkpoint has none."""
    if "config.json" not in source.side_files:
        return {}
    path = source.folder / "config.json"
    return parse_object(read_small(path, DEFAULT_MAX_HEADER), path, what="config")


def _read_table(source: Source, name: str, max_header: int) -> tuple[WeightFile, list[TensorSpec]]:
    if name in source.remote:
        return read_remote_header(source.remote[name], name, max_header=max_header)
    if source.index:
        check_inside(source.folder, name)
    if name.endswith(".bin"):
        from expo.checkpoint.pickled import read_pickled  # loads torch

        return read_pickled(source.folder / name, name, max_header=max_header)
    return read_header(source.folder / name, name, max_header=max_header)


def _check_shards_exist(source: Source, listed: dict[str, str]) -> None:
    here = [name for name in source.weights if name not in source.remote]
    absent = [name for name in here if not (source.folder / name).exists()]
    if absent:
        lost = next(tensor for tensor, file in listed.items() if file == absent[0])
        raise MissingShard(
            source.folder / source.index,
            f"{len(absent)} of {len(source.weights)} shards are not in the folder: {', '.join(absent[:5])}"
            f"{', ...' if len(absent) > 5 else ''} (of {shown(lost)}, for one).",
        )


def _check_place(source: Source, spec: TensorSpec, seen: dict[str, TensorSpec], listed: dict[str, str] | None) -> None:
    """The index sends `spec` to the very shard that holds it, and no other shard holds it too."""
    if spec.name in seen:
        where = source.folder / spec.file
        raise RepeatedTensor(where, f"holds {shown(spec.name)}, and so does {seen[spec.name].file}.")
    place = spec.file if listed is None else listed.get(spec.name)
    if place != spec.file:
        said = f"places in {place}" if place else "does not list"
        raise UnlistedTensor(source.folder / spec.file, f"holds {shown(spec.name)}, which {source.index} {said}.")


def _check_all_found(source: Source, tensors: dict[str, TensorSpec], listed: dict[str, str] | None) -> None:
    if not tensors:
        raise NotACheckpoint(f"{source.folder}: {', '.join(source.weights)} holds no tensor.")
    absent = [name for name in listed or () if name not in tensors]
    if absent:
        file = listed[absent[0]]
        more = f" ({len(absent)} such tensors in all)" if len(absent) > 1 else ""
        raise MissingTensor(
            source.folder / source.index, f"lists {shown(absent[0])} in {file}, which does not hold it{more}."
        )
