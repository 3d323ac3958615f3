"""Parts that a recipe composes, with the interfaces that a run uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.data import ReplayBuffer, TensorDictPrioritizedReplayBuffer
from torchrl.envs import EnvBase

from torchrl_recall.data.buffer_state import BufferState
from torchrl_recall.data.multi_step import MultiStep
from torchrl_recall.data.returns_to_go import ReturnsToGo
from torchrl_recall.stateful import Part
from torchrl_recall.trainers.recall_like import RecallLike

__all__ = ["Evaluation", "Host", "Parts", "Source"]


class Host(Part, Protocol):
    """Interface of a host algorithm, beside which recall learns (Alg. 1, lines 6 and 7)."""

    loss_module: nn.Module


class Source(Protocol):
    """Interface of the collection of frames (Alg. 1, line 4)."""

    def __iter__(self) -> Iterator[TensorDictBase]:
        """Yield batches of frames until there are ``collector.total_frames``."""

    def shutdown(self) -> None:
        """Close the environments."""

    def state_dict(self) -> dict:
        """Return the state of the episodes."""

    def load_state_dict(self, state: dict | None, frames: int) -> bool:
        """Restore the state after a number of frames; return whether episodes continue."""


class Evaluation(ABC):
    """Base of evaluations of a policy during training, which use no random number of the run.

    Attributes:
        frames: number of frames at each evaluation.
        results: result of each evaluation.
    """

    def __init__(self) -> None:
        self.frames: list[int] = []
        self.results: list[Tensor] = []
        self.is_stopped: Callable[[], bool] = lambda: False  # checked during a long evaluation

    @abstractmethod
    def evaluate(self) -> Tensor:
        """Evaluate the current policy; the result may be one return for each episode."""

    def __call__(self, frames: int) -> Tensor:
        """Evaluate after a number of frames, and store the result; empty if it was cut short."""
        result = self.evaluate()
        if len(result):
            self.frames.append(frames)
            self.results.append(result)
        return result

    @property
    def reached_target(self) -> bool:
        """Return whether a target was reached that ends the run."""
        return False

    def metrics(self) -> Mapping[str, Any]:
        """Return further metrics for a row of the log."""
        return {}

    def finish(self, run_dir: Path) -> Mapping[str, Any]:
        """Write files at the end of the run; return further entries of the summary."""
        return {}

    def state_dict(self) -> dict:
        """Return all evaluations."""
        return {"frames": list(self.frames), "results": list(self.results)}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.frames, self.results = list(state["frames"]), list(state["results"])


HostT = TypeVar("HostT", bound=Host)


@dataclass
class Parts(Generic[HostT]):
    """Parts of a recipe. All parts with a state are saved and restored.

    Attributes:
        name: name of the task.
        env: environment that gives the specs.
        collector: source of frames.
        replay_buffer: all experience, 𝓑.
        host: the host algorithm.
        recall: recall or a control.
        evaluation: evaluation of the host's policy.
        more: other parts with a state, by name.
        weights: modules whose hash the summary shows; the host's losses and the model by default.
        single_steps: buffer of all experience in single steps, from which the model learns if
            ``replay_buffer`` holds transitions of several steps.
        returns: writer of returns into the replay buffer, if targets need returns of real episodes.
        audit: function that returns the metrics of the audit of traces at each row of the log.
    """

    name: str
    env: EnvBase
    collector: Source
    replay_buffer: ReplayBuffer
    host: HostT
    recall: RecallLike
    evaluation: Evaluation
    more: Mapping[str, Part] = field(default_factory=dict)
    weights: Sequence[nn.Module] = ()
    single_steps: ReplayBuffer | None = None
    returns: ReturnsToGo | None = None
    audit: Callable[[], Mapping[str, float]] | None = None

    def __post_init__(self) -> None:
        model = getattr(self.recall, "model", None)
        if not self.weights:
            self.weights = [self.host.loss_module, *([model] if model is not None else [])]

    def stateful(self) -> dict[str, Part]:
        """Name the parts whose state a resumed run needs, except for the collector."""
        return {
            "host": self.host,
            "recall": self.recall,
            "replay_buffer": BufferState(self.replay_buffer),
            "evaluation": self.evaluation,
            **self.more,
            **({} if self.single_steps is None else {"single": BufferState(self.single_steps)}),
            **({} if self.returns is None else {"returns": self.returns}),
        }

    @property
    def experience(self) -> ReplayBuffer:
        """Return all experience in single steps."""
        return self.replay_buffer if self.single_steps is None else self.single_steps

    def drop_unfinished(self) -> None:
        """Forget unfinished trajectories, after the environment was reset in mid-episode."""
        self.recall.drop_unfinished()
        if self.returns is not None:
            self.returns.drop_unfinished()
        for transform in self.replay_buffer._transform:
            if isinstance(transform, MultiStep):
                transform.drop_unfinished()

    def add_frames(self, data: TensorDictBase) -> None:
        """Write a batch of frames into the replay buffer; a single frame by the faster ``add``."""
        frames = data.reshape(-1)
        if self.returns is not None:
            self.returns.extend(frames)
        for buffer in (None if self.returns else self.replay_buffer, self.single_steps):
            if buffer is None:
                continue
            if len(frames) == 1 and not len(buffer._transform):
                buffer.add(frames[0])
            else:
                buffer.extend(frames)

    def update_priorities(self, batch: TensorDictBase) -> None:
        """Update the priorities of a prioritised replay buffer by the errors of its batch."""
        if isinstance(self.replay_buffer, TensorDictPrioritizedReplayBuffer):
            self.replay_buffer.update_tensordict_priority(batch)

    def clip_actions(self, data: TensorDictBase) -> TensorDictBase:
        """Copy the data with actions clipped to their bounds, as the environment executed them."""
        action, space = data["action"], self.env.action_spec_unbatched.space
        low, high = space.low.to(action.device), space.high.to(action.device)
        return data.copy().set("action", torch.clamp(action, low, high))
