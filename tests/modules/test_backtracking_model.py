"""The backtracking model: its density, its samples, and what it refuses."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    InteractionType,
    NormalParamExtractor,
    TensorDictModule,
)
from tensordict.nn import (
    ProbabilisticTensorDictModule as Sampled,
)
from tensordict.nn import (
    ProbabilisticTensorDictSequential as Sequential,
)
from torch import nn
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    MultiCategorical,
    OneHot,
    Unbounded,
)
from torchrl.modules import MLP, IndependentNormal

from torchrl_recall import BacktrackingLoss, BacktrackingModel, JointModel

STATES = {"vector": Unbounded((3,)), "one_hot": OneHot(4), "categorical": Categorical(4)}
ACTIONS = {"vector": Bounded(-1, 1, (2,)), "one_hot": OneHot(3), "categorical": Categorical(3)}
KINDS = list(itertools.product(STATES, ACTIONS))


def gaussian(x: float, loc: float, scale: float) -> float:
    return -0.5 * ((x - loc) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)


def zero_(model: BacktrackingModel) -> BacktrackingModel:
    """Both networks become the standard normal, or the uniform distribution."""
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


@pytest.fixture
def known() -> BacktrackingModel:
    """a ~ N(3, 2) and Δs ~ N(-10, 5), whatever follows."""
    model = zero_(BacktrackingModel.from_specs(Unbounded((1,)), Unbounded((1,)), num_cells=(4,)))
    model.update_statistics(
        TensorDict(
            {
                "observation": torch.tensor([[-15.0], [-4.0]]),
                "action": torch.tensor([[1.0], [5.0]]),
                "next": {"observation": torch.tensor([[0.0], [1.0]])},
            },
            [2],
        )
    )
    return model


def transition(observation: float, action: float, following: float) -> TensorDict:
    return TensorDict(
        {
            "observation": torch.tensor([observation]),
            "action": torch.tensor([action]),
            "next": {"observation": torch.tensor([following])},
        }
    )


@pytest.mark.parametrize(
    ("observation", "action", "following"), [(-10.0, 3.0, 0.0), (-3.0, 4.0, 2.0), (6.0, 0.0, 7.0)]
)
def test_density_by_hand(known, observation, action, following):
    data = transition(observation, action, following)
    policy, predictor = gaussian(action, 3, 2), gaussian(observation - following, -10, 5)
    assert known.backward_policy_log_prob(data).item() == pytest.approx(policy, rel=1e-5)
    assert known.state_predictor_log_prob(data).item() == pytest.approx(predictor, rel=1e-5)
    assert known.log_prob(data).item() == pytest.approx(policy + predictor, rel=1e-5)


def test_units_of_the_environment_need_no_statistics():
    model = zero_(BacktrackingModel.from_specs(Unbounded((1,)), Unbounded((1,)), standardize=False))
    assert model(transition(0.0, 0.0, 2.0).select(("next", "observation")))["action"].isfinite()


@pytest.mark.parametrize("model_type", [BacktrackingModel, JointModel])
def test_density_and_samples_in_units_of_the_environment(model_type):
    model = zero_(model_type.from_specs(Unbounded((1,)), Unbounded((1,)), standardize=False))
    data = transition(-3.0, 4.0, 2.0).expand(2000)
    model.update_statistics(
        data.clone().update({"next": {"reward": torch.zeros(2000, 1)}})
        .apply(lambda entry: entry + 100 * torch.randn_like(entry))
    )  # fmt: skip
    assert model.log_prob(data[0]).item() == pytest.approx(gaussian(4, 0, 1) + gaussian(-5, 0, 1))
    sampled = model(data.select(("next", "observation")))
    assert sampled["action"].std().item() == pytest.approx(1, abs=0.1)
    assert sampled["observation"].mean().item() == pytest.approx(2, abs=0.1)


def test_density_with_weights_by_hand(known):
    policy = [m for m in known.backward_policy.modules() if isinstance(m, nn.Linear)]
    nn.init.constant_(policy[-1].bias, 0.5)  # standardised: half a standard deviation up
    data = transition(0.0, 7.0, 0.0)
    expected = gaussian(7.0, 3 + 0.5 * 2, 2)
    assert known.backward_policy_log_prob(data).item() == pytest.approx(expected, rel=1e-5)


def test_density_integrates_to_one(known):
    a, s = torch.linspace(-17, 23, 401), torch.linspace(-60, 40, 401)
    grid = TensorDict({}, batch_size=[401, 401])
    grid["action"] = a[:, None, None].expand(401, 401, 1)
    grid["observation"] = s[None, :, None].expand(401, 401, 1)
    grid["next", "observation"] = torch.full((401, 401, 1), 0.7)
    total = known.log_prob(grid).double().exp().sum() * (a[1] - a[0]) * (s[1] - s[0])
    assert total.item() == pytest.approx(1, abs=1e-4)


def test_trained_density_integrates_to_one(make_model):
    model = make_model(Unbounded((1,)), Unbounded((1,)), action_scale="learned")
    a = torch.linspace(-30, 30, 6001).unsqueeze(-1)
    data = TensorDict({"action": a, "next": {"observation": torch.full((6001, 1), 0.3)}}, [6001])
    total = model.backward_policy_log_prob(data).double().exp().sum() * (a[1] - a[0])
    assert total.item() == pytest.approx(1, abs=1e-3)


def test_uniform_categories_by_hand():
    model = zero_(BacktrackingModel.from_specs(Categorical(4), Categorical(3), num_cells=(4,)))
    data = TensorDict(
        {"observation": torch.tensor(1), "action": torch.tensor(2), "next": {"observation": 3}}
    )
    data["next", "observation"] = torch.tensor(3)
    assert model.log_prob(data).item() == pytest.approx(-math.log(4) - math.log(3), rel=1e-5)


@pytest.mark.parametrize(("state", "action"), KINDS)
def test_categories_of_both_factors_sum_to_one(state, action, make_model):
    if state == "vector" or action == "vector":
        state, action = "categorical", "one_hot"
    model = make_model(STATES[state], ACTIONS[action])

    def category(spec, index):
        index = torch.tensor(index)
        return (
            index
            if isinstance(spec, Categorical) and not isinstance(spec, OneHot)
            else (nn.functional.one_hot(index, spec.space.n).to(spec.dtype))
        )

    total = 0.0
    for s, a in itertools.product(range(4), range(3)):
        data = TensorDict(
            {
                "observation": category(STATES[state], s),
                "action": category(ACTIONS[action], a),
                "next": {"observation": category(STATES[state], 2)},
            }
        )
        total += model.log_prob(data).exp().item()
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize(("state", "action"), KINDS)
def test_log_prob_has_the_shape_of_the_batch(state, action, shape, make_model, transitions):
    model = make_model(STATES[state], ACTIONS[action])
    data = transitions(*shape, observation=STATES[state], action=ACTIONS[action])
    policy, predictor = model.backward_policy_log_prob(data), model.state_predictor_log_prob(data)
    assert policy.shape == predictor.shape == model.log_prob(data).shape == shape
    torch.testing.assert_close(model.log_prob(data), policy + predictor)


@pytest.mark.parametrize(("state", "action"), KINDS)
def test_samples_lie_in_their_spaces(state, action, make_model, transitions):
    model = make_model(STATES[state], ACTIONS[action])
    data = transitions(32, observation=STATES[state], action=ACTIONS[action])
    out = model(data.select(("next", "observation")))
    assert model.observation_spec.is_in(out["observation"])
    assert model.action_spec.is_in(out["action"])
    assert out["observation"].dtype == model.observation_spec.dtype
    assert out["action"].dtype == model.action_spec.dtype
    assert ("observation_delta" in out) == (state == "vector")
    assert torch.equal(out["next", "observation"], data["next", "observation"])
    assert model.log_prob(out).isfinite().all()


def test_bounded_states_lie_in_their_space(make_model):
    model = make_model(Bounded(-1, 1, (3,)))
    following = torch.rand(256, 3).sign()  # on the edge
    out = model(TensorDict({"next": {"observation": following}}, [256]))
    assert model.observation_spec.is_in(out["observation"])
    torch.testing.assert_close(out["observation_delta"], out["observation"] - following)


def test_sampling_is_random_but_scoring_is_not(make_model, transitions):
    model, data = make_model(), transitions(16)
    assert torch.equal(model.log_prob(data), model.log_prob(data))
    seeds = data.select(("next", "observation"))
    assert not torch.equal(model(seeds.clone())["action"], model(seeds.clone())["action"])


def test_scoring_draws_no_random_number(make_model, transitions):
    model, data = make_model(), transitions(16)
    before = torch.get_rng_state()
    model.log_prob(data)
    assert torch.equal(torch.get_rng_state(), before)


def test_state_predictor_is_given_the_action_of_the_data(make_model, transitions):
    model, data = make_model(), transitions(16)
    other = data.clone().set("action", -data["action"])
    assert not torch.allclose(
        model.state_predictor_log_prob(data), model.state_predictor_log_prob(other)
    )


def test_scoring_leaves_the_data_alone(make_model, transitions):
    data = transitions(4)
    copy = data.clone()
    make_model().log_prob(data)
    assert set(data.keys(True, True)) == set(copy.keys(True, True))
    assert (data == copy).all()


def test_samples_follow_the_statistics(known):
    out = known(TensorDict({"next": {"observation": torch.full((20_000, 1), 4.0)}}, [20_000]))
    assert out["action"].mean().item() == pytest.approx(3, abs=0.1)
    assert out["action"].std().item() == pytest.approx(2, abs=0.1)
    assert out["observation_delta"].mean().item() == pytest.approx(-10, abs=0.2)
    assert out["observation_delta"].std().item() == pytest.approx(5, abs=0.2)
    assert torch.equal(out["observation"], 4.0 + (out["observation"] - 4.0))
    torch.testing.assert_close(out["observation"] - 4.0, out["observation_delta"])


@pytest.mark.parametrize(
    ("observation_key", "action_key", "delta_key"),
    [("state", "act", "change"), (("agent", "state"), ("agent", "action"), ("agent", "delta"))],
)
def test_renamed_and_nested_keys(observation_key, action_key, delta_key, make_model, transitions):
    names = {"observation_key": observation_key, "action_key": action_key}
    model = make_model(**names, delta_key=delta_key)
    data = transitions(5, **names)
    assert model.log_prob(data).shape == (5,)
    following = model.next_observation_key
    assert model.in_keys == [following]
    out = model(data.select(following))
    assert set(out.keys(True, True)) == {following, observation_key, action_key, delta_key}
    assert set(model.out_keys) == {observation_key, action_key, delta_key}


def test_dispatches_tensors(make_model):
    action, delta, observation = make_model()(next_observation=torch.zeros(4, 3))
    assert action.shape == (4, 2)
    torch.testing.assert_close(delta, observation)


def test_float64(make_model, transitions):
    states, actions = (
        Unbounded((3,), dtype=torch.float64),
        Bounded(-1, 1, (2,), dtype=torch.float64),
    )
    model = make_model(states, actions)
    data = transitions(8, observation=states, action=actions)
    assert model.log_prob(data).isfinite().all()
    out = model(data.select(("next", "observation")))
    assert out["observation"].dtype == out["action"].dtype == torch.float64
    assert actions.is_in(out["action"])


def test_moves_to_a_device(device, make_model, transitions):
    model, data = make_model().to(device), transitions(4).to(device)
    model.update_statistics(data)
    assert model.log_prob(data).device.type == device.type
    assert model(data.select(("next", "observation")))["action"].device.type == device.type


@pytest.mark.parametrize("clamp", [True, False])
def test_actions_are_clamped_on_demand(clamp, make_model):
    action = Bounded(-0.1, 0.1, (2,))
    model = make_model(action=action, clamp_actions=clamp)
    sampled = model.sample_action(torch.randn(256, 3))
    assert action.is_in(sampled) == clamp


# statistics


def test_statistics_are_saved_buffers(make_model, transitions):
    model, data = make_model(), transitions(8)
    buffers = dict(model.named_buffers())
    for name in ("observations", "actions", "deltas"):
        assert f"{name}.mean" in model.state_dict()
        assert f"{name}.mean" in buffers
    other = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)), num_cells=(8, 8))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.log_prob(data), model.log_prob(data))


def test_statistics_by_hand(known):
    assert known.observations.mean.item() == pytest.approx(0.5)  # of the following states
    assert known.actions.mean.item() == pytest.approx(3)
    assert known.actions.scale().item() == pytest.approx(2)
    assert known.deltas.mean.item() == pytest.approx(-10)
    assert known.deltas.scale().item() == pytest.approx(5)


def test_constant_dimension_does_not_blow_up(transitions):
    model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)), num_cells=(8,))
    data = transitions(64)
    data["observation"][:, 1] = data["next", "observation"][:, 1] = 7.0
    model.update_statistics(data)
    assert model.log_prob(data).isfinite().all()
    assert model(data.select(("next", "observation")))["observation"].abs().max() < 100
    data["next", "observation"][:, 1] += 1e-5
    assert model.log_prob(data).abs().max() < 100


@pytest.mark.parametrize(
    "call",
    [
        lambda model, data: model.log_prob(data),
        lambda model, data: model.backward_policy_log_prob(data),
        lambda model, data: model.state_predictor_log_prob(data),
        lambda model, data: model(data),
        lambda model, data: model.sample_action(data["next", "observation"]),
        lambda model, data: model.sample_observation(data["action"], data["next", "observation"]),
    ],
    ids=["log_prob", "policy", "predictor", "forward", "sample_action", "sample_observation"],
)
def test_without_statistics_the_cure_is_named(call, transitions):
    model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
    with pytest.raises(RuntimeError, match="update_statistics"):
        call(model, transitions(4))


def test_categories_need_no_statistics(transitions):
    model = BacktrackingModel.from_specs(Categorical(4), OneHot(3))
    data = transitions(4, observation=Categorical(4), action=OneHot(3))
    assert model.log_prob(data).isfinite().all()


@pytest.mark.parametrize("key", ["observation", "action", ("next", "observation")])
def test_data_of_another_dtype_than_their_spec_are_refused(key, make_model, transitions):
    model, data = make_model(), transitions(8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data[key] = data[key].double()
    with pytest.raises(ValueError, match=r"of torch.float64, but .* DoubleToFloat"):
        model.update_statistics(data)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["observation", "action", ("next", "observation")])
def test_bad_data_leaves_the_statistics_untouched(key, bad, make_model, transitions):
    model, data = make_model(), transitions(8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data[key][3, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        model.update_statistics(data)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_empty_batch_leaves_the_statistics_untouched(make_model, transitions):
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.update_statistics(transitions(0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_statistics_take_any_batch_shape(make_model, transitions):
    model, data = make_model(), transitions(2, 3)
    before = model.observations.count.item()
    model.update_statistics(data)
    assert model.observations.count.item() == before + 6


@pytest.mark.parametrize("key", ["observation", "action", ("next", "observation")])
def test_missing_entry_is_named(key, make_model, transitions):
    with pytest.raises(KeyError, match="observation" if key != "action" else "action"):
        make_model().log_prob(transitions(4).exclude(key))


def test_wrong_shape_is_named(make_model, transitions):
    data = transitions(4, observation=Unbounded((5,)))
    with pytest.raises(ValueError, match=r"has shape \(4, 5\)"):
        make_model().log_prob(data)


def test_category_with_a_trailing_dimension_is_refused(make_model, transitions):
    model = make_model(Categorical(4), Categorical(3))
    data = transitions(5, observation=Categorical(4), action=Categorical(3))
    data["action"] = data["action"].unsqueeze(-1)
    with pytest.raises(ValueError, match="batch shape"):
        model.log_prob(data)
    with pytest.raises(ValueError, match="one-hot or categorical"):
        model.update_statistics(data)


def test_extra_dimension_is_refused(make_model, transitions):
    data = transitions(5)
    data["action"] = torch.zeros(5, 4, 2)
    with pytest.raises(ValueError, match="batch shape"):
        make_model().log_prob(data)


# architecture


def test_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="'unit'"):
        BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)), action_scale="both")


def own_modules(**changes) -> dict:
    keys = {"policy_in": [("next", "observation")], "policy_out": "action"}
    keys |= {"predictor_in": ["action", ("next", "observation")], "predictor_out": "delta"}
    sizes = {"policy_size": 2, "predictor_size": 3}
    keys |= sizes | changes

    def factor(in_keys, out_key, in_features, size):
        net = MLP(in_features=in_features, out_features=2 * size, num_cells=[5])
        return Sequential(
            TensorDictModule(net, in_keys, ["params"]),
            TensorDictModule(NormalParamExtractor(), ["params"], ["loc", "scale"]),
            Sampled(
                in_keys=["loc", "scale"],
                out_keys=[out_key],
                distribution_class=IndependentNormal,
                default_interaction_type=InteractionType.RANDOM,
            ),
        )

    return {
        "backward_policy": factor(keys["policy_in"], keys["policy_out"], 3, keys["policy_size"]),
        "state_predictor": factor(
            keys["predictor_in"], keys["predictor_out"], 5, keys["predictor_size"]
        ),
        "observation_spec": Unbounded((3,)),
        "action_spec": Bounded(-1, 1, (2,)),
        "delta_key": "delta",
    }


def test_own_modules(transitions):
    model = BacktrackingModel(**own_modules())
    data = transitions(64)
    model.update_statistics(data)
    assert model.log_prob(data).shape == (64,)
    out = model(data.select(("next", "observation")))
    torch.testing.assert_close(out["observation"] - out["next", "observation"], out["delta"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"policy_in": ["observation"]}, "backward_policy reads"),
        ({"policy_in": ["action"]}, "backward_policy reads"),
        ({"policy_out": "act"}, "backward_policy must write 'action'"),
        ({"predictor_in": ["action", "observation"]}, "state_predictor reads"),
        ({"predictor_out": "observation"}, "state_predictor must write 'delta'"),
    ],
)
def test_modules_with_wrong_keys_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        BacktrackingModel(**own_modules(**changes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"policy_size": 1}, r"backward_policy .*shape \(1,\).*the data's have \(2,\).*outputs"),
        ({"predictor_size": 1}, r"state_predictor .*shape \(1,\).*the data's have \(3,\)"),
    ],
)
def test_outputs_that_would_be_broadcast_are_refused(changes, match, transitions):
    model = BacktrackingModel(**own_modules(**changes))
    data = transitions(64)
    model.update_statistics(data)
    with pytest.raises(ValueError, match=match):
        model.log_prob(data)


def test_module_without_a_distribution_is_refused():
    modules = own_modules()
    modules["backward_policy"] = TensorDictModule(
        nn.Linear(3, 2), [("next", "observation")], ["action"]
    )
    with pytest.raises(ValueError, match="backward_policy must be a Probabilistic"):
        BacktrackingModel(**modules)


@pytest.mark.parametrize(
    "spec",
    [MultiCategorical([2, 3]), Binary(4), Unbounded((3, 8, 8)), Unbounded((2, 3))],
    ids=["multi_categorical", "binary", "pixels", "matrix"],
)
def test_other_spaces_are_refused(spec):
    with pytest.raises(ValueError, match="the observation spec"):
        BacktrackingModel.from_specs(spec, Bounded(-1, 1, (2,)))
    with pytest.raises(ValueError, match="the action spec"):
        BacktrackingModel.from_specs(Unbounded((3,)), spec)


# learning


def linear_system(n: int) -> TensorDict:
    """a = 2 + 0.5 s' ± 0.5 and Δs = 0.3 s' - 0.8 a + 1 ± 0.2, in units far from standard."""
    following = 3 + 2 * torch.randn(n, 1)
    action = 2 + 0.5 * following + 0.5 * torch.randn(n, 1)
    delta = 0.3 * following - 0.8 * action + 1 + 0.2 * torch.randn(n, 1)
    return TensorDict(
        {"observation": following + delta, "action": action, "next": {"observation": following}},
        [n],
    )


def test_maximum_likelihood_recovers_a_linear_system():
    model = BacktrackingModel.from_specs(
        Unbounded((1,)), Unbounded((1,)), num_cells=(), action_scale="learned"
    )
    data = linear_system(4096)
    model.update_statistics(data)
    loss = BacktrackingLoss(model)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        sum(loss(data[torch.randint(4096, (512,))]).values()).backward()
        optimizer.step()
    test = linear_system(4096)
    entropy = sum(0.5 * math.log(2 * math.pi * math.e * s**2) for s in (0.5, 0.2))
    assert -model.log_prob(test).mean().item() == pytest.approx(entropy, abs=0.05)

    following = torch.full((20_000, 1), 5.0)
    action = model.sample_action(following)
    assert action.mean().item() == pytest.approx(4.5, abs=0.1)
    assert action.std().item() == pytest.approx(0.5, abs=0.05)
    state = model.sample_observation(torch.full_like(following, 4.0), following)
    assert state.mean().item() == pytest.approx(5 + 0.3 * 5 - 0.8 * 4 + 1, abs=0.1)
    assert state.std().item() == pytest.approx(0.2, abs=0.05)
