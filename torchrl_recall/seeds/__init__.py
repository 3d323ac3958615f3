"""Many random seeds in one process: their random numbers, networks and successes.

In a run of several seeds, the first dimension of all data and weights is the seed. Seeds are
independent: each gets the same random numbers, and bitwise the same weights, as in a run alone.
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
