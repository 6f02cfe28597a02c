"""What the user asks for."""

from expo.recipe.recipe import CHOICES, Recipe, extrapolation, parse_rename, parse_size

__all__ = ["CHOICES", "Recipe", "extrapolation", "parse_rename", "parse_size"]
