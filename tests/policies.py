"""Small policies that several test modules share."""

from __future__ import annotations

import math

import torch
from tensordict import TensorDict
from tensordict.nn import (
    AddStateIndependentNormalScale,
    TensorDictModule,
)
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import (
    IndependentNormal,
    ProbabilisticActor,
)


class Bandit(nn.Module):
    """Mean and log standard deviation of a Gaussian, whatever the state."""

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.full((dim,), math.log(0.5)))

    def forward(self, observation):
        shape = (*observation.shape[:-1], len(self.loc))
        return self.loc.expand(shape), self.log_scale.exp().expand(shape)


class Table(nn.Module):
    """Logits of each state."""

    def __init__(self, states: int, actions: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(states, actions))

    def forward(self, state):
        return self.logits[state]


def actor_of(net, distribution, in_keys=("loc", "scale"), observation="observation", **kwargs):
    """A probabilistic actor of a network that returns the distribution's parameters."""
    return ProbabilisticActor(
        TensorDictModule(net, [observation], list(in_keys)),
        in_keys=list(in_keys),
        distribution_class=distribution,
        return_log_prob=True,
        **kwargs,
    )


def gaussian(obs_dim=3, dim=2, distribution=IndependentNormal, **kwargs):
    """A small Gaussian actor whose scale does not depend on the state."""
    net = nn.Sequential(nn.Linear(obs_dim, 16), nn.Tanh(), nn.Linear(16, dim))
    net.append(AddStateIndependentNormalScale(dim, scale_mapping="exp"))
    return actor_of(net, distribution, **kwargs)


@torch.no_grad()
def act(actor, states):
    with set_exploration_type(ExplorationType.RANDOM):
        return actor(states)


def experience(actor, n=256, obs_dim=3, seed=0):
    """Observations, actions of the actor and random advantages."""
    torch.manual_seed(seed)
    data = act(actor, TensorDict({"observation": torch.randn(n, obs_dim)}, [n]))
    data["advantage"] = torch.randn(n, 1)
    return data


def bits(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_bits(module, before):
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
