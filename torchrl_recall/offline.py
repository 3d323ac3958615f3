"""Recall traces from a data set: train the model once, then generate traces for an offline host."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import LazyTensorStorage, ReplayBuffer

from torchrl_recall.checks import at_least, positive
from torchrl_recall.data.buffer_state import BufferState
from torchrl_recall.data.top_trajectories import valid_steps
from torchrl_recall.devices import device_of, device_of_data
from torchrl_recall.filter_updates import FilterUpdates
from torchrl_recall.model_updates import ModelUpdates, make_model_loss
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.reward_model import RewardModel
from torchrl_recall.optim.batches import BatchSource, Draws
from torchrl_recall.reward_updates import RewardUpdates
from torchrl_recall.schedule import Schedule
from torchrl_recall.stateful import Part, Stateful, Steps
from torchrl_recall.traces.generator import RecallTraceGenerator
from torchrl_recall.traces.high_value_states import HighValueStates, check_rewarded
from torchrl_recall.traces.measured_length import MeasuredLength
from torchrl_recall.traces.newest import NewestTraces
from torchrl_recall.traces.transitions import TraceTransitions

__all__ = ["OfflineRecall"]

_HELD_OUT = 0.1  # largest share of the data that no model learns from, for filters of traces


class OfflineRecall(Stateful):
    r"""Transitions of recall traces that end in real states of a data set, for an offline host.

    All models are trained once, before the host, on the whole data set: the backward policy, the
    state predictor (Eq. 2) and the reward model. After that, traces are generated every
    ``interval`` gradient steps. Their transitions go into a buffer, from which the host draws
    beside its data set. Every trace ends in a state of the data set, so imagined steps lead towards
    the data, and a policy that follows them stays near the data.

    The method follows Wang et al., *Offline reinforcement learning with reverse model-based
    imagination*, NeurIPS 2021, whose reverse policy is a variational autoencoder. The filters
    follow Lyu et al., *Double check your state before trusting it*, NeurIPS 2022.

    Args:
        model: the backtracking model (Eq. 1).
        reward: the reward model, which learns the reward of each transition.
        high_value_states: chooses end states that carry the reward of the transition into them,
            such as :class:`~torchrl_recall.UniformStates`.

    Keyword Args:
        interval: gradient steps of the host between rollouts.
        num_model_updates: gradient steps of Eq. 2; zero leaves the model untrained.
        num_reward_updates: gradient steps of the reward model.
        batch_size: transitions in each gradient step of either model.
        lr: learning rate of both.
        state_batch_size: number of transitions from which end states are chosen.
        trace_length: steps of each trace.
        num_traces: traces that end in each state.
        filters: modules that narrow the mask of traces, applied in order. The forward model of an
            :class:`~torchrl_recall.Agreement` is trained like the backtracking model. Its usual
            error is measured on transitions that no model learned from.
        buffer_size: capacity for transitions of traces; the oldest are overwritten.
        compile: whether gradient steps and trace generation are compiled.

    Raises:
        TypeError: ``trace_length`` is a :class:`~torchrl_recall.MeasuredLength`.
        ValueError: a number is out of its range, or end states carry no reward.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, LazyTensorStorage, ReplayBuffer, Unbounded
        >>> from torchrl_recall import BacktrackingModel, OfflineRecall, RewardModel, UniformStates
        >>> specs = Unbounded((3,)), Bounded(-1, 1, (2,))
        >>> path = torch.randn(101, 3).cumsum(0)
        >>> flag = torch.zeros(100, 1, dtype=torch.bool)
        >>> data_set = ReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
        >>> _ = data_set.extend(TensorDict({
        ...     "observation": path[:-1], "action": torch.rand(100, 2),
        ...     "next": {
        ...         "observation": path[1:], "reward": torch.randn(100, 1),
        ...         "terminated": flag, "done": flag,
        ...     },
        ... }, [100]))
        >>> recall = OfflineRecall(
        ...     BacktrackingModel.from_specs(*specs), RewardModel(*specs), UniformStates(16),
        ...     num_model_updates=5, num_reward_updates=5,
        ... )
        >>> _ = recall.step(data_set)
        >>> recall.transitions(8)["next", "reward"].shape
        torch.Size([8, 1])
    """

    def __init__(
        self,
        model: BacktrackingModel,
        reward: RewardModel,
        high_value_states: HighValueStates,
        *,
        interval: int = 1_000,
        num_model_updates: int = 10_000,
        num_reward_updates: int = 10_000,
        batch_size: int = 256,
        lr: float = 1e-3,
        state_batch_size: int = 4_096,
        trace_length: int = 5,
        num_traces: int = 1,
        filters: Sequence[TensorDictModuleBase] = (),
        buffer_size: int = 100_000,
        compile: bool = False,
    ) -> None:
        at_least(1, state_batch_size=state_batch_size, buffer_size=buffer_size)
        at_least(0, num_reward_updates=num_reward_updates)
        at_least(1, batch_size=batch_size)
        positive(lr=lr)
        check_rewarded(high_value_states, "OfflineRecall")
        if isinstance(trace_length, MeasuredLength):
            raise TypeError(
                "trace_length must be an integer, got a MeasuredLength: lengths are measured while "
                "data are collected, and here nothing is."
            )
        self.model, self.high_value_states = model, high_value_states
        self.filters, self.state_batch_size = list(filters), state_batch_size
        self.schedule, self.learned = Schedule(interval), Steps()
        self.draws: BatchSource = Draws()
        self._warned = False
        steps: dict[str, Any] = {"batch_size": batch_size, "lr": lr, "compile": compile}
        self.train_model = ModelUpdates(
            make_model_loss(model), num_updates=num_model_updates, **steps
        )
        self.train_reward = RewardUpdates(reward, num_updates=num_reward_updates, **steps)
        self.train_filters = FilterUpdates(filters, model, num_updates=num_model_updates, **steps)
        self.generate = RecallTraceGenerator(
            model, trace_length=trace_length, num_traces=num_traces, compile=compile
        )
        self.to_transitions = TraceTransitions(
            reward=reward, observation_key=model.observation_key, action_key=model.action_key
        )
        device = device_of(model)
        storage = LazyTensorStorage(buffer_size, device=device or torch.device("cpu"))
        self.buffer = ReplayBuffer(storage=storage)
        self.newest = NewestTraces(device)  # before filters, for an audit or a picture

    def extend(self, data: TensorDictBase) -> None:
        """Count gradient steps of the host.

        Args:
            data: a batch with one row for each gradient step.
        """
        self.schedule.advance(data.shape.numel())

    def step(self, data_set: ReplayBuffer) -> dict[str, Tensor]:
        """Train the models at the first call, and generate traces once for each rollout due.

        Args:
            data_set: all real transitions.

        Returns:
            Detached means of losses and of the share that filters kept; empty if no rollout was
            due.

        Raises:
            RuntimeError: the data set is empty.
        """
        if not self.learned.taken:
            learned = self.learn_models(data_set)
            self.learned.every(1)
            return learned | self.roll_out(data_set)
        metrics: dict[str, Tensor] = {}
        for _ in self.schedule.rounds():
            metrics = self.roll_out(data_set)
        return metrics

    def learn_models(self, data_set: ReplayBuffer) -> dict[str, Tensor]:
        """Train all models (l.8-9), then measure the filters' thresholds on held-out data.

        Args:
            data_set: all real transitions.

        Returns:
            Detached means of the losses.

        Raises:
            RuntimeError: the data set is empty.
        """
        if not len(data_set):
            raise RuntimeError(
                "the data set is empty, so no model can learn from it; fill the replay buffer with "
                "real transitions before step()."
            )
        rows = valid_steps(data_set[:]).reshape(-1)
        held_out = 0
        if judges := self.train_filters.judges:
            if len(rows) < 2:
                raise RuntimeError(
                    "the data set has one row, and filters that learn a threshold hold one out; "
                    "give more real transitions, or leave such filters out."
                )
            widest = max(judge.window for judge in judges)
            held_out = max(1, min(widest, round(_HELD_OUT * len(rows))))
        order = torch.randperm(len(rows), device=device_of_data(rows))
        seen = rows[order[held_out:]]
        experience: Any = _Seen(seen)
        self.train_reward.model.update_statistics(seen)  # the first, because it checks all entries
        self.model.update_statistics(seen)
        metrics = self.train_model(experience, experience)
        metrics |= self.train_reward(experience)
        self.train_filters.update_statistics(seen)
        metrics |= self.train_filters(experience)
        self.train_filters.observe(rows[order[:held_out]])
        return metrics

    @torch.no_grad()
    def roll_out(self, data_set: ReplayBuffer) -> dict[str, Tensor]:
        """Generate traces to real states (l.10-11), and store their transitions.

        Args:
            data_set: all real transitions.

        Returns:
            ``recall/kept_transitions``, the share of steps that filters kept.
        """
        candidates = self.draws.candidates(data_set, self.state_batch_size)
        end_states = self.high_value_states(candidates)
        metrics = {"recall/kept_transitions": torch.zeros(())}
        if not len(end_states):
            return metrics
        traces = self.generate(end_states)
        self.newest.replace(traces)
        for transform in self.filters:
            traces = transform(traces)
        mask = traces.get("mask", None)
        rows = self.to_transitions(traces, end_states)
        if len(rows):
            self.buffer.extend(rows)
        elif not self._warned:
            self._warned = True
            warnings.warn(
                "a rollout of recall traces kept no transition, so the host learns from fewer. "
                "Filters mask them, or the reward model takes their steps for terminal ones. Raise "
                "recall.agreement or recall.max_deviation, backtracking.num_updates or "
                "recall.reward_updates.",
                stacklevel=2,
            )
        metrics["recall/kept_transitions"] = torch.ones(()) if mask is None else mask.float().mean()
        return metrics

    def transitions(self, num: int) -> TensorDictBase | None:
        """Draw transitions of traces.

        Args:
            num: number of transitions, drawn with replacement.

        Returns:
            Transitions of shape ``[num]``; None while there are none.
        """
        if not len(self.buffer):
            return None
        return self.buffer.storage[torch.randint(len(self.buffer), (num,))]

    def drop_unfinished(self) -> None:
        """Do nothing: nothing is collected."""

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name the parts whose state a resumed run needs; the host saves the critic."""
        return {
            "model": self.model,
            "learned": self.learned,
            "schedule": self.schedule,
            "train_model": self.train_model,
            "train_reward": self.train_reward,
            "buffer": BufferState(self.buffer),
            "newest": self.newest,
            **self.train_filters.stateful_parts(),
        }


class _Seen:
    """Store of training transitions, all equally good for the backward policy."""

    def __init__(self, rows: TensorDictBase) -> None:
        self.storage = rows

    def transitions(self) -> TensorDictBase:
        return self.storage

    def __len__(self) -> int:
        return len(self.storage)

    def __getitem__(self, index: Tensor) -> TensorDictBase:
        return self.storage[index]
