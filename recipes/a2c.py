"""The host of the four-room recipe, for many seeds at once."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import Composite
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.modules import ActorValueOperator, ProbabilisticActor, ValueOperator
from torchrl.objectives import A2CLoss
from torchrl.objectives.value import GAE

from torchrl_recall.envs import FourRoomsEnv, Oracle
from torchrl_recall.recipes.schema import A2CRecallConfig, ConfigError
from torchrl_recall.seeds import (
    SeededCategorical,
    SeedStreams,
    StackedEmbedding,
    StackedLinear,
    clip_grad_norm_per_seed_,
)

__all__ = ["A2C", "Evaluation", "RolloutCollector", "adam", "make_four_rooms"]


def adam(params: Iterable, lr: float) -> torch.optim.Adam:
    """Adam for stacked seeds.

    Its fused step rounds the last few entries of a tensor in another way than those before them,
    so that a seed would depend on its company.
    """
    return torch.optim.Adam(params, lr=lr, foreach=True)


class A2C:
    """Actor-critic of stacked seeds; ``update`` is lines 6 and 7 of Alg. 1.

    Args:
        env: of shape ``[num_seeds, num_envs]``.
        config: ``a2c``, ``optim`` and ``seeds``.
    """

    def __init__(self, env: FourRoomsEnv, config: A2CRecallConfig) -> None:
        self.num_seeds, self.num_cells = len(config.seeds), env.layout.num_cells
        self.max_grad_norm = config.a2c.max_grad_norm
        init, act = (SeedStreams(config.seeds, stream=name) for name in ("init", "act"))
        self.streams = act
        hidden = config.a2c.num_cells
        body = nn.Sequential(
            StackedEmbedding(self.num_seeds, [self.num_cells], hidden, rand=init.rand), nn.ReLU()
        )
        heads = [
            StackedLinear(self.num_seeds, hidden, outputs, rand=init.rand) for outputs in (4, 1)
        ]
        for parameter in (p for head in heads for p in head.parameters()):
            nn.init.zeros_(parameter)  # so that nothing but entropy acts before the first reward
        common = TensorDictModule(body, ["observation"], ["hidden"])
        policy = ProbabilisticActor(
            TensorDictModule(heads[0], ["hidden"], ["logits"]),
            in_keys=["logits"],
            spec=Composite(action=env.action_spec),
            distribution_class=SeededCategorical,
            distribution_kwargs={"rand": act.rand},
        )
        operator = ActorValueOperator(common, policy, ValueOperator(heads[1], ["hidden"]))
        self.actor = operator.get_policy_operator()
        self.critic = operator.get_value_operator()
        self.gae = GAE(gamma=config.a2c.gamma, lmbda=config.a2c.lmbda, value_network=None)
        self.loss_module = A2CLoss(
            self.actor,
            self.critic,
            entropy_coeff=config.a2c.entropy_coeff,
            critic_coeff=config.a2c.critic_coeff,
            loss_critic_type="l2",
            reduction="none",
        )
        self.parameters = list(self.loss_module.parameters())
        self.optimizer = adam(self.parameters, config.optim.lr)

    @torch.no_grad()
    def evaluate(self, data: TensorDictBase) -> None:
        """Write values of the states and of those that followed."""
        self.critic(data)
        self.critic(data["next"])

    def update(self, data: TensorDictBase) -> None:
        """One step on new experience of shape ``[num_seeds, num_envs, time]``."""
        self.evaluate(data)
        self.step(self.gae(data))

    def step(self, data: TensorDictBase, weight: Tensor | None = None) -> None:
        """One gradient step on data with advantages, each seed on the mean of its own.

        Args:
            data: shape ``[num_seeds, ...]``.
            weight: of each transition; one by default.
        """
        losses = self.loss_module(data)
        total = sum(value for key, value in losses.items() if key.startswith("loss_"))
        total = total if weight is None else total * weight
        self.optimizer.zero_grad()
        total.flatten(1).mean(1).sum().backward()
        clip_grad_norm_per_seed_(self.parameters, self.max_grad_norm)
        self.optimizer.step()

    def every_cell(self) -> TensorDict:
        """All cells, shape ``[num_seeds, num_cells]``."""
        cells = torch.arange(self.num_cells).expand(self.num_seeds, -1)
        return TensorDict({"observation": cells}, batch_size=cells.shape)

    @torch.no_grad()
    def policy_table(self) -> Tensor:
        """π(a|s), shape ``[num_seeds, num_cells, 4]``."""
        return self.actor.get_dist(self.every_cell()).probs

    @torch.no_grad()
    def value_table(self) -> Tensor:
        """V(s), shape ``[num_seeds, num_cells]``."""
        return self.critic(self.every_cell())["state_value"].squeeze(-1)

    def state_dict(self) -> dict:
        """Weights, optimiser and the policy's random numbers."""
        return {
            "loss": self.loss_module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "streams": self.streams.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.loss_module.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.streams.load_state_dict(state["streams"])


class RolloutCollector:
    """Rollouts of batched environments, which go on where they stopped.

    Args:
        env: of shape ``[num_seeds, num_envs]``.
        a2c: acts.
        config: ``collector``.
        streams: the environments' random numbers.
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
        """Steps of shape ``[num_seeds, num_envs, frames_per_env]``."""
        with set_exploration_type(ExplorationType.RANDOM):
            data = self.env.rollout(
                self.frames_per_env,
                self.actor,
                auto_reset=False,
                break_when_any_done=False,
                tensordict=self._now,
            )
        self._now = self.env.maybe_reset(self.env.step_mdp(data[..., -1]))
        self.frames += self.frames_of(data)
        return data

    def frames_of(self, data: TensorDictBase) -> int:
        """Frames of each seed."""
        return data.shape[1:].numel()

    def shutdown(self) -> None:
        """Close the environment."""
        if not self.env.is_closed:
            self.env.close()

    def state_dict(self) -> dict:
        """Where each episode is, and the environments' random numbers."""
        return {"now": self._now.clone(), "streams": self.streams.state_dict()}

    def load_state_dict(self, state: dict | None, frames: int) -> bool:
        """Restore :meth:`state_dict`; returns True, for all episodes go on."""
        assert state is not None
        self._now = state["now"].clone()
        self.streams.load_state_dict(state["streams"])
        self.frames = frames
        return True


class Evaluation:
    """Exact returns during training, as shares of the optimum.

    Args:
        a2c: the host.
        oracle: of its task.
        config: ``eval`` and ``seeds``.
    """

    def __init__(self, a2c: A2C, oracle: Oracle, config: A2CRecallConfig) -> None:
        self.a2c, self.oracle, self.config, self.seeds = a2c, oracle, config.eval, config.seeds
        self.optimum = oracle.optimum
        self.frames: list[int] = []
        self.returns: list[Tensor] = []  # each of shape [num_seeds]

    def __call__(self, frames: int) -> Tensor:
        """Evaluate, and return each seed's share of the optimal return."""
        share = self.oracle.expected_return(self.a2c.policy_table()) / self.optimum
        self.frames.append(frames)
        self.returns.append(share)
        return share

    def frames_to_target(self) -> list[int | None]:
        """For each seed the first frames at which the target was reached and held."""
        if len(self.returns) < self.config.patience:
            return [None] * len(self.seeds)
        there = torch.stack(self.returns) >= self.config.target
        held = there.unfold(0, self.config.patience, 1).all(-1)  # [evaluations, num_seeds]
        return [
            self.frames[int(column.nonzero()[0])] if column.any() else None for column in held.T
        ]

    @property
    def all_there(self) -> bool:
        """Whether every seed has reached the target."""
        return None not in self.frames_to_target()

    def write(self, path: Path) -> None:
        """Write a row for each evaluation and seed."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["frames", "seed", "return"])
            for frames, shares in zip(self.frames, self.returns, strict=True):
                for seed, share in zip(self.seeds, shares.tolist(), strict=True):
                    writer.writerow([frames, seed, round(share, 6)])

    def state_dict(self) -> dict:
        """All evaluations."""
        return {"frames": list(self.frames), "returns": list(self.returns)}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.frames, self.returns = list(state["frames"]), list(state["returns"])


def make_four_rooms(config: A2CRecallConfig, streams: SeedStreams) -> FourRoomsEnv:
    """The environments of all seeds.

    Raises:
        ConfigError: the task cannot be built.
    """
    env = config.env
    start: Any = env.start if isinstance(env.start, str) else tuple(env.start)
    try:
        return FourRoomsEnv(
            env.size,
            start=start,
            goal=None if env.goal is None else tuple(env.goal),
            slip=env.slip,
            max_steps=env.max_steps,
            batch_size=[len(config.seeds), config.collector.num_envs],
            streams=streams,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"env: {error}") from error
