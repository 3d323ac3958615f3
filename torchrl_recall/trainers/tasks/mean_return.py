"""Evaluation by the mean return of whole episodes."""

from __future__ import annotations

import numpy as np
import torch
from tensordict.nn import ProbabilisticTensorDictSequential
from torch import Tensor
from torchrl.envs import ExplorationType

from torchrl_recall.trainers.runs.parts import Evaluation
from torchrl_recall.trainers.schema import OnPolicyRecallConfig, SACRecallConfig
from torchrl_recall.trainers.tasks.collectors import make_policy
from torchrl_recall.trainers.tasks.gym import make_env

__all__ = ["MeanReturn"]

_SEED_OFFSET = 1_000_000  # keeps evaluation from the episodes that are trained on


class MeanReturn(Evaluation):
    """Undiscounted returns of the deterministic policy in an environment of their own.

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
        actor: ProbabilisticTensorDictSequential,
        config: SACRecallConfig | OnPolicyRecallConfig,
        device: torch.device,
        *,
        clip_actions: bool = False,
    ) -> None:
        super().__init__()
        self.env = make_env(config.env.name, device, clip_actions=clip_actions)
        self.seed, self.num_episodes = config.seed + _SEED_OFFSET, config.eval.num_episodes
        self.policy = make_policy(
            actor, ExplorationType.DETERMINISTIC, compile=bool(config.compile)
        )

    def evaluate(self) -> Tensor:
        """Return one return for each episode, ``[num_episodes]``."""
        returns = []
        task = self.env.base_env._env
        for episode in range(self.num_episodes):
            observation, _ = task.reset(seed=self.seed if episode == 0 else None)
            total, done = 0.0, False
            while not done:
                state = torch.from_numpy(observation.astype(np.float32)).to(self.env.device)
                action = self.policy(state).cpu().numpy()
                observation, reward, terminated, truncated, _ = task.step(action)
                total += float(reward)
                done = terminated or truncated
            returns.append(total)
        return torch.tensor(returns, dtype=torch.float64)
