"""load_model(recipe): stream the result straight into a live transformers model; nothing is written."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expo.checkpoint import Shards
from expo.checkpoint.spec import Checkpoint
from expo.checkpoint.views.quantised import without_entries
from expo.errors import ExpoError, OutputError, PlanError
from expo.methods import find_method
from expo.ops import torch_dtype
from expo.output.layers import relayer
from expo.output.model import ModelSink
from expo.planning import Plan, plan
from expo.planning.budget import default_threads
from expo.planning.complaints import of_several
from expo.planning.identity import every_input
from expo.recipe import Recipe, read_recipe
from expo.stream.loop import Stream, report_of, settings_for
from expo.stream.probe import check_tied
from expo.stream.report import Report
from expo.stream.survey import survey


def load_model(
    recipe: Recipe | Plan | str | Path,
    *,
    model: Any = None,
    threads: int | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Any:
    """A transformers model that holds exactly the weights which a run of the recipe would write.

    recipe: a Recipe, a plan, or a recipe's YAML file.
    model: one from an earlier call, to be filled again with other weights of the same shapes.
    device: where tiles are computed; the model itself stays where it is (on the CPU when new).
    trust_remote_code: let transformers run code that comes with the checkpoint.
    Raises what planning raises, the data errors of a run, and OutputError where the model lacks a tensor's place.
    """
    if isinstance(recipe, str | Path):
        recipe = read_recipe(recipe).only
    planned = recipe if isinstance(recipe, Plan) else plan(recipe)
    _refuse_scales(planned)
    check_tied(planned)
    if model is None:
        model = new_model(planned, trust_remote_code=trust_remote_code)
    elif (wanted := planned.recipe.output_dtype()) and wanted.bits > 8 and model.dtype != torch_dtype(wanted):
        raise OutputError(
            f"the model is in {model.dtype}, and the recipe asks for {wanted.torch_name}: load a new one."
        )
    model.expo_report = fill(model, planned, threads=threads, device=device)
    return model


def fill(
    model: Any,
    planned: Plan,
    *,
    threads: int | None = None,
    device: str = "cpu",
    readers: Mapping[str, Shards] | None = None,
) -> Report:
    """Put the plan's result into a model of its shapes; a wider type of the model holds the same values.

    readers: by role, where to read the inputs instead of their files, such as `Held`.
    Raises what load_model raises of data and places.
    """
    _refuse_scales(planned)
    sink = ModelSink(model)
    if sink.lost(planned.jobs):
        planned = _as_held(planned)
    sink.open(planned.jobs, may_differ=planned.recipe.tied == "keep")
    workers = threads or default_threads()
    settings = settings_for(planned, device, workers=workers)
    surveyed = survey(planned, settings, workers, readers=readers)
    stream = Stream(planned, sink, settings, surveyed=surveyed, journal=False, readers=readers)
    began = time.perf_counter()
    stream.run(workers)
    report = report_of(stream, None)
    report.seconds = time.perf_counter() - began
    return report


def _refuse_scales(planned: Plan) -> None:
    """A model of transformers' classes computes on its parameters as they are."""
    if planned.recipe.requantize:
        raise OutputError("a live model holds no scales: leave requantize out, or write the checkpoint.")


def _as_held(planned: Plan) -> Plan:
    """The plan in the names and layout of the model's class; the same plan where that would not give the same values.

    Noise is keyed by the output's names and element indices, so another layout would draw other noise.
    """
    noisy = any(job.method and find_method(job.method).wants_here for job in planned.jobs)
    if noisy or planned.recipe.rounding != "nearest" or planned.recipe.tokenizer:
        return planned
    try:
        return plan(planned.recipe, every_input(planned), as_held=True)
    except PlanError:
        return planned


def new_model(planned: Plan, *, dtype: str | None = None, trust_remote_code: bool = False) -> Any:
    """The donor's model, whose weights a run replaces tile by tile.

    dtype: torch's name of the type it is held in; default: the output's. Raises OutputError, ExpoError.
    """
    import transformers

    donor = planned.donor
    if donor.source.folders:
        raise OutputError(of_several(donor))
    if not donor.config:
        raise OutputError(f"{donor.source.label} has no config.json, so transformers cannot tell its class.")
    if any(file.remote for file in donor.files.values()):
        raise OutputError(
            f"{donor.source.label} stays on the Hub, and transformers makes a live model from files on this machine: "
            "leave stream out, or write the checkpoint and load that."
        )
    wanted = planned.recipe.output_dtype()
    dtype = dtype or (wanted.torch_name if wanted and wanted.bits > 8 else "auto")
    model_class = _model_class(transformers, donor, trust_remote_code)
    options = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    try:
        if planned.picked or planned.unquantises:
            config = _relayered(transformers.AutoConfig.from_pretrained(donor.source.folder), planned)
            return model_class.from_pretrained(donor.source.folder, config=config, **options).eval()
        return model_class.from_pretrained(donor.source.folder, **options).eval()
    except (OSError, ValueError, TypeError) as error:
        raise ExpoError(f"transformers cannot load {donor.source.label}: {error}") from error


def _relayered(config: Any, planned: Plan) -> Any:
    """The donor's configuration with the number of layers that the recipe picks, and of unquantised numbers."""
    content = config.to_dict()
    content = without_entries(content) if planned.unquantises else content
    for part in planned.picked:
        relayer(content, part)
    return type(config).from_dict(content)


def _model_class(transformers: Any, donor: Checkpoint, trust_remote_code: bool) -> Any:
    names = donor.config.get("architectures") or []
    named = getattr(transformers, str(names[0]), None) if names else None
    return transformers.AutoModelForCausalLM if trust_remote_code or named is None else named
