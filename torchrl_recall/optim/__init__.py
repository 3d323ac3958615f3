"""Gradient steps, eager or compiled, and steps within a trust region."""
