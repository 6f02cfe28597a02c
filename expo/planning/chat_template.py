"""A recipe's `chat_template` -> the template's text. Reads the inputs' tokenizer files."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from expo.checkpoint.files import read_small
from expo.checkpoint.spec import Checkpoint
from expo.checkpoint.strict_json import parse_object
from expo.errors import ExpoError, nearest
from expo.output.chat_template import MARKERS, TEMPLATES

_LIMIT = 16 * 2**20
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # a block of transformers' own


@dataclass(frozen=True)
class ChatTemplate:
    """The template to write; None: the donor's files stay as they are."""

    text: str | None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def choose_chat_template(
    wanted: str, inputs: Mapping[str, Checkpoint], known: Collection[str] | None = None
) -> ChatTemplate:
    """The template that a recipe names, spells out, or (`auto`) that most inputs have: of equals the first.

    wanted: auto, a name of `TEMPLATES`, or a Jinja template. inputs: in the recipe's order.
    known: the output's tokens, to say which markers of a named template it lacks.
    """
    if wanted == "auto":
        return _commonest(inputs)
    if wanted in TEMPLATES:
        missing = [marker for marker in MARKERS[wanted] if known is not None and marker not in known]
        note = f"chat_template: {wanted} uses {', '.join(missing)}, which the output's tokenizer has not as one token."
        return ChatTemplate(TEMPLATES[wanted], [note] if missing else [])
    if "{{" not in wanted and "{%" not in wanted:
        names = ["auto", *TEMPLATES]
        problem = f"chat_template: {wanted!r} is no template's name.{nearest(wanted, names)}"
        return ChatTemplate(None, problems=[f"{problem} It is one of {', '.join(names)}, or a Jinja template."])
    problem = _broken(wanted)
    return ChatTemplate(None if problem else wanted, problems=[f"chat_template: {problem}"] if problem else [])


def template_of(checkpoint: Checkpoint) -> str | None:
    """A checkpoint's chat template; None where it has none. Of several named ones, the default.

    Raises a HeaderError for files that are no JSON.
    """
    source = checkpoint.source
    if "chat_template.jinja" in source.side_files:
        return read_small(source.folder / "chat_template.jinja", _LIMIT).decode("utf-8", "replace")
    for name in ("tokenizer_config.json", "chat_template.json"):
        if name in source.side_files:
            path = source.folder / name
            said = parse_object(read_small(path, _LIMIT), path, what="settings").get("chat_template")
            if isinstance(said, list):
                named = {entry.get("name"): entry.get("template") for entry in said if isinstance(entry, dict)}
                said = named.get("default")
            if isinstance(said, str):
                return said
    return None


def _commonest(inputs: Mapping[str, Checkpoint]) -> ChatTemplate:
    found: list[str] = []
    problems = []
    for name, checkpoint in inputs.items():
        try:
            template = template_of(checkpoint)
        except ExpoError as error:
            problems.append(f"chat_template: {name}: {error}")
            continue
        found += [template] if template else []
    if not found:
        note = "chat_template: auto, but no input has a chat template: none is written."
        return ChatTemplate(None, [] if problems else [note], problems)
    # Counter keeps the order in which templates were first seen, and most_common does among equals.
    (text, count), *others = Counter(found).most_common()
    notes = [f"chat_template: {count} of {len(found)} inputs have the one that is written."] if others else []
    return ChatTemplate(text, notes, problems)


def _broken(template: str) -> str | None:
    """What is wrong with a template's syntax; None for nothing."""
    from jinja2 import Environment, TemplateSyntaxError

    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", template))
    except TemplateSyntaxError as error:
        return f"line {error.lineno} of the template: {str(error.message).rstrip('.')}."
    return None
