"""What runs a recipe."""
