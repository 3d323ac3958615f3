"""Actions for which a learned state predictor is sure of the predecessor."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from tensordict import TensorDictBase

from torchrl_recall.envs.four_rooms.exact_model import DisplacementPredictor
from torchrl_recall.seeds.recent_successes import RecentSuccesses

__all__ = ["KnownActions"]


class KnownActions:
    r"""Mask of the actions that a backward policy may take, because their predecessor is known.

    An action is known if

    .. math:: \max_s q(s \mid a, s') \ge p \quad\text{and}\quad
        \arg\max_s q(s \mid a, s') \text{ was visited}

    Args:
        predictor: network of q(s | a, s') for all seeds.
        successes: store that knows which cells each seed has visited.
        min_probability: p, in (0, 1].

    Attributes:
        possible: booleans of shape ``[num_seeds, num_cells, 4]``, changed in place, for
            :func:`~torchrl_recall.envs.four_rooms_model`.
    """

    def __init__(
        self, predictor: DisplacementPredictor, successes: RecentSuccesses, min_probability: float
    ) -> None:
        self.predictor, self.successes = predictor, successes
        self.min_probability = min_probability
        self.possible = torch.zeros(*successes.visited.shape, 4, dtype=torch.bool)

    @torch.no_grad()
    def update(self) -> None:
        """Compute the mask from the current predictor."""
        pairs = torch.meshgrid(*map(torch.arange, self.possible.shape[1:]), indexing="ij")
        cell, action = (x.expand(self.possible.shape) for x in pairs)
        log_prob, predecessor = self.predictor(action, cell).log_softmax(-1).max(-1)
        visited = self.successes.visited.gather(1, predecessor.flatten(1))
        visited = visited.reshape(predecessor.shape)
        sure = log_prob >= math.log(self.min_probability)
        torch.logical_and(sure, visited, out=self.possible)

    def before(
        self, generate: Callable[[TensorDictBase], TensorDictBase]
    ) -> Callable[[TensorDictBase], TensorDictBase]:
        """Return a trace generator that updates the mask first.

        Args:
            generate: trace generator of a model that uses :attr:`possible`.

        Returns:
            A function with the same argument and result.
        """

        def update_and_generate(end_states: TensorDictBase) -> TensorDictBase:
            self.update()
            return generate(end_states)

        return update_and_generate
