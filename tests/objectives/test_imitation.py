"""Imitation of recall traces (Eq. 3)."""

from __future__ import annotations

import math
import re

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded
from torchrl.modules import (
    Actor,
    IndependentNormal,
    MaskedOneHotCategorical,
    OneHotCategorical,
    ProbabilisticActor,
    TanhNormal,
)

from torchrl_recall import ImitationLoss


class Fixed(nn.Module):
    """Parameters that ignore the state."""

    def __init__(self, *values: list[float]) -> None:
        super().__init__()
        self.values = nn.ParameterList([nn.Parameter(torch.tensor(v)) for v in values])

    def forward(self, observation: torch.Tensor):
        shape = observation.shape[:-1]
        out = tuple(value.expand(*shape, *value.shape) for value in self.values)
        return out if len(out) > 1 else out[0]


def gaussian_actor(spec=None, **kwargs) -> ProbabilisticActor:
    """a ~ N(1, 2), whatever the state."""
    return ProbabilisticActor(
        TensorDictModule(Fixed([1.0], [2.0]), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=IndependentNormal,
        **kwargs,
    )


def pairs(actions: list[float]) -> TensorDict:
    action = torch.tensor(actions).unsqueeze(-1)
    return TensorDict(
        {"observation": torch.zeros(len(actions), 3), "action": action}, [len(action)]
    )


def gaussian(x: float) -> float:
    return 0.5 * ((x - 1) / 2) ** 2 + math.log(2) + 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("none", [gaussian(1), gaussian(5)]),
        ("sum", gaussian(1) + gaussian(5)),
        ("mean", (gaussian(1) + gaussian(5)) / 2),
    ],
)
def test_value_by_hand(reduction, expected):
    out = ImitationLoss(gaussian_actor(), reduction=reduction)(pairs([1.0, 5.0]))
    assert list(out.keys()) == ["loss_imitation"]
    assert out["loss_imitation"].tolist() == pytest.approx(expected, rel=1e-5)
    assert out.batch_size == ((2,) if reduction == "none" else ())


@pytest.mark.parametrize(
    ("margin", "action", "scored"),
    [
        (0.01, 2.0, 0.99),
        (0.01, 1.0, 0.99),
        (0.01, -7.0, -0.99),
        (0.25, 0.9, 0.75),
        (0.25, 0.5, 0.5),
    ],
)
def test_action_is_clamped_to_the_bounds_less_a_margin(margin, action, scored):
    loss = ImitationLoss(gaussian_actor(Bounded(-1, 1, (1,))), action_margin=margin)
    assert loss(pairs([action]))["loss_imitation"].item() == pytest.approx(gaussian(scored))


def test_asymmetric_bounds_per_dimension():
    spec = Bounded(torch.tensor([0.0]), torch.tensor([4.0]))
    loss = ImitationLoss(gaussian_actor(spec), action_margin=0.1)
    assert loss(pairs([-1.0]))["loss_imitation"].item() == pytest.approx(gaussian(0.2))
    assert loss(pairs([9.0]))["loss_imitation"].item() == pytest.approx(gaussian(3.8))


@pytest.mark.parametrize(
    "spec",
    [
        None,
        Unbounded((1,)),
        Composite(action=Unbounded((1,))),
        Bounded(-math.inf, math.inf, (1,)),
    ],
    ids=["none", "unbounded", "composite", "infinite"],
)
def test_without_bounds_actions_are_left_alone(spec):
    out = ImitationLoss(gaussian_actor(), action_spec=spec)(pairs([50.0]))
    assert out["loss_imitation"].item() == pytest.approx(gaussian(50.0), rel=1e-5)


def test_unbounded_spec_of_the_actor():
    out = ImitationLoss(gaussian_actor(Unbounded((1,))))(pairs([50.0]))
    assert out["loss_imitation"].item() == pytest.approx(gaussian(50.0), rel=1e-5)


def test_one_sided_bounds():
    loss = ImitationLoss(gaussian_actor(), action_spec=Bounded(0.0, math.inf, (1,)))
    assert loss(pairs([50.0]))["loss_imitation"].item() == pytest.approx(gaussian(50.0), rel=1e-5)
    assert loss(pairs([-5.0]))["loss_imitation"].item() == pytest.approx(gaussian(0.0), rel=1e-2)


def test_given_spec_wins():
    loss = ImitationLoss(
        gaussian_actor(Bounded(-1, 1, (1,))), action_spec=Bounded(-2, 2, (1,)), action_margin=0.0
    )
    assert loss(pairs([3.0]))["loss_imitation"].item() == pytest.approx(gaussian(2.0))


def test_composite_spec_with_batch_dimensions():
    spec = Composite(action=Bounded(-1, 1, (4, 1)), shape=(4,))
    loss = ImitationLoss(gaussian_actor(), action_spec=spec, action_margin=0.0)
    assert loss(pairs([3.0] * 6))["loss_imitation"].item() == pytest.approx(gaussian(1.0))


@pytest.mark.parametrize("bound", [1.0, 0.4], ids=["unit", "humanoid"])
@pytest.mark.parametrize("factor", [1.0, 1.0000001, 1.5, 100.0])
def test_tanh_normal_at_and_beyond_the_bounds(bound, factor, make_actor):
    spec = Bounded(-bound, bound, (2,))
    actor = make_actor(action=spec)
    loss = ImitationLoss(actor)
    data = TensorDict({"observation": torch.randn(8, 3)}, [8])
    data["action"] = torch.tensor([bound, -bound]).expand(8, 2) * factor
    out = loss(data)["loss_imitation"]
    out.backward()
    assert out.isfinite()
    assert out < 20
    gradient = torch.cat([p.grad.flatten() for p in actor.parameters()])
    assert gradient.isfinite().all()
    assert gradient.norm() < 100


def test_humanoid_like_bounds_are_not_those_of_one(make_actor):
    actor = make_actor(action=Bounded(-0.4, 0.4, (2,)))
    data = TensorDict({"observation": torch.randn(1, 3), "action": torch.full((1, 2), 0.9)}, [1])
    inside = data.clone().set("action", torch.full((1, 2), 0.4 - 0.01 * 0.4))
    loss = ImitationLoss(actor)
    torch.testing.assert_close(loss(data)["loss_imitation"], loss(inside)["loss_imitation"])


def test_categorical_policy_by_hand():
    logits = [math.log(0.2), math.log(0.8)]
    actor = ProbabilisticActor(
        TensorDictModule(Fixed(logits), ["observation"], ["logits"]),
        in_keys=["logits"],
        spec=Categorical(2),
        distribution_class=torch.distributions.Categorical,
    )
    data = TensorDict({"observation": torch.zeros(2, 3), "action": torch.tensor([0, 1])}, [2])
    out = ImitationLoss(actor, reduction="none")(data)["loss_imitation"]
    assert out.tolist() == pytest.approx([-math.log(0.2), -math.log(0.8)], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_one_hot_policy_by_hand(dtype):
    logits = [math.log(0.2), math.log(0.8)]
    actor = ProbabilisticActor(
        TensorDictModule(Fixed(logits), ["observation"], ["logits"]),
        in_keys=["logits"],
        spec=OneHot(2),
        distribution_class=OneHotCategorical,
    )
    action = torch.eye(2).to(dtype)
    data = TensorDict({"observation": torch.zeros(2, 3), "action": action}, [2])
    out = ImitationLoss(actor, reduction="none")(data)["loss_imitation"]
    assert out.tolist() == pytest.approx([-math.log(0.2), -math.log(0.8)], rel=1e-5)


def test_distribution_without_event_dimensions_is_summed():
    actor = ProbabilisticActor(
        TensorDictModule(Fixed([1.0, 1.0], [2.0, 2.0]), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=torch.distributions.Normal,
    )
    data = TensorDict(
        {"observation": torch.zeros(3, 3), "action": torch.tensor([[1.0, 5.0]]).expand(3, 2)}, [3]
    )
    out = ImitationLoss(actor, reduction="none")(data)["loss_imitation"]
    assert out.tolist() == pytest.approx([gaussian(1) + gaussian(5)] * 3, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "shape", "own"),
    [
        (torch.distributions.Categorical, (6, 1), (6,)),
        (torch.distributions.Categorical, (4, 4), (4,)),
        (OneHotCategorical, (6, 1), (6, 4)),
        (MaskedOneHotCategorical, (6, 1), (6, 4)),
    ],
)
def test_actions_of_another_shape_are_refused(kind, shape, own):
    """Each of them would be scored against every state, or as the first action."""
    net = TensorDictModule(lambda x: (x, x > -9), ["observation"], ["logits", "mask"])
    keys = ["logits", "mask"] if kind is MaskedOneHotCategorical else ["logits"]
    loss = ImitationLoss(ProbabilisticActor(net, in_keys=keys, distribution_class=kind))
    data = TensorDict({"observation": torch.randn(shape[0], 4)}, shape[:1])
    data["action"] = torch.zeros(own, dtype=torch.long)
    assert loss(data)["loss_imitation"].isfinite()
    data["action"] = torch.zeros(shape, dtype=torch.long)
    with pytest.raises(ValueError, match=rf"{re.escape(str(shape))}.* own have .*action space"):
        loss(data)


def test_bounds_of_several_environments():
    low = torch.tensor([[-1.0, -2.0], [-1.0, -2.0]])
    loss = ImitationLoss(gaussian_actor(Bounded(low, -low, (2, 2))), action_margin=0.0)
    assert loss.action_high.tolist() == [1.0, 2.0]
    low[1] = -3.0
    for spec in (Bounded(low, -low), Composite(action=Bounded(low, -low), shape=(2,))):
        with pytest.raises(ValueError, match="action_spec_unbatched"):
            ImitationLoss(gaussian_actor(), action_spec=spec)


def test_deterministic_actor_is_refused():
    with pytest.raises(TypeError, match="ProbabilisticActor"):
        ImitationLoss(Actor(nn.Linear(3, 2), spec=Bounded(-1, 1, (2,))))


@pytest.mark.parametrize("margin", [-0.1, 1.0, 2.0, math.nan])
def test_bad_margin_is_refused(margin):
    with pytest.raises(ValueError, match="action_margin"):
        ImitationLoss(gaussian_actor(), action_margin=margin)


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'none', 'mean' or 'sum'"):
        ImitationLoss(gaussian_actor(), reduction="max")


def test_missing_action_is_named():
    with pytest.raises(KeyError, match="set_keys"):
        ImitationLoss(gaussian_actor())(pairs([1.0]).exclude("action"))


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("sum", gaussian(1)), ("mean", gaussian(1)), ("none", [gaussian(1), 0.0])],
)
def test_mask_leaves_a_pair_out(reduction, expected):
    data = pairs([1.0, 5.0]).set("mask", torch.tensor([True, False]))
    out = ImitationLoss(gaussian_actor(), reduction=reduction)(data)
    assert out["loss_imitation"].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mask_key", ["mask", ("collector", "mask")])
@pytest.mark.parametrize("key", ["observation", "action"])
def test_masked_nan_poisons_neither_value_nor_gradient(key, mask_key, make_actor):
    actor = make_actor()
    data = TensorDict({"observation": torch.randn(8, 3), "action": torch.rand(8, 2)}, [8])
    loss, mask = ImitationLoss(actor), torch.arange(8) < 5
    clean = loss(data[:5].clone())["loss_imitation"]
    clean.backward()
    expected = [p.grad.clone() for p in actor.parameters()]
    actor.zero_grad()
    data.set(mask_key, mask)
    data[key][~mask] = math.nan
    out = loss(data)["loss_imitation"]
    torch.testing.assert_close(out, clean)
    out.backward()
    for parameter, gradient in zip(actor.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("action_key", ["act", ("agent", "action")])
def test_keys_can_be_renamed(action_key):
    loss = ImitationLoss(gaussian_actor())
    loss.set_keys(action=action_key)
    data = pairs([1.0, 5.0])
    data.set(action_key, data["action"]).del_("action")
    expected = (gaussian(1) + gaussian(5)) / 2
    assert loss(data)["loss_imitation"].item() == pytest.approx(expected, rel=1e-5)
    assert action_key in loss.in_keys


def test_nested_actor_names_its_own_keys(make_actor):
    key = ("agent", "action")
    actor = make_actor(observation_key=("agent", "state"), out_keys=[key])
    loss = ImitationLoss(actor)
    assert loss.in_keys == [("agent", "state"), key]
    assert loss.action_high.tolist() == pytest.approx([0.99, 0.99])
    data = TensorDict({"agent": {"state": torch.randn(4, 3), "action": torch.rand(4, 2)}}, [4])
    assert loss(data)["loss_imitation"].isfinite()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dim", [2, 3])
def test_dispatches_tensors(reduction, dim, make_actor):
    actor = make_actor(observation_dim=dim)
    data = TensorDict({"observation": torch.randn(6, dim), "action": torch.rand(6, 2)}, [6])
    loss = ImitationLoss(actor, reduction=reduction)
    out = loss(observation=data["observation"], action=data["action"])
    torch.testing.assert_close(out, loss(data)["loss_imitation"])


@pytest.mark.parametrize("shape", [(), (4,), (4, 20), (2, 3, 4)])
def test_any_batch_shape(shape, make_actor):
    data = TensorDict({"observation": torch.randn(*shape, 3)}, shape)
    data["action"] = torch.rand(*shape, 2)
    out = ImitationLoss(make_actor(), reduction="none")(data)
    assert out["loss_imitation"].shape == shape


def test_parameters_are_those_of_the_actor(make_actor):
    actor = make_actor()
    loss = ImitationLoss(actor)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in actor.parameters()}
    data = TensorDict({"observation": torch.randn(4, 3), "action": torch.rand(4, 2)}, [4])
    loss(data)["loss_imitation"].backward()
    assert all(p.grad is not None and p.grad.any() for p in actor.parameters())


def test_to_device(device, make_actor):
    loss = ImitationLoss(make_actor()).to(device)
    data = TensorDict({"observation": torch.randn(4, 3), "action": torch.ones(4, 2)}, [4])
    out = loss(data.to(device))["loss_imitation"]
    assert out.device.type == device.type
    assert out.isfinite()


def test_state_dict_round_trip(make_actor):
    data = TensorDict({"observation": torch.randn(4, 3), "action": torch.rand(4, 2)}, [4])
    loss, other = ImitationLoss(make_actor()), ImitationLoss(make_actor())
    assert not torch.equal(loss(data)["loss_imitation"], other(data)["loss_imitation"])
    other.load_state_dict(loss.state_dict())
    assert torch.equal(loss(data)["loss_imitation"], other(data)["loss_imitation"])


def test_training_moves_the_policy_to_the_action(make_actor):
    actor = make_actor()
    data = TensorDict({"observation": torch.randn(32, 3)}, [32])
    data["action"] = torch.tensor([0.5, -0.5]).expand(32, 2)
    loss = ImitationLoss(actor)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        loss(data)["loss_imitation"].backward()
        optimizer.step()
    mode = actor.get_dist(data.select("observation")).deterministic_sample
    torch.testing.assert_close(mode, data["action"], atol=0.1, rtol=0)


def test_scoring_is_the_same_under_every_exploration_type(make_actor):
    from torchrl.envs import ExplorationType, set_exploration_type

    data = TensorDict({"observation": torch.randn(4, 3), "action": torch.rand(4, 2)}, [4])
    loss = ImitationLoss(make_actor())
    values = []
    for kind in (ExplorationType.RANDOM, ExplorationType.DETERMINISTIC, ExplorationType.MODE):
        with set_exploration_type(kind):
            values.append(loss(data)["loss_imitation"].item())
    assert values[0] == values[1] == values[2]
    assert isinstance(make_actor().get_dist(data), TanhNormal)


def test_an_action_of_one_number_is_scored_in_each_row():
    """No dimension of the batch is summed over."""
    actor = ProbabilisticActor(
        TensorDictModule(Fixed(1.0, 2.0), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=torch.distributions.Normal,
    )
    data = TensorDict({"observation": torch.zeros(3, 3), "action": torch.tensor([1.0, 0, 3])}, [3])
    each = ImitationLoss(actor, reduction="none")(data)["loss_imitation"]
    assert each.tolist() == pytest.approx([gaussian(x) for x in (1.0, 0.0, 3.0)])
    assert float(ImitationLoss(actor)(data)["loss_imitation"]) == pytest.approx(float(each.mean()))


@pytest.mark.parametrize(
    ("cells", "distribution", "action"),
    [
        ([0.0, 1.0, 2.0, 3.0, 1.0, 0.0, 0.0, 1.0], torch.distributions.Categorical, (2,)),
        ([0.0, 1.0, 2.0, 3.0, 1.0, 0.5], torch.distributions.Normal, (2, 3)),
    ],
    ids=["two choices", "matrix"],
)
def test_the_likelihood_of_an_action_is_that_of_all_its_parts(cells, distribution, action):
    parameters = torch.tensor(cells).reshape(2, -1)
    is_normal = distribution is torch.distributions.Normal
    values = [parameters.tolist(), torch.ones(action).tolist()] if is_normal else [cells]
    keys = ["loc", "scale"] if is_normal else ["logits"]
    net = Fixed(*values) if is_normal else nn.Sequential(Fixed(cells), nn.Unflatten(-1, (2, 4)))
    actor = ProbabilisticActor(
        TensorDictModule(net, ["observation"], keys), keys, distribution_class=distribution
    )
    data = TensorDict({"observation": torch.zeros(5, 3)}, [5])
    data["action"] = torch.randn(5, *action) if is_normal else torch.randint(4, (5, *action))
    each = -actor.get_dist(data.clone()).log_prob(data["action"]).flatten(1).sum(1)
    assert torch.allclose(ImitationLoss(actor, reduction="none")(data)["loss_imitation"], each)
    assert ImitationLoss(actor)(data)["loss_imitation"].item() == pytest.approx(each.mean().item())


@pytest.mark.parametrize(("action", "nats"), [(0.99, 0.50), (0.999999, 14.07)])
def test_the_loss_near_a_bound_is_as_documented(action, nats):
    actor = ProbabilisticActor(
        TensorDictModule(Fixed([0.0], [1.0]), ["observation"], ["loc", "scale"]),
        ["loc", "scale"],
        spec=Bounded(-1, 1, (1,)),
        distribution_class=TanhNormal,
    )
    loss = ImitationLoss(actor, action_margin=0.0)(pairs([action]))
    assert loss["loss_imitation"].item() == pytest.approx(nats, abs=0.01)
