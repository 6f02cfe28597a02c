"""Adapters as results: the low-rank part of a delta, and ExPO between two adapters of one base."""

from expo.lora.extract import extract_adapter
from expo.lora.extrapolate import Extrapolation, extrapolate_adapters
from expo.lora.figures import Extraction

__all__ = ["Extraction", "Extrapolation", "extract_adapter", "extrapolate_adapters"]
