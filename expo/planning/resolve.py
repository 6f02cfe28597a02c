"""Which input tensors make which output tensor. Collects every complaint; reads headers and configs only."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from expo.checkpoint.spec import Checkpoint, TensorSpec, split_name
from expo.methods import find_method
from expo.planning import complaints
from expo.planning.jobs import Operand, Requantised, TiedPair
from expo.planning.layouts import rename
from expo.planning.targets import Target, Targets
from expo.planning.tied import embedding_of, is_head, says_tied, tied_heads
from expo.planning.vocabulary import is_vocabulary, row_runs
from expo.recipe import Recipe


@dataclass
class Match:
    """One output tensor and the stored tensors it is made of."""

    name: str
    spec: TensorSpec  # the tensor that gives the output its form
    operands: list[Operand]  # as the method takes them, or the copied one first
    target: Target | None = None  # None: copied
    must_equal: bool = False
    requantised: Requantised | None = None  # written with scales, as the donor's tensor is stored
    scales_of: str | None = None  # this is the scales of that tensor


@dataclass
class Resolution:
    """All output tensors in the donor's order, extra ones last; and everything that stands in the way."""

    matches: list[Match] = field(default_factory=list)
    tied: list[TiedPair] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Resolver:
    """Matches the tensors of a recipe's inputs under its policies."""

    def __init__(
        self,
        recipe: Recipe,
        inputs: dict[str, Checkpoint],
        why_not: Mapping[str, str] | None = None,
        outside: Set[str] = frozenset(),
    ):
        self.recipe = recipe
        self.inputs = inputs
        self.why_not = why_not or {}  # input -> why no conversion of layouts helps it
        self.outside = outside  # the donor's tensors that are copied because they lie outside of the tower
        self.method = find_method(recipe.method)
        self.donor_role = recipe.donor
        self.donor = inputs[self.donor_role]
        self.others = [role for role in inputs if role != self.donor_role]
        self.folders = {folder for checkpoint in inputs.values() for folder in checkpoint.configs}
        self.found = Resolution()
        self.tables = {role: self._table(role) for role in inputs}

    def resolve(self) -> Resolution:
        """Match everything; the result lists what stands in the way."""
        self.found.warnings += complaints.same_twice(self.inputs)
        if not self.recipe.tower:
            self.found.warnings += complaints.architectures(self.inputs)
        for role, table in self.tables.items():
            self._settle_heads(role, table)
        targets = Targets(self.recipe, self.method, self.tables, self.donor.config)
        absent: dict[str, list[str]] = {}
        for target in targets:
            self._match(target, absent)
        self.found.problems += targets.problems
        self.found.warnings += targets.notes
        for role in self.others:
            if self.recipe.is_sliced:
                self._report_absent(role, absent.get(role, []))
            else:
                self._report_missing(role)
                self._settle_extra(role)
        return self.found

    def _table(self, role: str) -> dict[str, TensorSpec]:
        """An input's tensors under the donor's spelling."""
        tensors = self.inputs[role].tensors
        if role == self.donor_role:
            return dict(tensors)
        table: dict[str, TensorSpec] = {}
        for name, spec in tensors.items():
            renamed = rename(self.recipe, name, self.donor)
            if renamed in table:
                self.found.problems.append(complaints.rename_collides(role, table[renamed].name, name, renamed))
            table[renamed] = spec
        return table

    def _settle_heads(self, role: str, table: dict[str, TensorSpec]) -> None:
        """A tied head is the embedding: stored copies must agree, absent ones are read from the embedding."""
        checkpoint, ours = self.inputs[role], self.donor.tensors
        for head, embedding in tied_heads(table, self.folders).items():
            if self._is_foreign(head):
                continue
            ties = says_tied(checkpoint, table[head])
            donor_ties = says_tied(self.donor, ours.get(head, ours.get(embedding)))
            other_lacks_it = role != self.donor_role and head not in ours
            may_tie = ties or (donor_ties and head in ours) or (ties is None and other_lacks_it)
            if may_tie and self.recipe.tied == "error":
                self.found.tied.append(TiedPair(role, table[embedding].name, table[head].name))
            if may_tie and other_lacks_it and donor_ties is not False:
                del table[head]
        if role == self.donor_role:
            return
        split = (split_name(name, self.folders) for name in table)
        with_head = {place for place, own in split if is_head(own)}
        for head in ours:
            has_one = head in table or split_name(head, self.folders)[0] in with_head
            embedding = None if has_one else embedding_of(head, table, self.folders)
            if not embedding or says_tied(checkpoint, table[embedding]) is False:
                continue
            if table[embedding].shape[1:] == ours[head].shape[1:]:
                table[head] = table[embedding]

    def _match(self, target: Target, absent: dict[str, list[str]]) -> None:
        """The operands of one target, or what a policy makes of it."""
        spec, own = target.spec, Operand(target.giver, target.spec)
        if target.name in self.outside:
            self.found.matches.append(Match(target.name, spec, [own]))
            return
        operands = []
        for role, name in target.sources:
            other = self.tables[role].get(name)
            if other is spec and role == target.giver:
                operands.append(own)
                continue
            if other is None:
                absent.setdefault(role, []).append(name)
            fit = self._fit(target.giver, spec, role, other) if other else self.recipe.on_mismatch
            if not isinstance(fit, Operand):
                self._apply_policy(fit, Match(target.name, spec, [own]))
                return
            operands.append(fit)
        if spec.dtype.computed:
            self.found.matches.append(Match(target.name, spec, operands, target))
        else:
            # Only the policy that copies may let copies differ.
            others = [operand for operand in operands if operand is not own]
            self.found.matches.append(Match(target.name, spec, [own, *others], None, self.recipe.on_mismatch != "copy"))

    def _apply_policy(self, policy: str, kept: Match) -> None:
        """What becomes of a tensor that does not fit; "error" has its complaint already."""
        if policy == "skip":
            self.found.left_out.append(kept.name)
        else:
            self.found.matches.append(kept)

    def _fit(self, giver: str, spec: TensorSpec, role: str, other: TensorSpec) -> Operand | str:
        """The other input's tensor as an operand, or the policy that applies because it does not fit."""
        policy = self.recipe.on_mismatch
        if spec.dtype.computed != other.dtype.computed or (not spec.dtype.computed and spec.dtype != other.dtype):
            if policy == "error":
                self.found.problems.append(complaints.dtypes_differ(giver, spec, role, other))
            return policy
        if spec.shape == other.shape:
            return Operand(role, other)
        ours, theirs = self.inputs[giver], self.inputs[role]
        vocabulary = spec.dtype.computed and is_vocabulary(spec, ours, other, theirs)
        if vocabulary and self.recipe.vocabulary == "keep-base":
            return "copy"
        if vocabulary and self.recipe.vocabulary == "common-rows":
            return Operand(role, other, row_runs(spec, ours, other, theirs))
        if policy == "error":
            self.found.problems.append(complaints.shapes_differ(giver, spec, role, other, vocabulary))
        return policy

    def _report_absent(self, role: str, names: list[str]) -> None:
        """Tensors that picked layers of one input lack."""
        if names and self.recipe.on_mismatch == "error":
            self.found.problems.append(complaints.absent_in_slices(role, self.inputs[role], names))

    def _report_missing(self, role: str) -> None:
        missing = [name for name in self.donor.tensors if name not in self.tables[role] and name not in self.outside]
        extra = [spec.name for name, spec in self.tables[role].items() if name not in self.donor.tensors]
        if self.recipe.on_mismatch == "error" and (missing or extra):
            self.found.problems.append(
                complaints.one_sided(
                    self.donor_role, self.donor, missing, role, self.inputs[role], extra, self.why_not.get(role)
                )
            )

    def _settle_extra(self, role: str) -> None:
        """Tensors that the donor lacks: left out, or copied behind the donor's own, by name."""
        taken = {match.name for match in self.found.matches}
        extra = sorted(set(self.tables[role]) - set(self.donor.tensors) - taken)
        foreign = sorted({split_name(name, self.folders)[0] for name in extra if self._is_foreign(name)})
        if foreign and self.recipe.on_mismatch == "copy":
            self.found.warnings.append(f"only {role} has the folder {', '.join(foreign)}, whose tensors are left out")
        for name in extra:
            if self.recipe.on_mismatch == "copy" and not self._is_foreign(name):
                spec = self.tables[role][name]
                self.found.matches.append(Match(name, spec, [Operand(role, spec)]))
            elif name not in self.found.left_out:
                self.found.left_out.append(name)

    def _is_foreign(self, name: str) -> bool:
        """Whether a tensor lies in a folder that the donor, which is made of others or of none, does not have."""
        folder, _ = split_name(name, self.folders)
        return bool(folder) and folder not in self.donor.configs
