"""Recall from a trainer's environment, loss and policy."""

from __future__ import annotations

from typing import Any

from tensordict import NestedKey
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from torchrl.objectives import LossModule
from torchrl.trainers import Trainer

from torchrl_recall.devices import device_of
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.policies import BoltzmannPolicy, GaussianPolicy
from torchrl_recall.modules.state_values import StateValues
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.recall import Recall
from torchrl_recall.traces.high_value_states import CriticStates, HighValueStates
from torchrl_recall.traces.reached_states import ReturnStates

__all__ = ["make_recall"]


def make_recall(
    trainer: Trainer,
    *,
    num_states: int = 32,
    observation_key: NestedKey = "observation",
    **options: Any,
) -> Recall:
    """Make recall from a trainer's environment specs, loss and policy.

    Imitated traces end in the states of highest value under the loss
    (:class:`~torchrl_recall.StateValues`). Traces for a critic end in the next states of highest
    reward plus discounted value (:class:`~torchrl_recall.ReturnStates`). Policies without a
    distribution are wrapped in :class:`~torchrl_recall.GaussianPolicy` or
    :class:`~torchrl_recall.BoltzmannPolicy`. Keys of action, reward and end of an episode are those
    of the loss.

    Args:
        trainer: the trainer.

    Keyword Args:
        num_states: number of end states.
        observation_key: key of the state, which the networks read.
        options: keyword arguments of :class:`~torchrl_recall.Recall`.

    Returns:
        Recall for :class:`RecallHook`.

    Raises:
        ValueError: traces are for a critic, and the loss reads rewards or flags under other keys
            than TorchRL's default ones.

    Examples:
        Options that a hook passes on, for each round to learn more:

        >>> from functools import partial
        >>> from torchrl_recall import RecallHook, make_recall
        >>> hook = RecallHook(partial(make_recall, num_states=64, num_model_updates=100))
    """
    loss = trainer.loss_module
    values = StateValues(loss)
    collector = trainer.collector
    specs = [collector.getattr_env(f"{kind}_spec_unbatched") for kind in ("observation", "action")]
    device = device_of(loss)
    model = BacktrackingModel.from_specs(
        *specs, observation_key=observation_key, action_key=values.action_key
    ).to(device)
    keys = {key: getattr(loss.tensor_keys, key, key) for key in ("reward", "done", "terminated")}
    use = options.get("use", "policy")
    states: HighValueStates
    if use == "policy":
        states = CriticStates(values, num_states, observation_key=observation_key)
    else:
        _check_keys(keys)
        estimator = loss.value_estimator  # None for a distribution over returns
        gamma = float((loss if estimator is None else estimator).gamma)
        states = ReturnStates(values, num_states, gamma=gamma, observation_key=observation_key)
    imitation_loss = None if use == "critic" else ImitationLoss(_policy_of(loss, values.action_key))
    options = {"reward_key": keys["reward"], "done_key": keys["done"]} | options
    return Recall(model, imitation_loss, states, **options)


def _check_keys(keys: dict[str, NestedKey]) -> None:
    """Refuse keys of a loss that transitions of traces do not have."""
    renamed = [key for name, key in keys.items() if key != name]
    if renamed:
        raise ValueError(
            f"transitions of traces have {list(keys)}, but the loss reads {renamed}. Rename the "
            "environment's entries by torchrl's RenameTransform, or take use='policy'."
        )


def _policy_of(loss: LossModule, action_key: NestedKey) -> TensorDictModuleBase:
    """Return the policy of a loss, with a distribution."""
    policy = getattr(loss, "actor_network", None)
    if policy is None:
        return BoltzmannPolicy(loss.value_network, action_key=action_key)
    if isinstance(policy, ProbabilisticTensorDictSequential):
        return policy
    return GaussianPolicy(policy, action_key=action_key)
