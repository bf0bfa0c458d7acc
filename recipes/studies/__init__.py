"""Studies: many runs of a recipe, methods against one another, and what may be concluded from them."""
