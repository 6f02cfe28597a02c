"""Merge methods: one file each, a pure function on tiles and its declaration."""

from expo.methods import extrapolate as _extrapolate  # noqa: F401  (registers itself)
from expo.methods.declare import METHODS, Method, find_method, method

__all__ = ["METHODS", "Method", "find_method", "method"]
