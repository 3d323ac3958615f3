"""Frames of one environment, stepped directly."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs import TransformedEnv

from torchrl_recall.modules.policies import uniform_actions
from torchrl_recall.trainers.tasks.acting import Policy
from torchrl_recall.trainers.tasks.gym import to_task
from torchrl_recall.trainers.tasks.task_state import env_state_dict, load_env_state_dict

__all__ = ["RandomPhase", "StepCollector"]

# Number of frames without a positive reward after which a warning is given.
_LONG = 20_000


class RandomPhase:
    """Phase of random actions until a reward is positive, with separate random numbers.

    The state is saved separately from that of the episode, which is not saved after an error.

    Args:
        seed: seed of the random numbers.
    """

    def __init__(self, seed: int) -> None:
        self.waits, self.generator = True, torch.Generator().manual_seed(seed)

    def observe(self, reward: float, frames: int) -> None:
        """End the phase at a positive reward; warn once if there was none for long.

        Args:
            reward: reward of the newest step.
            frames: number of frames so far.
        """
        if self.waits and frames == _LONG:
            warnings.warn(
                f"no reward was positive in {frames:,} frames, and until then actions are random; "
                "where rewards are never positive, take collector.random_until_reward=false.",
                stacklevel=2,
            )
        self.waits = self.waits and not reward > 0

    def state_dict(self) -> dict:
        """Return whether the phase goes on, and the state of the random numbers."""
        return {"waits": self.waits, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.waits = state["waits"]
        self.generator.set_state(state["generator"])


class StepCollector:
    """Collector of frames of one environment, with as few software layers as possible.

    TorchRL's collector takes some milliseconds for each batch of any size, which is slow if every
    frame is a batch. This one steps the Gymnasium task directly, and returns only those entries of
    TorchRL's that losses, filters and models read. It can save and continue a MuJoCo episode.

    Args:
        env: environment of :func:`~torchrl_recall.trainers.tasks.gym.make_env`.
        policy: function that chooses actions.

    Keyword Args:
        frames_per_batch: number of frames in each batch.
        total_frames: number of frames at which the collector ends.
        init_random_frames: number of frames with random actions at the beginning.
        random_until_reward: whether actions stay random after that until a reward is positive.
            Random actions then use separate random numbers. All methods with the same seed
            therefore find the reward in the same step.
        seed: seed of these separate random numbers.
    """

    def __init__(
        self,
        env: TransformedEnv,
        policy: Policy,
        *,
        frames_per_batch: int,
        total_frames: int,
        init_random_frames: int,
        random_until_reward: bool = False,
        seed: int = 0,
    ) -> None:
        self.env = env
        self.policy = policy
        self.frames_per_batch = frames_per_batch
        self.total_frames = total_frames
        self.init_random_frames = init_random_frames
        self.random_phase = RandomPhase(seed) if random_until_reward else None
        self.frames = 0
        self._task, self._to_task = env.base_env._env, to_task(env)
        self._observation: Tensor
        self.begin_episode()

    def __iter__(self) -> Iterator[TensorDict]:
        while self.frames < self.total_frames:
            yield self.collect()

    def collect(self) -> TensorDict:
        """Collect a batch of shape ``[frames_per_batch]``, with the entries that losses read."""
        steps = [self._step() for _ in range(self.frames_per_batch)]
        observation, action, following, *flags = zip(*steps, strict=True)
        reward, terminated, truncated = (torch.tensor(flag).unsqueeze(-1) for flag in flags)
        data = {
            "observation": torch.stack(observation),
            "action": torch.stack(action),
            "next": {
                "observation": torch.stack(following),
                "reward": reward.float(),
                "terminated": terminated,
                "done": terminated | truncated,
            },
        }
        return TensorDict(data, batch_size=[self.frames_per_batch], device=self.env.device)

    def _step(self) -> tuple[Tensor, Tensor, Tensor, float, bool, bool]:
        observation = self._observation
        if self.frames < self.init_random_frames or (
            self.random_phase is not None and self.random_phase.waits
        ):
            action = self._random_action()
        else:
            action = self.policy(observation)
        following, reward, terminated, truncated, _ = self._task.step(self._to_task(action))
        following = self._observe(following)
        done = terminated or truncated
        self._observation = self._observe(self._task.reset()[0]) if done else following
        self.frames += 1
        if self.random_phase is not None:
            self.random_phase.observe(float(reward), self.frames)
        return observation, action, following, float(reward), bool(terminated), bool(truncated)

    def _random_action(self) -> Tensor:
        if self.random_phase is None:
            return self.env.action_spec.rand()
        spec = self.env.action_spec_unbatched.to("cpu")
        action = uniform_actions(spec, 1, generator=self.random_phase.generator)[0]
        return action.to(self.env.device)

    def _observe(self, observation: np.ndarray) -> Tensor:
        return torch.from_numpy(observation.astype(np.float32)).to(self.env.device)

    def begin_episode(self) -> None:
        """Reset the task, also in mid-episode."""
        self._observation = self._observe(self._task.reset()[0])

    def shutdown(self) -> None:
        """Close the environment."""
        if not self.env.is_closed:
            self.env.close()

    def state_dict(self) -> dict:
        """Return the state of the episode and of the environment."""
        return {"observation": self._observation, "env": env_state_dict(self.env)}

    def more_state(self) -> dict[str, RandomPhase]:
        """Name the parts that are saved even if the episode cannot continue."""
        return {} if self.random_phase is None else {"random_phase": self.random_phase}

    def load_state_dict(self, state: dict | None, frames: int) -> bool:
        """Restore :meth:`state_dict`.

        The episode continues unless the task cannot be saved or had returned NaN. In these cases a
        new episode begins.

        Args:
            state: the saved state; None after an error, to begin a new episode.
            frames: number of frames so far.

        Returns:
            Whether the episode continues.
        """
        self.frames = frames
        if state is None or not state["observation"].isfinite().all():
            warnings.warn("the saved episode ended in an error; a new one begins.", stacklevel=2)
            return False
        if not load_env_state_dict(self.env, state["env"]):
            if state["env"] is not None:  # the environment may be partly restored
                self.begin_episode()
            return False
        self._observation = state["observation"].to(self.env.device)
        return True
