"""Runs behind the figures, and their results."""
