"""run(plan, sink): from planned jobs to bytes."""

from expo.stream.loop import Stream
from expo.stream.report import Fidelity, Report
from expo.stream.to_folder import run
from expo.stream.to_model import load_model

__all__ = ["Fidelity", "Report", "Stream", "load_model", "run"]
