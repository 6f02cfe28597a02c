"""What the user asks for."""

from expo.recipe.parts import Module, Slice, Source
from expo.recipe.recipe import CHOICES, Recipe, extrapolation, parse_rename, parse_size

__all__ = ["CHOICES", "Module", "Recipe", "Slice", "Source", "extrapolation", "parse_rename", "parse_size"]
