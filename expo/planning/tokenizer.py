"""A recipe's `tokenizer` entry + the inputs -> inputs whose embeddings and heads have the output vocabulary's rows.

Reads tokenizer files and configs, no tensor data. Every complaint is collected.
"""

import contextlib
import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.checkpoint.tokens import REMEDY as TOKENIZER_REMEDY
from expo.checkpoint.tokens import Tokens, read_tokens
from expo.checkpoint.views.rows import Donor, RowTable, with_rows
from expo.errors import ExpoError, MissingTokenizer, nearest
from expo.output.tokenizer import TokenizerFiles, chosen
from expo.planning.token_rows import OutputTokens, Rows
from expo.planning.token_settings import id_changes, size_changes
from expo.planning.token_union import make_union
from expo.planning.vocabulary_tensors import across, counterpart, embedding, vocabulary_tensors
from expo.recipe.tokenizer import BASE, UNION, TokenizerSpec


@dataclass(frozen=True)
class TokenizerPlan:
    """The inputs as the merge must see them, and how to write the output's tokenizer."""

    inputs: dict[str, Checkpoint]
    files: TokenizerFiles | None = None  # None where problems stand in the way
    rows: dict[str, int] = field(default_factory=dict)  # token -> row of the output
    vocab_size: int = 0  # rows of the output's embedding, padding included
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def with_tokenizer(
    spec: TokenizerSpec,
    inputs: Mapping[str, Checkpoint],
    base: str | None,
    *,
    others: Mapping[str, Checkpoint] | None = None,
    donor: str | None = None,
) -> TokenizerPlan:
    """The inputs with every tensor over the vocabulary replaced by a view that has the output's rows.

    inputs: by name, in the recipe's order; a model in `spec` is one of these names, or what the user wrote for it.
    base: the input (or one of `others`) that is the base model. others: models that only `spec` names.
    donor: the input whose config.json and side files the output takes; default the base, else the first input.
    An input whose tokenizer is the output's already keeps its stored tensors.
    """
    planner = _Vocabularies(spec, dict(inputs), base, dict(others or {}))
    try:
        return planner.plan(donor or (base if base in inputs else next(iter(inputs))))
    except _Stopped:
        return TokenizerPlan(dict(inputs), problems=planner.problems, notes=planner.notes)
    finally:
        _give_back_memory()


def _give_back_memory() -> None:
    """Let the C library return what large tokenizers took: 200 MB that it would hold for the rest of the run."""
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has the call
        ctypes.CDLL(None).malloc_trim(0)


class _Stopped(Exception):
    """What follows needs what could not be made; the problems say why."""


class _Vocabularies:
    """The vocabularies of all models that a recipe names, and what stands in the way of joining them."""

    def __init__(
        self, spec: TokenizerSpec, inputs: dict[str, Checkpoint], base: str | None, others: dict[str, Checkpoint]
    ):
        self.spec = spec
        self.inputs = inputs
        self.base = base
        self.everyone = inputs | {name: checkpoint for name, checkpoint in others.items() if name not in inputs}
        self.tensors = {name: vocabulary_tensors(checkpoint) for name, checkpoint in self.everyone.items()}
        self.known: dict[str, Tokens] = {}
        self.notes: list[str] = []
        self.problems: list[str] = []

    def plan(self, donor: str) -> TokenizerPlan:
        self._read_all()
        output, files = self._output()
        output = replace(output, rules=self._rules(output))
        self._stop_at_problems()
        inputs = {name: self._viewed(name, output) for name in self.inputs}
        self._stop_at_problems()
        n_rows = output.n_rows_of(self._n_rows(output.owner))
        self._tell_of_zeros(output, n_rows)
        settings, notes = self._settings(donor, output, n_rows)
        self.notes += notes
        return TokenizerPlan(inputs, replace(files, settings=settings), output.rows, n_rows, self.notes)

    def _read_all(self) -> None:
        """Read every tokenizer, and find every embedding."""
        without = []
        for name, checkpoint in self.everyone.items():
            try:
                self.known[name] = read_tokens(checkpoint, self.known.values())
            except MissingTokenizer:
                without.append(name)
            except ExpoError as error:
                self.problems.append(f"tokenizer: {name}: {error}")
        if without:
            text = f"tokenizer: {', '.join(without)}: no tokenizer that expo reads (tokenizer.json)."
            self.problems.insert(0, f"{text}\n{TOKENIZER_REMEDY}")
        if rowless := [name for name in self.everyone if not self.tensors[name]]:
            self.problems.append(
                f"tokenizer: {', '.join(rowless)}: no embedding is known by its name (embed_tokens.weight, wte.weight, "
                "...) or by config.json's vocab_size. Leave the `tokenizer` entry out, and rows are matched by number."
            )
        self._stop_at_problems()

    def _output(self) -> tuple[OutputTokens, TokenizerFiles]:
        """The output's vocabulary: one model's, or the union."""
        multiple = self.spec.pad_to_multiple_of or 1
        if self.spec.source == UNION:
            first = self.base if self.base is not None else next(iter(self.inputs))
            names = [first, *(name for name in self.inputs if name != first)]
            try:
                union = make_union(first, {name: self.known[name] for name in names}, self.everyone)
            except ExpoError as error:
                self.problems.append(str(error))
                raise _Stopped from None
            self.notes += union.notes
            grown = len(union.rows) > len(self.known[first].rows)
            n_rows = 1 + max(union.rows.values()) if grown else None
            return OutputTokens(union.rows, first, n_rows, multiple_of=multiple), union.files
        if self.spec.source == BASE and self.base is None:
            self._stop("tokenizer: source: base, but the recipe has no base_model. Name a model, or `union`.")
        owner = self.base if self.spec.source == BASE else self._find(self.spec.source, "source")
        if owner is None:
            raise _Stopped
        source = self.everyone[owner].source
        return OutputTokens(self.known[owner].rows, owner, multiple_of=multiple), TokenizerFiles(
            source.folder, chosen(source.side_files)
        )

    def _rules(self, output: OutputTokens) -> dict:
        """The recipe's rules under the inputs' names; each that cannot be followed is a problem."""
        rules = {}
        for token, rule in self.spec.tokens.items():
            where = f"tokens: {token!r}"
            if token not in output.rows:
                self.problems.append(
                    f"tokenizer: {where}: the output's vocabulary has no such token.{nearest(token, output.rows)}"
                )
                continue
            source = rule.source
            if source.model is not None:
                name = self._find(source.model, where)
                if name is None:
                    continue
                source = replace(source, model=name)
                self._check_row(where, name, source.token or token, source.token_id)
            rules[token] = replace(rule, source=source)
        return rules

    def _check_row(self, where: str, name: str, token: str, row: int | None) -> None:
        """A problem unless the model's embedding has the row that a rule asks for."""
        known, n_rows = self.known[name].rows, self._n_rows(name)
        if row is None and token not in known:
            self.problems.append(f"tokenizer: {where}: {name} has no token {token!r}.{nearest(token, known)}")
        elif not 0 <= (known[token] if row is None else row) < n_rows:
            said = known[token] if row is None else row
            self.problems.append(f"tokenizer: {where}: {name} has no row {said}: its embedding has {n_rows}.")

    def _find(self, model: str, where: str) -> str | None:
        """The name of a model as the recipe writes it; a problem where there is none."""
        if model in self.everyone:
            return model
        found = [name for name, checkpoint in self.everyone.items() if checkpoint.source.text == model]
        if not found:
            self.problems.append(
                f"tokenizer: {where}: no model of the recipe is {model!r}.{nearest(model, self.everyone)} "
                f"They are: {', '.join(self.everyone)}."
            )
        return found[0] if found else None

    def _viewed(self, name: str, output: OutputTokens) -> Checkpoint:
        """An input with views for its tensors over the vocabulary, and the files of others that they read."""
        checkpoint = self.inputs[name]
        views: dict[str, TensorSpec] = {}
        tables: dict[tuple, tuple[RowTable, list[str]] | None] = {}  # a head has the rows of its embedding
        for tensor, spec in self.tensors[name].items():
            peers = {other: counterpart(tensor, held) for other, held in self.tensors.items()} | {name: spec}
            limits = {other: peer.shape[0] if peer else 0 for other, peer in peers.items()}
            key = tuple(limits.values())
            if key not in tables:
                tables[key] = self._table(name, output, limits)
            if tables[key] is not None:
                table, lenders = tables[key]
                donors = [Donor(peers[other], "" if other == name else self._prefix(other)) for other in lenders]
                if self._fits(name, spec, {other: peers[other] for other in lenders}):
                    views[tensor] = with_rows(spec, table, donors)
        if not views:
            return checkpoint
        for tensor in across(checkpoint, self._n_rows(name)):
            self.problems.append(
                f"tokenizer: {name}: {tensor} has a column, not a row, for each token, which expo does not rearrange. "
                f"To keep {name}'s vocabulary: `tokenizer: {{source: {name}}}`, or leave the entry out."
            )
        return replace(
            checkpoint,
            tensors=checkpoint.tensors | views,
            extra_files=checkpoint.extra_files | self._lent_files(name, views),
        )

    def _table(self, name: str, output: OutputTokens, limits: dict[str, int]) -> tuple[RowTable, list[str]] | None:
        """The rows of one kind of tensor, and the models they come from; None where it is the stored tensor itself."""
        n_rows = output.n_rows_of(limits[output.owner] or self._n_rows(output.owner))
        sources = Rows(output, self.known, list(self.inputs), self.base, limits).of(name, n_rows)
        if n_rows == limits[name] and all(found == ((name, row),) for row, found in enumerate(sources)):
            return None
        lenders = list(self.everyone)
        numbers = {other: k for k, other in enumerate(lenders)}
        table = RowTable([[(numbers[other], row) for other, row in found] for found in sources])
        used = set(table.donors)
        return table, [other if numbers[other] in used else name for other in lenders]

    def _fits(self, name: str, spec: TensorSpec, peers: Mapping[str, TensorSpec]) -> bool:
        """Whether rows of all lenders can stand in one tensor; a problem where they cannot."""
        for other, peer in peers.items():
            if peer.shape[1:] != spec.shape[1:]:
                self.problems.append(
                    f"tokenizer: {name} needs rows of {other}, whose rows have another length\n"
                    f"  {spec.shape!s:<18} {name}: {spec.name}\n  {peer.shape!s:<18} {other}: {peer.name}\n"
                    f"Take one tokenizer that both know, or leave {other} out."
                )
                return False
            if not peer.dtype.computed:
                self.problems.append(
                    f"tokenizer: {other}: {peer.name} is {peer.dtype}, which is copied whole, never row by row."
                )
                return False
        return True

    def _lent_files(self, name: str, views: Mapping[str, TensorSpec]) -> dict:
        """The weight files of other models that an input's views read, under the names that they use."""
        wanted = {part.file for view in views.values() for part in view.parts}
        lent = {}
        for other, checkpoint in self.everyone.items():
            if other != name:
                for key, file in (checkpoint.files | checkpoint.extra_files).items():
                    moved = self._prefix(other) + key
                    lent |= {moved: replace(file, name=moved)} if moved in wanted else {}
        return lent

    def _prefix(self, name: str) -> str:
        """What stands before a model's files where another reads them: its place, for names may be paths."""
        return f"{list(self.everyone).index(name) + 1}::"

    def _n_rows(self, name: str) -> int:
        return embedding(self.tensors[name]).shape[0]

    def _settings(self, donor: str, output: OutputTokens, n_rows: int) -> tuple[dict, list[str]]:
        """What the donor's configs must say instead."""
        config = self.everyone[donor].config
        settings: dict = {}
        notes: list[str] = []
        if donor != output.owner:
            owner = self.everyone[output.owner]
            settings, notes = id_changes(self.everyone[donor], owner, self.known[donor].rows, output.rows)
        if sizes := size_changes(config, self._n_rows(donor), n_rows):
            settings["config.json"] = settings.get("config.json", {}) | sizes
        return settings, notes

    def _tell_of_zeros(self, output: OutputTokens, n_rows: int) -> None:
        """Notes on rows that are zeros because no model has them."""
        here = {name: self._n_rows(name) for name in self.everyone}
        unknown = [
            token
            for token, row in output.rows.items()
            if row < n_rows
            and token not in output.rules
            and all(tokens.rows.get(token, here[name]) >= here[name] for name, tokens in self.known.items())
        ]
        if unknown:
            self.notes.append(
                f"tokenizer: {len(unknown)} tokens have no row in any model: zeros ({unknown[0]!r}, ...)."
            )
        first = max(here[output.owner], 1 + max(output.rows.values(), default=-1))
        if n_rows > first:
            self.notes.append(f"tokenizer: rows {first} to {n_rows - 1} are padding without a token: zeros.")
        if beyond := sum(row >= n_rows for row in output.rows.values()):
            self.notes.append(
                f"tokenizer: {beyond} tokens of {output.owner} have ids beyond its {n_rows} rows, as they had there."
            )

    def _stop_at_problems(self) -> None:
        if self.problems:
            raise _Stopped

    def _stop(self, problem: str) -> None:
        self.problems.append(problem)
        raise _Stopped
