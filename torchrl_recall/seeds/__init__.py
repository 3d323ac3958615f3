"""Many random seeds in one process: their numbers, networks and successes.

A run of several seeds has a leading dimension of that size everywhere. Seeds share nothing: a seed
gets the same numbers, and bit by bit the same weights, as in a run of its own.
"""

from torchrl_recall.seeds.stacked_networks import (
    StackedEmbedding,
    StackedLinear,
    StackedMLP,
    clip_grad_norm_per_seed_,
)
from torchrl_recall.seeds.streams import SeededCategorical, SeedStreams

__all__ = [
    "SeedStreams",
    "SeededCategorical",
    "StackedEmbedding",
    "StackedLinear",
    "StackedMLP",
    "clip_grad_norm_per_seed_",
]
