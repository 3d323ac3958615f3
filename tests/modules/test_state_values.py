"""State values and state-action values read off a SAC loss."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import Bounded, MultiOneHot
from torchrl.modules import (
    MLP,
    Actor,
    ProbabilisticActor,
    QValueModule,
    TanhNormal,
    ValueOperator,
)
from torchrl.objectives import DDPGLoss, DQNLoss, SACLoss

from torchrl_recall import SACCritic, StateValues


class Policy(nn.Module):
    """The tanh-normal policy whose deterministic action is tanh(the first coordinate)."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, observation):
        loc = self.gain * observation[..., :1]
        return loc, torch.ones_like(loc)


class Q(nn.Module):
    """Q(s, a) = bias - (a - s[1])², highest at the second coordinate."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, observation, action):
        return self.bias - (action - observation[..., 1:2]).square()


@pytest.fixture
def known() -> SACLoss:
    """Q1 = 3 - (a - s[1])², Q2 = 1 - (a - s[1])², and the policy's mode is tanh(s[0])."""
    actor = ProbabilisticActor(
        TensorDictModule(Policy(), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=Bounded(-1, 1, (1,)),
        distribution_class=TanhNormal,
    )
    loss = SACLoss(actor, ValueOperator(Q(), in_keys=["observation", "action"]))
    with torch.no_grad():
        loss.qvalue_network_params["module", "bias"].copy_(torch.tensor([[3.0], [1.0]]))
    return loss


STATES = torch.tensor([[0.0, 0.0], [0.0, 0.5], [0.0, -1.0]])


def test_values_by_hand(known):
    data = TensorDict({"observation": STATES, "action": torch.full((3, 1), 0.5)}, [3])
    out = SACCritic(known)(data)
    assert out["state_value"].flatten().tolist() == pytest.approx([1.0, 0.75, 0.0])
    assert out["state_action_value"].flatten().tolist() == pytest.approx([0.75, 1.0, -1.25])


def test_without_an_action_there_is_only_a_state_value(known):
    out = SACCritic(known)(TensorDict({"observation": STATES}, [3]))
    assert out["state_value"].flatten().tolist() == pytest.approx([1.0, 0.75, 0.0])
    assert "state_action_value" not in out
    assert "action" not in out


def test_action_of_the_data_survives(known):
    action = torch.tensor([[0.1], [0.2], [0.3]])
    out = SACCritic(known)(TensorDict({"observation": STATES, "action": action.clone()}, [3]))
    assert torch.equal(out["action"], action)
    assert set(out.keys()) == {"observation", "action", "state_value", "state_action_value"}


def test_sees_the_current_parameters(known):
    critic = SACCritic(known)
    data = TensorDict({"observation": STATES[:1]}, [1])
    assert critic(data.copy())["state_value"].item() == pytest.approx(1.0)
    with torch.no_grad():
        known.qvalue_network_params["module", "bias"].fill_(-4.0)
    assert critic(data.copy())["state_value"].item() == pytest.approx(-4.0)


def test_holds_no_parameters_and_makes_no_gradient(known):
    critic = SACCritic(known)
    assert not list(critic.parameters())
    assert not critic.state_dict()
    data = TensorDict({"observation": STATES, "action": torch.zeros(3, 1)}, [3])
    out = critic(data)
    assert not out["state_value"].requires_grad
    assert not out["state_action_value"].requires_grad


def test_draws_no_random_number(known):
    before = torch.get_rng_state()
    SACCritic(known)(TensorDict({"observation": STATES}, [3]))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(), (4,), (2, 5)])
def test_any_batch_shape_of_an_ordinary_loss(shape, make_actor):
    qvalue = ValueOperator(
        MLP(in_features=5, out_features=1, num_cells=[8]), in_keys=["observation", "action"]
    )
    loss = SACLoss(make_actor(), qvalue)
    data = TensorDict({"observation": torch.randn(*shape, 3)}, shape)
    data["action"] = torch.rand(*shape, 2)
    out = SACCritic(loss)(data)
    assert out["state_value"].shape == out["state_action_value"].shape == (*shape, 1)
    params = loss.qvalue_network_params
    each = []
    for i in range(2):
        with params[i].to_module(loss.qvalue_network):
            each.append(loss.qvalue_network(data.select("observation", "action")))
    expected = torch.minimum(*[q["state_action_value"] for q in each])
    torch.testing.assert_close(out["state_action_value"], expected)


def test_nested_keys(make_actor):
    names = ("agent", "state"), ("agent", "action")
    actor = make_actor(observation_key=names[0], out_keys=[names[1]])
    qvalue = ValueOperator(
        MLP(in_features=5, out_features=1, num_cells=[8]),
        in_keys=list(names),
        out_keys=["state_action_value"],
    )
    loss = SACLoss(actor, qvalue)
    loss.set_keys(action=names[1])
    data = TensorDict({"agent": {"state": torch.randn(4, 3), "action": torch.rand(4, 2)}}, [4])
    action = data[names[1]].clone()
    out = SACCritic(loss)(data)
    assert out["state_value"].shape == out["state_action_value"].shape == (4, 1)
    assert not torch.equal(out["state_value"], out["state_action_value"])
    assert torch.equal(out[names[1]], action)


def test_nothing_has_no_value(known):
    data = TensorDict({"observation": torch.zeros(0, 2), "action": torch.zeros(0, 1)}, [0])
    out = SACCritic(known)(data)
    assert out["state_value"].shape == out["state_action_value"].shape == (0, 1)


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
@pytest.mark.parametrize("compile", [False, True])
def test_batches_of_any_size_and_an_actor_with_an_entry_of_its_own(known, compile):
    actor = ProbabilisticActor(
        TensorDictModule(Policy(), ["image"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=Bounded(-1, 1, (1,)),
        distribution_class=TanhNormal,
    )
    loss = SACLoss(actor, ValueOperator(Q(), in_keys=["observation", "action"]))
    critic = SACCritic(loss, compile=compile)
    for n in (1, 255, 256, 257, 700):
        data = TensorDict(
            {
                "observation": torch.randn(n, 2),
                "image": torch.randn(n, 2),
                "action": torch.rand(n, 1),
            },
            [n],
        )
        out = critic(data)
        expected = -(data["image"][:, :1].tanh() - data["observation"][:, 1:]).square()
        torch.testing.assert_close(out["state_value"], expected)
        expected = -(data["action"] - data["observation"][:, 1:]).square()
        torch.testing.assert_close(out["state_action_value"], expected)


def test_several_choices_at_once_are_refused():
    net = TensorDictModule(nn.Linear(2, 5), ["observation"], ["action_value"])
    space = {"action_space": "mult_one_hot", "var_nums": [2, 3], "spec": MultiOneHot([2, 3])}
    loss = DQNLoss(TensorDictSequential(net, QValueModule(**space)), action_space="mult_one_hot")
    with pytest.raises(ValueError, match=r"action_space='mult_one_hot'.*over all combinations"):
        StateValues(loss)


def test_the_action_is_what_the_actor_writes_and_q_reads():
    actor = Actor(nn.Linear(2, 1), ["observation"], ["act"], spec=Bounded(-1, 1, (1,)))
    names = ["observation", "act"], ["state_action_value"]
    critic = StateValues(DDPGLoss(actor, ValueOperator(Q(), *names)))  # it has no key "action"
    out = critic(TensorDict({"observation": STATES, "act": torch.full((3, 1), 0.5)}, [3]))
    expected = -(actor.module(STATES) - STATES[:, 1:]).square()
    torch.testing.assert_close(out["state_value"], expected.detach())
    assert out["state_action_value"].flatten().tolist() == pytest.approx([-0.25, 0.0, -2.25])


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
@pytest.mark.parametrize("compile", [False, True])
def test_a_distribution_of_torch_acts_by_its_mean(compile):
    actor = ProbabilisticActor(
        TensorDictModule(Policy(), ["observation"], ["loc", "scale"]),
        ["loc", "scale"],
        distribution_class=torch.distributions.Normal,
    )
    loss = SACLoss(
        actor, ValueOperator(Q(), ["observation", "action"]), action_spec=Bounded(-1, 1, (1,))
    )
    critic = StateValues(loss, compile=compile)
    value = critic(TensorDict({"observation": STATES + 0.5}, [3]))["state_value"]
    assert value.flatten().tolist() == pytest.approx([0.0, -0.25, -1.0])
