"""Networks of policies and models, built from their kind and sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.joint_model import JointModel
from torchrl_recall.trainers.hosts.actors import (
    bounded_gaussian_actor,
    deterministic_actor,
    gaussian_actor,
    greedy_actor,
    squashed_actor,
)
from torchrl_recall.trainers.hosts.crossq import normalised_mlp
from torchrl_recall.trainers.hosts.networks import standardized_mlp
from torchrl_recall.trainers.schema import (
    DQNRecallConfig,
    GoalGANRecallConfig,
    OnPolicyRecallConfig,
)

if TYPE_CHECKING:
    from torchrl_recall.trained.specs import Specs
    from torchrl_recall.trainers.runs.run import OneSeedConfig

__all__ = ["build_model", "build_policy", "describe_model", "describe_policy"]

_POLICIES: dict[str, Callable[..., TensorDictModuleBase]] = {
    "squashed_gaussian": squashed_actor,
    "normalised_squashed_gaussian": partial(squashed_actor, make=normalised_mlp(0)),
    "gaussian": gaussian_actor,
    "bounded_gaussian": bounded_gaussian_actor,
    "deterministic": deterministic_actor,
    "standardized_deterministic": partial(deterministic_actor, make=standardized_mlp()),
    "greedy": greedy_actor,
}
_OF_HOST = {
    "crossq": "normalised_squashed_gaussian",
    "td3": "deterministic",
    "iql": "bounded_gaussian",
    "td3bc": "standardized_deterministic",
}


def describe_policy(config: OneSeedConfig) -> dict[str, Any]:
    """Describe the policy of a configuration.

    Args:
        config: configuration of a run.

    Returns:
        Keyword arguments of :func:`build_policy`.
    """
    if isinstance(config, DQNRecallConfig):
        return {"kind": "greedy", "num_cells": config.dqn.num_cells}
    if isinstance(config, OnPolicyRecallConfig):
        return {"kind": "gaussian", "num_cells": config.policy.num_cells}
    if isinstance(config, GoalGANRecallConfig):
        if config.host == "trpo":
            return {"kind": "gaussian", "num_cells": config.policy.num_cells}
        return {"kind": "squashed_gaussian", "num_cells": config.sac.num_cells}
    kind = _OF_HOST.get(config.host, "squashed_gaussian")
    return {"kind": kind, "num_cells": config.of_host.num_cells}


def build_policy(
    specs: Specs, device: torch.device, *, kind: str, num_cells: Sequence[int]
) -> TensorDictModuleBase:
    """Build the policy that :func:`describe_policy` describes, with new weights.

    Args:
        specs: specs of the task.
        device: device of the policy.

    Keyword Args:
        kind: kind of the policy.
        num_cells: hidden units of each layer.

    Returns:
        The policy.

    Raises:
        KeyError: the kind is unknown.
    """
    make = _POLICIES[kind]
    return make(specs, specs.action_spec_unbatched.to(device), num_cells, device).eval()


def describe_model(config: OneSeedConfig) -> dict[str, Any]:
    """Describe the backtracking model of a configuration.

    Args:
        config: configuration of a run.

    Returns:
        Keyword arguments of :func:`build_model`.
    """
    return config.backtracking.networks | {"joint": getattr(config.backtracking, "joint", False)}


def build_model(specs: Specs, *, joint: bool = False, **sizes: Any) -> BacktrackingModel:
    """Build the model that :func:`describe_model` describes, with new weights.

    Args:
        specs: specs of the task, as the model sees them.

    Keyword Args:
        joint: whether the model is a :class:`~torchrl_recall.JointModel`.
        sizes: keyword arguments of :meth:`~torchrl_recall.BacktrackingModel.from_specs`.

    Returns:
        The model.
    """
    spec = specs.observation_spec_unbatched, specs.action_spec_unbatched
    model_type = JointModel if joint else BacktrackingModel
    return model_type.from_specs(*spec, **sizes).eval()
