"""What the stages of a supervision study do: each fills a folder from its inputs and returns facts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expo.weak_to_strong.actions import label_stage, sft_stage
from expo.weak_to_strong.errors import StageError
from expo.weak_to_strong.keyed import read_json, write_rows, write_text
from expo.weak_to_strong.provenance import pick
from expo.weak_to_strong.supervision import embedded, released
from expo.weak_to_strong.supervision.cells import WEAKER, Cell, set_name
from expo.weak_to_strong.supervision.corrupt import corrupt, paired, wrong_count
from expo.weak_to_strong.supervision.decompose import decompose
from expo.weak_to_strong.supervision.judge import NO_STEPS, Outcome, judge
from expo.weak_to_strong.supervision.lengths import LengthRule, Prices, counter
from expo.weak_to_strong.supervision.mix import BOTH, HARD, PARAPHRASE, SUBTASK, Asked, Measure, assemble, manifest_of
from expo.weak_to_strong.supervision.rates import NOTE, rates
from expo.weak_to_strong.supervision.records import Judged, belong, grouped, open_judged, open_tasks
from expo.weak_to_strong.supervision.runfile import SupervisionFile, TeacherSettings
from expo.weak_to_strong.supervision.teacher import Teacher, opened
from expo.weak_to_strong.supervision.votes import StepJudge, Votes

__all__ = ["label_stage", "sft_stage"]  # students learn and answer by the pipelines' own stages

Inputs = Mapping[str, Path]
Facts = Mapping[str, Any]
MANIFEST = "manifest.json"
PAID = ".teacher"  # beside the stages, so that a changed setting does not throw answers away


# --- Where supervision comes from ------------------------------------------------------------------------------------


def prepare_stage(run: SupervisionFile, folder: Path, inputs: Inputs) -> Facts:
    """The embedded task's hard tasks and test questions, and a base that was taught shorter ones (the first stage)."""
    from expo import toy
    from expo.weak_to_strong.running_sum import row

    task = run.embedded
    for name, split, count in (("tasks", "train", task.tasks), ("test", "test", task.test)):
        drawn = toy.draw(task.terms, count, split, run.seed)
        write_rows(folder / f"{name}.jsonl", (row(number, one) for number, one in enumerate(drawn)))
    lessons = toy.mixture(task.easy, 4000, "train", run.seed)
    model, tokenizer = toy.build_model(toy.STRONG, run.seed + 1), toy.build_tokenizer()
    losses = toy.train(model, tokenizer, lessons, steps=task.pretraining, lr=2e-3, batch_size=128, seed=run.seed)
    toy.save(model, tokenizer, folder / "base")
    return {"tasks": task.tasks, "test": task.test, "pretraining loss": losses[-1]}


def slips_stage(run: SupervisionFile, folder: Path, inputs: Inputs) -> Facts:
    """Samples of the embedded teachers to every task and subtask, and paraphrases of those to the tasks."""
    made = {}
    for name, source in (("hard", "tasks"), ("subtask", "subtasks")):
        tasks = open_tasks(inputs[source])
        rows = (
            embedded.sample(task, one.name, one.slip, number, run.seed, run.embedded.error)
            for task in tasks
            for one in run.embedded.teachers
            for number in range(one.samples)
        )
        made[name] = write_rows(folder / f"{name}.jsonl", rows)
    return {"samples": made}


def embedded_judge_stage(run: SupervisionFile, folder: Path, inputs: Inputs) -> Facts:
    """Exact verdicts on every sample, and the paraphrases of what was judged."""
    facts = {}
    for name, source in (("hard", "tasks"), ("subtask", "subtasks")):
        told = judge(
            [inputs[f"{name} samples"]],
            [inputs[source]],
            folder / f"{name}.jsonl",
            outcome=Outcome(run.extraction, run.equivalence),
            steps=embedded.RULE,
        )
        facts[name] = {key: told[key] for key in ("samples", "rates", "teachers") if key in told}
    hard = open_judged(folder / "hard.jsonl")
    write_rows(folder / "paraphrases.jsonl", (embedded.paraphrase(one).row() for one in hard))
    return facts


def released_stage(run: SupervisionFile, folder: Path, inputs: Inputs) -> Facts:
    """The authors' data in our rows, and their test sets."""
    told = run.released
    wanted = {"pairs": told.pairs, **told.weaker, **{f"test {name}": path for name, path in told.tests.items()}}
    place = released.locate(told.source, wanted | ({"paraphrase": told.paraphrase} if told.paraphrase else {}))
    made = released.read_pairs(released.rows_under(place, told.pairs), told.teacher, told.limit)
    for name, path in told.weaker.items():
        released.add_weaker(made, released.rows_under(place, path), name, _same(run))
    if told.paraphrase:
        released.add_paraphrases(made, released.rows_under(place, told.paraphrase), told.teacher)
    counts = released.write(made, folder)
    for name, path in told.tests.items():
        tests = released.read_tests(released.rows_under(place, path))
        counts[f"test {name}"] = write_rows(folder / "tests" / f"{name}.jsonl", tests)
    return {"source": told.source, "revision": place.name, **counts, "rates": rates(made.hard)}


def _same(run: SupervisionFile) -> Any:
    """Whether a solution's final answer is the reference's."""
    from expo.evaluate import Pair, extractor
    from expo.evaluate import judge as comparison

    find, compare = extractor(run.extraction), comparison(run.equivalence)
    return lambda answer, reference: compare([Pair(find(answer), find(reference) or reference.strip())])[0].correct


def decompose_stage(run: SupervisionFile, folder: Path, inputs: Inputs) -> Facts:
    """Subtasks: of running sums by their rule, of other tasks by the run's teacher."""
    told = run.lengths
    rule = LengthRule(told.short, told.two, told.three)
    # The embedded task's tokens are its characters.
    count = len if run.embedded else counter(told.tokenizer)
    how = {} if run.embedded else {"teacher": teacher_of(run), "prices": prices_of(run.teacher)}
    return decompose(
        inputs["tasks"], folder / "subtasks.jsonl", count=count, rule=rule, work=folder.parent / PAID, **how
    )


def sample_stage(run: SupervisionFile, folder: Path, inputs: Inputs) -> Facts:
    """The teacher's samples to tasks or subtasks."""
    from expo.generate import Sampling, generate

    told = run.teacher
    sampling = Sampling(
        samples=told.samples, temperature=told.temperature, max_tokens=told.max_tokens, seed=run.seeds[0]
    )
    asked = [{"id": task.id, "prompt": task.prompt} for task in open_tasks(inputs["tasks"])]
    model, chat = opened(teacher_of(run))
    how = {"endpoint": told.endpoint, "chat": chat, "long_prompts": "skip", "device": run.device}
    report = generate(model, asked, folder / "samples.jsonl", sampling=sampling, **how)
    return {"answers": report.n_answers, "finishes": report.finishes, "warnings": report.warnings}


def judge_stage(run: SupervisionFile, names: Sequence[str], folder: Path, inputs: Inputs) -> Facts:
    """Files of samples, judged where they are not; the teacher judges steps where the grid asks for step rates."""
    samples = {name: inputs[f"samples {name}"] for name in names}
    if all("result" in next(iter(read_json(path))) for path in samples.values()):
        rows = [one for name, path in samples.items() for one in open_judged(path, name)]
        write_rows(folder / "judged.jsonl", (one.row() for one in rows))
        return {"samples": len(rows), "rates": rates(rows), "judged": "before"}
    steps: str | StepJudge = NO_STEPS
    if run.grid.steps and run.teacher:
        votes, count = Votes(run.teacher.votes), counter(run.lengths.tokenizer)
        how = {"count": count, "prices": prices_of(run.teacher), "work": folder.parent / PAID}
        steps = StepJudge(teacher_of(run), votes, **how)
    outcome = Outcome(run.extraction, run.equivalence, run.judge_seconds)
    told = judge(samples, [inputs["tasks"]], folder / "judged.jsonl", outcome=outcome, steps=steps)
    return {key: value for key, value in told.items() if key not in ("inputs", "note")}


def teacher_of(run: SupervisionFile) -> Teacher:
    """The run's teacher as decompose and judge want it."""
    told: TeacherSettings = run.teacher
    names = ("model", "endpoint", "temperature", "max_tokens", "attempts", "most_failed")
    return Teacher(seed=run.seeds[0], device=run.device, **{name: getattr(told, name) for name in names})


def prices_of(told: TeacherSettings) -> Prices:
    """What the run says of prices."""
    return Prices(told.price_prompt, told.price_answer)


# --- Sets and cells --------------------------------------------------------------------------------------------------


def sets_stage(run: SupervisionFile, cells: Sequence[Cell], folder: Path, inputs: Inputs) -> Facts:
    """Every corrupted set that some cell needs, and a manifest with the rates asked and reached."""
    grid = run.grid
    judged = {part: list(open_judged(inputs[part])) for part in ("hard", "subtask") if part in inputs}
    if "subtask" in judged:
        belong(judged["subtask"], {one.id for one in judged["hard"]}, "subtask samples", "the hard tasks")
    main = grid.teacher or judged["hard"][0].teacher
    own = {part: [one for one in rows if one.teacher == main] for part, rows in judged.items()}
    if not own["hard"]:
        raise StageError(f"grid.teacher: no sample is by {main!r}.")
    if grid.only_pairs:
        _keep_pairs(judged, own)
    told = {}
    for part, outcome, steps in dict.fromkeys(_needed(cells)):
        how = {"steps": steps, "seed": run.seed, "only_pairs": grid.only_pairs}
        rows = corrupt((own if steps is None else judged)[part], outcome, **how)
        name = set_name(part, outcome, steps)
        told[name] = _written(rows, folder / f"{name}.jsonl", asked={"outcome": outcome, "steps": steps})
    for cell in cells:
        if cell.kind == WEAKER:
            held = grouped([one for one in judged["hard"] if one.teacher == cell.teacher])
            if not held:
                raise StageError(f"no sample is by {cell.teacher!r}, so there is no cell of that teacher.")
            rows = [pick(some, 1, run.seed, key, "weaker")[0] for key, some in held.items()]
            told[cell.name] = _written(rows, folder / f"{cell.name}.jsonl", asked=None)
    manifest = {"seed": run.seed, "teacher": main, "sets": told, "note": NOTE}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _keep_pairs(judged: dict[str, list[Judged]], own: dict[str, list[Judged]]) -> None:
    """Keep the tasks of which the main teacher has a correct and an incorrect sample, and their subtasks."""
    kept = paired(own["hard"])
    for held in (judged, own):
        for part, rows in held.items():
            held[part] = [one for one in rows if (one.id if part == "hard" else one.task) in kept]


def _needed(cells: Sequence[Cell]) -> list[tuple[str, float, float | None]]:
    hard = [(HARD, cell.hard, cell.steps) for cell in cells if cell.hard is not None]
    return hard + [(SUBTASK, cell.subtask, None) for cell in cells if cell.subtask is not None]


def _written(rows: Sequence[Judged], path: Path, asked: Mapping[str, Any] | None) -> dict[str, Any]:
    write_rows(path, (one.row() for one in rows))
    told: dict[str, Any] = {"asked": asked, **rates(rows)}
    if asked:
        told["wrong asked"] = wrong_count(asked["outcome"], len(rows))
    return told


def rows_stage(run: SupervisionFile, cell: Cell, folder: Path, inputs: Inputs) -> Facts:
    """A cell's training set."""
    parts = {name: list(open_judged(inputs[name])) for name in ("hard", "subtask") if name in inputs}
    facts: dict[str, Any] = {}
    if "paraphrase" in inputs:
        known = {one.key: one for one in open_judged(inputs["paraphrase"])}
        parts["paraphrase"] = [known[one.key] for one in parts["hard"] if one.key in known]
        facts["hard rows without a paraphrase"] = len(parts["hard"]) - len(parts["paraphrase"])
        if not parts["paraphrase"]:
            raise StageError("no hard sample has a paraphrase.")
    measure: Measure = lambda one: 1  # noqa: E731
    tokens = None
    if run.grid.equal == "tokens":
        count = len if run.embedded else counter(run.lengths.tokenizer)
        measure = tokens = lambda one: count(one.prompt) + count(one.response)
    size = None
    if run.grid.equal != "none":
        size = run.grid.size or 2 * sum(_measured(task, tokens) for task in open_tasks(inputs["tasks"]))
    kind = HARD if cell.kind == WEAKER else cell.kind
    asked = {"hard": Asked(cell.hard, cell.steps), "subtask": Asked(cell.subtask), "paraphrase": Asked(cell.hard)}
    rows = assemble(kind, parts, size=size, measure=measure, seed=run.seed, asked=asked)
    write_rows(folder / "rows.jsonl", (one.row() for one in rows))
    return facts | manifest_of(rows, tokens)


def _measured(task: Any, tokens: Measure | None) -> int:
    """How large a task with its reference solution is."""
    return tokens(Judged(task.id, 0, task.prompt, task.completion, True)) if tokens else 1


PARTS = {HARD: ("hard",), SUBTASK: ("subtask",), BOTH: ("hard", "subtask"), PARAPHRASE: ("hard",), WEAKER: ("hard",)}
