"""Write the output's tokenizer: the files of the checkpoint that it is taken from, and the numbers that configs state.

Knows files, not vocabularies: what changes was decided when the run was planned.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from expo.errors import OutputError
from expo.output import json_edit
from expo.output.sidecars import hash_file

_NAMES = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "normalizer.json", "tekken.json",
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "source.spm", "target.spm",
    "chat_template.jinja", "chat_template.json",
}  # fmt: skip
_PATTERN = re.compile(r"(tokenization_\w+\.py|[^/]+\.tiktoken|additional_chat_templates/[^/]+\.jinja)$")


def is_tokenizer_file(name: str) -> bool:
    """True for a side file that belongs to the tokenizer, chat templates and tokenizer code included."""
    return name in _NAMES or bool(_PATTERN.match(name))


@dataclass(frozen=True)
class TokenizerFiles:
    """How to write the output's tokenizer."""

    folder: Path  # of the checkpoint whose tokenizer it is
    names: tuple[str, ...]  # of its files that are copied byte for byte
    written: Mapping[str, bytes] = field(default_factory=dict)  # files with other content than there
    # config.json and generation_config.json: the values that change, by their path in the file
    settings: Mapping[str, Mapping[json_edit.Path, object]] = field(default_factory=dict)

    def describe(self) -> dict[str, object]:
        """What decides the files' bytes beside the inputs, for the run's fingerprint."""
        written = {name: xxhash.xxh3_128_hexdigest(content) for name, content in self.written.items()}
        settings = {name: sorted((".".join(k), v) for k, v in table.items()) for name, table in self.settings.items()}
        return {"copied": list(self.names), "written": written, "settings": settings}


def write_tokenizer(files: TokenizerFiles, target: Path, hashes: Mapping[str, str]) -> dict[str, str]:
    """Put the tokenizer into `target`, where the donor's side files are; returns `hashes` as they are afterwards.

    hashes: name -> xxh3-128 of each side file in `target`. Tokenizer files of the donor that the output's tokenizer
    does not have are removed. Raises OutputError where a file that was planned with is gone.
    """
    hashes = dict(hashes)
    kept = {*files.names, *files.written}
    for name in [name for name in hashes if is_tokenizer_file(name) and name not in kept]:
        (target / name).unlink(missing_ok=True)
        del hashes[name]
    for name in files.names:
        _copy(files.folder / name, target / name)
    for name, content in files.written.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    for name, changes in files.settings.items():
        if name in hashes and changes:
            _set(target / name, changes)
    touched = {*kept, *(name for name in files.settings if name in hashes)}
    return hashes | {name: hash_file(target / name) for name in sorted(touched)}


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """The tokenizer's files among a checkpoint's side files."""
    return tuple(name for name in names if is_tokenizer_file(name))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        old = open(source, "rb")  # noqa: SIM115
    except OSError as error:
        raise OutputError(
            f"{source} cannot be read: {error.strerror}. It was there when the run was planned."
        ) from error
    with old, open(target, "wb") as new:
        shutil.copyfileobj(old, new, 1 << 20)


def _set(path: Path, changes: Mapping[json_edit.Path, object]) -> None:
    # Latin-1 gives back every byte; new values are written in ASCII.
    text = path.read_bytes().decode("latin-1")
    path.write_bytes(json_edit.with_values(text, changes).encode("latin-1"))
