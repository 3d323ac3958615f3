"""Evaluation by the mean return of whole episodes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import ExplorationType

from torchrl_recall.results.statistics import frames_to_target
from torchrl_recall.trainers.runs.parts import Evaluation
from torchrl_recall.trainers.schema import (
    DQNRecallConfig,
    OfflineRecallConfig,
    OnPolicyRecallConfig,
    SACRecallConfig,
)
from torchrl_recall.trainers.tasks.acting import make_policy
from torchrl_recall.trainers.tasks.gym import make_env, to_task
from torchrl_recall.trainers.tasks.vector_task import own_vector

__all__ = ["MeanReturn"]

_SEED_OFFSET = 1_000_000  # so that evaluation and training have different episodes


class MeanReturn(Evaluation):
    """Undiscounted returns of the deterministic policy in a separate environment.

    The same seed gives the same episodes at each evaluation, and random numbers of the run do not
    change. If Gymnasium has a vector version of a task with continuous actions, all episodes run at
    once.

    Args:
        actor: the policy.
        config: configuration with ``env``, ``eval``, ``seed`` and ``compile``.
        device: device of the policy.

    Keyword Args:
        clip_actions: whether actions are clipped, see
            :func:`~torchrl_recall.trainers.tasks.gym.make_env`.
    """

    def __init__(
        self,
        actor: TensorDictModuleBase,
        config: SACRecallConfig | OnPolicyRecallConfig | DQNRecallConfig | OfflineRecallConfig,
        device: torch.device,
        *,
        clip_actions: bool = False,
    ) -> None:
        super().__init__()
        self._make_env = partial(
            make_env,
            config.env.name,
            device,
            clip_actions=clip_actions,
            **config.env.making,
        )
        self.env = self._make_env()
        self.to_task = to_task(self.env)
        self.target = config.eval.target_return
        self.seed, self.num_episodes = config.seed + _SEED_OFFSET, config.eval.num_episodes
        self.max_steps, self._warned = config.eval.max_steps, False
        self.vector = None
        if not clip_actions:
            self.vector = own_vector(config.env.name, config.env.making, self.num_episodes)
        self.policy = make_policy(
            actor, ExplorationType.DETERMINISTIC, compile=bool(config.compile)
        )

    def watch(self, wrap: Callable[[gymnasium.Env], gymnasium.Env]) -> None:
        """From now on, evaluate one episode after the other in a task that can draw pictures.

        Args:
            wrap: function that wraps the task, whose ``render()`` returns a picture.

        Raises:
            ConfigError: the task cannot draw pictures.
        """
        env = self._make_env(render_mode="rgb_array")
        env.base_env._env = wrap(env.base_env._env)
        self.env, self.vector = env, None

    def evaluate(self) -> Tensor:
        """Compute the return of each episode, shape ``[num_episodes]``; empty after a signal."""
        if self.vector is not None:
            return self._evaluate_at_once(self.vector)
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

    def _evaluate_at_once(self, vector: VectorEnv) -> Tensor:
        observation, _ = vector.reset(seed=self.seed)
        returns, over = np.zeros(self.num_episodes), np.zeros(self.num_episodes, bool)
        steps = 0
        while not over.all() and not self._is_too_long(steps):
            states = torch.from_numpy(observation.astype(np.float32)).to(self.env.device)
            observation, reward, terminated, truncated, _ = vector.step(
                self.to_task(self.policy(states))
            )
            returns += np.where(over, 0.0, reward)
            over |= terminated | truncated
            steps += 1
            if self.is_stopped():
                return torch.zeros(0, dtype=torch.float64)
        return torch.from_numpy(returns)

    def frames_to_target(self) -> int | None:
        """Number of frames at the first of two evaluations in a row that reached the target."""
        if self.target is None:
            return None
        means = [float(result.double().mean()) for result in self.results]
        return frames_to_target(self.frames, means, self.target)

    @property
    def reached_target(self) -> bool:
        """Return whether the target was reached and ends the run."""
        return self.frames_to_target() is not None

    def finish(self, run_dir: Path) -> dict[str, int | None]:
        """Return frames to the target, if there is one."""
        return {} if self.target is None else {"frames_to_target": self.frames_to_target()}

    def _is_too_long(self, steps: int) -> bool:
        """Return whether an episode is too long, and warn once that it is cut."""
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
