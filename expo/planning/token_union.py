"""The union of the inputs' vocabularies: its tokens with their ids, and the files that hold it."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from expo.checkpoint.files import read_small
from expo.checkpoint.spec import Checkpoint
from expo.checkpoint.strict_json import parse_object
from expo.checkpoint.tokens import MAX_BYTES, REMEDY, Tokens, read_table
from expo.errors import UnionRefused
from expo.output import json_edit
from expo.output.tokenizer import TokenizerFiles, chosen
from expo.output.tokenizer_union import Lent, check_alike, cuts_differ, lend, merge_lines, misplaced, outline, union
from expo.planning.token_rows import union_rows

_PIECES_FILES = (".model", ".spm", ".tiktoken", "tekken.json")  # that expo cannot add pieces to


@dataclass(frozen=True)
class Union:
    """The output's tokens, and how to write them."""

    rows: dict[str, int]
    files: TokenizerFiles
    notes: list[str] = field(default_factory=list)


def make_union(first: str, known: Mapping[str, Tokens], checkpoints: Mapping[str, Checkpoint]) -> Union:
    """The first input's tokens and, behind them, what the others add; raises UnionRefused or a HeaderError.

    known: the tokens of each input, in the recipe's order. With nothing to add the first one's files are copied.
    """
    own = known[first]
    source = checkpoints[first].source
    names = chosen(source.side_files)
    differing = [name for name, tokens in known.items() if name != first and tokens.rows != own.rows]
    for name in [first, *differing] if differing else []:
        _check_file(name, known[name])
    rows = union_rows(own.rows, [known[name].rows for name in differing])
    added = _added(rows, [own, *(known[name] for name in differing)])
    new = {token for token in rows if token not in own.rows and token not in added}
    # One table at a time: a large one takes 100 MB.
    read = {name: _read_for(checkpoints[name], new) for name in differing}
    table = read_table(checkpoints[first]) if differing else {}
    notes = []
    for name, (other, _) in read.items():
        check_alike((first, table), (name, other))
        if parts := cuts_differ(table, other):
            notes.append(f"tokenizer: {name} differs from {first} in {' and '.join(parts)}; the output has {first}'s.")
    if len(rows) == len(own.rows):
        return Union(rows, TokenizerFiles(source.folder, names), notes)
    made = union(table, [lent for _, lent in read.values()], rows, added)
    written = _written(checkpoints[first], made, rows, added, own)
    del table, made
    if wrong := misplaced(written["tokenizer.json"], rows):
        raise UnionRefused(
            f"tokenizer: union: {len(wrong)} tokens would not keep their ids, such as {wrong[0]!r}.",
            "Take one tokenizer for the output: `tokenizer: {source: base}`, or a model's name as source.",
        )
    copied = [name for name in names if name not in written]
    if new and (dropped := [name for name in copied if name.endswith(_PIECES_FILES)]):
        notes.append(f"tokenizer: {', '.join(dropped)} cannot take new pieces and is left out; tokenizer.json has all.")
        copied = [name for name in copied if name not in dropped]
    return Union(rows, TokenizerFiles(source.folder, tuple(copied), written), notes)


def _check_file(name: str, tokens: Tokens) -> None:
    if tokens.file != "tokenizer.json":
        raise UnionRefused(
            f"tokenizer: union: {name} has {tokens.file} and no tokenizer.json, which a union is made of.",
            f"{REMEDY} Or take one tokenizer: `tokenizer: {{source: base}}`.",
        )


def _read_for(checkpoint: Checkpoint, new: Collection[str]) -> tuple[dict, Lent]:
    """What a tokenizer.json says of how it works, and of new tokens."""
    table = read_table(checkpoint)
    return outline(table), lend(table, new)


def _added(rows: Mapping[str, int], owners: list[Tokens]) -> dict[str, dict]:
    """How the tokens beside the models' own are matched, as the first owner of each says."""
    found = {}
    for token in rows:
        owner = next(tokens for tokens in owners if token in tokens.rows)
        if token in owner.added:
            found[token] = owner.added[token]
    return found


def _written(
    base: Checkpoint, made: dict, rows: dict[str, int], added: Mapping[str, dict], own: Tokens
) -> dict[str, bytes]:
    """tokenizer.json and, where the first input has them, the files that repeat parts of it."""
    new = {token: row for token, row in rows.items() if token not in own.rows}
    pieces = any(token not in added for token in new)
    written = {"tokenizer.json": _dump(made)}
    here = base.source.side_files
    if "tokenizer_config.json" in here:
        written |= _config(base, {token: added[token] for token in new if token in added}, rows)
    if "added_tokens.json" in here:
        listed = parse_object(_read(base, "added_tokens.json"), base.source.folder / "added_tokens.json", what="table")
        written["added_tokens.json"] = _dump(listed | {token: row for token, row in new.items() if token in added})
    if pieces and "vocab.json" in here:
        written["vocab.json"] = _dump({token: row for token, row in rows.items() if token not in added})
    if pieces and "merges.txt" in here:
        written["merges.txt"] = "\n".join(["#version: 0.2", *merge_lines(made), ""]).encode()
    if pieces and "vocab.txt" in here:
        by_row = {row: token for token, row in rows.items()}
        lines = [by_row.get(row, f"[unused row {row}]") for row in range(max(by_row) + 1)]
        written["vocab.txt"] = "\n".join([*lines, ""]).encode()
    return written


def _config(base: Checkpoint, new: Mapping[str, dict], rows: Mapping[str, int]) -> dict[str, bytes]:
    """tokenizer_config.json with the new added tokens listed, where it lists any."""
    text = _read(base, "tokenizer_config.json").decode()
    listed = json_edit.values(text).get(("added_tokens_decoder",))
    if not new or not isinstance(listed, dict):
        return {}
    flags = ("lstrip", "normalized", "rstrip", "single_word", "special")
    more = {
        str(rows[token]): {"content": token, **{flag: bool(how.get(flag, False)) for flag in flags}}
        for token, how in new.items()
    }
    changed = json_edit.with_values(text, {("added_tokens_decoder",): listed | more})
    return {"tokenizer_config.json": changed.encode()}


def _dump(table: dict) -> bytes:
    # Without an indent: with one, Python's own writer takes seconds for a large vocabulary.
    return (json.dumps(table, ensure_ascii=False) + "\n").encode()


def _read(checkpoint: Checkpoint, name: str) -> bytes:
    return read_small(checkpoint.source.folder / name, MAX_BYTES)
