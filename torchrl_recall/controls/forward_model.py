"""Imitation of rollouts of a forward model, a control (App. G)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import ReplayBuffer

from torchrl_recall.checks import at_least
from torchrl_recall.data.top_trajectories import TopTrajectories, read_keys, valid_steps
from torchrl_recall.devices import device_of
from torchrl_recall.envs.backtracking_env import reverse_time
from torchrl_recall.imitation_updates import ImitationUpdates, make_steps
from torchrl_recall.model_updates import ModelUpdates
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.objectives.backtracking import BacktrackingLoss
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.optim.batches import BatchSource, Draws
from torchrl_recall.schedule import Schedule
from torchrl_recall.stateful import Part, Stateful
from torchrl_recall.traces.agreement import refuse_judges
from torchrl_recall.traces.generator import RecallTraceGenerator
from torchrl_recall.traces.high_value_states import CriticStates

__all__ = ["ForwardModelImitation"]


class ForwardModelImitation(Stateful):
    r"""Imitation of good rollouts of a forward model (App. G), as in Dyna.

    .. math:: p(a_t, \Delta_t \mid s_t) = p(a_t \mid s_t) \, p(\Delta_t \mid a_t, s_t),
        \qquad \Delta_t = s_{t+1} - s_t

    A backtracking model that is trained on data reversed in time *is* such a model, of the same
    size. The action model learns from the top trajectories, and the state predictor from
    ``state_predictor_data``. Rollouts begin in states drawn from the replay buffer. Those that end
    in the states of highest value are imitated. Only this choice favours good rollouts, which is
    why the paper prefers to go backwards.

    From Goyal et al., *Recall Traces*, ICLR 2019, App. G. The appendix does not say how
    continuations are chosen.

    Args:
        model: a backtracking model, q(s_t, a_t | s_{t+1}). Here its input s_{t+1} holds the state
            in which a step begins.
        imitation_loss: Eq. 3, holding the host's policy.
        critic: V(s), which ranks the last states of rollouts.

    Keyword Args:
        num_states: number of rollouts that are imitated, out of ``state_batch_size`` imagined ones.
        interval: frames between rounds.
        start_frames: number of frames before the first round.
        anneal_frames: number of frames over which the length of imitation steps falls linearly to
            zero; None keeps it constant.
        num_trajectories: k_traj of :class:`~torchrl_recall.TopKTrajectories`.
        buffer_size: capacity of their buffer, in transitions.
        return_threshold: see :class:`~torchrl_recall.TopKTrajectories`.
        reward_key: key of the rewards, under ``"next"``.
        done_key: key that marks the end of a trajectory, under ``"next"``.
        num_model_updates: gradient steps of the model in each round.
        model_batch_size: transitions in each gradient step of the model.
        model_lr: the model's learning rate.
        state_predictor_data: training data of the state predictor, ``"all"`` transitions or only
            those of the ``"top"`` trajectories.
        state_fraction: a share in (0, 1]. The model learns from this share of the states of the top
            trajectories, the most valuable ones.
        state_batch_size: number of imagined rollouts in each round.
        trace_length: steps of each rollout.
        num_traces: rollouts from each state.
        filters: modules that add entries to the pairs or narrow their mask, applied in order. A
            filter that cuts traces starts at the first state of a rollout, and keeps the steps
            before its first bad one.
        num_updates: imitation steps in each round.
        batch_size: pairs of state and action in each imitation step.
        lr: learning rate of imitation by Adam.
        max_kl: bound on the policy's change in one round, in nats; None takes steps of Adam.
        compile: whether gradient steps and rollouts are compiled.

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
        >>> path = torch.randn(2, 21, 3).cumsum(1)    # two episodes of 20 steps
        >>> data = TensorDict({
        ...     "observation": path[:, :-1].flatten(0, 1),
        ...     "action": torch.rand(40, 2),
        ...     "next": {
        ...         "observation": path[:, 1:].flatten(0, 1),
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
        interval: int = 50,
        start_frames: int = 0,
        anneal_frames: int | None = None,
        num_trajectories: int = 10,
        buffer_size: int = 100_000,
        return_threshold: float | None = None,
        reward_key: NestedKey = "reward",
        done_key: NestedKey = "done",
        num_model_updates: int = 50,
        model_batch_size: int = 256,
        model_lr: float = 1e-3,
        state_predictor_data: Literal["all", "top"] = "all",
        state_fraction: float = 1.0,
        state_batch_size: int = 1024,
        trace_length: int = 20,
        num_traces: int = 1,
        filters: Sequence[TensorDictModuleBase] = (),
        num_updates: int = 10,
        batch_size: int = 256,
        lr: float = 3e-4,
        max_kl: float | None = None,
        compile: bool = False,
    ) -> None:
        at_least(1, state_batch_size=state_batch_size, trace_length=trace_length)
        refuse_judges(filters, "ForwardModelImitation")
        self.model, self.state_batch_size = model, state_batch_size
        self.ends = CriticStates(critic, num_states, observation_key=model.observation_key)
        steps = make_steps(imitation_loss, lr=lr, max_kl=max_kl, compile=compile)
        self.schedule = Schedule(interval, start_frames=start_frames, anneal_frames=anneal_frames)
        self.train_model = ModelUpdates(
            BacktrackingLoss(model),
            num_updates=num_model_updates,
            batch_size=model_batch_size,
            lr=model_lr,
            state_predictor_data=state_predictor_data,
            state_fraction=state_fraction,
            critic=critic,
            state_batch_size=state_batch_size,
            prepare=self._reverse,
            compile=compile,
        )
        self.trajectories = TopTrajectories(
            num_trajectories,
            buffer_size=buffer_size,
            write_every=interval,
            return_threshold=return_threshold,
            reward_key=reward_key,
            done_key=done_key,
            observation_key=model.observation_key,
            keys=read_keys(imitation_loss, self.train_model.loss, critic, *filters),
            device=device_of(imitation_loss),
            on_write=[self._update_statistics, steps.observe],
        )
        self.generate = RecallTraceGenerator(
            model, trace_length=trace_length, num_traces=num_traces, compile=compile
        )
        self.imitate = ImitationUpdates(
            imitation_loss,
            steps,
            num_updates=num_updates,
            batch_size=batch_size,
            transforms=[f for f in filters if not getattr(f, "walks_back", False)],
        )
        self.path_filters = [f for f in filters if getattr(f, "walks_back", False)]
        self.draws: BatchSource = Draws()

    def _reverse(self, data: TensorDictBase) -> TensorDictBase:
        return reverse_time(data, observation_key=self.model.observation_key)

    def _update_statistics(self, data: TensorDictBase) -> None:
        self.model.update_statistics(self._reverse(valid_steps(data)))

    def extend(self, data: TensorDictBase) -> None:
        """Offer new experience to the best trajectories (Alg. 1, line 5).

        Args:
            data: transitions in order of time, shape ``[time]`` or ``[batch, time]``.
        """
        self.schedule.advance(self.trajectories.extend(data))

    def step(self, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        """Train the model and imitate its best rollouts, once for each round that is due.

        Args:
            replay_buffer: all experience.

        Returns:
            Detached means over the last round, and ``recall/ready``. The latter is 0 while a due
            round waits until one trajectory is better than another. Empty if no round was due.
        """
        metrics: dict[str, Tensor] = {}
        for share in self.schedule.rounds(self.trajectories):
            metrics = self.train_model(self.trajectories, replay_buffer)
            starts = self.draws.candidates(replay_buffer, self.state_batch_size)
            assert starts is not None
            imagined = self.generate(starts)  # reversed: where they start is their end state,
            for path_filter in self.path_filters:  # so that filters walk away from it
                imagined = path_filter(imagined)
            rollouts = self._reverse(imagined)
            best = self.ends.rank(_last_kept(rollouts)["next"])
            metrics |= self.imitate(rollouts[best], share)
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
            "model": self.model,
            "train_model": self.train_model,
            "imitate": self.imitate,
        }


def _last_kept(rollouts: TensorDictBase) -> TensorDictBase:
    """Return the last unmasked step of each rollout, or its first step if all are masked."""
    mask = rollouts.get("mask", None)
    if mask is None:
        return rollouts[:, -1]
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).amax(1)
    return rollouts[torch.arange(len(rollouts), device=mask.device), last]
