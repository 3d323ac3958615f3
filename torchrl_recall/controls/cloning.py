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
    r"""Behaviour cloning beside the host: imitation of demonstrations alone.

    .. math:: -\sum_t \log \pi_\theta(a_t \mid s_t), \qquad (s_t, a_t) \in \text{demonstrations}

    The schedule and the imitation steps are those of :class:`~torchrl_recall.SelfImitation`, but
    trajectories of the agent do not enter the store. The control shows what demonstrations
    contribute without a model.

    Args:
        imitation_loss: Eq. 3, holding the host's policy.

    Keyword Args:
        settings: keyword arguments of :class:`~torchrl_recall.SelfImitation`.

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
        """Store the demonstrations; see :meth:`~torchrl_recall.Recall.demonstrate`.

        Args:
            trajectories: whole trajectories, shape ``[time]`` each.

        Raises:
            ValueError: there are none.
        """
        if not len(trajectories):
            raise ValueError("there are no demonstrations to clone; give at least one trajectory.")
        self.imitation.demonstrate(trajectories)

    def extend(self, data: TensorDictBase) -> None:
        """Count the frames of new experience, and measure the trust region on its states.

        Args:
            data: transitions in order of time, shape ``[time]`` or ``[batch, time]``.
        """
        data = valid_steps(data)
        self.imitation.imitate.steps.observe(data)
        self.imitation.schedule.advance(data.shape.numel())

    def step(self, replay_buffer: ReplayBuffer | None = None) -> dict[str, Tensor]:
        """Imitate the demonstrations, once for each round that is due.

        Args:
            replay_buffer: ignored.

        Returns:
            See :meth:`~torchrl_recall.SelfImitation.step`.
        """
        return self.imitation.step()

    def transitions(self, num: int) -> None:
        """Return None: the control has no transitions for a critic.

        Args:
            num: ignored.
        """

    def drop_unfinished(self) -> None:
        """Do nothing: demonstrations are whole trajectories."""

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name the parts whose state a resumed run needs; the host saves the policy."""
        return self.imitation.stateful_parts()
