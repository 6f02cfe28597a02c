"""What the user asks for."""

from expo.recipe.parts import Module, Slice, Source
from expo.recipe.reading import Recipes, Stage, read_recipe
from expo.recipe.recipe import CHOICES, Recipe, extrapolation, parse_rename, parse_size

__all__ = [
    "CHOICES",
    "Module",
    "Recipe",
    "Recipes",
    "Slice",
    "Source",
    "Stage",
    "extrapolation",
    "parse_rename",
    "parse_size",
    "read_recipe",
]
