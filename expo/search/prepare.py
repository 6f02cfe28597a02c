"""prepare: everything about a search that can be known before the first weight is read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expo.errors import OutputError
from expo.evaluate.metrics import Metric, metric_of
from expo.generate.sampling import Sampling
from expo.output.folder import FolderSink
from expo.planning import Plan
from expo.planning.identity import check_output
from expo.recipe import Recipe
from expo.rows import check_inputs
from expo.search.errors import BadBudget, SearchError
from expo.search.overlap import check_overlap
from expo.search.result import Result
from expo.search.run import Say, Search
from expo.search.space import Space
from expo.search.strategy import FIRST_ALPHA, LAST_ALPHA, strategy_for
from expo.search.values import Dimension, read_alphas, read_vary

ALPHAS = "0.1:1.0:0.1"
REPORT = "expo-search"  # where nothing else is named


def prepare(
    recipe: Recipe | str | Path | None = None,
    *,
    metric: str | Metric,
    sft: str | Path | None = None,
    dpo: str | Path | None = None,
    data: str | Path | None = None,
    test: str | Path | Metric | None = None,
    alphas: str | Sequence[float] | None = None,
    bracket: bool = False,
    vary: Sequence[str] = (),
    sets: Sequence[str] = (),
    sampler: str | None = None,
    trials: int | None = None,
    budget: int | None = None,
    seed: int | None = None,
    output: str | Path | None = None,
    report: str | Path | None = None,
    overwrite: bool = False,
    sampling: Sampling | None = None,
    metric_options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    say: Say = lambda text: None,
    warn: Say = lambda text: None,
    **how: Any,
) -> Search:
    """Check everything that a search needs, short of any weight; see `search` for what the names mean."""
    settings = {**(settings or {}), **({} if seed is None else {"seed": seed})}
    space = _space(recipe, sft, dpo, alphas, bracket, vary, sets, settings)
    folder = Path(report or (f"{output}.search" if output else REPORT))
    plan = space.check()
    _check_places(space, plan, folder, output, overwrite, [data, test if isinstance(test, str | Path) else None])
    chosen_on = _metric(metric, data, sampling, metric_options)
    tested_on = None
    if test is not None:
        tested_on = test if isinstance(test, Metric) else _metric(metric, test, sampling, metric_options)
        check_overlap(chosen_on, tested_on, data, None if isinstance(test, Metric) else test)
    if budget is not None and chosen_on.name.startswith("lm-eval:"):
        raise BadBudget("--budget: lm-eval scores a document by the others it is asked with, so all tries need all.")
    strategy = strategy_for(
        space, len(chosen_on.ids), use_bracket=bracket, sampler=sampler, trials=trials, budget=budget, seed=seed or 0
    )
    return Search(
        space, chosen_on, strategy, plan, folder, tested_on, Path(output) if output else None, overwrite, how, say, warn
    )


def _check_places(
    space: Space, plan: Plan, folder: Path, output: str | Path | None, overwrite: bool, files: Sequence[Any]
) -> None:
    """Where output and report go, before anything is scored; raises OutputError or DiskFull."""
    if output is not None:
        sink = FolderSink(output, overwrite=overwrite)
        check_output(plan, sink, key=sink.partial.fingerprint())  # an unfinished one may be the chosen one's
        if folder.resolve().is_relative_to(Path(output).resolve()):
            raise OutputError(
                f"the report {folder} lies in {output}, which appears whole at the end. Leave --report out."
            )
    check_inputs(folder, [*space.folders, *files])
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file. Name a folder for the report: --report FOLDER.")


def _metric(metric: str | Metric, data: Any, sampling: Sampling | None, options: Mapping[str, Any] | None) -> Metric:
    if isinstance(metric, Metric):
        return metric
    return metric_of(metric, data=Path(data) if data is not None else None, sampling=sampling, **(options or {}))


def _space(
    recipe: Recipe | str | Path | None,
    sft: str | Path | None,
    dpo: str | Path | None,
    alphas: str | Sequence[float] | None,
    bracket: bool,
    vary: Sequence[str],
    sets: Sequence[str],
    settings: Mapping[str, Any],
) -> Space:
    """What varies: alpha between two checkpoints, or paths of a recipe."""
    if (recipe is None) == (sft is None or dpo is None) or (recipe is not None and (sft or dpo)):
        raise SearchError("name a recipe, or the two checkpoints of an extrapolation: --sft A --dpo B.")
    if recipe is not None:
        if alphas is not None:
            raise SearchError("alphas belong to --sft and --dpo; in a recipe: --vary parameters.alpha=0.1:1.0:0.1.")
        own = settings if not isinstance(recipe, Recipe) else {}
        return Space(recipe, tuple(map(read_vary, vary)), tuple(sets), own)
    if vary or sets:
        raise SearchError("--vary and --set change a recipe; between --sft and --dpo alpha varies: --alphas.")
    if bracket:
        if alphas is not None:
            raise SearchError("--bracket finds its alphas itself: leave out --alphas.")
        dimension = Dimension("alpha", low=FIRST_ALPHA, high=LAST_ALPHA)
    else:
        listed = ALPHAS if alphas is None else alphas
        dimension = read_alphas(listed if isinstance(listed, str) else ",".join(map(str, listed)))
    return Space.of_alphas(str(sft), str(dpo), dimension, **settings)


def search(recipe: Recipe | str | Path | None = None, *, threads: int | None = None, **asked: Any) -> Result:
    """Score several values of alpha, or of anything in a recipe, and choose the best; no try is written to disk.

    recipe: a Recipe, a recipe's file or its text, with vary= ("PATH=VALUES", ...); or sft= and dpo=, with alphas=
    ("0.1:1.0:0.1", or numbers) or bracket=True. metric: see `expo.evaluate.metrics`, or a Metric; data: its examples;
    metric_options: its options; sampling: how answers are generated. test: examples for the final figure.
    sampler: grid | tpe | cmaes, with trials; budget: examples to share out by successive halving.
    output: where the chosen checkpoint goes, with the evidence; overwrite. report: folder for search.json, search.png
    and the tries, from which the same call continues; default OUTPUT.search, or expo-search.
    settings: fields of Recipe (dtype, rounding, ...); seed: of rounding, masks and samplers.
    device, compute, hold, trust_remote_code: see Resident. say, warn: called with lines of progress and warnings.
    Raises SearchError, MetricError, and what planning and runs raise; finished tries are kept.
    """
    return prepare(recipe, threads=threads, **asked).run(threads=threads)
