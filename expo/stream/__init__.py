"""run(plan, sink): from planned jobs to bytes."""

from expo.stream.loop import Stream
from expo.stream.report import Fidelity, Report
from expo.stream.to_folder import run
from expo.stream.to_model import fill, load_model, new_model

__all__ = ["Fidelity", "Report", "Stream", "fill", "load_model", "new_model", "run"]
