"""Tasks with delayed rewards."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium

__all__ = ["DelayedReward"]


class DelayedReward(gymnasium.Wrapper):
    """Wrapper that pays the sum of rewards every n steps, or at the end of the episode.

    The return of an episode does not change. Imitation of good experience helps most in such tasks:
    Oh et al. (*Self-Imitation Learning*, 2018) used n = 20.

    Args:
        env: the task.
        delay: n, the number of steps, or ``"end"``.

    Examples:
        >>> import gymnasium
        >>> from torchrl_recall.trainers.tasks.delayed_reward import DelayedReward
        >>> task = DelayedReward(gymnasium.make("CartPole-v1"), 3)   # a reward of 1 in each step
        >>> _ = task.reset(seed=0)
        >>> [task.step(action)[1] for action in (0, 1, 0, 1, 0, 1)]
        [0.0, 0.0, 3.0, 0.0, 0.0, 3.0]
    """

    def __init__(self, env: gymnasium.Env, delay: int | Literal["end"]) -> None:
        super().__init__(env)
        self.delay, self.owed, self.count = delay, 0.0, 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        """Begin an episode, without unpaid rewards."""
        self.owed, self.count = 0.0, 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Take a step, and pay the sum of rewards if it is due."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.owed, self.count = self.owed + float(reward), self.count + 1
        is_time = terminated or truncated
        if self.delay != "end":
            is_time = is_time or self.count % self.delay == 0
        paid = self.owed if is_time else 0.0
        if is_time:
            self.owed = 0.0
        return observation, paid, terminated, truncated, info
