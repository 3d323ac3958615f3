"""Parts of the offline recipe: a data set as experience, and gradient steps instead of frames."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import LazyTensorStorage, ReplayBuffer, TensorSpec
from torchrl.envs import TransformedEnv

from torchrl_recall.data.data_sets import DataSetError, read_data_set
from torchrl_recall.stateful import Part
from torchrl_recall.trainers.hosts.offline import OfflineHost
from torchrl_recall.trainers.runs import process
from torchrl_recall.trainers.runs.parts import Parts
from torchrl_recall.trainers.schema import ConfigError, OfflineRecallConfig
from torchrl_recall.trainers.tasks.gym import DivergenceError

__all__ = ["GradientSteps", "OfflineParts", "check_losses", "load_data_set"]


def load_data_set(
    config: OfflineRecallConfig, env: TransformedEnv, device: torch.device
) -> ReplayBuffer:
    """Read the data set that ``data_set`` names into a replay buffer.

    If ``data_set`` is empty, the buffer has one row of zeros. This is enough to restore networks.

    Args:
        config: configuration with ``data_set`` and ``env``.
        env: environment that gives the specs.
        device: device of the stored transitions.

    Returns:
        The buffer.

    Raises:
        ConfigError: there is no data set, or it is of another task.
    """
    specs = env.observation_spec_unbatched["observation"], env.action_spec_unbatched
    if not config.data_set:
        return _buffer(_zeros(*specs).to(device), device)
    try:
        data = read_data_set(config.data_set, *specs, observation_keys=config.env.observation_keys)
    except DataSetError as error:
        raise ConfigError(f"data_set={config.data_set}: {error}") from error
    return _buffer(data.select("observation", "action", "next").reshape(-1).to(device), device)


def _zeros(observation_spec: TensorSpec, action_spec: TensorSpec) -> TensorDict:
    state, flag = observation_spec.zero(), torch.zeros(1, dtype=torch.bool)
    following = {"observation": state, "reward": torch.zeros(1), "terminated": flag, "done": flag}
    data = TensorDict({"observation": state, "action": action_spec.zero(), "next": following})
    return data.unsqueeze(0)


def _buffer(rows: TensorDictBase, device: torch.device) -> ReplayBuffer:
    storage = LazyTensorStorage(len(rows), device=device)
    buffer = ReplayBuffer(storage=storage)
    buffer.extend(rows)
    return buffer


class _Fingerprint:
    """Checksum of a data set, which a run saves instead of the data."""

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.buffer = buffer

    def state_dict(self) -> dict:
        """Return a checksum of all rows."""
        digest, rows = hashlib.sha256(), self.buffer.storage[: len(self.buffer)]
        for key in sorted(rows.keys(True, True), key=str):
            digest.update(str(key).encode())
            digest.update(rows.get(key).cpu().contiguous().numpy().tobytes())
        return {"sha256": digest.hexdigest()}

    def load_state_dict(self, state: dict) -> None:
        """Refuse to resume with other data.

        Raises:
            ConfigError: the data set has changed.
        """
        if state != self.state_dict():
            raise ConfigError(
                "data_set has changed since the run was saved. Restore it, or choose another "
                "run_dir."
            )


@dataclass
class OfflineParts(Parts[OfflineHost]):
    """Parts of a recipe whose experience is a data set; see :class:`Parts`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fingerprint = _Fingerprint(self.replay_buffer)

    def stateful(self) -> dict[str, Part]:
        """Name the parts whose state a resumed run needs, with a checksum of the data set."""
        return super().stateful() | {"replay_buffer": self._fingerprint}


class GradientSteps:
    """Source of a run that collects nothing, with gradient steps instead of frames.

    Args:
        env: environment for evaluation, which is closed at the end.
        config: configuration with ``collector``.
    """

    def __init__(self, env: TransformedEnv, config: OfflineRecallConfig) -> None:
        self.env, self.frames = env, 0
        self.total_frames = config.collector.total_frames
        self.frames_per_batch = config.collector.frames_per_batch
        learns = config.recall.method == "recall"
        self.num_first = config.backtracking.num_updates if learns else 0

    def __iter__(self) -> Iterator[TensorDictBase]:
        if self.num_first and not self.frames:
            process.say(f"models learn first, {self.num_first:,} steps each, for some minutes")
        while (left := self.total_frames - self.frames) > 0:
            num = min(self.frames_per_batch, left)
            self.frames += num
            yield TensorDict({}, batch_size=[num])

    def shutdown(self) -> None:
        """Close the environment."""
        if not self.env.is_closed:
            self.env.close()

    def state_dict(self) -> dict:
        """Return an empty state, because there are no episodes."""
        return {}

    def load_state_dict(self, state: dict | None, frames: int) -> bool:
        """Set the number of steps; return True, because no episode was cut."""
        self.frames = frames
        return True


def check_losses(losses: Mapping[str, torch.Tensor], steps: int) -> None:
    """Stop the run if a loss is NaN or infinite.

    Args:
        losses: losses of the newest gradient step, or of recall's models.
        steps: number of gradient steps so far.

    Raises:
        DivergenceError: a loss is not finite; the message names it.
    """
    for name, loss in losses.items():
        if not math.isfinite(float(loss.float().mean())):
            raise DivergenceError(
                f"{name} is {float(loss.float().mean())} within the steps after step {steps}: "
                "training has diverged, so nothing was saved. Lower the host's lr (backtracking.lr "
                "for a loss of recall's models), or mend the data set's rewards."
            )
