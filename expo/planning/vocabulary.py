"""Vocabularies of different length: which rows of one embedding are which rows of another."""

import json
from collections.abc import Mapping
from typing import Any

from expo.checkpoint.spec import Checkpoint, TensorSpec, folder_of
from expo.planning.jobs import RowRun
from expo.planning.tied import EMBEDDINGS, HEADS, ends_with


def is_vocabulary(spec: TensorSpec, donor: Checkpoint, other_spec: TensorSpec, other: Checkpoint) -> bool:
    """True when two tensors differ only in their number of rows, and a row is a token."""
    if not spec.shape or len(spec.shape) != len(other_spec.shape) or spec.shape[1:] != other_spec.shape[1:]:
        return False
    stated = (_vocab_size(donor.config_of(spec)), _vocab_size(other.config_of(other_spec)))
    sized = (spec.shape[0], other_spec.shape[0]) == stated
    return sized or ends_with(spec.name, (*EMBEDDINGS, *HEADS))


def row_runs(spec: TensorSpec, donor: Checkpoint, other_spec: TensorSpec, other: Checkpoint) -> tuple[RowRun, ...]:
    """Where `other` keeps each row of the donor's tensor: by token where the tokenizers can be read, else by number."""
    n_rows, n_other = spec.shape[0], other_spec.shape[0]
    ours, theirs = (tokens(own.part(folder_of(one.file), {})) for own, one in ((donor, spec), (other, other_spec)))
    if ours and theirs and ours != theirs:
        by_row = {row: theirs.get(token) for token, row in ours.items()}
        sources = [by_row.get(row) for row in range(n_rows)]
    else:
        sources = [row if row < n_other else None for row in range(n_rows)]
    return _joined([source if source is not None and source < n_other else None for source in sources])


def _joined(sources: list[int | None]) -> tuple[RowRun, ...]:
    """Neighbouring rows that are neighbours on the other side too, as one run."""
    runs: list[RowRun] = []
    for row, source in enumerate(sources):
        last = runs[-1] if runs else None
        follows = last and (
            source is None if last.source is None else source is not None and source == last.source + last.n_rows
        )
        if follows:
            runs[-1] = RowRun(last.first, last.n_rows + 1, last.source)
        else:
            runs.append(RowRun(row, 1, source))
    return tuple(runs)


def tokens(checkpoint: Checkpoint) -> dict[str, int] | None:
    """token -> row from tokenizer.json; None where the checkpoint has none that can be read."""
    path = checkpoint.source.folder / "tokenizer.json"
    if "tokenizer.json" not in checkpoint.source.side_files or not path.is_file():
        return None
    try:
        table = json.loads(path.read_bytes())
        vocab = table["model"]["vocab"]
        rows = dict(vocab) if isinstance(vocab, dict) else {piece[0]: row for row, piece in enumerate(vocab)}
        rows |= {token["content"]: token["id"] for token in table.get("added_tokens", ())}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None
    return rows if all(type(row) is int and row >= 0 for row in rows.values()) else None


def tokenizer_warning(donor: Checkpoint, other: Checkpoint) -> str | None:
    """A sentence when the two sides give one row to different tokens, so that rows would not match."""
    files = [checkpoint.source.folder / "tokenizer.json" for checkpoint in (donor, other)]
    if not all(path.is_file() for path in files) or files[0].read_bytes() == files[1].read_bytes():
        return None
    ours, theirs = tokens(donor), tokens(other)
    if not ours or not theirs:
        return None
    taken = {row: token for token, row in theirs.items()}
    moved = [token for token, row in ours.items() if theirs.get(token, row) != row or taken.get(row, token) != token]
    if not moved:
        return None
    return (
        f"the tokenizers disagree about {len(moved)} rows, such as {moved[0]!r}: row {ours[moved[0]]} of "
        f"{donor.source.label}, {theirs.get(moved[0], 'none')} of {other.source.label}"
    )


def _vocab_size(config: Mapping[str, Any]) -> int | None:
    inner = config.get("text_config")
    return config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, dict) else None)
