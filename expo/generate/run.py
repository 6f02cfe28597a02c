"""generate: questions in, a file of answers out; continues what an earlier call left."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from expo.errors import BadSetting
from expo.generate.answers import Answer, settings_path
from expo.generate.experts import names_experts
from expo.generate.prompts import TEMPLATE, Demo, Question, check_chat, read_demos, read_questions
from expo.generate.sampling import Sampling, check_long_prompts
from expo.generate.sharing import SharedAnswers, agree, on_each, team
from expo.rows import check_inputs, replace_file

FORMATS = ("jsonl", "alpaca_eval")
_SUSPICIOUS = 5  # questions whose samples are all equal, from which on a server is suspected not to sample

Rows = str | Path | Iterable[Mapping[str, Any]]


@dataclass
class Report:
    """What a call of generate did."""

    output: str
    n_questions: int
    n_answers: int
    n_resumed: int = 0
    n_new: int = 0
    n_tokens: int = 0
    seconds: float = 0.0
    finishes: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        rate = round(self.n_tokens / self.seconds, 1) if self.seconds else None
        return {**asdict(self), "seconds": round(self.seconds, 2), "tokens_per_second": rate}


@dataclass(frozen=True)
class Prepared:
    """Everything that can be known before the first token: questions, demos, who answers, and with which settings."""

    questions: list[Question]
    demos: list[Demo]
    sampling: Sampling
    answerer: Any  # LocalModel or Endpoint
    settings: dict[str, Any]
    long_prompts: str

    @property
    def local(self) -> bool:
        return hasattr(self.answerer, "tokenizer")


def generate(
    model: Any,
    questions: Rows,
    output: str | Path,
    *,
    sampling: Sampling | None = None,
    demos: Rows | None = None,
    endpoint: str | None = None,
    chat: bool | None = None,
    template: str = TEMPLATE,
    long_prompts: str = "error",
    batch_tokens: int | None = None,
    concurrency: int = 8,
    device: str = "auto",
    dtype: str | None = None,
    trust_remote_code: bool = False,
    form: str = "jsonl",
    overwrite: bool = False,
    progress: Callable[[int, int, int], object] = lambda done, total, tokens: None,
) -> Report:
    """Answer every question `sampling.samples` times; one row for each answer in `output`. Returns a Report.

    model, questions, rows: see the package; an experts.json, or what `load_members` returned, answers as an ensemble.
    demos: rows of questions with responses, shown before each question.
    endpoint: URL of an OpenAI-compatible server, on which `model` is a name. chat: see read_questions.
    long_prompts: error | skip (answered with nothing) | cut (the prompt's beginning goes).
    batch_tokens: prompt and answer tokens in the cache at a time. It changes no draw. In float32 it changes no answer
    either, but where two tokens are as close as a float's last bits (SmolLM2-135M, 24 questions, greedy and drawn: none
    of 48). In bfloat16 it does: matrix products round differently for each batch size (5 of 16 answers).
    form: jsonl, or alpaca_eval's list of {instruction, output, generator}; the rows then stand beside it in
    OUTPUT.rows.jsonl. overwrite: forget what the output holds.
    progress is called with answers there, answers wanted, and tokens written since the last call.
    Under a launcher (torchrun) all processes call it, share the questions, and get the report; one file is written.
    Raises RowsError, OtherSettings, PromptTooLong, NoChatTemplate, ModelError, EndpointError, OutputError.
    """
    ranks = team()

    def ready() -> Prepared:
        check_output(output, form, [questions, demos, model if names_experts(model) else None])
        return prepare(
            model, questions, sampling=sampling, demos=demos, endpoint=endpoint, chat=chat, template=template,
            long_prompts=long_prompts, device=device, dtype=dtype, trust_remote_code=trust_remote_code, form=form,
        )  # fmt: skip

    prepared = on_each(ranks, ready)
    output, began = Path(output), time.monotonic()
    rows_path = _rows_path(output, form)
    agree(ranks, rows_path, prepared.questions, prepared.settings, samples=prepared.sampling.samples, form=form)
    wanted = len(prepared.questions) * prepared.sampling.samples
    with SharedAnswers(ranks, rows_path, prepared.questions, prepared.settings).open(overwrite=overwrite) as file:
        missing = file.missing(prepared.sampling.samples)
        report = Report(str(output), len(prepared.questions), wanted, wanted - len(missing), len(missing))
        progress(report.n_resumed, wanted, 0)
        answers = _answers(prepared, missing, file.mine(missing), batch_tokens, concurrency)
        report.n_tokens = sum(ranks.together(lambda: _ask(file, answers, report, progress)))
        report.seconds = time.monotonic() - began
        return ranks.first(_closed, file, report, prepared, output, form)


def _ask(file: SharedAnswers, answers: Iterable[tuple[Question, int, Answer]], report: Report, progress: Any) -> int:
    """Ask this process's share; the tokens that came. Progress is told as if all processes were as far."""
    n_tokens = 0
    for n_asked, (question, sample, answer) in enumerate(answers, start=1):
        file.add(question, sample, answer)
        n_tokens += answer.n_tokens or 0
        done = min(report.n_resumed + n_asked * file.here.size, report.n_answers)
        progress(done, report.n_answers, (answer.n_tokens or 0) * file.here.size)
    file.close_part()
    return n_tokens


def _closed(file: SharedAnswers, report: Report, prepared: Prepared, output: Path, form: str) -> Report:
    """The report of a run whose answers are all there, and stand in their order now."""
    rows = file.joined()
    report.finishes = dict(Counter(str(row.get("finish")) for row in rows))
    report.warnings = _warnings(prepared, rows)
    if form == "alpaca_eval":
        _write_alpaca_eval(output, rows, prepared)
    return report


def check_output(output: str | Path, form: str, sources: Iterable[Rows | None]) -> None:
    """Raise OutputError where anything that generate writes is a file that it reads."""
    inputs = [source for source in sources if isinstance(source, str | Path)]
    rows_path = _rows_path(Path(output), form)
    for path in dict.fromkeys([Path(output), rows_path, settings_path(rows_path)]):
        check_inputs(path, inputs)


def _rows_path(output: Path, form: str) -> Path:
    return output.with_name(output.name + ".rows.jsonl") if form == "alpaca_eval" else output


def prepare(
    model: Any,
    questions: Rows,
    *,
    sampling: Sampling | None = None,
    demos: Rows | None = None,
    endpoint: str | None = None,
    chat: bool | None = None,
    template: str = TEMPLATE,
    long_prompts: str = "error",
    device: str = "auto",
    dtype: str | None = None,
    trust_remote_code: bool = False,
    form: str = "jsonl",
) -> Prepared:
    """Check and read everything that a call of generate needs, short of the model's weights; writes nothing."""
    sampling = sampling or Sampling()
    check_long_prompts(long_prompts)
    if form not in FORMATS:
        raise BadSetting("format", form, FORMATS)
    if form == "alpaca_eval" and sampling.samples > 1:
        raise BadSetting("samples", sampling.samples, ["1 with --format alpaca_eval"])
    if endpoint and long_prompts == "cut":
        raise BadSetting("long_prompts", "cut", ["error", "skip (with an endpoint, whose tokens are not known here)"])
    if endpoint and sampling.min_tokens:
        raise BadSetting("min_tokens", sampling.min_tokens, ["0 with an endpoint, whose protocol has no such number"])
    if endpoint and names_experts(model):
        raise BadSetting("model", str(model), ["a server's name of a model; experts answer locally, without endpoint"])
    asked = read_questions(questions, template=template, chat=chat)
    chats = {bool(question.messages) for question in asked}
    shown = read_demos(demos, template=template, chat=chat if len(chats) > 1 else chats == {True})
    if endpoint:
        from expo.generate.endpoint import Endpoint, check_url

        check_url(endpoint)
        answerer: Any = Endpoint(endpoint, str(model))
        known = {"model": str(model), "served": True}
    else:
        from expo.generate.members import load_answerer  # torch loads here

        answerer = load_answerer(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        check_chat(asked, answerer)
        known = {"model": answerer.label, "fingerprint": answerer.fingerprint}
        known |= {"weights": answerer.weights} if hasattr(answerer, "weights") else {}
    settings = {"made_by": "expo generate", **known, **sampling.record()}
    settings |= {"demos": _hash([[demo.question.shown(), demo.response] for demo in shown]) if shown else None}
    settings |= {"long_prompts": long_prompts}
    del settings["samples"]  # more of them continue the same file
    return Prepared(asked, shown, sampling, answerer, settings, long_prompts)


def _answers(
    prepared: Prepared,
    missing: list[tuple[Question, int]],
    mine: set[tuple[Any, int]],
    batch_tokens: int | None,
    concurrency: int,
) -> Iterator[tuple[Question, int, Answer]]:
    """The answers to what is missing, as far as this process asks for it."""
    if not prepared.local:
        missing = [asked for asked in missing if (asked[0].id, asked[1]) in mine]
        from expo.generate.served import served_answers

        how = {"long_prompts": prepared.long_prompts, "concurrency": concurrency}
        yield from served_answers(prepared.answerer, missing, prepared.demos, prepared.sampling, **how)
        return
    from expo.generate.write import tasks_of, write_answers

    local, sampling = prepared.answerer, prepared.sampling
    # Of all that is missing, so that each process refuses the same prompts with the same words.
    tasks, skipped = tasks_of(missing, local, prepared.demos, sampling, prepared.long_prompts)
    for question, sample in skipped:
        if (question.id, sample) in mine:
            yield question, sample, Answer("", 0, "too long")
    tasks = [task for task in tasks if (task.question.id, task.sample) in mine]
    for task, answer in write_answers(local, tasks, sampling, batch_tokens):
        yield task.question, task.sample, answer


def _warnings(prepared: Prepared, rows: list[dict[str, Any]]) -> list[str]:
    found = []
    counts = Counter(row.get("finish") for row in rows)
    for finish, what in (
        ("too long", "prompts did not fit into the model's window and were answered with nothing"),
        ("context", "answers were cut short by the end of the model's window"),
    ):
        if counts[finish]:
            found.append(f"{counts[finish]:,} of {len(rows):,} {what}")
    if not prepared.local and not prepared.sampling.greedy and _does_not_sample(rows):
        found.append(
            "the server gave the same text for every sample of a question: it seems to ignore the temperature "
            "(`transformers serve` samples only where the model's generation_config says do_sample)"
        )
    return found


def _does_not_sample(rows: list[dict[str, Any]]) -> bool:
    texts: dict[Any, list[str]] = defaultdict(list)
    for row in rows:
        texts[row["id"]].append(row["response"])
    several = [held for held in texts.values() if len(held) > 1]
    return len(several) >= _SUSPICIOUS and all(len(set(held)) == 1 for held in several)


def _write_alpaca_eval(output: Path, rows: list[dict[str, Any]], prepared: Prepared) -> None:
    """The list of {instruction, output, generator} that alpaca_eval reads."""
    texts = {question.id: question.text for question in prepared.questions}
    name = prepared.settings["model"]
    listed = [{"instruction": texts[row["id"]], "output": row["response"], "generator": name} for row in rows]
    replace_file(output, (json.dumps(listed, indent=2, ensure_ascii=False) + "\n").encode())


def _hash(value: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True).encode())
