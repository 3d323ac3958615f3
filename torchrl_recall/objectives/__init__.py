"""Objectives: Eq. 2 (the model), Eq. 3 (imitation) and TRPO."""
