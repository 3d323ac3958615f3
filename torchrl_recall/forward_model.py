"""The Dyna control of App. G: imitation of what a forward model imagines."""

from __future__ import annotations

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.data import ReplayBuffer

from torchrl_recall.envs.backtracking_env import reverse_time
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.recall import Recall, candidates
from torchrl_recall.self_imitation import valid_steps
from torchrl_recall.traces.high_value_states import CriticStates

__all__ = ["ForwardModelImitation"]


class ForwardModelImitation(Recall):
    r"""Imitation of the good continuations that a forward model imagines: a control.

    .. math:: p(a_t, \Delta_t \mid s_t) = p(a_t \mid s_t) \, p(\Delta_t \mid a_t, s_t),
        \qquad \Delta_t = s_{t+1} - s_t

    A backtracking model whose data run the other way *is* such a model, of the same size, so this
    is :class:`Recall` with time reversed: the action model learns from the top trajectories, the
    state predictor from what ``state_predictor_data`` says. Rollouts begin in states drawn from the
    replay buffer; those that end in the states of highest value are imitated. Nothing makes them
    good but that choice, which is why the paper prefers to go backwards.

    From Goyal et al., *Recall Traces*, ICLR 2019, App. G, which does not say how continuations are
    chosen.

    Args:
        model: q(s_t, a_t | s_{t+1}) by its names; here s_{t+1} is where a step begins.
        imitation_loss: Eq. 3, holding the host's policy.
        critic: V(s), ranks where rollouts end.

    Keyword Args:
        num_states: how many rollouts are imitated, of the ``state_batch_size`` imagined.
        kwargs: see :class:`Recall`.

    Raises:
        ValueError: a number is out of its range.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import NormalParamExtractor, TensorDictModule
        >>> from torchrl.data import Bounded, LazyTensorStorage, ReplayBuffer, Unbounded
        >>> from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
        >>> from torchrl_recall import BacktrackingModel, ForwardModelImitation, ImitationLoss
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), NormalParamExtractor())
        >>> actor = ProbabilisticActor(
        ...     TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ...     in_keys=["loc", "scale"], spec=Bounded(-1, 1, (2,)), distribution_class=TanhNormal,
        ... )
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> critic = ValueOperator(torch.nn.Linear(3, 1), ["observation"])
        >>> control = ForwardModelImitation(
        ...     model, ImitationLoss(actor), critic, num_states=4, interval=40,
        ... )
        >>> replay_buffer = ReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
        >>> data = TensorDict({                       # two episodes of 20 steps
        ...     "observation": torch.randn(40, 3),
        ...     "action": torch.rand(40, 2),
        ...     "next": {
        ...         "observation": torch.randn(40, 3),
        ...         "reward": torch.randn(40, 1),
        ...         "done": (torch.arange(40) % 20 == 19).unsqueeze(-1),
        ...     },
        ... }, [40])
        >>> _ = replay_buffer.extend(data)
        >>> control.extend(data)
        >>> bool(control.step(replay_buffer)["recall/loss_imitation"].isfinite())
        True
    """

    def __init__(
        self,
        model: BacktrackingModel,
        imitation_loss: ImitationLoss,
        critic: TensorDictModuleBase,
        *,
        num_states: int = 64,
        **kwargs,
    ) -> None:
        self.ends = CriticStates(critic, num_states, observation_key=model.observation_key)
        super().__init__(model, imitation_loss, self.ends, critic=critic, **kwargs)

    def _reversed(self, data: TensorDictBase) -> TensorDictBase:
        return reverse_time(data, observation_key=self.model.observation_key)

    def _update_statistics(self, data: TensorDictBase) -> None:
        self.model.update_statistics(self._reversed(valid_steps(data)))

    def _losses(self, top: TensorDictBase, everything: TensorDictBase) -> TensorDict:
        return super()._losses(self._reversed(top), self._reversed(everything))

    def _pairs(self, replay_buffer: ReplayBuffer) -> TensorDictBase:
        starts = candidates(replay_buffer, self.state_batch_size)
        rollouts = self._reversed(self.generator(starts))  # forwards from where they start
        return rollouts[self.ends.rank(rollouts[:, -1]["next"])]
