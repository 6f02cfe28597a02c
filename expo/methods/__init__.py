"""Merge methods: one file each, a pure function on tiles and its declaration."""

from expo.methods import extrapolate as _extrapolate  # noqa: F401  (registers itself)
from expo.methods.declare import METHODS, Each, Here, Method, Reads, Surveyed, find_method, method
from expo.methods.parameter import REQUIRED, Parameter

__all__ = ["METHODS", "REQUIRED", "Each", "Here", "Method", "Parameter", "Reads", "Surveyed", "find_method", "method"]
