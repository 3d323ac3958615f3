"""Ensembles of networks: shapes, draws, densities, training and rollouts."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import Bounded, Categorical, OneHot, Unbounded
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.modules import IndependentNormal

from torchrl_recall import BacktrackingLoss, BacktrackingModel, RecallTraceGenerator
from torchrl_recall.modules.ensemble import EnsembleDistribution, EnsembleMLP
from torchrl_recall.optim.gradient_step import make_update

SPECS = Unbounded((3,)), Bounded(-1, 1, (2,))


def transitions(num=64, seed=0):
    torch.manual_seed(seed)
    states, actions = torch.randn(num, 3), torch.rand(num, 2) * 2 - 1
    following = states + torch.cat([actions, torch.zeros(num, 1)], 1)
    return TensorDict({"observation": states, "action": actions, "next": {"observation": following}}, [num])  # noqa: E501  # fmt: skip


def make(num_models=5, specs=SPECS, data=None, **options):
    model = BacktrackingModel.from_specs(*specs, num_models=num_models, num_cells=[16], **options)
    model.update_statistics(transitions() if data is None else data)
    return model


def test_each_member_is_a_perceptron_of_its_own():
    mlp = EnsembleMLP(4, in_features=3, out_features=2, num_cells=[8, 7], activation_class=nn.Tanh)
    x = torch.randn(6, 5, 3)
    out = mlp(x[..., :1], x[..., 1:])
    assert out.shape == (6, 5, 4, 2)
    for m in range(4):
        expected = x
        for layer in mlp.layers:
            if isinstance(layer, nn.Tanh):
                expected = expected.tanh()
            else:
                expected = expected @ layer.weight[m] + layer.bias[m]
        torch.testing.assert_close(out[..., m, :], expected)
    assert not torch.allclose(out[..., 0, :], out[..., 1, :])
    assert mlp(torch.randn(3)).shape == (4, 2)


def test_a_sample_is_of_one_member_and_all_are_drawn():
    loc = torch.arange(5.0).reshape(1, 5, 1).expand(2000, 5, 3)
    dist = EnsembleDistribution(IndependentNormal, loc=loc, scale=torch.full_like(loc, 1e-3))
    drawn = dist.sample()
    assert drawn.shape == (2000, 3)
    member = drawn.round()
    assert (member == member[:, :1]).all()  # all dimensions of a row are of one member
    shares = [(member[:, 0] == m).float().mean().item() for m in range(5)]
    assert shares == pytest.approx([0.2] * 5, abs=0.05)
    assert dist.sample((7,)).shape == (7, 2000, 3)
    torch.testing.assert_close(dist.mean, torch.full((2000, 3), 2.0))


def test_the_density_by_hand():
    """Two members at 0 and 1 of scale 1: p(0) = (1 + e^{-1/2}) / 2 / sqrt(2 pi)."""
    loc = torch.tensor([[[0.0], [1.0]]])
    dist = EnsembleDistribution(IndependentNormal, loc=loc, scale=torch.ones_like(loc))
    expected = math.log((1 + math.exp(-0.5)) / 2 / math.sqrt(2 * math.pi))
    assert dist.log_prob(torch.zeros(1, 1)).item() == pytest.approx(expected, rel=1e-5)
    half = -0.5 * math.log(2 * math.pi)
    found = dist.member_log_prob(torch.zeros(1, 1)).tolist()[0]
    assert found == pytest.approx([half, half - 0.5], rel=1e-5)


@pytest.mark.parametrize(
    ("observation_spec", "states"),
    [
        (Categorical(4), torch.arange(12) % 4),
        (OneHot(4), nn.functional.one_hot(torch.arange(12) % 4, 4).bool()),
    ],
)
def test_categories_are_drawn_and_scored(observation_spec, states):
    following = {"observation": states.roll(1, 0)}
    rows = {"observation": states, "action": torch.arange(12) % 3, "next": following}
    data = TensorDict(rows, [12])
    model = make(3, (observation_spec, Categorical(3)), data)
    previous = model(data.select(("next", "observation")))
    assert previous["observation"].shape == states.shape
    assert previous["observation"].dtype == states.dtype
    assert model.log_prob(data).shape == (12,)
    scored = model.state_predictor_log_prob(data, each_member=True)
    assert scored.shape == (12, 3)
    mixture = scored.logsumexp(-1) - math.log(3)
    torch.testing.assert_close(model.state_predictor_log_prob(data), mixture)


def test_one_model_is_what_it_was():
    torch.manual_seed(1)
    single = BacktrackingModel.from_specs(*SPECS)
    torch.manual_seed(1)
    named = BacktrackingModel.from_specs(*SPECS, num_models=1)
    for a, b in zip(single.parameters(), named.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_loss_is_the_mean_of_the_members_and_bounds_the_mixtures():
    model, data = make(), transitions()
    loss = BacktrackingLoss(model)(data)
    scored = model.state_predictor_log_prob(data, each_member=True)
    torch.testing.assert_close(loss["loss_state_predictor"], -scored.mean())
    assert loss["loss_state_predictor"] >= -model.state_predictor_log_prob(data).mean()


def test_the_gradient_of_a_member_is_that_of_its_own_loss():
    model, data = make(3), transitions()
    loss = BacktrackingLoss(model)
    loss(data)["loss_state_predictor"].backward()
    key = "state_predictor", "module", "0", "module", "layers", "0", "weight"
    weight = loss.backtracking_model_params.get(key)
    scored = model.state_predictor_log_prob(data, each_member=True)[:, 1]
    (own,) = torch.autograd.grad(-scored.mean(), [weight])
    torch.testing.assert_close(weight.grad[1], own[1] / 3)
    assert not own[0].any()


def test_bootstrap_of_one_model_is_refused():
    with pytest.raises(ValueError, match="num_models=5"):
        BacktrackingLoss(BacktrackingModel.from_specs(*SPECS), bootstrap=True)


def test_bootstrapped_batches_differ_between_members():
    """A member's loss is a mean over rows drawn with replacement: on average the plain one."""
    model, data = make(4), transitions()
    plain = BacktrackingLoss(model)(data)["loss_state_predictor"]
    loss = BacktrackingLoss(model, bootstrap=True)
    torch.manual_seed(0)
    found = torch.stack([loss.state_predictor_loss(data) for _ in range(400)]).detach()
    assert found.std() > 0
    assert found.mean().item() == pytest.approx(plain.item(), abs=4 * found.std().item() / 20)


def test_members_learn_and_agree_where_there_are_data():
    model, data = make(4, action_scale="learned"), transitions(512)
    loss = BacktrackingLoss(model, bootstrap=True)
    update = make_update(loss, torch.optim.Adam(loss.parameters(), lr=3e-3))
    before = update(data)["loss_state_predictor"]
    for _ in range(300):
        after = update(data)["loss_state_predictor"]
    assert after < before - 1
    action, state = torch.zeros(4000, 2), torch.zeros(4000, 3)
    action[:, 0] = 0.5
    moved = (model.sample_observation(action, state) - state).mean(0)
    torch.testing.assert_close(moved, torch.tensor([-0.5, 0.0, 0.0]), atol=0.1, rtol=0)


def test_compiled_and_eager_steps_agree():
    found = []
    for compile in (False, True):
        torch.manual_seed(0)
        model, data = make(3), transitions()
        loss = BacktrackingLoss(model, bootstrap=True)
        update = make_update(loss, torch.optim.Adam(loss.parameters(), lr=1e-2), compile=compile)
        torch.manual_seed(1)
        for _ in range(3):
            update(data)
        found.append([p.detach() for p in loss.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compile", [False, True])
def test_traces_are_generated_by_an_ensemble(compile):
    generate = RecallTraceGenerator(make(), trace_length=4, num_traces=2, compile=compile)
    ends = TensorDict({"observation": torch.randn(5, 3)}, [5])
    traces = generate(ends)
    assert traces.shape == (10, 4)
    assert torch.equal(traces["next", "observation"][::2, -1], ends["observation"])


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="num_models must be an integer of at least 1"):
        BacktrackingModel.from_specs(*SPECS, num_models=0)


@pytest.mark.parametrize("kind", [ExplorationType.DETERMINISTIC, ExplorationType.MODE])
@pytest.mark.parametrize("specs", [SPECS, (OneHot(4), OneHot(2)), (Categorical(4), Categorical(2))])
def test_samples_without_chance(kind, specs):
    """Each is the same of one model and of an ensemble of that model."""
    rows = TensorDict({
        "observation": specs[0].rand((6,)), "action": specs[1].rand((6,)),
        "next": {"observation": specs[0].rand((6,))},
    }, [6])  # fmt: skip
    ensemble, single = (make(num, specs, rows) for num in (3, 1))
    of_single = dict(single.named_parameters())
    with torch.no_grad():
        for name, value in ensemble.named_parameters():
            weight = of_single[name.replace(".layers.", ".")]
            value.copy_((weight.mT if weight.ndim > 1 else weight).expand_as(value))
    with set_exploration_type(kind):
        ends = rows.select(("next", "observation"))
        one, several = single(ends.clone()), ensemble(ends.clone())
    torch.testing.assert_close(one["action"], several["action"])
    torch.testing.assert_close(one["observation"], several["observation"])
