"""From rows to what a model reads: a question's own prompt or messages, demonstrations before it, the chat template.

Knows no tokens, apart from asking a tokenizer to render its chat template.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expo.errors import ExpoError
from expo.rows import Row, RowsError, as_rows

TEMPLATE = "Question: {question}\nAnswer:"
QUESTION_FIELDS = ("question", "problem", "instruction")
RESPONSE_FIELDS = ("response", "output", "completion", "answer", "solution")
_ROLES = ("system", "developer", "user", "assistant", "tool")


class NoChatTemplate(ExpoError):
    """A model that cannot chat was asked to."""


@dataclass(frozen=True)
class Question:
    """One question: its id, and either its own prompt or its messages."""

    id: Any
    where: str
    prompt: str | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    text: str = ""  # as the row has it, before any template

    def shown(self) -> dict[str, Any]:
        """The part of an answer's row that says what was asked."""
        return {"messages": list(self.messages)} if self.messages else {"prompt": self.prompt}


@dataclass(frozen=True)
class Demo:
    """A question with a response that shows the model what is wanted."""

    question: Question
    response: str


def read_questions(
    source: str | Path | Iterable[Mapping[str, Any]], *, template: str = TEMPLATE, chat: bool | None = None
) -> list[Question]:
    """The questions of JSONL rows {id, messages | prompt | question | problem | instruction}.

    A `prompt` is taken as it is; a bare question goes through `template`. chat: True makes either one user message,
    None (default) chats where rows have messages, False refuses those. Rows without any id are numbered from 0.
    Raises RowsError with file and line.
    """
    if "{question}" not in template:
        raise RowsError(f"the template {template!r} has no place for the question.", "Write {question} in it.")
    rows = as_rows(source)
    ids, problems = check_ids(rows)
    questions = []
    for row, key in zip(rows, ids, strict=True):
        try:
            questions.append(_question(row, key, template, chat))
        except ValueError as error:
            problems.append(f"{row.where}: {error}.")
    if not rows:
        problems.append(f"{source if isinstance(source, str | Path) else 'questions'}: no rows.")
    if problems:
        raise RowsError(problems)
    return questions


def read_demos(
    source: str | Path | Iterable[Mapping[str, Any]] | None, *, template: str = TEMPLATE, chat: bool | None = None
) -> list[Demo]:
    """The demonstrations of JSONL rows: a question's fields, and response | output | completion | answer | solution."""
    if source is None:
        return []
    demos, problems = [], []
    for row in as_rows(source):
        response = next((row.values[name] for name in RESPONSE_FIELDS if row.values.get(name)), None)
        try:
            if not isinstance(response, str):
                raise ValueError(f"no response; the row has no text in {' or '.join(RESPONSE_FIELDS)}")
            demos.append(Demo(_question(row, None, template, chat), response))
        except ValueError as error:
            problems.append(f"{row.where}: {error}.")
    if problems:
        raise RowsError(problems)
    return demos


def check_ids(rows: Sequence[Row]) -> tuple[list[Any], list[str]]:
    """An id for each row, and what is wrong with them: repeated, neither text nor integer, or partly absent."""
    if not any("id" in row.values for row in rows):
        return list(range(len(rows))), []
    problems, first = [], {}
    for row in rows:
        key = row.values.get("id")
        if not isinstance(key, str | int) or isinstance(key, bool):
            problems.append(f"{row.where}: the id is {key!r}; it must be a text or an integer.")
        elif key in first:
            problems.append(f"{row.where}: the id {key!r} stands already at {first[key]}.")
        else:
            first[key] = row.where
    return [row.values.get("id") for row in rows], problems


def question_text(values: Mapping[str, Any]) -> str | None:
    """What a row asks, in its own words: the bare question, the prompt, or the last message."""
    for name in (*QUESTION_FIELDS, "prompt"):
        if isinstance(values.get(name), str):
            return values[name]
    messages = values.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return last.get("content") if isinstance(last, dict) and isinstance(last.get("content"), str) else None


def plain_text(question: Question, demos: Sequence[Demo]) -> str:
    """The prompt of a plain completion: each demo's prompt, response and a blank line, then the question's prompt."""
    parts = []
    for demo in demos:
        prompt = demo.question.prompt or ""
        between = "" if prompt[-1:].isspace() or demo.response[:1].isspace() else " "
        parts.append(f"{prompt}{between}{demo.response}\n\n")
    return "".join(parts) + (question.prompt or "")


def chat_messages(question: Question, demos: Sequence[Demo]) -> list[Mapping[str, Any]]:
    """The messages of a chat: the question's system message, demos as earlier turns, then the question's own."""
    turns = [
        message
        for demo in demos
        for message in (*demo.question.messages, {"role": "assistant", "content": demo.response})
    ]
    own = list(question.messages)
    head = 1 if own[0]["role"] in ("system", "developer") else 0
    return [*own[:head], *turns, *own[head:]]


def rendered(question: Question, demos: Sequence[Demo], tokenizer: Any) -> tuple[str, bool]:
    """The text that a local model reads, and whether the tokenizer adds its own marks (not after a chat template)."""
    if not question.messages:
        return plain_text(question, demos), True
    try:
        text = tokenizer.apply_chat_template(chat_messages(question, demos), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the model's author, and raises what it likes
        raise RowsError(
            f"{question.where}: the model's chat template refuses these messages: {str(error).rstrip('.')}."
        ) from error
    return text, False


def check_chat(questions: Sequence[Question], local: Any) -> None:
    """Raises NoChatTemplate where messages meet a LocalModel (or several) without a template."""
    chatting = next((q for q in questions if q.messages), None)
    if chatting is None:
        return
    if not local.tokenizer.chat_template:
        raise NoChatTemplate(
            f"{local.label} has no chat template, and {chatting.where} is to be asked as a chat.\n"
            "Use a chat model, or ask for plain completions: rows with `prompt` or `question`, and no --chat."
        )
    local.check_chat()


def _question(row: Row, key: Any, template: str, chat: bool | None) -> Question:
    values = row.values
    if "messages" in values and not isinstance(values.get("prompt"), str):
        if chat is False:
            raise ValueError("the row has messages, and plain completions were asked for")
        messages = _messages(values["messages"])
        return Question(key, row.where, messages=messages, text=question_text(values) or "")
    name = next((name for name in ("prompt", *QUESTION_FIELDS) if name in values), None)
    if name is None:
        raise ValueError(f"no question; the row has no messages, prompt, {', '.join(QUESTION_FIELDS)}")
    text = values[name]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"its {name} is {text!r}, not a text")
    if chat:
        return Question(key, row.where, messages=({"role": "user", "content": text},), text=text)
    return Question(key, row.where, text if name == "prompt" else template.replace("{question}", text), text=text)


def _messages(found: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(found, list) or not found:
        raise ValueError("its messages are no list of {role, content}")
    for message in found:
        if not isinstance(message, dict) or message.get("role") not in _ROLES or "content" not in message:
            raise ValueError(f"a message is no {{role, content}} with a role of {', '.join(_ROLES)}: {message!r:.80}")
    if found[-1]["role"] == "assistant":
        raise ValueError("its last message is the assistant's, so there is nothing to answer")
    return tuple(found)
