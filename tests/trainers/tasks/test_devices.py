"""Environments on one device beside networks on another."""

from __future__ import annotations

import torch
from goal_fixtures import along
from tensordict.nn import TensorDictModule

from torchrl_recall.envs import PointMassEnv
from torchrl_recall.trainers.tasks.devices import PolicyFor, any_device


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
    policy = PolicyFor(env(), along(1.0))
    assert policy.device == env().goal_spec.device


def test_a_policy_acts_for_states_of_the_environments_device(device):
    layer = torch.nn.Linear(2, 2, device=device)
    task = env()
    policy = PolicyFor(task, TensorDictModule(layer, ["observation"], ["action"]))
    assert policy.device == layer.weight.device
    states = task.reset()
    expected = layer(states["observation"].to(device)).cpu()
    acted = policy(states.clone())
    assert acted["action"].device.type == "cpu"
    torch.testing.assert_close(acted["action"], expected)
    assert torch.equal(acted["observation"], states["observation"])
    assert task.rollout(3, policy)["action"].device.type == "cpu"  # torchrl wraps plain functions
