"""Imitation of what a forward model imagines: a control (App. G)."""

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
from torchrl_recall.envs.backtracking_env import reverse_time
from torchrl_recall.imitation_updates import ImitationUpdates, make_steps
from torchrl_recall.model_updates import ModelUpdates
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.objectives.backtracking import BacktrackingLoss
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.optim.batches import BatchSource, Draws
from torchrl_recall.schedule import Schedule
from torchrl_recall.stateful import Part, Stateful
from torchrl_recall.traces.generator import RecallTraceGenerator
from torchrl_recall.traces.high_value_states import CriticStates

__all__ = ["ForwardModelImitation"]


class ForwardModelImitation(Stateful):
    r"""Imitation of the good continuations that a forward model imagines (App. G), as in Dyna.

    .. math:: p(a_t, \Delta_t \mid s_t) = p(a_t \mid s_t) \, p(\Delta_t \mid a_t, s_t),
        \qquad \Delta_t = s_{t+1} - s_t

    A backtracking model whose data run the other way *is* such a model, of the same size: time is
    reversed around training and generation. The action model learns from the top trajectories, the
    state predictor from what ``state_predictor_data`` says. Rollouts begin in states drawn from the
    replay buffer; those that end in the states of highest value are imitated. Nothing makes them
    good but that choice, which is why the paper prefers to go backwards.

    From Goyal et al., *Recall Traces*, ICLR 2019, App. G, which does not say how continuations are
    chosen.

    Args:
        model: q(s_t, a_t | s_{t+1}) by its names; here s_{t+1} is where a step begins.
        imitation_loss: Eq. 3, holding the host's policy.
        critic: V(s), ranks the states where rollouts end.

    Keyword Args:
        num_states: how many rollouts are imitated, of the ``state_batch_size`` imagined.
        interval: frames between rounds.
        start_frames: frames before which there are no rounds.
        anneal_frames: the length of imitation's steps falls linearly to zero at this many frames;
            None keeps it.
        num_trajectories: k_traj of :class:`~torchrl_recall.TopKTrajectories`.
        buffer_size: room for their transitions.
        return_threshold: see :class:`~torchrl_recall.TopKTrajectories`.
        reward_key: where rewards are, under ``"next"``.
        done_key: where the end of a trajectory is, under ``"next"``.
        num_model_updates: steps of the model in each round.
        model_batch_size: transitions in each of them.
        model_lr: the model's learning rate.
        state_predictor_data: ``"all"`` transitions or only the ``"top"`` trajectories.
        state_fraction: share of most valuable states of the top trajectories to learn from.
        state_batch_size: rollouts that are imagined.
        trace_length: steps of each rollout.
        num_traces: rollouts from each state.
        filters: modules that complete the pairs or narrow their mask, in order. Those that cut a
            trace where it goes wrong walk away from where the rollout starts, and what is left of
            it ends where they cut.
        num_updates: imitation steps in each round.
        batch_size: pairs in each of them.
        lr: learning rate of imitation by Adam.
        max_kl: how far a round may move the policy, in nats; None takes steps of Adam.
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
            device=next((p.device for p in imitation_loss.parameters()), None),
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
        """Offer new experience to the best trajectories (Alg. 1, line 5); see :class:`Recall`."""
        self.schedule.advance(self.trajectories.extend(data))

    def step(self, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        """Train the model and imitate its best rollouts, once for each round that is due.

        Args:
            replay_buffer: all experience.

        Returns:
            Detached means of the last round, and ``recall/ready``, which is 0 while a due round
            waits for a trajectory that is better than another; empty if no round was due.
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
        """Return nothing: pairs are imitated only."""

    def drop_unfinished(self) -> None:
        """Forget open trajectories, as after an environment was reset in mid-episode."""
        self.trajectories.drop_unfinished()

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name what a resumed run needs; the policy belongs to the host."""
        return {
            "schedule": self.schedule,
            "trajectories": self.trajectories,
            "model": self.model,
            "train_model": self.train_model,
            "imitate": self.imitate,
        }


def _last_kept(rollouts: TensorDictBase) -> TensorDictBase:
    """Return the last step that the mask leaves of each rollout, or its first step."""
    mask = rollouts.get("mask", None)
    if mask is None:
        return rollouts[:, -1]
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).amax(1)
    return rollouts[torch.arange(len(rollouts), device=mask.device), last]
