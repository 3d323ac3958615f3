"""Recall, or the control that ``recall=`` names, from a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.data import TensorSpec
from torchrl.envs import EnvBase

from torchrl_recall.controls import (
    Cloning,
    ForwardDyna,
    ForwardModelImitation,
    NoRecall,
    SelfImitation,
)
from torchrl_recall.devices import device_of
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.joint_model import JointModel
from torchrl_recall.modules.reward_model import RewardModel
from torchrl_recall.modules.standardization import ContinuousCodec
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.recall import Recall
from torchrl_recall.traces.agreement import Agreement, Disagreement
from torchrl_recall.traces.filters import LoopErasure, WithinSupport
from torchrl_recall.traces.high_value_states import CriticStates, HighValueStates
from torchrl_recall.traces.measured_length import MeasuredLength
from torchrl_recall.traces.reached_states import ReturnStates, RewardStates, UniformStates
from torchrl_recall.trainers.entry_points import load_function
from torchrl_recall.trainers.recall_like import RecallLike
from torchrl_recall.trainers.schema import (
    ConfigError,
    DQNRecallConfig,
    GoalGANRecallConfig,
    OnPolicyRecallConfig,
    SACRecallConfig,
)
from torchrl_recall.trainers.schema.offline import OfflineTracesConfig
from torchrl_recall.trainers.schema.parts import BacktrackingConfig, RecallConfig
from torchrl_recall.trainers.schema.sac import SACTracesConfig

__all__ = ["build_end_states", "build_recall", "build_reward", "model_class"]

Reward = Callable[[TensorDictBase], TensorDictBase]


def build_recall(
    config: SACRecallConfig | DQNRecallConfig | OnPolicyRecallConfig | GoalGANRecallConfig,
    make_model: Callable[..., BacktrackingModel],
    imitation_loss: ImitationLoss,
    *,
    high_value_states: HighValueStates,
    critic: TensorDictModuleBase,
    policy: TensorDictModuleBase | None = None,
    make_reward: Callable[[], Reward | None] = lambda: None,
    interval: int,
    longest_episode: int | None,
    relabel: Sequence[TensorDictModuleBase] = (),
    gate: Sequence[TensorDictModuleBase] = (),
    start_frames: int = 0,
) -> RecallLike:
    """Build recall, or the control that ``config.recall.method`` names.

    Args:
        config: configuration with ``recall`` and ``backtracking``.
        make_model: function that builds the model (Eq. 1) if one is needed, such as
            ``partial(BacktrackingModel.from_specs, observation_spec, action_spec)``.
        imitation_loss: Eq. 3, holding the host's policy.

    Keyword Args:
        high_value_states: source of end states.
        critic: module of V(s).
        policy: policy that chooses actions for ``recall.actions=policy``.
        make_reward: function that returns the reward of traces, see :func:`build_reward`.
        interval: frames between rounds.
        longest_episode: largest number of steps of an episode, if known.
        relabel: transforms that add entries to generated traces, such as their goal.
        gate: filters that controls use too.
        start_frames: number of frames before the first round.

    Returns:
        Recall or the control.

    Raises:
        ConfigError: an episode does not fit into the backtracking buffer.
    """
    recall, backtracking = config.recall, config.backtracking
    if recall.method == "none":
        return NoRecall()
    if longest_episode is not None and backtracking.buffer_size < longest_episode:
        raise ConfigError(
            f"backtracking.buffer_size={backtracking.buffer_size} is less than one episode of "
            f"{config.env.name}, {longest_episode} steps; give it room for "
            "backtracking.num_trajectories."
        )
    rounds: dict[str, Any] = {
        "interval": interval,
        "start_frames": start_frames,
        "anneal_frames": recall.anneal_frames,
        "num_trajectories": backtracking.num_trajectories,
        "buffer_size": backtracking.buffer_size,
        "return_threshold": backtracking.return_threshold,
        "num_updates": recall.num_updates,
        "batch_size": recall.batch_size,
        "lr": recall.lr,
        "max_kl": recall.max_kl,
        "compile": config.compile,
    }
    _check_judges(config)
    if recall.method == "self_imitation":
        return SelfImitation(imitation_loss, filters=gate, **rounds)
    if recall.method == "cloning":
        return Cloning(imitation_loss, filters=gate, **rounds)
    model = make_model(**backtracking.networks).to(next(imitation_loss.parameters()).device)
    if recall.method == "forward_dyna":
        reward = make_reward()
        assert isinstance(recall, SACTracesConfig)
        assert reward is not None  # the schema refuses reward=sparse
        assert isinstance(recall.trace_length, int)
        return ForwardDyna(
            model,
            reward,
            policy=policy if recall.actions == "policy" else None,
            interval=interval,
            start_frames=start_frames,
            num_states=recall.state_batch_size,
            trace_length=recall.trace_length,
            num_model_updates=backtracking.num_updates,
            model_batch_size=backtracking.batch_size,
            model_lr=backtracking.lr,
            compile=bool(config.compile),
        )
    rounds |= {
        "filters": [*relabel, *_filters(model, recall), *gate],
        "trace_length": _trace_length(model, config),
        "num_traces": recall.num_traces,
        "num_model_updates": backtracking.num_updates,
        "model_batch_size": backtracking.batch_size,
        "model_lr": backtracking.lr,
        "state_predictor_data": backtracking.state_predictor_data,
        "state_batch_size": recall.state_batch_size,
        "state_fraction": backtracking.state_fraction,
    }
    if recall.method == "forward_model":
        num_states = recall.num_high_value_states
        return ForwardModelImitation(model, imitation_loss, critic, num_states=num_states, **rounds)
    cuts = [*_filters(model, recall), *_judges(model, make_model, config)]
    rounds["filters"] = [*relabel, *cuts, *gate]
    rounds["bootstrap"] = backtracking.bootstrap
    if isinstance(recall, SACTracesConfig):
        reward = make_reward()
        if isinstance(model, JointModel) and isinstance(reward, RewardModel):
            reward = model.predict_outcome
        rounds |= {"use": recall.use, "actions": recall.actions, "reward": reward}
        rounds["transition_filters"] = cuts if recall.feeds_critic else []
        if recall.use == "critic":
            rounds["filters"] = None
            return Recall(model, None, high_value_states, critic=critic, **rounds)
    return Recall(model, imitation_loss, high_value_states, critic=critic, **rounds)


def model_class(backtracking: BacktrackingConfig) -> type[BacktrackingModel]:
    """Return the class of the model (Eq. 1), with or without forward heads.

    Args:
        backtracking: configuration with ``joint``.

    Returns:
        The class.
    """
    return JointModel if backtracking.joint else BacktrackingModel


def build_reward(
    config: SACRecallConfig | DQNRecallConfig,
    env: EnvBase,
    observation_spec: TensorSpec,
    action_spec: TensorSpec,
) -> Reward | None:
    """Build the reward of transitions of traces that ``recall.reward`` names.

    Args:
        config: configuration with ``recall.reward`` and ``backtracking.num_cells``.
        env: environment that is passed to a rule of the user.
        observation_spec: spec of the observation, as the model sees it.
        action_spec: spec of the action, as the model sees it.

    Returns:
        A :class:`~torchrl_recall.RewardModel` or a rule. None if only end states are rewarded, or
        if no critic learns from traces.

    Raises:
        ConfigError: the user's function cannot be imported, or returns no rule.
    """
    name = config.recall.reward
    if not config.recall.feeds_critic or name == "sparse":
        return None
    if name == "learned":
        model = RewardModel(observation_spec, action_spec, num_cells=config.backtracking.num_cells)
        return model.to(env.device or "cpu")
    make = load_function(name, key="recall.reward")
    try:
        rule = make(env)
    except TypeError as error:
        raise ConfigError(
            f"recall.reward={name!r} is called with the environment: {error}. Name a function of "
            "the environment that returns a rule."
        ) from error
    if not callable(rule):
        raise ConfigError(
            f"recall.reward={name!r} returned a {type(rule).__name__}; return a function that "
            "takes transitions, writes their next.reward and returns them."
        )
    return rule


def build_end_states(
    recall: SACTracesConfig | OfflineTracesConfig, critic: TensorDictModuleBase, *, gamma: float
) -> HighValueStates:
    """Build the source of end states that ``recall.end_states`` names.

    Args:
        recall: configuration with ``end_states``, ``num_high_value_states`` and ``temperature``.
        critic: module of V(s).

    Keyword Args:
        gamma: the host's discount factor.

    Returns:
        The source.
    """
    num = recall.num_high_value_states
    if recall.end_states == "value":
        return CriticStates(critic, num, temperature=recall.temperature)
    if recall.end_states == "return":
        return ReturnStates(critic, num, gamma=gamma, temperature=recall.temperature)
    if recall.end_states == "reward":
        return RewardStates(num, threshold=0.0, replacement=True)
    return UniformStates(num)


def _check_judges(config: Any) -> None:
    """Refuse settings of ensembles, agreement and lengths that would have no effect."""
    recall, backtracking = config.recall, config.backtracking
    if recall.trace_length == "auto" and recall.method != "recall":
        raise ConfigError(
            "recall.trace_length=auto measures a backtracking model along real trajectories; with "
            f"recall.method={recall.method}, give a number."
        )
    if recall.trace_length == "auto" and not backtracking.num_updates:
        raise ConfigError(
            "recall.trace_length=auto measures a model that backtracking.num_updates=0 leaves "
            "untrained; give a number."
        )
    judged = recall.agreement is not None or recall.disagreement is not None
    if judged and recall.method != "recall":
        raise ConfigError(
            "recall.agreement and recall.disagreement judge a backward model's traces; leave them "
            f"out with recall.method={recall.method}."
        )
    if recall.disagreement is not None and backtracking.num_models < 2:
        raise ConfigError(
            f"recall.disagreement={recall.disagreement} is of the members of an ensemble; take "
            "backtracking.num_models=5, or recall.disagreement=null."
        )
    if backtracking.joint and (recall.method != "recall" or backtracking.num_models > 1):
        raise ConfigError(
            "backtracking.joint=true trains one backtracking model with forward heads; leave it "
            f"out with recall.method={recall.method}, backtracking.num_models="
            f"{backtracking.num_models}."
        )
    if backtracking.num_models > 1 and recall.method in ("self_imitation", "cloning"):
        raise ConfigError(
            f"backtracking.num_models={backtracking.num_models} makes an ensemble of a model that "
            f"recall.method={recall.method} does not have; leave it out."
        )
    if backtracking.bootstrap and recall.method != "recall":
        raise ConfigError(
            "backtracking.bootstrap=true is of the members of a backtracking model; leave it out "
            f"with recall.method={recall.method}."
        )
    if backtracking.bootstrap and backtracking.num_models < 2:
        raise ConfigError(
            "backtracking.bootstrap=true is of the members of an ensemble; take "
            "backtracking.num_models=5, or backtracking.bootstrap=false."
        )
    if recall.agreement is not None and not backtracking.num_updates:
        raise ConfigError(
            f"recall.agreement={recall.agreement} asks a forward model that "
            "backtracking.num_updates=0 leaves untrained; leave one of them out."
        )


def _judges(
    model: BacktrackingModel, make_model: Callable[..., BacktrackingModel], config: Any
) -> list[TensorDictModuleBase]:
    """Build the filters that compare the error of models with that on real transitions."""
    recall, judges = config.recall, list[TensorDictModuleBase]()
    if recall.agreement is not None:
        forward_model = model
        if not isinstance(model, JointModel):
            backtracking = config.backtracking
            forward_model = make_model(
                num_cells=backtracking.num_cells, standardize=backtracking.standardize
            )
            forward_model.to(device_of(model))
        judges.append(Agreement(forward_model, quantile=recall.agreement))
    if recall.disagreement is not None:
        judges.append(Disagreement(model, quantile=recall.disagreement))
    return judges


def _trace_length(model: BacktrackingModel, config: Any) -> int | MeasuredLength:
    """Return the length of traces, or an object that measures it."""
    recall = config.recall
    if recall.trace_length != "auto":
        return recall.trace_length
    return MeasuredLength(
        model, max_length=config.env.trace_length, max_error=recall.max_landing_error
    )


def _filters(model: BacktrackingModel, recall: RecallConfig) -> list[TensorDictModuleBase]:
    """Build the filters of support and loops; discrete states have no distances."""
    if not isinstance(model.observations, ContinuousCodec):
        return [] if recall.loop_erasure is None else [LoopErasure(0.0)]
    states, filters = model.observations, []
    if recall.max_deviation is not None:
        filters.append(WithinSupport(states.normalize, recall.max_deviation))
    if recall.loop_erasure is not None:
        filters.append(LoopErasure(recall.loop_erasure, scale=states.scale))
    return filters
