"""What config.json and generation_config.json must say of another vocabulary: its size, and the ids of tokens."""

import re
from collections.abc import Iterator, Mapping

from expo.checkpoint.files import read_small
from expo.checkpoint.spec import Checkpoint
from expo.checkpoint.strict_json import parse_object

_ID = re.compile(r"_token_(id|index)$|_token_ids$")
_LIMIT = 16 * 2**20
Path = tuple[str, ...]
Settings = dict[str, dict[Path, object]]


def size_changes(config: Mapping, old: int, new: int) -> dict[Path, object]:
    """Every vocab_size in a config that states the old number of rows; where none does, the text model's own."""
    if old == new or not config:
        return {}
    stated = [path for path, value in _leaves(config) if "vocab_size" in path[-1] and value == old]
    inner = ("text_config",) if isinstance(config.get("text_config"), Mapping) else ()
    return dict.fromkeys(stated or [(*inner, "vocab_size")], new)


def id_changes(
    donor: Checkpoint, owner: Checkpoint, of_donor: Mapping[str, int], rows: Mapping[str, int]
) -> tuple[Settings, list[str]]:
    """The ids of tokens that the donor's configs must take over with another one's tokenizer; and notes.

    Each is what the tokenizer's owner says in the same place; else the same token's id in the output.
    """
    token_of = {row: token for token, row in of_donor.items()}
    settings: Settings = {}
    notes = []
    for name in ("config.json", "generation_config.json"):
        said, owners = _read(donor, name), _read(owner, name)
        ours = {path: value for path, value in _leaves(said) if _ID.search(path[-1]) and _is_ids(value)}
        theirs = {path: value for path, value in _leaves(owners) if _ID.search(path[-1]) and _is_ids(value)}
        for path, value in ours.items():
            new = theirs[path] if path in theirs else _moved(value, token_of, rows)
            if new is None:
                said = f"{name}: {'.'.join(path)} is {value}"
                notes.append(f"tokenizer: {said}, a token that the output's vocabulary does not have.")
            elif new != value:
                settings.setdefault(name, {})[path] = new
    return settings, notes


def _moved(value: int | list[int], token_of: Mapping[int, str], rows: Mapping[str, int]) -> int | list[int] | None:
    ids = value if isinstance(value, list) else [value]
    new = [rows.get(token_of.get(one, "")) if one >= 0 else one for one in ids]
    if None in new:
        return None
    return new if isinstance(value, list) else new[0]


def _is_ids(value: object) -> bool:
    return type(value) is int or (isinstance(value, list) and bool(value) and all(type(one) is int for one in value))


def _leaves(config: Mapping, above: Path = ()) -> Iterator[tuple[Path, object]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _read(checkpoint: Checkpoint, name: str) -> dict:
    if name not in checkpoint.source.side_files:
        return {}
    path = checkpoint.source.folder / name
    return parse_object(read_small(path, _LIMIT), path, what="settings")
