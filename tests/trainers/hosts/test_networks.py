"""Inputs of the networks of all hosts."""

from __future__ import annotations

import torch
from torch import nn

from torchrl_recall.envs import PointMassEnv
from torchrl_recall.trainers.hosts.networks import ConcatInputs, policy_inputs
from torchrl_recall.trainers.tasks.gym import make_env


def test_inputs_are_concatenated_by_hand():
    layer = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
    net = ConcatInputs(layer)
    assert net(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])).tolist() == [[321.0]]
    assert net(torch.tensor([1.0, 2.0, 3.0])).tolist() == [321.0]


def test_a_policy_sees_the_goal_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory
    assert policy_inputs(make_env("Hopper-v5")) == (["observation"], 11)
    env = PointMassEnv(4, batch_size=[3])
    assert policy_inputs(env) == (["observation", "desired_goal"], 8)
