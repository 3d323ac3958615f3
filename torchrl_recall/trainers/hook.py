"""Recall inside the loop of any of TorchRL's trainers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import (
    LazyTensorStorage,
    PrioritizedSampler,
    ReplayBuffer,
    TensorDictReplayBuffer,
)
from torchrl.objectives import LossModule
from torchrl.trainers import BatchSubSampler, ReplayBufferTrainer, Trainer, TrainerHookBase
from torchrl.trainers.algorithms.on_policy import OnPolicyTrainer

from torchrl_recall.checks import next_key
from torchrl_recall.data.buffer_reader import BufferReader
from torchrl_recall.data.buffer_state import BufferState
from torchrl_recall.data.top_trajectories import valid_steps
from torchrl_recall.traces.transitions import join_rows
from torchrl_recall.trainers.recall_like import RecallLike
from torchrl_recall.trainers.runs.packing import pack, unpack

__all__ = ["RecallHook"]


def _in_keys(loss: LossModule) -> list[NestedKey]:
    """Return what a loss reads; DistributionalDQNLoss of TorchRL 0.14.1 does not say."""
    if hasattr(loss, "in_keys"):
        return loss.in_keys
    states, keys = loss.value_network.in_keys, loss.tensor_keys
    following = [*states, keys.reward, keys.done, keys.terminated]
    return [*states, keys.action, *map(next_key, following)]


def _owners(operations: list[tuple[Callable, dict]]) -> list[Any]:
    """Return the objects whose methods a trainer's operations are."""
    unwrapped = [inspect.unwrap(operation) for operation, _ in operations]
    return [getattr(operation, "__self__", operation) for operation in unwrapped]


def _replay_hooks(operations: list[tuple[Callable, dict]]) -> list[ReplayBufferTrainer]:
    return [owner for owner in _owners(operations) if isinstance(owner, ReplayBufferTrainer)]


class RecallHook(TrainerHookBase):
    """Hook that runs recall inside the loop of any :class:`~torchrl.trainers.Trainer`.

    The hook receives whole batches before other hooks cut them, including those of a random
    warm-up. Rounds run after the host's updates, before the collector gets the new weights. Metrics
    go to the trainer's log, and the state goes into both kinds of its checkpoints::

        trainer = SACTrainer(...)
        RecallHook(make_recall).register(trainer)
        trainer.train()

    With ``use="critic"``, each batch of an off-policy trainer gets as many transitions of traces as
    it has real ones. The trainer's loss is then the mean over both, for its critic and its policy.
    They are added directly behind ``ReplayBufferTrainer`` or ``BatchSubSampler``, so that all other
    operations on batches get both, wherever the hook is registered. An operation of your own
    that samples batches must be registered before the hook.

    On-policy trainers hold one batch at a time, so the hook keeps its own buffer for them. TorchRL
    0.14.1 leaves the frames of a random warm-up out of a trainer's buffer. The hook adds them,
    because the model learns from all experience.

    Args:
        recall: :class:`~torchrl_recall.Recall` or a control, or a function of the trainer that
            makes one, such as :func:`make_recall`.

    Keyword Args:
        replay_buffer: buffer of all experience. By default that of the trainer, of a
            ``ReplayBufferTrainer`` with ``flatten_tensordicts=True``, or of the collector. Without
            one, or with an on-policy trainer, the hook makes a new one of ``buffer_size``.
        buffer_size: capacity of the hook's own buffer, in transitions.

    Raises:
        ValueError: the trainer learns in Ray or collects asynchronously, so that this process has
            no whole batches or no current policy. Also for ``use="critic"`` with an on-policy
            trainer or prioritised replay.

    Examples:
        >>> import torch
        >>> from torchrl.collectors import Collector
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> from torchrl.envs import GymEnv
        >>> from torchrl.modules import QValueActor
        >>> from torchrl.objectives import DQNLoss
        >>> from torchrl.trainers import Trainer
        >>> from torchrl_recall import RecallHook, make_recall
        >>> env = GymEnv("CartPole-v1", categorical_action_encoding=True)
        >>> actor = QValueActor(
        ...     torch.nn.Linear(4, 2), spec=env.action_spec, in_keys=["observation"],
        ... )
        >>> loss = DQNLoss(actor, action_space=env.action_spec, delay_value=False)
        >>> replay_buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1_000), batch_size=32)
        >>> trainer = Trainer(
        ...     collector=Collector(env, actor, frames_per_batch=100, total_frames=400),
        ...     total_frames=400, frame_skip=1, optim_steps_per_batch=1, loss_module=loss,
        ...     optimizer=torch.optim.Adam(loss.parameters()), progress_bar=False,
        ... )
        >>> hook = RecallHook(make_recall, replay_buffer=replay_buffer)
        >>> hook.register(trainer)
        >>> trainer.train()
        >>> len(replay_buffer)
        400
    """

    def __init__(
        self,
        recall: RecallLike | Callable[[Trainer], RecallLike],
        *,
        replay_buffer: ReplayBuffer | None = None,
        buffer_size: int = 100_000,
    ) -> None:
        self._given, self._given_buffer, self.buffer_size = recall, replay_buffer, buffer_size

    def register(self, trainer: Trainer, name: str = "recall") -> None:
        """Register the hook in the trainer's loop, log and checkpoints.

        Args:
            trainer: a trainer with a collector and a loss in this process.
            name: name of the hook in checkpoints.

        Raises:
            ValueError: see the class.
        """
        if trainer.learner_backend != "local" or trainer.async_collection:
            raise ValueError(
                "RecallHook needs whole batches and the learned policy in this process; use "
                "learner_backend='local' and async_collection=False."
            )
        given = self._given
        self.recall: RecallLike = given(trainer) if callable(given) else given
        written = getattr(trainer.collector, "replay_buffer", None)
        self._reader = None if written is None else BufferReader(written)
        self._own_buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(self.buffer_size))

        self.trainer = trainer
        trainer.register_module(name, self)
        trainer.register_op("batch_process", self.extend)
        operations = trainer._batch_process_ops
        operations.insert(0, operations.pop())  # before hooks that cut or scale the batch
        trainer.register_op("post_optim_complete_log", self.step)
        if getattr(self.recall, "to_transitions", None) is not None:
            self._check_critic(trainer)
            trainer.register_op("process_optim_batch", self.add_rows)
            trainer.register_op("setup", self._place_rows)

    @property
    def replay_buffer(self) -> ReplayBuffer:
        """Return the buffer of all experience, which hooks registered later may bring."""
        if self._given_buffer is not None:
            return self._given_buffer
        is_on_policy = isinstance(self.trainer, OnPolicyTrainer)  # its buffer holds one batch
        filled = [] if is_on_policy else self._filled(flat=True)
        return filled[0] if filled else self._own_buffer

    @property
    def fills(self) -> bool:
        """Return whether the hook alone writes experience to the buffer."""
        return self.replay_buffer not in self._filled()

    def _filled(self, *, flat: bool = False) -> list[ReplayBuffer]:
        """Return the buffers that others write to; only those of single steps if ``flat``."""
        trainer = self.trainer
        hooks = _replay_hooks(trainer._batch_process_ops + trainer._pre_epoch_ops)
        hooks = [hook for hook in hooks if hook.flatten_tensordicts or not flat]
        buffers = [getattr(x, "replay_buffer", None) for x in (trainer, *hooks, trainer.collector)]
        return [buffer for buffer in buffers if buffer is not None]

    def extend(self, batch: TensorDictBase) -> None:
        """Receive a collected batch (Alg. 1, line 5).

        Args:
            batch: transitions of shape ``[*batch, time]``.
        """
        self.recall.extend(batch)
        trainer, steps = self.trainer, valid_steps(batch)
        frames = trainer.collected_frames + steps.shape.numel() * trainer.frame_skip
        buffer, hooks = self.replay_buffer, _replay_hooks(trainer._batch_process_ops)
        is_written = any(hook.replay_buffer is buffer for hook in hooks)  # at once
        is_random = frames < (trainer.collector.init_random_frames or 0)  # trainers skip these
        if self.fills or (is_random and not is_written):
            buffer.extend(steps.reshape(-1))

    def _check_critic(self, trainer: Trainer) -> None:
        """Refuse ``use="critic"`` if the trainer cannot learn from transitions of traces."""
        if isinstance(trainer, OnPolicyTrainer):
            raise ValueError(
                "an on-policy trainer learns from its policy's own experience, to which rows of "
                "traces do not belong; take use='policy'."
            )
        buffers = self.replay_buffer, *self._filled()
        if any(isinstance(buffer.sampler, PrioritizedSampler) for buffer in buffers):
            raise ValueError(
                "rows of traces have no priority in a prioritised replay buffer; take another "
                "sampler, or use='policy'."
            )

    def _place_rows(self) -> None:
        """Move :meth:`add_rows` directly behind sampling, before other operations on batches."""
        self._check_critic(self.trainer)  # with the buffers of hooks registered since
        operations = self.trainer._process_optim_batch_ops
        rows = operations.pop(index := _owners(operations).index(self))
        for i, owner in enumerate(_owners(operations), 1):
            if isinstance(owner, BatchSubSampler | ReplayBufferTrainer):
                index = i
        operations.insert(index, rows)

    def add_rows(self, batch: TensorDictBase) -> TensorDictBase:
        """Add transitions of traces to a batch for the loss.

        Args:
            batch: a batch of the replay buffer, shape ``[num]``.

        Returns:
            The joined batch.
        """
        rows = self.recall.transitions(len(batch))
        return join_rows(batch, rows, _in_keys(self.trainer.loss_module))

    def step(self, optim_steps: int, losses: TensorDictBase | None = None) -> dict[str, float]:
        """Run the rounds that are due (l.8-13).

        Args:
            optim_steps: ignored.
            losses: ignored.

        Returns:
            Metrics for the trainer's log.
        """
        if self._reader is not None:
            self.extend(self._reader.read())
        metrics = self.recall.step(self.replay_buffer)
        return {key: float(value) for key, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state as text and a flat dictionary of tensors.

        All kinds of checkpoints of a trainer can store these.
        """
        state = {"recall": self.recall.state_dict()}
        if self.fills:
            state["replay_buffer"] = BufferState(self.replay_buffer).state_dict()
        if self._reader is not None:
            state["reader"] = self._reader.state_dict()
        tensors: dict[str, Tensor] = {}
        document = json.dumps(pack(state, tensors, "recall"))
        return {"document": document} | {f"tensor_{key}": value for key, value in tensors.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        tensors = {
            key.removeprefix("tensor_"): value.clone()
            for key, value in state_dict.items()
            if key != "document"
        }
        state = unpack(json.loads(state_dict["document"]), tensors)
        self.recall.load_state_dict(state["recall"])
        if "replay_buffer" in state:
            BufferState(self.replay_buffer).load_state_dict(state["replay_buffer"])
        if self._reader is not None:
            self._reader.load_state_dict(state["reader"])
