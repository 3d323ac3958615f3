"""States that reach goals of a Goal GAN (Alg. 2, lines 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl_recall.goals.curriculum import GoalGANCurriculum
from torchrl_recall.traces.high_value_states import HighValueStates

__all__ = ["GoalGANStates"]


class GoalGANStates(HighValueStates):
    """Source of states that reach goals of a Goal GAN (Sec. 2.1; Alg. 2, lines 2 and 3).

    The ratio of new and old goals is that of the goals given to the policy. New goals lie at the
    edge of what is reachable. Traces to new goals alone would never cover the states near the
    start.

    Args:
        curriculum: the curriculum that proposes goals.
        num_states: number of goals to draw.

    Keyword Args:
        goal_decoder: D, which maps goals ``[num_goals, goal_dim]`` to states, environment units;
            None if goals and states are identical.
        is_valid: function of states that returns booleans of shape ``[num_goals]``, True for
            possible states. A GAN may propose goals inside walls; such end states are dropped.
        observation_key: key under which states are returned.

    Raises:
        ValueError: the decoder returns a wrong number of states, states that are not finite, or no
            valid state.

    Examples:
        >>> from torchrl_recall import GoalGAN, GoalGANCurriculum, GoalGANStates
        >>> from torchrl_recall.envs import PointMassEnv
        >>> env = PointMassEnv(2, maze="u")
        >>> curriculum = GoalGANCurriculum(GoalGAN(env.goal_spec))
        >>> end_states = GoalGANStates(curriculum, num_states=16, is_valid=env.is_valid)()
        >>> bool(env.is_valid(end_states["observation"]).all())
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
        """Draw goals and decode them.

        Args:
            tensordict: ignored.

        Returns:
            End states of shape ``[num_states]`` or less, under ``observation_key``.

        Raises:
            ValueError: see the class.
        """
        goals = self.curriculum.propose(self.num_states)
        states = goals if self.goal_decoder is None else self.goal_decoder(goals)
        if states.shape[:1] != goals.shape[:1] or states.ndim != 2:
            raise ValueError(
                f"goal_decoder must turn {len(goals)} goals, shape {tuple(goals.shape)}, into "
                f"{len(goals)} state vectors, got shape {tuple(states.shape)}."
            )
        if not states.isfinite().all():
            raise ValueError("goal_decoder gave NaN or infinity; let it return states only.")

        # Drop goals inside walls.
        if self.is_valid is None:
            return self._end_states(states)
        valid = self.is_valid(states)
        if valid.shape != states.shape[:1]:
            raise ValueError(
                f"is_valid must return {len(states)} booleans, shape [{len(states)}], got shape "
                f"{tuple(valid.shape)}."
            )
        if not valid.any():
            goals = self.curriculum.gan.uniform(1_000)
            anywhere = goals if self.goal_decoder is None else self.goal_decoder(goals)
            if not self.is_valid(anywhere).any():  # the decoder is wrong, not the GAN
                raise ValueError(
                    "none of 1,000 goals has a valid state. Let goal_decoder return states of the "
                    "environment, in environment units, and is_valid judge those."
                )
        return self._end_states(states[valid])
