"""Networks of App. C, and the specs that they are built from."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import (
    Bounded,
    Composite,
    Unbounded,
)
from torchrl.envs import GymEnv, SerialEnv

from torchrl_recall import BacktrackingLoss, BacktrackingModel


def linears(module: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def test_networks_of_appendix_c():
    model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
    assert linears(model.backward_policy) == [(3, 128), (128, 128), (128, 2)]
    assert linears(model.state_predictor) == [(5, 128), (128, 128), (128, 2 * 3)]
    kinds = [
        {type(m) for m in module.modules() if isinstance(m, nn.Tanh | nn.ReLU)}
        for module in (model.backward_policy, model.state_predictor)
    ]
    assert kinds == [{nn.Tanh}, {nn.ReLU}]


def policy_dist(model: BacktrackingModel, n: int = 6):
    data = TensorDict({"next": {"observation": torch.randn(n, 3)}}, [n])
    return model.backward_policy.get_dist(data)


def test_unit_variance_is_one_and_stays_one(make_model, transitions):
    model = make_model(action_scale="unit")
    loss = BacktrackingLoss(model)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        loss(transitions(16))["loss_backward_policy"].backward()
        optimizer.step()
    assert torch.equal(policy_dist(model).base_dist.scale, torch.ones(6, 2))


def test_learned_variance_is_trained(make_model):
    assert policy_dist(make_model(action_scale="learned")).base_dist.scale.unique().numel() == 12


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_composite_specs_lose_their_batch_dimensions(batch, transitions):
    states = Composite(observation=Unbounded((*batch, 3)), shape=batch)
    actions = Composite(action=Bounded(-1, 1, (*batch, 2)), shape=batch)
    model = BacktrackingModel.from_specs(states, actions)
    assert model.observation_spec.shape == (3,)
    assert model.action_spec.shape == (2,)
    model.update_statistics(transitions(*batch, 8))
    assert model.log_prob(transitions(*batch, 8)).shape == (*batch, 8)


def test_specs_of_a_batched_environment():
    env = SerialEnv(2, lambda: GymEnv("Pendulum-v1"))
    model = BacktrackingModel.from_specs(env.observation_spec, env.full_action_spec)
    data = env.rollout(20)
    model.update_statistics(data)
    assert model.log_prob(data).shape == (2, 20)
    assert model.log_prob(data).isfinite().all()
    env.close()


def test_composite_without_the_entry_is_refused():
    states = Composite(pixels=Unbounded((3,)), state=Unbounded((3,)))
    with pytest.raises(ValueError, match="observation_key="):
        BacktrackingModel.from_specs(states, Bounded(-1, 1, (2,)))
    with pytest.raises(ValueError, match="action_key="):
        BacktrackingModel.from_specs(Unbounded((3,)), Composite(act=Bounded(-1, 1, (2,))))
    assert BacktrackingModel.from_specs(
        states, Bounded(-1, 1, (2,)), observation_key="state"
    ).observation_spec.shape == (3,)
