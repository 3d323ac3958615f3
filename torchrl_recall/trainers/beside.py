"""What may learn beside the host of the four-room recipe: recall, and its controls."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import LazyTensorStorage, ReplayBuffer, TensorDictPrioritizedReplayBuffer

from torchrl_recall import (
    BacktrackingLoss,
    ConfidentSteps,
    ImitationLoss,
    LoopErasure,
    RecallTraceGenerator,
)
from torchrl_recall.data.buffer_state import (
    load_replay_buffer_state_dict,
    replay_buffer_state_dict,
)
from torchrl_recall.envs import DisplacementPredictor, FourRoomsEnv, Oracle, four_rooms_model
from torchrl_recall.seeds import SeedStreams, StackedMLP
from torchrl_recall.seeds.recent_successes import RecentSuccesses
from torchrl_recall.trainers.hosts.a2c import A2C, adam
from torchrl_recall.trainers.schema.four_rooms import A2CRecallConfig

__all__ = ["Beside", "PrioritizedReplay", "Recall", "SelfImitation", "make_beside"]


class Beside(ABC):
    """What learns beside the host, after each of its updates."""

    @abstractmethod
    def extend(self, data: TensorDictBase) -> None:
        """Take new experience in; Alg. 1, line 5."""

    @abstractmethod
    def step(self, frames: int) -> None:
        """Learn, after so many frames of each seed."""

    def metrics(self, oracle: Oracle) -> dict[str, Tensor]:
        """What the log shows of it."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict:
        """What a resumed run needs."""

    @abstractmethod
    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""


class Imitation(Beside):
    """Imitates pairs that a subclass offers; lines 12 and 13.

    With the gate a seed without a success yet takes no part: before the first reward nothing is
    known to be good.

    Args:
        a2c: the host.
        config: ``recall``, ``backtracking`` and ``seeds``.
    """

    def __init__(self, a2c: A2C, config: A2CRecallConfig) -> None:
        self.recall, self.backtracking = config.recall, config.backtracking
        self.num_seeds = len(config.seeds)
        self.streams = SeedStreams(config.seeds, stream="recall")
        self.successes = RecentSuccesses(
            self.num_seeds,
            config.collector.num_envs,
            self.backtracking.num_trajectories,
            self.backtracking.trajectory_length,
            streams=self.streams,
        )
        self.loss = ImitationLoss(a2c.actor, reduction="none")
        self.optimizer = adam(self.loss.parameters(), self.recall.lr)
        self.filters: list[TensorDictModuleBase] = []
        if self.recall.loop_erasure:
            self.filters.append(LoopErasure())
        self.iterations = 0

    def extend(self, data: TensorDictBase) -> None:
        """Take new experience in; line 5."""
        self.successes.extend(data)

    @abstractmethod
    def pairs(self) -> TensorDictBase:
        """Traces of shape ``[num_seeds * num_traces, trace_length]``, seed by seed."""

    def train(self) -> None:
        """Train what makes the pairs; lines 8 and 9."""

    def step(self, frames: int) -> None:
        """Learn, after so many frames of each seed."""
        self.iterations += 1
        end = self.recall.anneal_frames
        share = 1.0 if end is None else max(0.0, 1.0 - frames / end)
        if not share:
            return
        self.train()
        if self.iterations % self.recall.interval:
            return
        self.optimizer.param_groups[0]["lr"] = share * self.recall.lr
        traces = self.pairs()
        for keep in self.filters:
            traces = keep(traces)
        traces = traces.reshape(self.num_seeds, -1)
        for _ in range(self.recall.num_updates):
            self.imitate(self.draw(traces))

    def draw(self, traces: TensorDictBase) -> TensorDictBase:
        """A batch of each seed's pairs that the mask leaves, shape ``[num_seeds, batch_size]``."""
        mask = traces.get("mask", None)
        if mask is None:
            mask = torch.ones(traces.shape, dtype=torch.bool)
        rank = mask.cumsum(1)
        draw = self.streams.rand((self.num_seeds, self.recall.batch_size)) * rank[:, -1:]
        index = torch.searchsorted(rank, draw.long() + 1).clamp(max=traces.shape[1] - 1)
        batch = traces.select("observation", "action")[torch.arange(self.num_seeds)[:, None], index]
        takes_part = mask.any(1)
        if self.recall.gate:
            takes_part = takes_part & self.successes.seen
        return batch.set("weight", takes_part.unsqueeze(1).expand(batch.shape).float())

    def imitate(self, batch: TensorDictBase) -> None:
        """A step of Eq. 3 on each seed's batch."""
        losses = self.loss(batch)["loss_imitation"] * batch["weight"]
        self.optimizer.zero_grad()
        losses.mean(1).sum().backward()
        self.optimizer.step()

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        return {
            "successes": self.successes.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "streams": self.streams.state_dict(),
            "iterations": self.iterations,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.successes.load_state_dict(state["successes"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.streams.load_state_dict(state["streams"])
        self.iterations = state["iterations"]


class SelfImitation(Imitation):
    """The control without a model: real successes."""

    def pairs(self) -> TensorDictBase:
        """Traces of shape ``[num_seeds * num_traces, trace_length]``, seed by seed."""
        return self.successes.sample(self.recall.num_traces).reshape(-1, self.successes.length)


class Recall(Imitation):
    """Recall traces from the goal, of an exact or a learned model."""

    def __init__(self, a2c: A2C, config: A2CRecallConfig, env: FourRoomsEnv) -> None:
        super().__init__(a2c, config)
        cells, hidden = env.layout.num_cells, self.backtracking.num_cells
        init = SeedStreams(config.seeds, stream="backtracking")
        backward_policy = StackedMLP(self.num_seeds, [cells], hidden, 4, rand=init.rand)
        self.learned = self.backtracking.dynamics == "learned"
        network = StackedMLP(self.num_seeds, [4, cells], hidden, cells, zero=True, rand=init.rand)
        predictor = DisplacementPredictor(network, cells)
        layout, rand = env.layout, self.streams.rand
        self.model = traced = four_rooms_model(
            layout,
            backward_policy,
            predictor if self.learned else None,
            smoothing=0.0 if self.learned else self.backtracking.smoothing,
            rand=rand,
        )
        if self.recall.min_probability is not None:
            self.known = torch.zeros(self.num_seeds, cells, 4, dtype=torch.bool)
            traced = four_rooms_model(
                layout,
                backward_policy,
                predictor,
                possible=self.known,
                smoothing=self.backtracking.smoothing,
                rand=rand,
            )
            self.filters.append(ConfidentSteps(traced, self.recall.min_probability))
        self.predictor = predictor
        self.generator = RecallTraceGenerator(
            traced, trace_length=self.recall.trace_length, num_traces=self.recall.num_traces
        )
        self.model_loss = BacktrackingLoss(self.model, reduction="none")
        groups = [{"params": list(backward_policy.parameters()), "lr": self.backtracking.lr}]
        if self.learned:
            groups.append(
                {"params": list(predictor.parameters()), "lr": self.backtracking.state_lr}
            )
        self.model_optimizer = adam(groups, self.backtracking.lr)
        self.transitions = ReplayBuffer(storage=LazyTensorStorage(self.backtracking.buffer_size))
        self.a2c = a2c
        self.visited = torch.zeros(self.num_seeds, cells, dtype=torch.bool)

    def extend(self, data: TensorDictBase) -> None:
        """Take new experience in; line 5."""
        super().extend(data)
        self.visited.scatter_(1, data["next", "observation"].flatten(1), True)
        if self.learned:
            steps = data.select(*self.successes.keys).flatten(1).transpose(0, 1)
            self.transitions.extend(steps)  # [time, num_seeds]

    def train(self) -> None:
        """Train the model on successes, and on all experience; lines 8 and 9."""
        weight = self.successes.seen.float()
        for _ in range(self.backtracking.num_updates):
            top = self.successes.sample_transitions(self.backtracking.batch_size)
            losses = self.model_loss.backward_policy_loss(top.exclude("mask")).mean(1) * weight
            if self.learned:
                losses = losses + self.model_loss.state_predictor_loss(self.everything()).mean(1)
            self.model_optimizer.zero_grad()
            losses.sum().backward()
            self.model_optimizer.step()

    def everything(self) -> TensorDictBase:
        """A batch of each seed's transitions."""
        shape = (self.num_seeds, self.backtracking.state_batch_size)
        index = (self.streams.rand(shape) * len(self.transitions)).long()
        return self.transitions[:][index, torch.arange(self.num_seeds).unsqueeze(1)]

    def high_value_states(self) -> TensorDict:
        """Where traces end, one state for each seed; line 10."""
        if self.recall.high_value_states == "value":
            value = self.a2c.value_table().masked_fill(~self.visited, -torch.inf)
            states = value.argmax(1)
        else:
            ends = self.successes.sample(1)["next", "observation"][:, 0, -1]
            # Others take no part, but need a state that has predecessors.
            states = torch.where(self.successes.seen, ends, self.visited.int().argmax(1))
        return TensorDict({"observation": states}, [self.num_seeds])

    @torch.no_grad()
    def find_known_actions(self, min_probability: float) -> None:
        """Let traces take the actions whose predecessor the model is sure of."""
        cell, action = torch.meshgrid(*map(torch.arange, self.known.shape[1:]), indexing="ij")
        pairs = (x.expand(self.known.shape) for x in (action, cell))
        log_prob, predecessor = self.predictor(*pairs).log_softmax(-1).max(-1)
        visited = self.visited.gather(1, predecessor.flatten(1)).reshape(predecessor.shape)
        torch.logical_and(log_prob >= math.log(min_probability), visited, out=self.known)

    def pairs(self) -> TensorDictBase:
        """Traces of shape ``[num_seeds * num_traces, trace_length]``, seed by seed."""
        if self.recall.min_probability is not None:
            self.find_known_actions(self.recall.min_probability)
        traces = self.generator(self.high_value_states())  # line 11
        if self.recall.high_value_states == "rewarded":
            takes_part = self.successes.seen.repeat_interleave(self.recall.num_traces)
            traces["mask"] = takes_part.unsqueeze(1).expand(traces.shape)
        return traces

    @torch.no_grad()
    def metrics(self, oracle: Oracle) -> dict[str, Tensor]:
        """How far the backward policy is from the exact posterior of the policy as it is.

        The mean over seeds with a success of :meth:`Oracle.backward_policy_kl`.
        """
        seen = self.successes.seen
        if not seen.any():
            return {}
        posterior = oracle.posterior(self.a2c.policy_table())
        cells = self.a2c.every_cell()
        data = TensorDict({"next": cells}, batch_size=cells.shape)
        backward_policy = self.model.backward_policy.get_dist(data).probs
        kl = oracle.backward_policy_kl(posterior, backward_policy)
        return {"backward_policy_kl": kl[seen].mean()}

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        return super().state_dict() | {
            "model": self.model.state_dict(),
            "model_optimizer": self.model_optimizer.state_dict(),
            "visited": self.visited.clone(),
            "transitions": replay_buffer_state_dict(self.transitions),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        self.model.load_state_dict(state["model"])
        self.model_optimizer.load_state_dict(state["model_optimizer"])
        self.visited = state["visited"].clone()
        load_replay_buffer_state_dict(self.transitions, state["transitions"])


class PrioritizedReplay(Beside):
    r"""Actor-critic steps on replayed transitions, drawn by their temporal-difference error.

    .. math:: \delta = r + \gamma V(s') - V(s), \qquad p \propto (|\delta| + \epsilon)^\alpha

    The advantage is :math:`\delta`; importance weights use :math:`\beta`.

    Args:
        a2c: the host.
        config: ``prioritized_replay`` and ``seeds``.
    """

    def __init__(self, a2c: A2C, config: A2CRecallConfig) -> None:
        self.a2c, self.config, self.gamma = a2c, config.prioritized_replay, config.a2c.gamma
        self.streams = SeedStreams(config.seeds, stream="replay")
        self.buffers = []
        for generator in self.streams.generators:
            buffer = TensorDictPrioritizedReplayBuffer(
                alpha=self.config.alpha,
                beta=self.config.beta,
                storage=LazyTensorStorage(self.config.size),
                batch_size=self.config.batch_size,
                priority_key="td_error",
            )
            buffer.set_rng(generator)
            self.buffers.append(buffer)
        self.iterations = 0

    def extend(self, data: TensorDictBase) -> None:
        """Take new experience in; line 5."""
        keys = ("observation", "action", "next")
        for buffer, own in zip(self.buffers, data.select(*keys).flatten(1), strict=True):
            buffer.extend(own)

    def step(self, frames: int) -> None:
        """Learn, after so many frames of each seed."""
        self.iterations += 1
        if self.iterations % self.config.interval or len(self.buffers[0]) < self.config.batch_size:
            return
        for _ in range(self.config.num_updates):
            batch = TensorDict.stack([buffer.sample() for buffer in self.buffers])
            self.a2c.evaluate(batch)
            alive = ~batch["next", "terminated"]
            target = batch["next", "reward"] + self.gamma * alive * batch["next", "state_value"]
            batch["value_target"] = target
            batch["advantage"] = target - batch["state_value"]
            self.a2c.step(batch, batch["priority_weight"].reshape(batch.shape))
            batch["td_error"] = batch["advantage"].abs().squeeze(-1)
            for buffer, own in zip(self.buffers, batch, strict=True):
                buffer.update_tensordict_priority(own)

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        return {
            "buffers": [replay_buffer_state_dict(buffer) for buffer in self.buffers],
            "priorities": [self._priorities(buffer) for buffer in self.buffers],
            "max_priorities": [list(b.sampler._max_priority) for b in self.buffers],
            "streams": self.streams.state_dict(),
            "iterations": self.iterations,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        for buffer, saved, priorities, highest in zip(
            self.buffers,
            state["buffers"],
            state["priorities"],
            state["max_priorities"],
            strict=True,
        ):
            load_replay_buffer_state_dict(buffer, saved)
            index = torch.arange(len(buffer))
            buffer.sampler._sum_tree[index] = priorities
            buffer.sampler._min_tree[index] = priorities
            buffer.sampler._max_priority = tuple(highest)
        self.streams.load_state_dict(state["streams"])
        self.iterations = state["iterations"]

    @staticmethod
    def _priorities(buffer: TensorDictPrioritizedReplayBuffer) -> Tensor:
        # TorchRL's own state of a sampler holds C++ trees, which only pickle can write.
        return torch.as_tensor(buffer.sampler._sum_tree[torch.arange(len(buffer))])


def make_beside(a2c: A2C, env: FourRoomsEnv, config: A2CRecallConfig) -> Beside | None:
    """What ``recall.method`` asks for; None for the host alone."""
    if config.recall.method == "none":
        return None
    if config.recall.method == "prioritized_replay":
        return PrioritizedReplay(a2c, config)
    if config.recall.method == "self_imitation":
        return SelfImitation(a2c, config)
    return Recall(a2c, config, env)
