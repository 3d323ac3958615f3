"""States at which goals of a Goal GAN are reached (Alg. 2, lines 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl_recall.goals.curriculum import GoalGANCurriculum
from torchrl_recall.traces.high_value_states import HighValueStates

__all__ = ["GoalGANStates"]


class GoalGANStates(HighValueStates):
    """States at which goals of a Goal GAN are reached (Sec. 2.1; Alg. 2, lines 2 and 3).

    New and old goals have the same share as among those that the policy is sent to. Of new ones
    alone, which lie at the edge of what can be reached, traces would not teach the way near the
    start.

    Args:
        curriculum: gives goals.
        num_states: how many goals to draw.

    Keyword Args:
        goal_decoder: D, from goals of shape ``[num_goals, goal_dim]`` to states, environment
            units; None where goal and state are identical.
        is_valid: whether states can occur, as booleans of shape ``[num_goals]``. A GAN may propose
            a goal inside a wall: such seeds are left out.
        observation_key: where to put the states.

    Raises:
        ValueError: the decoder's output has another number of rows, is not finite, or is not valid
            wherever the goal lies.

    Examples:
        >>> from torchrl_recall import GoalGAN, GoalGANCurriculum, GoalGANStates
        >>> from torchrl_recall.envs import PointMassEnv
        >>> env = PointMassEnv(2, maze="u")
        >>> curriculum = GoalGANCurriculum(GoalGAN(env.goal_spec))
        >>> seeds = GoalGANStates(curriculum, num_states=16, is_valid=env.is_valid)()
        >>> bool(env.is_valid(seeds["observation"]).all())
        True
    """

    def __init__(
        self,
        curriculum: GoalGANCurriculum,
        num_states: int,
        *,
        goal_decoder: Callable[[Tensor], Tensor] | None = None,
        is_valid: Callable[[Tensor], Tensor] | None = None,
        observation_key: NestedKey = "observation",
    ) -> None:
        super().__init__(num_states, observation_key=observation_key)
        self.curriculum = curriculum
        self.goal_decoder = goal_decoder
        self.is_valid = is_valid

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase | None = None) -> TensorDict:
        """Draw goals and decode them; experience is not looked at."""
        goals = self.curriculum.propose(self.num_states)
        states = goals if self.goal_decoder is None else self.goal_decoder(goals)
        if states.shape[:1] != goals.shape[:1] or states.ndim != 2:
            raise ValueError(
                f"goal_decoder must turn goals of shape {tuple(goals.shape)} into as many state "
                f"vectors, got shape {tuple(states.shape)}."
            )
        if not states.isfinite().all():
            raise ValueError("goal_decoder gave NaN or infinity; let it return states only.")
        if self.is_valid is None:
            return self._seeds(states)
        valid = self.is_valid(states)
        if self.goal_decoder is not None and not valid.any():
            anywhere = self.goal_decoder(self.curriculum.gan.uniform(1_000))
            if not self.is_valid(anywhere).any():  # then it is not the GAN that is at fault
                raise ValueError(
                    "goal_decoder gave no valid state for any of 1,000 goals. Let it return states "
                    "of the environment, in environment units."
                )
        return self._seeds(states[valid])
