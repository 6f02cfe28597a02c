"""Which stored tensors of two checkpoints are compared with which, by the planner's own rules. Reads headers only."""

from dataclasses import dataclass, field

from expo.checkpoint.spec import Checkpoint, TensorSpec
from expo.planning.layouts import in_one_layout
from expo.planning.resolve import Resolver
from expo.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Pair:
    """One tensor of B and the same tensor of A, of equal shape; under B's name."""

    a: TensorSpec
    b: TensorSpec

    @property
    def name(self) -> str:
        return self.b.name

    @property
    def computed(self) -> bool:
        """True for floats, which have norms; all others are equal or not."""
        return self.a.dtype.computed and self.b.dtype.computed


@dataclass
class Pairing:
    """Every tensor of both sides: paired, or listed with the reason."""

    pairs: dict[str, Pair] = field(default_factory=dict)
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    unlike: list[tuple[TensorSpec, TensorSpec]] = field(default_factory=list)  # (A's, B's): shape or kind differs


def pair_up(recipe: Recipe, inputs: dict[str, Checkpoint]) -> Pairing:
    """A's tensors beside B's; the recipe's policies must copy what does not fit, so that nothing is lost.

    inputs: {"sft": A, "dpo": B}.
    """
    resolver = Resolver(recipe, in_one_layout(recipe, inputs).inputs)
    found = Pairing()
    for match in resolver.resolve().matches:
        operands = {operand.role: operand for operand in match.operands}
        if "dpo" not in operands:
            found.only_a.append(operands["sft"].spec.name)
            continue
        b = operands["dpo"].spec
        a = operands["sft"].spec if "sft" in operands else resolver.tables["sft"].get(match.name)
        if a is None:
            found.only_b.append(b.name)
        elif "sft" in operands:
            found.pairs[b.name] = Pair(a, b)
        else:
            found.unlike.append((a, b))
    return found
