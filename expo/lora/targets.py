"""Which tensors of a pair a LoRA can hold, by name and shape alone, and what PEFT calls their modules."""

import re
from dataclasses import dataclass, field

from expo.analysis.pairs import Pair
from expo.checkpoint.spec import Checkpoint
from expo.errors import RecipeError
from expo.planning.tied import EMBEDDINGS, ends_with, says_tied, tied_heads

# transformers' Conv1D, which stores (inputs, outputs), is left in these families only.
_TRANSPOSED = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}
_EMBEDDING = re.compile(r"(^|\.)(?!embed_out)(\w*embed\w*|w[tp]e|\w*_emb)\.weight$")


@dataclass
class Targets:
    """Every tensor of a pair by what becomes of its delta."""

    low_rank: list[str] = field(default_factory=list)  # 2-D weights of linear layers
    whole: list[str] = field(default_factory=list)  # everything else: embeddings, norms, biases
    excluded: list[str] = field(default_factory=list)  # 2-D weights that the user left out


def sort_targets(
    base: Checkpoint, pairs: dict[str, Pair], include: tuple[str, ...], exclude: tuple[str, ...]
) -> Targets:
    """Sort tensors; include and exclude are regular expressions, searched for in names. Raises RecipeError."""
    kept, left_out = (_compiled(option, rules) for option, rules in (("include", include), ("exclude", exclude)))
    heads = tied_heads(base.tensors) if says_tied(base) else {}
    found = Targets()
    for name, pair in pairs.items():
        linear = pair.computed and len(pair.b.shape) == 2 and name.endswith(".weight")
        if not linear or min(pair.b.shape) == 0 or is_embedding(name) or name in heads:
            found.whole.append(name)
        elif (kept and not any(rule.search(name) for rule in kept)) or any(rule.search(name) for rule in left_out):
            found.excluded.append(name)
        else:
            found.low_rank.append(name)
    return found


def is_embedding(name: str) -> bool:
    """True for a table with a row a token or a position; a head is a linear layer."""
    return ends_with(name, EMBEDDINGS) or bool(_EMBEDDING.search(name))


def is_transposed(checkpoint: Checkpoint) -> bool:
    """True where linear layers are stored as (inputs, outputs)."""
    return checkpoint.config.get("model_type") in _TRANSPOSED


def module_of(name: str) -> str:
    """A tensor's module: its name without the last part."""
    return name.rpartition(".")[0]


def peft_name(checkpoint: Checkpoint, name: str) -> str:
    """A tensor's name as the live model has it. GPT-2's own files lack their modules' first part."""
    bare = checkpoint.config.get("model_type") == "gpt2" and not any(
        other.startswith("transformer.") for other in checkpoint.tensors
    )
    return f"transformer.{name}" if bare and not name.startswith("lm_head") else name


def _compiled(option: str, rules: tuple[str, ...]) -> list[re.Pattern]:
    try:
        return [re.compile(rule) for rule in rules]
    except re.error as error:
        raise RecipeError(f"--{option} {error.pattern!r} is no regular expression: {error}.") from None
