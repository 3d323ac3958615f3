"""Run a recipe."""
