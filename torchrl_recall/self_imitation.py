"""Imitation of good pairs beside a host algorithm, and the control that needs no model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import LazyTensorStorage, ReplayBuffer, TensorDictReplayBuffer

from torchrl_recall.data.buffer_state import (
    load_replay_buffer_state_dict,
    replay_buffer_state_dict,
)
from torchrl_recall.data.top_k_trajectories import TopKTrajectories
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.optim.trust_region import TrustRegion

__all__ = ["ImitationOfGoodPairs", "SelfImitation"]

_ENOUGH_STATES = 4_096  # of the newest, to measure a divergence on


class ImitationOfGoodPairs(ABC):
    """Imitates good (state, action) pairs beside a host algorithm; the schedule that all share.

    Every ``interval`` frames the subclass offers pairs; the filters narrow them, and
    ``num_updates`` gradient steps of the imitation loss follow with an optimiser of their own.
    Nothing happens before some trajectory has been better than another: until then no state is
    known to be good.

    Args:
        imitation_loss: Eq. 3, holding the host's policy.

    Keyword Args:
        num_trajectories: k_traj of :class:`~torchrl_recall.TopKTrajectories`.
        buffer_size: room for their transitions.
        return_threshold: see :class:`~torchrl_recall.TopKTrajectories`.
        reward_key: where rewards are, under ``"next"``.
        done_key: where the end of a trajectory is, under ``"next"``.
        filters: modules that narrow the pairs' mask, in order.
        lr: learning rate of imitation; the paper takes the host's.
        interval: frames between rounds.
        start_frames: frames before which there are no rounds, such as the host's random ones.
        num_updates: imitation steps in each round.
        batch_size: pairs in each imitation step.
        max_kl: how far a round may move the policy, in nats on the newest experience (on every
            so manieth state where there are more than 8,192). Each
            step is then one of a :class:`~torchrl_recall.TrustRegion` of radius
            ``max_kl / num_updates**2``, since so many steps in one direction go as far as one of
            ``max_kl``. None takes steps of Adam, as the paper does, which nothing bounds.
        anneal_frames: the length of imitation's steps falls linearly to zero at this many frames;
            None keeps it. (Scaling the loss would do nothing under Adam.)
        compile: whether gradient steps and trace generation are compiled; it costs some ten
            seconds once, see :func:`~torchrl_recall.optim.gradient_step.make_update`.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        imitation_loss: ImitationLoss,
        *,
        num_trajectories: int = 10,
        buffer_size: int = 100_000,
        return_threshold: float | None = None,
        reward_key: NestedKey = "reward",
        done_key: NestedKey = "done",
        filters: Sequence[TensorDictModuleBase] = (),
        lr: float = 3e-4,
        interval: int = 50,
        start_frames: int = 0,
        num_updates: int = 10,
        batch_size: int = 256,
        max_kl: float | None = None,
        anneal_frames: int | None = None,
        compile: bool = False,
    ) -> None:
        for name, value, least in (
            ("buffer_size", buffer_size, 1),
            ("interval", interval, 1),
            ("start_frames", start_frames, 0),
            ("num_updates", num_updates, 0),
            ("batch_size", batch_size, 1),
            ("anneal_frames", 1 if anneal_frames is None else anneal_frames, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
        for name, number in (("lr", lr), ("max_kl", 1.0 if max_kl is None else max_kl)):
            if not number > 0:
                raise ValueError(f"{name} must be positive, got {number}.")
        self.imitation_loss = imitation_loss
        self.filters = list(filters)
        self.lr = lr
        self.interval = interval
        self.num_updates = num_updates
        self.batch_size = batch_size
        self.anneal_frames = anneal_frames
        device = next((p.device for p in imitation_loss.parameters()), torch.device("cpu"))
        self.backtracking_buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(buffer_size, device=device), batch_size=batch_size
        )
        self.trajectory_filter = TopKTrajectories(
            num_trajectories,
            replay_buffer=self.backtracking_buffer,
            return_threshold=return_threshold,
            reward_key=reward_key,
            done_key=done_key,
        )
        self.backtracking_buffer.append_transform(self.trajectory_filter)
        self.optimizer: torch.optim.Adam | TrustRegion
        if max_kl is None:
            self.optimizer = make_adam(imitation_loss, lr)
            self._update = make_update(imitation_loss, self.optimizer, compile=compile)
        else:
            self.optimizer = TrustRegion(imitation_loss, max_kl=max_kl)
            self._update = self._bounded_update
        self.max_kl = max_kl
        self._newest: TensorDictBase | None = None
        self.frames = 0
        self._frames_of_last_round = start_frames
        self._offered: list[TensorDictBase] = []
        self._frames_offered = 0

    @property
    def weight(self) -> float:
        """Share of the learning rate that annealing leaves, in [0, 1]."""
        if self.anneal_frames is None:
            return 1.0
        return max(0.0, 1.0 - self.frames / self.anneal_frames)

    @property
    def active(self) -> bool:
        """Whether a trajectory better than another has been seen, and annealing goes on."""
        kept = self.trajectory_filter
        return self.weight > 0 and kept.best_return > kept.lowest_return

    def extend(self, tensordict: TensorDictBase) -> None:
        """Alg. 1, line 5: offer new experience, ``[time]`` or ``[batch, time]``, in order.

        It is taken in ``interval`` frames at a time, since most of the cost is that of a write.
        """
        self._offered.append(tensordict.clone())
        num_frames = valid_steps(tensordict).numel()
        self.frames += num_frames
        self._frames_offered += num_frames
        if self._frames_offered >= self.interval:
            self.take_in()

    def take_in(self) -> None:
        """Write what was offered to the buffer of top trajectories."""
        offered, self._offered, self._frames_offered = self._offered, [], 0
        for data in _joined(offered):
            self._take_in(data)

    def _take_in(self, data: TensorDictBase) -> None:
        if self.max_kl is not None:
            newest = valid_steps(data).reshape(-1)
            self._newest = newest[:: max(1, len(newest) // _ENOUGH_STATES)]
        self.backtracking_buffer.extend(data)

    def drop_unfinished(self) -> None:
        """Forget open trajectories, as after an environment was reset in mid-episode."""
        self.take_in()
        self.trajectory_filter.drop_unfinished()

    def step(self, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        """Alg. 1, lines 8 to 13, as often as the schedule says since the last call.

        Args:
            replay_buffer: all experience.

        Returns:
            Detached means of the last round, empty if no round was due.
        """
        metrics: dict[str, Tensor] = {}
        if self.frames - self._frames_of_last_round >= self.interval:
            self.take_in()
        while self.frames - self._frames_of_last_round >= self.interval:
            self._frames_of_last_round += self.interval
            if self.active:
                metrics = self._round(replay_buffer)
        return metrics

    def _round(self, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        return self._imitate(self._pairs(replay_buffer))

    @abstractmethod
    def _pairs(self, replay_buffer: ReplayBuffer) -> TensorDictBase | None:
        """Pairs worth imitating, of any batch shape, or None."""

    def _imitate(self, pairs: TensorDictBase | None) -> dict[str, Tensor]:
        """Alg. 1, lines 12 and 13."""
        if pairs is None or not self.num_updates:
            return {}
        for keep in self.filters:
            pairs = keep(pairs)
        mask = pairs.get("mask", None)
        chosen = pairs.reshape(-1) if mask is None else pairs[mask]
        metrics = {"recall/kept": torch.tensor(len(chosen) / pairs.numel())}
        if not len(chosen):
            return metrics
        self._set_length_of_steps()
        batches = minibatches(
            chosen, self.num_updates, self.batch_size, self.imitation_loss.in_keys
        )
        losses = [self._update(batch) for batch in batches]
        return metrics | mean_losses(losses, "recall")

    def _set_length_of_steps(self) -> None:
        if isinstance(self.optimizer, TrustRegion):
            assert self.max_kl is not None
            self.optimizer.max_kl = self.max_kl * (self.weight / self.num_updates) ** 2
        else:
            self.optimizer.param_groups[0]["lr"] = self.lr * self.weight

    def _bounded_update(self, pairs: TensorDictBase) -> TensorDictBase:
        assert isinstance(self.optimizer, TrustRegion)
        return self.optimizer.step(pairs, self._newest)

    def state_dict(self) -> dict:
        """Everything that a resumed run needs; the policy belongs to the host."""
        return {
            "backtracking_buffer": replay_buffer_state_dict(self.backtracking_buffer),
            "optimizer": self.optimizer.state_dict(),
            "frames": self.frames,
            "frames_of_last_round": self._frames_of_last_round,
            "offered": [data.clone() for data in self._offered],
            "frames_offered": self._frames_offered,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        load_replay_buffer_state_dict(self.backtracking_buffer, state["backtracking_buffer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.frames = state["frames"]
        self._frames_of_last_round = state["frames_of_last_round"]
        device = self.backtracking_buffer.storage.device  # checkpoints are read onto the CPU
        self._offered = [data.clone().to(device) for data in state["offered"]]
        self._frames_offered = state["frames_offered"]


class SelfImitation(ImitationOfGoodPairs):
    """Imitation of the real top trajectories, without a model: the control the paper lacks.

    It shares everything with :class:`Recall` but the source of the pairs. See
    :class:`ImitationOfGoodPairs` for its arguments.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import NormalParamExtractor, TensorDictModule
        >>> from torchrl.data import Bounded
        >>> from torchrl.modules import ProbabilisticActor, TanhNormal
        >>> from torchrl_recall import ImitationLoss, SelfImitation
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), NormalParamExtractor())
        >>> actor = ProbabilisticActor(
        ...     TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ...     in_keys=["loc", "scale"], spec=Bounded(-1, 1, (2,)), distribution_class=TanhNormal,
        ... )
        >>> imitation = SelfImitation(ImitationLoss(actor), num_trajectories=1, interval=40)
        >>> imitation.extend(TensorDict({
        ...     "observation": torch.randn(40, 3),
        ...     "action": torch.rand(40, 2),
        ...     "next": {
        ...         "reward": torch.arange(40.0).unsqueeze(-1),
        ...         "done": (torch.arange(40) % 20 == 19).unsqueeze(-1),
        ...     },
        ... }, [40]))
        >>> sorted(imitation.step(replay_buffer=None))
        ['recall/kept', 'recall/loss_imitation']
    """

    def _pairs(self, replay_buffer: ReplayBuffer) -> TensorDictBase | None:
        return self.backtracking_buffer.storage[: len(self.backtracking_buffer)]


def valid_steps(data: TensorDictBase) -> TensorDictBase:
    """Without the padding of whole trajectories."""
    mask = data.get(("collector", "mask"), None)
    return data if mask is None else data[mask.reshape(data.shape)]


def _joined(writes: list[TensorDictBase]) -> list[TensorDictBase]:
    """One write instead of many, if they are of the same streams and none is padded."""
    if len({data.shape[:-1] for data in writes}) != 1 or any(
        ("collector", "mask") in data.keys(True) for data in writes
    ):
        return writes
    return [torch.cat(writes, -1)]


def minibatches(
    data: TensorDictBase | ReplayBuffer, num: int, size: int, keys: Sequence[NestedKey]
) -> Iterator[TensorDictBase]:
    """Draw ``num`` batches of ``size`` uniformly with replacement, in one indexing.

    From a replay buffer too, whatever batch size and priorities its owner samples with.
    """
    index = torch.randint(len(data), (num * size,))
    return iter(data[index].select(*keys).reshape(num, size).unbind(0))


def mean_losses(losses: list[TensorDictBase], prefix: str) -> dict[str, Tensor]:
    """Means of each loss over a round, for the log."""
    columns = zip(*(step.values() for step in losses), strict=True)
    return {
        f"{prefix}/{key}": torch.stack(column).float().mean()
        for key, column in zip(losses[0].keys(), columns, strict=True)
    }


def make_adam(module: torch.nn.Module, lr: float) -> torch.optim.Adam:
    """Adam over what a module trains."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.Adam(parameters, lr=lr, fused=True)
