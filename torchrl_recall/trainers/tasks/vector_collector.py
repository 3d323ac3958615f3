"""Frames of several environments in this process, stepped together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv, VectorEnv
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import OneHot
from torchrl.envs import TransformedEnv

from torchrl_recall.trainers.tasks.acting import Policy
from torchrl_recall.trainers.tasks.new_episodes import NewEpisodes, env_seeds

__all__ = ["VectorCollector"]


class VectorCollector(NewEpisodes):
    """Collector of frames of several environments, with as few software layers as possible.

    The policy chooses all actions of a step together. The entries are those of
    :class:`~torchrl_recall.trainers.tasks.step_collector.StepCollector`, and ``is_init``, which
    marks the first step of an episode. Row i of each batch is environment i.

    Args:
        vector: environments of :func:`~torchrl_recall.trainers.tasks.vector_task.make_vector`.
        env: one such environment, for its specs.
        policy: function that chooses actions.

    Keyword Args:
        frames_per_batch: number of frames in each batch, of all environments together.
        total_frames: number of frames at which the collector ends.
        init_random_frames: number of frames with random actions at the beginning.
        seed: seed of the environments.
    """

    def __init__(
        self,
        vector: VectorEnv,
        env: TransformedEnv,
        policy: Policy,
        *,
        frames_per_batch: int,
        total_frames: int,
        init_random_frames: int,
        seed: int,
    ) -> None:
        self.vector, self.env, self.policy, self.seed = vector, env, policy, seed
        self.steps_per_batch = frames_per_batch // vector.num_envs
        self.total_frames, self.init_random_frames = total_frames, init_random_frames
        self._is_discrete = isinstance(env.action_spec_unbatched, OneHot)
        self.begin(0)

    def begin(self, frames: int) -> None:
        """Begin new episodes after a number of frames."""
        seeds: Any = env_seeds(self.seed, frames, self.vector.num_envs)
        if not isinstance(self.vector.unwrapped, SyncVectorEnv):
            seeds = seeds[0]  # a task's own vector version has one generator
        self._observation = self._observe(self.vector.reset(seed=seeds)[0])
        self._is_init = torch.ones(self.vector.num_envs, 1, dtype=torch.bool)
        self.frames = frames

    def collect(self) -> TensorDict | None:
        """Collect a batch of shape ``[num_envs, time]``, with the entries that losses read."""
        if self.frames >= self.total_frames:
            return None
        steps = [self._step() for _ in range(self.steps_per_batch)]
        return torch.stack(steps, 1)  # type: ignore[return-value]

    def _step(self) -> TensorDict:
        observation, num_envs = self._observation, self.vector.num_envs
        if self.frames < self.init_random_frames:
            action = self.env.action_spec_unbatched.rand((num_envs,))
        else:
            action = self.policy(observation)
        chosen = action.argmax(-1) if self._is_discrete else action
        seen, reward, terminated, truncated, infos = self.vector.step(chosen.cpu().numpy())
        self._observation = self._observe(seen)
        following, done = self._observation, terminated | truncated
        if done.any():  # the observation is then the first of the next episode
            following = following.clone()
            last = np.stack([np.asarray(infos["final_obs"][i]) for i in done.nonzero()[0]])
            following[torch.from_numpy(done)] = self._observe(last)
        data = {
            "observation": observation,
            "action": action,
            "is_init": self._is_init,
            "next": {
                "observation": following,
                "reward": torch.from_numpy(np.array(reward, np.float32)).unsqueeze(-1),
                "terminated": torch.from_numpy(terminated.copy()).unsqueeze(-1),
                "done": torch.from_numpy(done).unsqueeze(-1),
            },
        }
        self._is_init = data["next"]["done"]  # type: ignore[index]
        self.frames += num_envs
        return TensorDict(data, batch_size=[num_envs], device=self.env.device)

    def _observe(self, observation: np.ndarray) -> Tensor:
        return torch.from_numpy(observation.astype(np.float32)).to(self.env.device)

    def shutdown(self) -> None:
        """Close the environments."""
        if not self.env.is_closed:
            self.env.close()
            self.vector.close()
