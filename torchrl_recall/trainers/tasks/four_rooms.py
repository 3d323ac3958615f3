"""The four rooms of many seeds: environments, collection and exact evaluation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_recall.envs import FourRoomsEnv, Oracle
from torchrl_recall.recall import Recall
from torchrl_recall.seeds import (
    SeedStreams,
)
from torchrl_recall.trainers.hosts.a2c import A2C
from torchrl_recall.trainers.recall_like import RecallLike
from torchrl_recall.trainers.runs.atomic import write_text
from torchrl_recall.trainers.runs.parts import Evaluation
from torchrl_recall.trainers.schema.four_rooms import A2CRecallConfig
from torchrl_recall.trainers.schema.parts import ConfigError

__all__ = ["ExactReturns", "RolloutCollector", "make_four_rooms"]


class RolloutCollector:
    """Collector of rollouts of batched environments; each rollout continues the last one.

    Args:
        env: environment of batch shape ``[num_seeds, num_envs]``.
        a2c: the host, whose policy acts.
        config: configuration with ``collector``.
        streams: random numbers of the environments.
    """

    def __init__(
        self, env: FourRoomsEnv, a2c: A2C, config: A2CRecallConfig, streams: SeedStreams
    ) -> None:
        self.env, self.actor, self.streams = env, a2c.actor, streams
        self.frames_per_env = config.collector.frames_per_env
        self.total_frames = config.collector.total_frames
        self.frames = 0
        self._now = env.reset()

    def __iter__(self) -> Iterator[TensorDictBase]:
        while self.frames < self.total_frames:
            yield self.collect()

    @torch.no_grad()
    def collect(self) -> TensorDictBase:
        """Take steps of shape ``[num_seeds, num_envs, frames_per_env]``."""
        with set_exploration_type(ExplorationType.RANDOM):
            data = self.env.rollout(
                self.frames_per_env,
                self.actor,
                auto_reset=False,
                break_when_any_done=False,
                tensordict=self._now,
            )
        self._now = self.env.maybe_reset(self.env.step_mdp(data[..., -1]))
        self.frames += data.shape[1:].numel()  # frames of each seed
        return data

    def shutdown(self) -> None:
        """Close the environment."""
        if not self.env.is_closed:
            self.env.close()

    def state_dict(self) -> dict:
        """Return the state of each episode, and the environments' random numbers."""
        return {"now": self._now.clone(), "streams": self.streams.state_dict()}

    def load_state_dict(self, state: dict | None, frames: int) -> bool:
        """Restore :meth:`state_dict`; return whether episodes continue."""
        self.frames = frames
        if state is None:  # after an error new episodes begin
            return False
        self._now = state["now"].clone()
        self.streams.load_state_dict(state["streams"])
        return True


class ExactReturns(Evaluation):
    """Exact returns during training, as shares of the optimum.

    Args:
        a2c: the host.
        oracle: oracle of the task.
        config: configuration with ``eval`` and ``seeds``.
        recall: recall, whose backward policy is compared with the exact posterior in the log.
    """

    def __init__(
        self, a2c: A2C, oracle: Oracle, config: A2CRecallConfig, recall: RecallLike
    ) -> None:
        super().__init__()
        self.a2c, self.oracle, self.config, self.seeds = a2c, oracle, config.eval, config.seeds
        self.recall, self.optimum = recall, oracle.optimum

    def evaluate(self) -> Tensor:
        """Return each seed's expected return as a share of the optimum, shape ``[num_seeds]``."""
        return self.oracle.expected_return(self.a2c.policy_table()) / self.optimum

    @torch.no_grad()
    def metrics(self) -> dict[str, Tensor]:
        """Compare the backward policy with the exact posterior of the current policy.

        Returns:
            The mean of :meth:`Oracle.backward_policy_kl` over seeds with a success, in nats. Empty
            without a model or without a success.
        """
        if not isinstance(self.recall, Recall) or not (seen := self.recall.trajectories.seen).any():
            return {}
        posterior = self.oracle.posterior(self.a2c.policy_table())
        cells = self.a2c.every_cell()
        data = TensorDict({"next": cells}, batch_size=cells.shape)
        backward_policy = self.recall.model.backward_policy.get_dist(data).probs
        kl = self.oracle.backward_policy_kl(posterior, backward_policy)
        return {"backward_policy_kl": kl[seen].mean()}

    def frames_to_target(self) -> list[int | None]:
        """For each seed, the number of frames after which the target was reached and held."""
        if len(self.results) < self.config.patience:
            return [None] * len(self.seeds)
        there = torch.stack(self.results) >= self.config.target
        held = there.unfold(0, self.config.patience, 1).all(-1)  # [evaluations, num_seeds]
        return [
            self.frames[int(column.nonzero()[0])] if column.any() else None for column in held.T
        ]

    @property
    def reached_target(self) -> bool:
        """Return whether all seeds reached the target, if that ends the run."""
        return self.config.stop_at_target and None not in self.frames_to_target()

    def finish(self, run_dir: Path) -> dict[str, list[int | None]]:
        """Write ``returns.csv``, a row for each evaluation and seed; return frames to target."""
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(["frames", "seed", "return"])
        for frames, shares in zip(self.frames, self.results, strict=True):
            for seed, share in zip(self.seeds, shares.tolist(), strict=True):
                writer.writerow([frames, seed, round(share, 6)])
        write_text(run_dir / "returns.csv", table.getvalue())
        return {"frames_to_target": self.frames_to_target()}


def make_four_rooms(config: A2CRecallConfig, streams: SeedStreams) -> FourRoomsEnv:
    """Make the environments of all seeds.

    Args:
        config: configuration with ``env``, ``collector`` and ``seeds``.
        streams: random numbers of the environments.

    Returns:
        An environment of batch shape ``[num_seeds, num_envs]``.

    Raises:
        ConfigError: the task cannot be built.
    """
    env = config.env
    goal: Any = None if env.goal is None else tuple(env.goal)
    start: Any = env.start if isinstance(env.start, str) else tuple(env.start)
    try:
        return FourRoomsEnv(
            env.size,
            start=start,
            goal=goal,
            slip=env.slip,
            max_steps=env.max_steps,
            batch_size=[len(config.seeds), config.collector.num_envs],
            streams=streams,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"env: {error}") from error
