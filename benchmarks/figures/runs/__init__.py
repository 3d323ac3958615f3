"""Runs behind the figures, and what they show."""
