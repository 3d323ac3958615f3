"""Imitation of real trajectories, without a model: a control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import ReplayBuffer

from torchrl_recall.data.top_trajectories import TopTrajectories, read_keys
from torchrl_recall.devices import device_of
from torchrl_recall.imitation_updates import ImitationUpdates, make_steps
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.optim.batches import BatchSource, Draws
from torchrl_recall.schedule import Schedule
from torchrl_recall.stateful import Part, Stateful
from torchrl_recall.traces.agreement import refuse_judges

__all__ = ["SelfImitation"]


class SelfImitation(Stateful):
    """Imitation of the real top trajectories, without a model: a control that the paper lacks.

    The schedule, the trajectories and the imitation steps are those of
    :class:`~torchrl_recall.Recall`. Only the pairs differ: they are real instead of imagined.

    Args:
        imitation_loss: Eq. 3, holding the host's policy.

    Keyword Args:
        interval: frames between rounds.
        start_frames: number of frames before the first round.
        anneal_frames: number of frames over which the length of imitation steps falls linearly to
            zero; None keeps it constant.
        num_trajectories: k_traj of :class:`~torchrl_recall.TopKTrajectories`.
        buffer_size: capacity of their buffer, in transitions.
        return_threshold: see :class:`~torchrl_recall.TopKTrajectories`.
        reward_key: key of the rewards, under ``"next"``.
        done_key: key that marks the end of a trajectory, under ``"next"``.
        observation_key: key of the states. A state that differs from the preceding next state
            shows a gap in the data.
        filters: modules that add entries to the pairs or narrow their mask, applied in order.
        num_updates: imitation steps in each round.
        batch_size: pairs of state and action in each imitation step.
        lr: learning rate of imitation by Adam.
        max_kl: bound on the policy's change in one round, in nats; None takes steps of Adam.
        compile: whether gradient steps are compiled.

    Raises:
        ValueError: a number is out of its range.

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
        ['recall/kept', 'recall/loss_imitation', 'recall/ready']
    """

    schedule: Schedule
    trajectories: Any
    imitate: ImitationUpdates

    def __init__(
        self,
        imitation_loss: ImitationLoss,
        *,
        interval: int = 50,
        start_frames: int = 0,
        anneal_frames: int | None = None,
        num_trajectories: int = 10,
        buffer_size: int = 100_000,
        return_threshold: float | None = None,
        reward_key: NestedKey = "reward",
        done_key: NestedKey = "done",
        observation_key: NestedKey = "observation",
        filters: Sequence[TensorDictModuleBase] = (),
        num_updates: int = 10,
        batch_size: int = 256,
        lr: float = 3e-4,
        max_kl: float | None = None,
        compile: bool = False,
    ) -> None:
        refuse_judges(filters, "SelfImitation")
        steps = make_steps(imitation_loss, lr=lr, max_kl=max_kl, compile=compile)
        self.schedule = Schedule(interval, start_frames=start_frames, anneal_frames=anneal_frames)
        self.trajectories = TopTrajectories(
            num_trajectories,
            buffer_size=buffer_size,
            write_every=interval,
            return_threshold=return_threshold,
            reward_key=reward_key,
            done_key=done_key,
            observation_key=observation_key,
            keys=read_keys(imitation_loss, *filters),
            device=device_of(imitation_loss),
            on_write=[steps.observe],
        )
        self.imitate = ImitationUpdates(
            imitation_loss,
            steps,
            num_updates=num_updates,
            batch_size=batch_size,
            transforms=filters,
        )
        self.draws: BatchSource = Draws()

    @classmethod
    def from_parts(
        cls,
        *,
        schedule: Schedule,
        trajectories: Any,
        imitate: ImitationUpdates,
        draws: BatchSource,
    ) -> SelfImitation:
        """Compose the control from its parts; see :meth:`~torchrl_recall.Recall.from_parts`.

        Keyword Args:
            schedule: decides when a round is due.
            trajectories: a store such as
                :class:`~torchrl_recall.data.top_trajectories.TopTrajectories`.
            imitate: gradient steps of Eq. 3.
            draws: the source of random batches.

        Returns:
            The control.
        """
        control = cls.__new__(cls)
        control.schedule, control.trajectories = schedule, trajectories
        control.imitate, control.draws = imitate, draws
        return control

    def extend(self, data: TensorDictBase) -> None:
        """Offer new experience to the best trajectories (Alg. 1, line 5).

        Args:
            data: transitions in order of time, shape ``[time]`` or ``[batch, time]``.
        """
        self.schedule.advance(self.trajectories.extend(data))

    def demonstrate(self, trajectories: Sequence[TensorDictBase]) -> None:
        """Fill the store with demonstrations; see :meth:`~torchrl_recall.Recall.demonstrate`.

        Args:
            trajectories: whole trajectories, shape ``[time]`` each.
        """
        self.trajectories.demonstrate(trajectories)

    def step(self, replay_buffer: ReplayBuffer | None = None) -> dict[str, Tensor]:
        """Imitate the best trajectories, once for each round that is due.

        Args:
            replay_buffer: ignored.

        Returns:
            Detached means over the last round, and ``recall/ready``. The latter is 0 while a due
            round waits until one trajectory is better than another. Empty if no round was due.
        """
        metrics: dict[str, Tensor] = {}
        for share in self.schedule.rounds(self.trajectories):
            metrics = self.imitate(self.trajectories.pairs(), share)
        return metrics | self.schedule.metrics

    def transitions(self, num: int) -> None:
        """Return None: the control has no transitions for a critic.

        Args:
            num: ignored.
        """

    def drop_unfinished(self) -> None:
        """Forget unfinished trajectories, after an environment was reset in mid-episode."""
        self.trajectories.drop_unfinished()

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name the parts whose state a resumed run needs; the host saves the policy."""
        return {
            "schedule": self.schedule,
            "trajectories": self.trajectories,
            "imitate": self.imitate,
            "draws": self.draws,
        }
