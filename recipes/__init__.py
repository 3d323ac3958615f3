"""Runnable recipes: short loops that compose the library."""
