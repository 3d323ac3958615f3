"""Fixtures that all tests share: devices, random transitions and small backtracking models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tensordict import NestedKey, TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torchrl.data import Bounded, TensorSpec, Unbounded
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal

from torchrl_recall import BacktrackingModel

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_configure(config: pytest.Config) -> None:
    """Name the markers."""
    config.addinivalue_line("markers", "slow: takes some ten seconds")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    """Every kind of device there is."""
    return torch.device(request.param)


@pytest.fixture
def transitions() -> Callable[..., TensorDict]:
    """Random transitions in forward time."""

    def make(
        *shape: int,
        observation: TensorSpec | None = None,
        action: TensorSpec | None = None,
        observation_key: NestedKey = "observation",
        action_key: NestedKey = "action",
    ) -> TensorDict:
        observation = Unbounded((3,)) if observation is None else observation
        action = Bounded(-1, 1, (2,)) if action is None else action
        following = observation_key if isinstance(observation_key, tuple) else (observation_key,)
        data = TensorDict({}, batch_size=shape)
        data.set(observation_key, observation.rand(shape))
        data.set(action_key, action.rand(shape))
        return data.set(("next", *following), observation.rand(shape))

    return make


@pytest.fixture
def make_model(transitions) -> Callable[..., BacktrackingModel]:
    """A small model that has seen random data."""

    def make(
        observation: TensorSpec | None = None, action: TensorSpec | None = None, **kwargs
    ) -> BacktrackingModel:
        observation = Unbounded((3,)) if observation is None else observation
        action = Bounded(-1, 1, (2,)) if action is None else action
        keys = {k: kwargs[k] for k in ("observation_key", "action_key") if k in kwargs}
        model = BacktrackingModel.from_specs(observation, action, **{"num_cells": (8, 8)} | kwargs)
        model.update_statistics(
            transitions(64, observation=model.observation_spec, action=model.action_spec, **keys)
        )
        return model

    return make


@pytest.fixture
def make_actor() -> Callable[..., ProbabilisticActor]:
    """A small tanh-normal policy."""

    def make(
        observation_dim: int = 3,
        action: TensorSpec | None = None,
        *,
        observation_key: NestedKey = "observation",
        **kwargs,
    ) -> ProbabilisticActor:
        action = Bounded(-1, 1, (2,)) if action is None else action
        net = torch.nn.Sequential(
            MLP(in_features=observation_dim, out_features=2 * action.shape[-1], num_cells=[8]),
            NormalParamExtractor(),
        )
        return ProbabilisticActor(
            TensorDictModule(net, [observation_key], ["loc", "scale"]),
            in_keys=["loc", "scale"],
            spec=action,
            distribution_class=TanhNormal,
            distribution_kwargs={"low": action.space.low, "high": action.space.high},
            **kwargs,
        )

    return make
