"""Imitation of demonstrations alone: a control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer

from torchrl_recall.controls.self_imitation import SelfImitation
from torchrl_recall.data.top_trajectories import valid_steps
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.stateful import Part, Stateful

__all__ = ["Cloning"]


class Cloning(Stateful):
    r"""Behaviour cloning beside the host: imitation of demonstrations, and of nothing else.

    .. math:: -\sum_t \log \pi_\theta(a_t \mid s_t), \qquad (s_t, a_t) \in \text{demonstrations}

    Schedule, number and length of steps are those of :class:`~torchrl_recall.SelfImitation`, whose
    store the agent's own trajectories do not enter. It shows what demonstrations give without a
    model.

    Args:
        imitation_loss: Eq. 3, holding the host's policy.

    Keyword Args:
        settings: those of :class:`~torchrl_recall.SelfImitation`.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import NormalParamExtractor, TensorDictModule
        >>> from torchrl.data import Bounded
        >>> from torchrl.modules import ProbabilisticActor, TanhNormal
        >>> from torchrl_recall import Cloning, ImitationLoss
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), NormalParamExtractor())
        >>> actor = ProbabilisticActor(
        ...     TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ...     in_keys=["loc", "scale"], spec=Bounded(-1, 1, (2,)), distribution_class=TanhNormal,
        ... )
        >>> data = TensorDict({
        ...     "observation": torch.randn(40, 3), "action": torch.rand(40, 2),
        ...     "next": {
        ...         "reward": torch.ones(40, 1), "done": (torch.arange(40) == 39).unsqueeze(-1),
        ...     },
        ... }, [40])
        >>> cloning = Cloning(ImitationLoss(actor), interval=40)
        >>> cloning.demonstrate([data])
        >>> cloning.extend(data)                # the agent's own steps, which are only counted
        >>> sorted(cloning.step())
        ['recall/kept', 'recall/loss_imitation', 'recall/ready']
    """

    def __init__(self, imitation_loss: ImitationLoss, **settings: Any) -> None:
        self.imitation = SelfImitation(imitation_loss, **settings)

    def demonstrate(self, trajectories: Sequence[TensorDictBase]) -> None:
        """Take the demonstrations; see :meth:`~torchrl_recall.Recall.demonstrate`."""
        self.imitation.demonstrate(trajectories)

    def extend(self, data: TensorDictBase) -> None:
        """Count new experience, on whose states a trust region is measured."""
        data = valid_steps(data)
        self.imitation.imitate.steps.observe(data)
        self.imitation.schedule.advance(data.numel())

    def step(self, replay_buffer: ReplayBuffer | None = None) -> dict[str, Tensor]:
        """Imitate the demonstrations, once for each round that is due.

        Args:
            replay_buffer: not looked at.

        Returns:
            See :meth:`~torchrl_recall.SelfImitation.step`.
        """
        return self.imitation.step()

    def transitions(self, num: int) -> None:
        """Return nothing: pairs are imitated only."""

    def drop_unfinished(self) -> None:
        """Do nothing: demonstrations are whole."""

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name what a resumed run needs; the policy belongs to the host."""
        return self.imitation.stateful_parts()
