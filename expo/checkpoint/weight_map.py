"""Read a weight index, `*.index.json`: which shard holds which tensor. Trusts nothing in it."""

from pathlib import Path

from expo.checkpoint.files import DEFAULT_MAX_HEADER, read_small
from expo.checkpoint.strict_json import parse_object, shown
from expo.errors import MalformedIndex


def read_weight_map(path: Path, *, max_header: int = DEFAULT_MAX_HEADER) -> dict[str, str]:
    """Tensor name -> shard's file name, which is a plain name beside the index.

    Raises MalformedIndex, MalformedJson, DuplicateKey, HeaderTooLarge.
    """
    index = parse_object(read_small(path, max_header), path, what="index")
    listed = index.get("weight_map")
    if not isinstance(listed, dict):
        raise MalformedIndex(path, "no object named weight_map, from tensor names to file names.")
    if not listed:
        raise MalformedIndex(path, "its weight_map is empty.")
    suffix = ".bin" if ".bin." in path.name else ".safetensors"
    for tensor, file in listed.items():
        if not isinstance(file, str):
            raise MalformedIndex(path, f"{shown(tensor)} lies in {shown(file)}, which is not a file name.")
        if "/" in file or "\\" in file or "\0" in file or file.startswith(".") or not file.endswith(suffix):
            raise MalformedIndex(
                path, f"{shown(tensor)} lies in {shown(file)}; a shard is a plain {suffix} file beside its index."
            )
    return listed
