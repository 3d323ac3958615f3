"""Maximum likelihood of the backtracking model (Eq. 2)."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import Bounded, Categorical, OneHot, Unbounded

from torchrl_recall import BacktrackingLoss, BacktrackingModel

TERMS = ["loss_backward_policy", "loss_state_predictor"]


@pytest.fixture
def known() -> BacktrackingModel:
    """a ~ N(0, 1) and Δs ~ N(0, 1), whatever follows."""
    model = BacktrackingModel.from_specs(Unbounded((1,)), Unbounded((1,)), num_cells=(4,))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    ones = torch.tensor([[-1.0], [1.0]])
    model.update_statistics(
        TensorDict({"observation": ones, "action": ones, "next": {"observation": 0 * ones}}, [2])
    )
    return model


@pytest.fixture
def two() -> TensorDict:
    """Actions 0 and 2, changes of state 1 and -3."""
    return TensorDict(
        {
            "observation": torch.tensor([[5.0], [2.0]]),
            "action": torch.tensor([[0.0], [2.0]]),
            "next": {"observation": torch.tensor([[4.0], [5.0]])},
        },
        [2],
    )


CONSTANT = 0.5 * math.log(2 * math.pi)
POLICY, PREDICTOR = [CONSTANT, CONSTANT + 2], [CONSTANT + 0.5, CONSTANT + 4.5]


@pytest.mark.parametrize(
    ("reduction", "policy", "predictor"),
    [
        ("none", POLICY, PREDICTOR),
        ("sum", sum(POLICY), sum(PREDICTOR)),
        ("mean", sum(POLICY) / 2, sum(PREDICTOR) / 2),
    ],
)
def test_value_by_hand(known, two, reduction, policy, predictor):
    out = BacktrackingLoss(known, reduction=reduction)(two)
    assert sorted(out.keys()) == TERMS
    assert out["loss_backward_policy"].tolist() == pytest.approx(policy, rel=1e-5)
    assert out["loss_state_predictor"].tolist() == pytest.approx(predictor, rel=1e-5)
    assert out.batch_size == ((2,) if reduction == "none" else ())


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_it_is_minus_the_log_prob(reduction, make_model, transitions):
    model, data = make_model(), transitions(4, 5)
    expected = {"none": lambda x: x, "sum": torch.sum, "mean": torch.mean}[reduction](
        -model.log_prob(data)
    )
    out = BacktrackingLoss(model, reduction=reduction)(data)
    torch.testing.assert_close(sum(out[key] for key in TERMS), expected)


def test_unknown_reduction_is_refused(make_model):
    with pytest.raises(ValueError, match="'none', 'mean' or 'sum'"):
        BacktrackingLoss(make_model(), reduction="median")


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="from_specs"):
        BacktrackingLoss(nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("reduction", "policy"), [("sum", POLICY[0]), ("mean", POLICY[0]), ("none", [POLICY[0], 0.0])]
)
def test_mask_leaves_a_transition_out(known, two, reduction, policy):
    two["mask"] = torch.tensor([True, False])
    out = BacktrackingLoss(known, reduction=reduction)(two)
    assert out["loss_backward_policy"].tolist() == pytest.approx(policy, rel=1e-5)


@pytest.mark.parametrize("mask_key", ["mask", ("collector", "mask")])
@pytest.mark.parametrize("key", ["observation", "action", ("next", "observation")])
def test_masked_nan_poisons_neither_value_nor_gradient(key, mask_key, make_model, transitions):
    model, data = make_model(), transitions(8)
    loss = BacktrackingLoss(model)
    mask = torch.arange(8) < 5
    clean = loss(data[:5])
    sum(clean.values()).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()

    data.set(mask_key, mask)
    data[key][~mask] = math.nan
    out = loss(data)
    for term in TERMS:
        torch.testing.assert_close(out[term], clean[term])
    sum(out.values()).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_everything_masked_is_zero(make_model, transitions):
    data = transitions(4).set("mask", torch.zeros(4, dtype=torch.bool))
    out = BacktrackingLoss(make_model())(data)
    assert [out[term].item() for term in TERMS] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("observation_key", "action_key"), [("state", "act"), (("agent", "state"), ("agent", "act"))]
)
def test_keys_can_be_renamed(observation_key, action_key, make_model, transitions):
    model, data = make_model(), transitions(4)
    expected = BacktrackingLoss(model)(data)
    names = {"observation_key": observation_key, "action_key": action_key}
    renamed = TensorDict({}, batch_size=[4])
    following = observation_key if isinstance(observation_key, tuple) else (observation_key,)
    renamed.set(observation_key, data["observation"])
    renamed.set(action_key, data["action"])
    renamed.set(("next", *following), data["next", "observation"])

    loss = BacktrackingLoss(model)
    loss.set_keys(observation=observation_key, action=action_key)
    assert loss.in_keys == [observation_key, action_key, ("next", *following)]
    assert (loss(renamed) == expected).all()
    own = BacktrackingLoss(make_model(**names))  # the model's names are the default
    assert own.tensor_keys.observation == observation_key
    assert own(renamed)[TERMS[0]].isfinite()


def test_mask_can_be_renamed(known, two):
    loss = BacktrackingLoss(known)
    loss.set_keys(mask="valid")
    two["valid"] = torch.tensor([True, False])
    assert loss(two)["loss_backward_policy"].item() == pytest.approx(POLICY[0], rel=1e-5)


def test_unknown_key_is_refused(make_model):
    with pytest.raises(ValueError, match="not an accepted"):
        BacktrackingLoss(make_model()).set_keys(reward="reward")


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("action_dim", [2, 3])
def test_dispatches_tensors(reduction, action_dim, make_model, transitions):
    action = Bounded(-1, 1, (action_dim,))
    data = transitions(6, action=action)
    loss = BacktrackingLoss(make_model(action=action), reduction=reduction)
    policy, predictor = loss(
        observation=data["observation"],
        action=data["action"],
        next_observation=data["next", "observation"],
    )
    expected = loss(data)
    torch.testing.assert_close(policy, expected[TERMS[0]])
    torch.testing.assert_close(predictor, expected[TERMS[1]])


@pytest.mark.parametrize(
    ("state", "action"),
    [
        (OneHot(4), OneHot(3)),
        (Categorical(4), Categorical(3)),
        (Unbounded((3,)), Categorical(3)),
        (OneHot(4), Bounded(-1, 1, (2,))),
    ],
)
def test_discrete_spaces(state, action, make_model, transitions):
    model = make_model(state, action)
    data = transitions(6, observation=state, action=action)
    out = BacktrackingLoss(model)(data)
    torch.testing.assert_close(sum(out.values()), -model.log_prob(data).mean())
    sum(out.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_parameters_are_those_of_the_model(make_model, transitions):
    model = make_model()
    loss = BacktrackingLoss(model)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in model.parameters()}
    sum(loss(transitions(8)).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_each_factor_has_its_own_gradient(make_model, transitions):
    model = make_model()
    loss = BacktrackingLoss(model)
    loss.backward_policy_loss(transitions(8)).backward()
    assert all(p.grad is not None for p in model.backward_policy.parameters())
    assert all(p.grad is None for p in model.state_predictor.parameters())
    model.zero_grad()
    loss.state_predictor_loss(transitions(8)).backward()
    assert all(p.grad is None for p in model.backward_policy.parameters())
    assert all(p.grad is not None for p in model.state_predictor.parameters())


def test_later_statistics_reach_the_loss(transitions):
    model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)), num_cells=(8,))
    loss, data = BacktrackingLoss(model), transitions(32)
    with pytest.raises(RuntimeError, match="update_statistics"):
        loss(data)
    model.update_statistics(data)
    torch.testing.assert_close(sum(loss(data).values()), -model.log_prob(data).mean())


def test_to_device(device, make_model, transitions):
    loss = BacktrackingLoss(make_model()).to(device)
    out = loss(transitions(4).to(device))
    assert {value.device.type for value in out.values()} == {device.type}


def test_state_dict_round_trip(make_model, transitions):
    loss, data = BacktrackingLoss(make_model()), transitions(8)
    other = BacktrackingLoss(make_model())
    assert not torch.equal(other(data)[TERMS[0]], loss(data)[TERMS[0]])
    other.load_state_dict(loss.state_dict())
    assert (other(data) == loss(data)).all()


def test_training_lowers_both_terms(make_model, transitions):
    loss, data = BacktrackingLoss(make_model()), transitions(64)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    before = loss(data).detach()
    for _ in range(30):
        optimizer.zero_grad()
        sum(loss(data).values()).backward()
        optimizer.step()
    after = loss(data)
    assert all(after[term] < before[term] for term in TERMS)


def test_an_empty_batch_is_refused(make_model, transitions):
    with pytest.raises(ValueError, match="the batch is empty"):
        BacktrackingLoss(make_model())(transitions(4)[:0])


@pytest.mark.parametrize("name", ["observation", "action"])
def test_a_renamed_entry_that_is_missing_is_named(known, two, name):
    loss = BacktrackingLoss(known)
    loss.set_keys(**{name: "renamed"})
    with pytest.raises(KeyError, match=r"BacktrackingLoss reads .*renamed.*set_keys"):
        loss(two)
