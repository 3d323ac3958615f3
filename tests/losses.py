"""One of each of TorchRL's losses, on three numbers of state and two of action, or four actions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.data import Bounded, OneHot
from torchrl.modules import (
    MLP,
    Actor,
    BatchRenorm1d,
    DistributionalQValueActor,
    OneHotCategorical,
    ProbabilisticActor,
    QValueActor,
    TanhNormal,
    ValueOperator,
)
from torchrl.objectives import (
    A2CLoss,
    ClipPPOLoss,
    CQLLoss,
    CrossQLoss,
    DDPGLoss,
    DiscreteCQLLoss,
    DiscreteIQLLoss,
    DiscreteSACLoss,
    DistributionalDQNLoss,
    DQNLoss,
    IQLLoss,
    KLPENPPOLoss,
    LossModule,
    PPOLoss,
    REDQLoss,
    ReinforceLoss,
    SACLoss,
    TD3BCLoss,
    TD3Loss,
    TQCLoss,
)

from torchrl_recall import TRPOLoss

SPEC, ACTIONS = Bounded(-1, 1, (2,)), OneHot(4)
SUPPORT = torch.linspace(-3, 3, 7)


class OfPairs(nn.Module):
    """Values of states and actions, by a network that normalises over its batch while it learns."""

    def __init__(self, out_features: int = 1, *, normalise: bool = False) -> None:
        super().__init__()
        self.normalise = BatchRenorm1d(5) if normalise else nn.Dropout(0.2)
        self.net = MLP(in_features=5, out_features=out_features, num_cells=[8])

    def forward(self, observation, action):
        return self.net(self.normalise(torch.cat([observation, action], -1)))


def gaussian(*, normalise: bool = False) -> ProbabilisticActor:
    norm = BatchRenorm1d(3) if normalise else nn.Identity()
    net = nn.Sequential(norm, nn.Linear(3, 4), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ["loc", "scale"],
        spec=SPEC,
        distribution_class=TanhNormal,
        return_log_prob=True,
    )


def deterministic() -> Actor:
    return Actor(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), ["observation"], spec=SPEC)


def categorical() -> ProbabilisticActor:
    net = TensorDictModule(nn.Linear(3, 4), ["observation"], ["logits"])
    return ProbabilisticActor(net, ["logits"], distribution_class=OneHotCategorical)


def of_pairs(out_features: int = 1, *, normalise: bool = False) -> ValueOperator:
    return ValueOperator(OfPairs(out_features, normalise=normalise), ["observation", "action"])


def of_states() -> ValueOperator:
    return ValueOperator(MLP(in_features=3, out_features=1, num_cells=[8]), ["observation"])


def of_all(out_key: str) -> TensorDictModule:
    return TensorDictModule(nn.Linear(3, 4), ["observation"], [out_key])


def values_of_actions() -> QValueActor:
    return QValueActor(nn.Linear(3, 4), spec=ACTIONS, in_keys=["observation"])


def distributions() -> DistributionalQValueActor:
    net = nn.Sequential(nn.Linear(3, 28), nn.Unflatten(-1, (7, 4)), nn.LogSoftmax(-2))
    return DistributionalQValueActor(net, support=SUPPORT, spec=ACTIONS, in_keys=["observation"])


CONTINUOUS: dict[str, Callable[[], LossModule]] = {
    "SAC": lambda: SACLoss(gaussian(), of_pairs()),
    "SAC with V": lambda: SACLoss(gaussian(), of_pairs(), of_states()),
    "CrossQ": lambda: CrossQLoss(gaussian(normalise=True), of_pairs(normalise=True)),
    "REDQ": lambda: REDQLoss(gaussian(), of_pairs(), num_qvalue_nets=5),
    "TQC": lambda: TQCLoss(gaussian(), of_pairs(25)),
    "CQL": lambda: CQLLoss(gaussian(), of_pairs()),
    "IQL": lambda: IQLLoss(gaussian(), of_pairs(), of_states()),
    "TD3": lambda: TD3Loss(deterministic(), of_pairs(), action_spec=SPEC),
    "TD3BC": lambda: TD3BCLoss(deterministic(), of_pairs(), action_spec=SPEC),
    "DDPG": lambda: DDPGLoss(deterministic(), of_pairs()),
    **{
        name: partial(lambda kind: kind(gaussian(), of_states()), kind)
        for name, kind in {
            "PPO": PPOLoss,
            "ClipPPO": ClipPPOLoss,
            "KLPENPPO": KLPENPPOLoss,
            "A2C": A2CLoss,
            "Reinforce": ReinforceLoss,
            "TRPO": TRPOLoss,
        }.items()
    },
}
DISCRETE: dict[str, Callable[[], LossModule]] = {
    "DiscreteSAC": lambda: DiscreteSACLoss(
        categorical(), of_all("action_value"), action_space=ACTIONS, num_actions=4
    ),
    "DiscreteIQL": lambda: DiscreteIQLLoss(
        categorical(), of_all("state_action_value"), of_states(), action_space=ACTIONS
    ),
    "DQN": lambda: DQNLoss(values_of_actions(), action_space=ACTIONS),
    "DistributionalDQN": lambda: DistributionalDQNLoss(distributions(), gamma=0.9),
    "DiscreteCQL": lambda: DiscreteCQLLoss(values_of_actions(), action_space=ACTIONS),
}
LOSSES = CONTINUOUS | DISCRETE


def experience(name: str, num: int = 64) -> TensorDict:
    """States and actions as the loss of that name takes them."""
    action = ACTIONS.rand((num,)) if name in DISCRETE else 1.98 * torch.rand(num, 2) - 0.99
    return TensorDict({"observation": torch.randn(num, 3), "action": action}, [num])
