"""Evaluation by the mean return of whole episodes."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import ExplorationType

from torchrl_recall.trainers.runs.parts import Evaluation
from torchrl_recall.trainers.schema import DQNRecallConfig, OnPolicyRecallConfig, SACRecallConfig
from torchrl_recall.trainers.tasks.collectors import make_policy
from torchrl_recall.trainers.tasks.gym import make_env, to_task

__all__ = ["MeanReturn"]

_SEED_OFFSET = 1_000_000  # keeps evaluation from the episodes that are trained on


class MeanReturn(Evaluation):
    """Undiscounted returns of the deterministic policy in a separate environment.

    The same seed starts the same episodes each time, and no random state outside is touched.

    Args:
        actor: the policy.
        config: ``env``, ``eval``, ``seed`` and ``compile``.
        device: where the policy is.

    Keyword Args:
        clip_actions: see :func:`~torchrl_recall.trainers.tasks.gym.make_env`.
    """

    def __init__(
        self,
        actor: TensorDictModuleBase,
        config: SACRecallConfig | OnPolicyRecallConfig | DQNRecallConfig,
        device: torch.device,
        *,
        clip_actions: bool = False,
    ) -> None:
        super().__init__()
        self.env = make_env(
            config.env.name,
            device,
            clip_actions=clip_actions,
            **config.env.making,
        )
        self.to_task = to_task(self.env)
        self.seed, self.num_episodes = config.seed + _SEED_OFFSET, config.eval.num_episodes
        self.max_steps, self._warned = config.eval.max_steps, False
        self.policy = make_policy(
            actor, ExplorationType.DETERMINISTIC, compile=bool(config.compile)
        )

    def evaluate(self) -> Tensor:
        """Return the return of each episode, ``[num_episodes]``; none if a signal cuts it short."""
        returns = []
        task = self.env.base_env._env
        for episode in range(self.num_episodes):
            observation, _ = task.reset(seed=self.seed if episode == 0 else None)
            total, steps, done = 0.0, 0, False
            while not done:
                state = torch.from_numpy(observation.astype(np.float32)).to(self.env.device)
                action = self.to_task(self.policy(state))
                observation, reward, terminated, truncated, _ = task.step(action)
                total, steps = total + float(reward), steps + 1
                done = terminated or truncated or self._is_too_long(steps)
                if self.is_stopped():
                    return torch.zeros(0, dtype=torch.float64)
            returns.append(total)
        return torch.tensor(returns, dtype=torch.float64)

    def _is_too_long(self, steps: int) -> bool:
        """Cut an episode of a task that may never end, and say so once."""
        if steps < self.max_steps:
            return False
        if not self._warned:
            warnings.warn(
                f"an evaluated episode has not ended within eval.max_steps={self.max_steps} steps; "
                "its return up to there counts. Give the task a time limit "
                "(gymnasium.register(..., max_episode_steps=...)), or raise eval.max_steps.",
                stacklevel=2,
            )
            self._warned = True
        return True
