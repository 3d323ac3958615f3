"""Environments on one device beside networks on another."""

from __future__ import annotations

import torch
from goal_fixtures import along
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from torchrl_recall.envs import PointMassEnv
from torchrl_recall.trainers.tasks.devices import any_device, policy_for


def env() -> PointMassEnv:
    return PointMassEnv(2, batch_size=[3])


def test_functions_take_tensors_of_any_device(device):
    state = torch.tensor([[0.1, 0.2]], device=device)
    goal = any_device(env(), env().goal_of_state)(state)
    assert goal.device == state.device
    assert torch.equal(goal.cpu(), env().goal_of_state(state.cpu()))
    reached = any_device(env(), env().reached)(state, goal)
    assert reached.device == state.device
    assert reached.all()


def test_a_policy_without_weights_acts_where_the_environment_is():
    policy = along(1.0)
    found, where = policy_for(env(), policy)
    assert found is policy
    assert where == env().goal_spec.device


def test_a_policy_acts_for_states_of_the_environments_device(device):
    layer = torch.nn.Linear(2, 2, device=device)
    policy, where = policy_for(env(), TensorDictModule(layer, ["observation"], ["action"]))
    assert where == layer.weight.device
    states = TensorDict({"observation": torch.rand(3, 2)}, [3])
    expected = layer(states["observation"].to(device)).cpu()
    acted = policy(states)
    assert acted["action"].device.type == "cpu"
    torch.testing.assert_close(acted["action"], expected)
    assert torch.equal(acted["observation"], states["observation"])
