"""Recall traces beside a host algorithm: lines 5 and 8 to 13 of Algorithm 1, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import ReplayBuffer

from torchrl_recall.checks import at_least, check_masks
from torchrl_recall.data.demonstrations import Demonstrations
from torchrl_recall.data.top_trajectories import TopTrajectories, read_keys, valid_steps
from torchrl_recall.devices import device_of
from torchrl_recall.filter_updates import FilterUpdates
from torchrl_recall.imitation_updates import ImitationUpdates, make_steps
from torchrl_recall.model_updates import ModelUpdates, make_model_loss
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.joint_model import JointModel
from torchrl_recall.modules.reward_model import RewardModel
from torchrl_recall.modules.standardization import ContinuousCodec
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.optim.batches import BatchSource, Draws
from torchrl_recall.reward_updates import RewardUpdates
from torchrl_recall.schedule import Schedule
from torchrl_recall.stateful import Part, Stateful
from torchrl_recall.traces.agreement import refuse_judges
from torchrl_recall.traces.filters import WithinSupport
from torchrl_recall.traces.generator import RecallTraceGenerator
from torchrl_recall.traces.high_value_states import HighValueStates, check_rewarded
from torchrl_recall.traces.measured_length import MeasuredLength
from torchrl_recall.traces.newest import FreshTransitions, NewestTraces
from torchrl_recall.traces.transitions import TraceTransitions

__all__ = ["Recall"]


class Recall(Stateful):
    r"""Recall traces beside a host algorithm: lines 5 and 8 to 13 of Algorithm 1.

    From Goyal et al., *Recall Traces*, ICLR 2019. Give it the backtracking model and the imitation
    loss of the host's policy. Call :meth:`extend` with the collected data, and :meth:`step` after
    the host's own update. Rounds begin once one trajectory has a higher return than another. Until
    then no state is known to be good.

    Traces are used in two ways. The paper imitates them (``use="policy"``). They may also train the
    critic of an off-policy host (``use="critic"``). In that case :meth:`transitions` draws
    transitions of the newest traces, and the host learns from them beside its own batch::

        for data in collector:
            replay_buffer.extend(data)
            recall.extend(data)
            host_update(replay_buffer.sample(), recall.transitions(256))
            recall.step(replay_buffer)

    Each part can be used alone. :meth:`from_parts` composes recall from other parts with the same
    interface. A run of many random seeds in one process does so.

    Args:
        model: the backtracking model (Eq. 1), or a :class:`~torchrl_recall.JointModel`.
        imitation_loss: Eq. 3, holding the host's policy; None if traces are not imitated.
        high_value_states: chooses the states that traces end in (line 10). For a critic, the end
            states must carry the reward of the transition into them, as those of
            :class:`~torchrl_recall.ReturnStates` do.

    Keyword Args:
        use: who learns from traces: the ``"policy"``, which imitates them, the host's ``"critic"``,
            or ``"both"``.
        interval: frames between rounds of lines 8 to 13.
        start_frames: number of frames before the first round, for example while the host acts at
            random.
        anneal_frames: number of frames over which the length of imitation steps falls linearly to
            zero; None keeps it constant. A critic learns from traces after that too.
        num_trajectories: k_traj of :class:`~torchrl_recall.TopKTrajectories` (line 5).
        buffer_size: capacity of their buffer, in transitions.
        return_threshold: see :class:`~torchrl_recall.TopKTrajectories`.
        reward_key: key of the rewards, under ``"next"``.
        done_key: key that marks the end of a trajectory, under ``"next"``.
        num_model_updates: gradient steps of Eq. 2 in each round (lines 8 and 9); zero leaves the
            model untrained.
        model_batch_size: transitions in each gradient step of the model.
        model_lr: β, the model's learning rate.
        state_predictor_data: training data of the state predictor: ``"all"`` transitions or, as in
            the paper, only those of the ``"top"`` trajectories. The backward policy always learns
            from the top trajectories.
        state_fraction: k, a share in (0, 1]. The model learns from this share of the states of the
            top trajectories, the most valuable ones (line 8). A share below one needs a critic.
        critic: writes ``state_value``, which ranks states for ``state_fraction``.
        state_batch_size: number of transitions from which end states are chosen.
        trace_length: steps of each trace (line 11). A :class:`~torchrl_recall.MeasuredLength`
            chooses the length from the collected data.
        num_traces: N, the number of traces that end in each high-value state.
        actions: how the actions of traces are drawn, see
            :class:`~torchrl_recall.RecallTraceGenerator`. With uniform actions no backward policy
            is trained, and the state predictor learns from the first round on.
        reward: the reward of each transition of a trace, for a critic; see
            :class:`~torchrl_recall.TraceTransitions`. A :class:`~torchrl_recall.RewardModel` is
            trained with as many gradient steps, of the same batch size, as the backtracking model.
            A :class:`~torchrl_recall.JointModel` predicts rewards itself.
        bootstrap: whether each member of an ensemble learns from its own random batches; see
            :class:`~torchrl_recall.BacktrackingLoss`.
        filters: modules that add entries to traces or narrow their mask before imitation, applied
            in order. By default :class:`~torchrl_recall.WithinSupport` cuts traces of continuous
            states where they leave the data. ``[]`` imitates all traces, as the paper does.
        transition_filters: filters of the transitions that a critic learns from, with the same
            default. The forward model of an :class:`~torchrl_recall.Agreement` in either list is
            trained with as many gradient steps, of the same batch size, as the backtracking model.
        num_updates: imitation steps in each round (lines 12 and 13).
        batch_size: pairs of state and action in each imitation step.
        lr: learning rate of imitation by Adam; the paper uses that of the host.
        max_kl: bound on the policy's change in one round, in nats, kept by
            :class:`~torchrl_recall.imitation_updates.TrustRegionSteps`. None takes steps of Adam
            without a bound, as the paper does.
        compile: whether gradient steps and trace generation are compiled. Compilation takes some
            ten seconds once; see :func:`~torchrl_recall.make_update`.

    Attributes:
        schedule: decides when a round is due.
        trajectories: the best trajectories, in ``trajectories.buffer``.
        train_model: gradient steps of Eq. 2.
        generate: the trace generator.
        newest: some of the newest traces before filters, in ``newest.rows``; None before the first
            round.
        imitate: gradient steps of Eq. 3, with ``imitate.transforms``; None if only a critic learns.
        train_reward: gradient steps of the reward model, or None.
        train_filters: what filters learn from real transitions, such as a forward model.

    Raises:
        ValueError: a number is out of its range, or an argument that ``use`` needs is missing.
            Also for a loss, filters or a reward that have no effect with this ``use``, and for end
            states without a reward for a critic.
        TypeError: ``imitation_loss`` is not an :class:`~torchrl_recall.ImitationLoss`,
            ``high_value_states`` cannot be called, or filters are no sequence of modules.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import NormalParamExtractor, TensorDictModule
        >>> from torchrl.data import (
        ...     Bounded, LazyTensorStorage, TensorDictReplayBuffer, Unbounded
        ... )
        >>> from torchrl.modules import ProbabilisticActor, TanhNormal
        >>> from torchrl_recall import BacktrackingModel, ImitationLoss, Recall, RewardStates
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), NormalParamExtractor())
        >>> actor = ProbabilisticActor(
        ...     TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ...     in_keys=["loc", "scale"], spec=Bounded(-1, 1, (2,)), distribution_class=TanhNormal,
        ... )
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> recall = Recall(model, ImitationLoss(actor), RewardStates(4), interval=40)
        >>> replay_buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
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
        >>> recall.extend(data)
        >>> bool(recall.step(replay_buffer)["recall/loss_imitation"].isfinite())
        True
    """

    schedule: Schedule
    trajectories: Any
    train_model: ModelUpdates
    high_value_states: HighValueStates
    generate: Callable[[TensorDictBase], TensorDictBase]
    newest: NewestTraces
    imitate: ImitationUpdates | None
    train_reward: RewardUpdates | None
    train_filters: FilterUpdates

    def __init__(
        self,
        model: BacktrackingModel,
        imitation_loss: ImitationLoss | None,
        high_value_states: HighValueStates,
        *,
        use: Literal["policy", "critic", "both"] = "policy",
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
        critic: TensorDictModuleBase | None = None,
        state_batch_size: int = 1024,
        trace_length: int | MeasuredLength = 20,
        num_traces: int = 1,
        actions: Literal["backward_policy", "uniform"] = "backward_policy",
        reward: Callable[[TensorDictBase], TensorDictBase | None] | None = None,
        bootstrap: bool = False,
        filters: Sequence[TensorDictModuleBase] | None = None,
        transition_filters: Sequence[TensorDictModuleBase] | None = None,
        num_updates: int = 10,
        batch_size: int = 256,
        lr: float = 3e-4,
        max_kl: float | None = None,
        compile: bool = False,
    ) -> None:
        _check_use(use, imitation_loss, filters, high_value_states, reward, actions)
        for learner in (model, reward):
            if isinstance(learner, JointModel | RewardModel) and reward_key != "reward":
                raise ValueError(
                    f"a {type(learner).__name__} learns ('next', 'reward'), but reward_key="
                    f"{reward_key!r}; rename the entry by torchrl's RenameTransform, or leave the "
                    "model out."
                )
        if use == "policy" and transition_filters:
            raise ValueError(
                "transition_filters= is for a critic; imitated traces are cut by filters=. Give "
                "use='critic', or 'both'."
            )
        if filters is None:
            filters = [] if use == "critic" else _default_filters(model)
        if transition_filters is None:
            transition_filters = [] if use == "policy" else _default_filters(model)
        filters, transition_filters = check_masks(filters), check_masks(transition_filters)
        imitate = None
        on_write = [lambda data: model.update_statistics(valid_steps(data))]
        if imitation_loss is not None:
            steps = make_steps(imitation_loss, lr=lr, max_kl=max_kl, compile=compile)
            on_write.append(steps.observe)
            imitate = ImitationUpdates(
                imitation_loss,
                steps,
                num_updates=num_updates,
                batch_size=batch_size,
                transforms=filters,
            )
        steps_of_models: dict[str, Any] = {
            "num_updates": num_model_updates,
            "batch_size": model_batch_size,
            "lr": model_lr,
            "compile": compile,
        }
        train_reward = None
        if isinstance(reward, JointModel):
            reward = reward.predict_outcome
        if isinstance(reward, RewardModel):
            # The first, because it checks all entries.
            on_write.insert(0, lambda data: reward.update_statistics(valid_steps(data)))
            train_reward = RewardUpdates(reward, **steps_of_models)
        # The filters observe real transitions before any model learns from them.
        train_filters = FilterUpdates([*filters, *transition_filters], model, **steps_of_models)
        on_write += [train_filters.update_statistics, train_filters.observe]
        train_model = ModelUpdates(
            make_model_loss(model, bootstrap=bootstrap),
            state_predictor_data=state_predictor_data,
            learns_policy=actions == "backward_policy",
            state_fraction=state_fraction,
            critic=critic,
            state_batch_size=state_batch_size,
            **steps_of_models,
        )
        self._compose(
            model,
            schedule=Schedule(interval, start_frames=start_frames, anneal_frames=anneal_frames),
            trajectories=TopTrajectories(
                num_trajectories,
                buffer_size=buffer_size,
                write_every=interval,
                return_threshold=return_threshold,
                reward_key=reward_key,
                done_key=done_key,
                observation_key=model.observation_key,
                keys=read_keys(imitation_loss, train_model.loss, critic, *filters),
                device=device_of(imitation_loss or model),
                on_write=on_write,
            ),
            train_model=train_model,
            high_value_states=high_value_states,
            generate=RecallTraceGenerator(
                model,
                trace_length=trace_length,
                num_traces=num_traces,
                actions=actions,
                compile=compile,
            ),
            imitate=imitate,
            to_transitions=None
            if use == "policy"
            else TraceTransitions(
                reward=reward,
                observation_key=model.observation_key,
                action_key=model.action_key,
                reward_key=reward_key,
            ),
            train_reward=train_reward,
            train_filters=train_filters,
            transition_filters=transition_filters,
            state_batch_size=state_batch_size,
        )

    @classmethod
    def from_parts(
        cls,
        model: BacktrackingModel,
        *,
        schedule: Schedule,
        trajectories: Any,
        train_model: ModelUpdates,
        high_value_states: HighValueStates,
        generate: Callable[[TensorDictBase], TensorDictBase],
        imitate: ImitationUpdates | None,
        to_transitions: TraceTransitions | None = None,
        train_reward: RewardUpdates | None = None,
        draws: BatchSource | None = None,
        state_batch_size: int = 1024,
    ) -> Recall:
        """Compose recall from its parts.

        Args:
            model: the backtracking model; its state is saved with that of the parts.

        Keyword Args:
            schedule: decides when a round is due.
            trajectories: a store such as
                :class:`~torchrl_recall.data.top_trajectories.TopTrajectories`.
            train_model: gradient steps of Eq. 2.
            high_value_states: chooses end states.
            generate: maps end states to traces.
            imitate: gradient steps of Eq. 3; None if traces are not imitated.
            to_transitions: turns traces into transitions for a critic; None without a critic.
            train_reward: gradient steps of the reward model of ``to_transitions``.
            draws: the source of random batches.
            state_batch_size: number of transitions from which end states are chosen.

        Returns:
            Recall with these parts.
        """
        recall = cls.__new__(cls)
        recall._compose(
            model,
            schedule=schedule,
            trajectories=trajectories,
            train_model=train_model,
            high_value_states=high_value_states,
            generate=generate,
            imitate=imitate,
            to_transitions=to_transitions,
            train_reward=train_reward,
            draws=draws,
            state_batch_size=state_batch_size,
        )
        return recall

    def _compose(
        self,
        model: BacktrackingModel,
        *,
        draws: BatchSource | None = None,
        state_batch_size: int,
        to_transitions: TraceTransitions | None,
        train_filters: FilterUpdates | None = None,
        transition_filters: Sequence[TensorDictModuleBase] = (),
        **parts: Any,
    ) -> None:
        at_least(1, state_batch_size=state_batch_size)
        self.model, self.state_batch_size = model, state_batch_size
        self.draws: BatchSource = Draws() if draws is None else draws
        imitate: ImitationUpdates | None = parts["imitate"]
        if train_filters is None and imitate is not None:
            refuse_judges(imitate.transforms, "Recall.from_parts")
        device = device_of(model)
        self.to_transitions, self.fresh = to_transitions, FreshTransitions(device)
        self.newest = NewestTraces(device)  # before filters, for an audit or a picture
        self.train_filters = FilterUpdates((), model) if train_filters is None else train_filters
        self.transition_filters = list(transition_filters)
        self.demonstrations: Demonstrations | None = None
        for name, part in parts.items():
            setattr(self, name, part)
        # Dynamics can be learned before anything is known to be good.
        self.begins_early = not self.train_model.needs_top
        length = getattr(self.generate, "trace_length", None)
        self.measured_length = length if isinstance(length, MeasuredLength) else None
        if self.measured_length is not None:
            self.measured_length.watch(self.trajectories, model)

    def extend(self, data: TensorDictBase) -> None:
        """Offer new experience to the best trajectories (Alg. 1, line 5).

        Data are gathered and written ``interval`` frames at a time, because each write has a high
        fixed cost.

        Args:
            data: transitions in order of time, shape ``[time]`` or ``[batch, time]``.
        """
        self.schedule.advance(self.trajectories.extend(data))

    def demonstrate(self, trajectories: Sequence[TensorDictBase]) -> None:
        """Fill the store with demonstrations, before the first step.

        Models learn from their transitions beside those of the replay buffer, and traces may end in
        their states. Rounds then need not wait until one trajectory is better than another.

        Args:
            trajectories: whole trajectories, shape ``[time]`` each; see
                :func:`~torchrl_recall.whole_trajectories`.

        Raises:
            ValueError: a trajectory does not fit into the store, or none reaches its threshold.
        """
        self.trajectories.demonstrate(trajectories)
        device = device_of(self.model)
        self.demonstrations = Demonstrations(trajectories, device=device)

    def step(self, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        """Train the model and use its traces, once for each round that is due (l.8-13).

        Args:
            replay_buffer: all experience.

        Returns:
            Detached means over the last round, and ``recall/ready``. The latter is 0 while a due
            round waits until one trajectory is better than another. Empty if no round was due.
        """
        metrics: dict[str, Tensor] = {}
        if self.demonstrations is not None:
            replay_buffer = self.demonstrations.beside(replay_buffer)
        rounds = self.schedule.rounds(
            self.trajectories,
            while_waiting=self.begins_early,
            after_annealing=self.to_transitions is not None,
        )
        for share in rounds:
            metrics = self.train_model(self.trajectories, replay_buffer)  # l.8-9, Eq. 2
            if self.train_reward is not None:
                metrics |= self.train_reward(replay_buffer)
            metrics |= self.train_filters(replay_buffer)
            if not self.trajectories.ready:
                continue
            candidates = self.draws.candidates(replay_buffer, self.state_batch_size)
            end_states = self.high_value_states(candidates)  # l.10
            if len(end_states):
                traces = self.generate(end_states)  # l.11
                if self.measured_length is not None:
                    metrics["recall/trace_length"] = torch.tensor(float(traces.shape[1]))
                self.newest.replace(traces)
                if self.to_transitions is not None:
                    metrics |= self._replace_transitions(traces.copy(), end_states)
                if self.imitate is not None and share:
                    metrics |= self.imitate(traces, share)  # l.12-13, Eq. 3
        return metrics | self.schedule.metrics

    def _replace_transitions(
        self, traces: TensorDictBase, end_states: TensorDictBase
    ) -> dict[str, Tensor]:
        """Turn the steps of traces that filters keep into the newest transitions."""
        assert self.to_transitions is not None
        for transform in self.transition_filters:
            traces = transform(traces)
        mask = traces.get("mask", None)
        kept = torch.ones(()) if mask is None else mask.float().mean()
        self.fresh.replace(self.to_transitions(traces, end_states), share=float(kept))
        return {} if mask is None else {"recall/kept_transitions": kept}

    def transitions(self, num: int) -> TensorDictBase | None:
        """Draw transitions of the newest traces, for a critic to learn from.

        Args:
            num: number of transitions, drawn with replacement.

        Returns:
            Transitions of shape ``[num]``, see :class:`~torchrl_recall.TraceTransitions`. None
            before the first round, if traces are only imitated, and in the share of calls that
            ``transition_filters`` cut from the newest round.
        """
        return self.fresh.sample(num)

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
            "draws": self.draws,
            "newest": self.newest,
            **({} if self.imitate is None else {"imitate": self.imitate}),
            **({} if self.to_transitions is None else {"fresh": self.fresh}),
            **({} if self.train_reward is None else {"train_reward": self.train_reward}),
            **self.train_filters.stateful_parts(),
            **({} if self.measured_length is None else {"length": self.measured_length}),
            **({} if self.demonstrations is None else {"demonstrations": self.demonstrations}),
        }


def _default_filters(model: BacktrackingModel) -> list[TensorDictModuleBase]:
    """Build the filter that keeps traces of continuous states within the data."""
    codec, key = model.observations, model.observation_key
    if not isinstance(codec, ContinuousCodec):
        return []
    return [WithinSupport(codec.normalize, observation_key=key)]


def _check_use(
    use: str,
    imitation_loss: ImitationLoss | None,
    filters: Sequence[TensorDictModuleBase] | None,
    high_value_states: HighValueStates,
    reward: object,
    actions: str,
) -> None:
    """Refuse a use of traces whose policy, rewards or end states are missing."""
    if use not in ("policy", "critic", "both"):
        raise ValueError(f"use must be 'policy', 'critic' or 'both', got {use!r}.")
    if not callable(high_value_states):
        raise TypeError(
            f"high_value_states chooses where traces end, got {high_value_states!r}; give "
            "RewardStates(num_states), or another HighValueStates."
        )
    if use != "critic" and imitation_loss is None:
        raise ValueError(
            f"use={use!r} imitates traces and needs imitation_loss; give ImitationLoss(policy), or "
            "use='critic'."
        )
    if use == "critic" and (imitation_loss is not None or filters):
        unused = "filters" if imitation_loss is None else "imitation_loss"
        raise ValueError(
            f"use='critic' imitates no traces, so {unused} would have no effect. Give "
            "imitation_loss=None and cut traces by transition_filters=, or take use='both'."
        )
    if use != "policy":
        check_rewarded(high_value_states, f"use={use!r}")
    if use != "critic" and actions == "uniform":
        raise ValueError(
            f"use={use!r} imitates traces, which uniform actions are not worth; take "
            "actions='backward_policy'."
        )
    if use == "policy" and reward is not None:
        raise ValueError("reward= is for a critic; imitation needs none. Give use='critic'.")
