"""What a recipe makes of tokenizer and chat template, before any tensor is matched."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from expo.checkpoint.spec import Checkpoint
from expo.output.tokenizer import TokenizerFiles
from expo.planning.chat_template import choose_chat_template
from expo.planning.tokenizer import with_tokenizer
from expo.recipe import Recipe


@dataclass(frozen=True)
class SideFiles:
    """The inputs as the merge sees them, and the side files that are not the donor's."""

    inputs: dict[str, Checkpoint]
    lenders: dict[str, Checkpoint] = field(default_factory=dict)  # models that only the tokenizer entry names
    tokenizer: TokenizerFiles | None = None
    chat_template: str | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def side_files(recipe: Recipe, opened: Mapping[str, Checkpoint]) -> SideFiles:
    """Carry out the recipe's `tokenizer` and `chat_template`; without them everything stays as it is.

    opened: every model of the recipe, those that only the tokenizer entry names included.
    """
    inputs = {name: checkpoint for name, checkpoint in opened.items() if name in recipe.merged}
    lenders = {name: checkpoint for name, checkpoint in opened.items() if name not in inputs}
    tokens = None
    if recipe.tokenizer:
        tokens = with_tokenizer(recipe.tokenizer, inputs, recipe.base, others=lenders, donor=recipe.donor)
    found = SideFiles(dict(inputs), lenders)
    if tokens:
        found = SideFiles(tokens.inputs, lenders, tokens.files, None, tokens.notes, tokens.problems)
    if recipe.chat_template is None:
        return found
    chat = choose_chat_template(recipe.chat_template, inputs, tokens.rows if tokens else None)
    notes, problems = [*found.notes, *chat.notes], [*found.problems, *chat.problems]
    return SideFiles(found.inputs, lenders, found.tokenizer, chat.text, notes, problems)
