"""Known dynamics in place of networks."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import Bounded, Unbounded
from torchrl.modules import LSTMModule, ProbabilisticActor, TanhNormal

from torchrl_recall import BackwardModel, ImitationLoss, RecallTraceGenerator
from torchrl_recall.envs import PointMassEnv


class Pendulum(nn.Module):
    """A point on a line under a force, stepped by explicit Euler, which can be undone."""

    observation_key, action_key = ("agent", "state"), "force"
    next_observation_key = ("next", "agent", "state")
    observation_spec, action_spec = Unbounded((2,)), Bounded(-1, 1, (1,))

    def forward(self, state, action):
        position, velocity = state.split(1, -1)
        return torch.cat([position + 0.1 * velocity, velocity + 0.1 * action], -1)

    def sample_action(self, next_observation):
        return 2 * torch.rand_like(next_observation[..., :1]) - 1

    def sample_observation(self, action, next_observation):
        position, velocity = next_observation.split(1, -1)
        velocity = velocity - 0.1 * action
        return torch.cat([position - 0.1 * velocity, velocity], -1)


@pytest.mark.parametrize("compile", [False, True])
def test_traces_of_known_dynamics_are_exact(compile):
    model = Pendulum()
    assert isinstance(model, BackwardModel)
    generate = RecallTraceGenerator(model, trace_length=20, num_traces=4, compile=compile)
    ends = TensorDict({}, [3]).set(("agent", "state"), torch.randn(3, 2))
    torch.manual_seed(0)
    traces = generate(ends)
    torch.manual_seed(0)
    rolled = generate.rollout(ends)
    assert traces.shape == rolled.shape == (12, 20)
    for each in (traces, rolled):
        arrived = model(each["agent", "state"], each["force"])
        torch.testing.assert_close(arrived, each["next", "agent", "state"], rtol=0, atol=1e-5)
        assert torch.equal(
            each["next", "agent", "state"][:, -1], ends["agent", "state"].repeat_interleave(4, 0)
        )


@pytest.mark.parametrize("missing", ["sample_action", "observation_spec", "next_observation_key"])
def test_what_is_missing_is_named(missing):
    kind = type("Cut", (nn.Module,), {k: v for k, v in vars(Pendulum).items() if k != missing})
    with pytest.raises(TypeError, match=rf"members of BackwardModel; Cut has no {missing}\."):
        RecallTraceGenerator(kind())
    with pytest.raises(TypeError, match="BackwardModel"):
        RecallTraceGenerator(copy.deepcopy(PointMassEnv))


def test_a_policy_with_recurrent_state_is_refused_by_name():
    head = nn.Sequential(nn.Linear(4, 4), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictSequential(
            LSTMModule(3, 4, in_key="observation", out_key="features"),
            TensorDictModule(head, ["features"], ["loc", "scale"]),
        ),
        in_keys=["loc", "scale"],
        spec=Bounded(-1, 1, (2,)),
        distribution_class=TanhNormal,
    )
    states, actions = torch.zeros(2, 5, 3), torch.zeros(2, 5, 2)
    traces = TensorDict({"observation": states, "action": actions}, [2, 5])
    with pytest.raises(KeyError, match=r"recurrent_state_h.*without recurrent state"):
        ImitationLoss(actor)(traces)
