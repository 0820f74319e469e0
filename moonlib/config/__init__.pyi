from .recipe import Recipe, RecipeError, StageRecipe, diff, load, shipped

__all__ = ["Recipe", "RecipeError", "StageRecipe", "diff", "load", "shipped"]
