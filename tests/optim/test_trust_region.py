"""The trust region: numbers checkable by hand, then properties, every kind of actor, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from policies import Bandit, Table, act, actor_of, bits, experience, gaussian, same_bits
from tensordict import TensorDict
from tensordict.nn import (
    CompositeDistribution,
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    set_composite_lp_aggregate,
)
from torch import nn
from torch.distributions import Categorical
from torchrl.data import Bounded
from torchrl.modules import (
    Delta,
    IndependentNormal,
    OneHotCategorical,
    ProbabilisticActor,
    TanhNormal,
    TruncatedNormal,
    ValueOperator,
)
from torchrl.objectives import ClipPPOLoss

from torchrl_recall import ImitationLoss, TRPOLoss, TrustRegion
from torchrl_recall.optim.natural_gradient import kl_divergence


def test_fisher_of_a_gaussian_bandit():
    bandit = Bandit().double()
    region = TrustRegion(TRPOLoss(actor_of(bandit, IndependentNormal)), damping=0.0)
    states = TensorDict({"observation": torch.zeros(5, 1).double()}, [5])
    product = region.fisher_vector_product(states)
    fisher = torch.stack([product(unit) for unit in torch.eye(4).double()])
    # 1 / scale² = 4 for the means, 2 for the logarithms of the deviations.
    torch.testing.assert_close(fisher, torch.diag(torch.tensor([4.0, 4, 2, 2]).double()))


def test_fisher_of_a_two_state_process():
    torch.manual_seed(0)
    table = Table(2, 3).double()
    region = TrustRegion(TRPOLoss(actor_of(table, Categorical, ("logits",))), damping=0.0)
    states = TensorDict({"observation": torch.tensor([0, 1, 1, 1])}, [4])
    product = region.fisher_vector_product(states)
    fisher = torch.stack([product(unit) for unit in torch.eye(6).double()])
    expected = torch.zeros(6, 6).double()
    for state, weight in ((0, 0.25), (1, 0.75)):
        p = table.logits[state].detach().softmax(-1)
        block = slice(3 * state, 3 * state + 3)
        expected[block, block] = weight * (torch.diag(p) - torch.outer(p, p))
    torch.testing.assert_close(fisher, expected)


def test_damping_is_added_to_the_diagonal():
    region = TrustRegion(TRPOLoss(actor_of(Bandit(), IndependentNormal)), damping=0.3)
    product = region.fisher_vector_product(TensorDict({"observation": torch.zeros(5, 1)}, [5]))
    unit = torch.eye(4)[0].double()
    assert float(product(unit)[0]) == pytest.approx(4.3)


def test_the_step_of_a_bandit_is_the_natural_one():
    """With one action dimension: dμ = δ-length along μ σ² times the policy gradient."""
    bandit = Bandit(1).double()
    loss = TRPOLoss(actor_of(bandit, IndependentNormal))
    data = TensorDict({"observation": torch.zeros(2, 1).double()}, [2])
    data["action"] = torch.tensor([[0.1], [-0.1]]).double()
    dist = loss.actor_network.get_dist(data.copy())
    data["action_log_prob"] = dist.log_prob(data["action"]).detach()
    data["advantage"] = torch.tensor([[1.0], [-1.0]]).double()
    region = TrustRegion(loss, max_kl=0.001, damping=0.0)
    statistics = region.step(data)
    # The gradient is along the mean alone: KL = dμ² / (2 σ²) = δ.
    assert statistics["accepted"]
    fraction = float(statistics["step_fraction"])
    assert bandit.loc.item() == pytest.approx(fraction * 0.5 * math.sqrt(2 * 0.001), rel=1e-6)
    assert bandit.log_scale.item() == pytest.approx(math.log(0.5), abs=1e-7)
    assert float(statistics["kl"]) == pytest.approx(fraction**2 * 0.001, rel=1e-6)


@pytest.mark.parametrize("max_kl", [1e-4, 0.01, 0.5])
def test_an_accepted_step_is_within_the_radius_and_improves(max_kl):
    actor = gaussian()
    data = experience(actor)
    loss = TRPOLoss(actor, normalize_advantage=True)
    before = actor.get_dist(data.copy())
    before = IndependentNormal(before.mean.detach(), before.stddev.detach())
    surrogate = float(loss(data)["loss_objective"])
    statistics = TrustRegion(loss, max_kl=max_kl).step(data)
    assert statistics["accepted"]
    kl = float(kl_divergence(before, actor.get_dist(data.copy())).mean())
    assert kl == pytest.approx(float(statistics["kl"]), rel=1e-3)
    assert 0 < kl <= max_kl
    improved = surrogate - float(loss(data)["loss_objective"])
    assert improved == pytest.approx(float(statistics["improvement"]), abs=1e-6)
    assert improved > 0


def test_a_step_that_cannot_improve_changes_no_bit():
    actor = gaussian()
    data = experience(actor)
    loss = TRPOLoss(actor)
    region = TrustRegion(loss, loss_fn=lambda td: _turned(loss, td))
    before = bits(actor)
    statistics = region.step(data)
    assert not statistics["accepted"]
    assert same_bits(actor, before)
    assert float(statistics["kl"]) == float(statistics["step_fraction"]) == 0.0
    assert (region.num_steps, region.num_refused) == (1, 1)


def test_a_loss_that_fails_in_the_line_search_changes_no_bit():
    actor = gaussian()
    data, loss, calls = experience(actor), TRPOLoss(actor), []

    def fails(tensordict):
        calls.append(len(calls))
        if len(calls) > 1:  # the first call gives the gradient
            raise RuntimeError("the loss broke")
        return loss.actor_loss(tensordict)

    before = bits(actor)
    with pytest.raises(RuntimeError, match="the loss broke"):
        TrustRegion(loss, loss_fn=fails).step(data)
    assert same_bits(actor, before)


def _turned(loss, data):
    """A loss whose gradient points up: its value grows along its own descent direction."""
    out = loss.actor_loss(data)
    value = out["loss_objective"]
    out["loss_objective"] = -value + 2 * value.detach()  # the value, with the gradient reversed
    return out


def test_zero_advantages_change_no_bit():
    actor = gaussian()
    data = experience(actor)
    data["advantage"].zero_()
    before = bits(actor)
    statistics = TrustRegion(TRPOLoss(actor, normalize_advantage=True)).step(data)
    assert not statistics["accepted"]
    assert float(statistics["gradient_norm"]) == 0.0
    assert same_bits(actor, before)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_masked_rows_do_not_count(reduction):
    actor = gaussian()
    data = experience(actor)
    padded = torch.cat([data, 100 * torch.ones_like(data)])
    padded["collector", "mask"] = (torch.arange(512) < 256).unsqueeze(-1)
    twin = gaussian()
    twin.load_state_dict(actor.state_dict())
    TrustRegion(TRPOLoss(actor, reduction=reduction)).step(data)
    TrustRegion(TRPOLoss(twin, reduction=reduction)).step(padded)
    for p, q in zip(actor.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)


def test_divergence_is_measured_on_the_states_that_are_given():
    actor = gaussian()
    data = experience(actor)
    states = TensorDict({"observation": 5 + torch.randn(64, 3)}, [64])
    with torch.no_grad():
        old = actor.get_dist(states.copy())
    statistics = TrustRegion(TRPOLoss(actor), max_kl=0.003).step(data, states)
    kl = float(kl_divergence(old, actor.get_dist(states.copy())).mean())
    assert kl == pytest.approx(float(statistics["kl"]), rel=1e-3)
    assert kl <= 0.003


def test_subsampled_fisher_products_still_keep_the_radius_on_all_states():
    actor = gaussian()
    data = experience(actor)
    region = TrustRegion(TRPOLoss(actor), fisher_subsampling=7)
    statistics = region.step(data)
    assert statistics["accepted"]
    assert float(statistics["kl"]) <= 0.01


def test_repeated_steps_solve_a_bandit():
    torch.manual_seed(0)
    bandit = Bandit()
    actor = actor_of(bandit, IndependentNormal)
    region = TrustRegion(TRPOLoss(actor, normalize_advantage=True), max_kl=0.05)
    target = torch.tensor([1.0, -2.0])
    for _ in range(60):
        data = act(actor, TensorDict({"observation": torch.zeros(512, 1)}, [512]))
        data["advantage"] = -(data["action"] - target).square().sum(-1, keepdim=True)
        region.step(data)
    assert float((bandit.loc - target).abs().max()) < 0.1


def test_a_sampled_entropy_draws_once_for_all_fractions():
    spec = Bounded(-1, 1, (2,))
    net = nn.Sequential(nn.Linear(3, 4), NormalParamExtractor())
    actor = actor_of(net, TanhNormal, spec=spec)
    data = experience(actor)
    loss = TRPOLoss(actor, entropy_bonus=True, entropy_coeff=0.5)
    torch.manual_seed(5)
    loss.actor_loss(data)
    after_one = torch.get_rng_state()
    torch.manual_seed(5)
    TrustRegion(loss, max_kl=0.5).step(data)
    assert torch.equal(torch.get_rng_state(), after_one)


def test_a_squashed_policy():
    net = nn.Sequential(nn.Linear(3, 4), NormalParamExtractor())
    actor = actor_of(net, TanhNormal, spec=Bounded(-1, 1, (2,)))
    assert TrustRegion(TRPOLoss(actor)).step(experience(actor))["accepted"]


@pytest.mark.parametrize("distribution", [OneHotCategorical, Categorical])
def test_a_discrete_policy(distribution):
    actor = actor_of(nn.Linear(3, 4), distribution, ("logits",))
    statistics = TrustRegion(TRPOLoss(actor)).step(experience(actor))
    assert statistics["accepted"]
    assert float(statistics["kl"]) <= 0.01


def test_nested_keys():
    actor = ProbabilisticActor(
        TensorDictModule(
            nn.Sequential(nn.Linear(3, 4), NormalParamExtractor()),
            [("agent", "state")],
            [("agent", "loc"), ("agent", "scale")],
        ),
        in_keys={"loc": ("agent", "loc"), "scale": ("agent", "scale")},
        out_keys=[("agent", "act")],
        distribution_class=IndependentNormal,
        return_log_prob=True,
    )
    data = TensorDict({"agent": {"state": torch.randn(64, 3)}}, [64])
    data = act(actor, data)
    data["agent", "adv"] = torch.randn(64, 1)
    loss = TRPOLoss(actor)
    loss.set_keys(advantage=("agent", "adv"))
    statistics = TrustRegion(loss).step(data.reshape(8, 8))
    assert statistics["accepted"]


def test_a_composite_policy():
    net = nn.Sequential(nn.Linear(3, 4), NormalParamExtractor())
    move, grip = ("params", "move"), ("params", "grip")
    modules = [
        TensorDictModule(net, ["observation"], [(*move, "loc"), (*move, "scale")]),
        TensorDictModule(nn.Linear(3, 3), ["observation"], [(*grip, "logits")]),
    ]
    with set_composite_lp_aggregate(True):
        actor = ProbabilisticTensorDictSequential(
            *modules,
            ProbabilisticTensorDictModule(
                in_keys=["params"],
                out_keys=["move", "grip"],
                distribution_class=CompositeDistribution,
                distribution_kwargs={
                    "distribution_map": {"move": IndependentNormal, "grip": Categorical}
                },
                return_log_prob=True,
            ),
        )
        data = act(actor, TensorDict({"observation": torch.randn(64, 3)}, [64]))
        data["advantage"] = torch.randn(64, 1)
        loss = TRPOLoss(actor)
        loss.set_keys(action=["move", "grip"], sample_log_prob="sample_log_prob")
        statistics = TrustRegion(loss).step(data)
    assert statistics["accepted"]
    assert float(statistics["kl"]) <= 0.01


def test_imitation_within_a_radius():
    actor = gaussian(spec=Bounded(-1, 1, (2,)))
    data = experience(actor)
    pairs = TensorDict(
        {"observation": torch.randn(128, 3), "action": 0.9 * torch.ones(128, 2)}, [128]
    )
    loss = ImitationLoss(actor)
    before = float(loss(pairs)["loss_imitation"])
    with torch.no_grad():
        old = actor.get_dist(data.copy())
    statistics = TrustRegion(loss, max_kl=0.002).step(pairs, data)
    assert statistics["accepted"]
    assert float(loss(pairs)["loss_imitation"]) < before
    assert float(kl_divergence(old, actor.get_dist(data.copy())).mean()) <= 0.002


def test_the_state_of_a_region_comes_back():
    actor = gaussian()
    region = TrustRegion(TRPOLoss(actor), max_kl=0.02, damping=0.3)
    region.step(experience(actor))
    other = TrustRegion(TRPOLoss(actor))
    other.load_state_dict(region.state_dict())
    assert other.state_dict() == region.state_dict()
    assert (other.max_kl, other.damping, other.num_steps) == (0.02, 0.3, 1)


def test_a_policy_of_points_is_refused_before_a_step():
    actor = ProbabilisticActor(
        TensorDictModule(nn.Linear(3, 2), ["observation"], ["param"]),
        in_keys=["param"],
        distribution_class=Delta,
        return_log_prob=True,
    )
    data = experience(actor, n=8)
    before = bits(actor)
    with pytest.raises(TypeError, match=r"Delta has no Kullback-Leibler.*IndependentNormal"):
        TrustRegion(TRPOLoss(actor)).step(data)
    assert same_bits(actor, before)


def test_a_distribution_without_divergence_is_refused_before_a_step():
    net = nn.Sequential(nn.Linear(3, 4), NormalParamExtractor())
    actor = actor_of(net, TruncatedNormal, spec=Bounded(-1, 1, (2,)))
    before = bits(actor)
    with pytest.raises(TypeError, match=r"TruncatedNormal has no .*register_kl"):
        TrustRegion(TRPOLoss(actor)).step(experience(actor))
    assert same_bits(actor, before)


@pytest.mark.parametrize("max_kl", [0.0, -0.01, float("nan")])
def test_a_radius_that_is_not_positive_is_refused(max_kl):
    with pytest.raises(ValueError, match="max_kl must be positive"):
        TrustRegion(TRPOLoss(gaussian()), max_kl=max_kl)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": -1.0}, "damping must be zero or more"),
        ({"line_search_shrink": 1.0}, r"line_search_shrink must be in \(0, 1\)"),
        ({"line_search_steps": 0}, "line_search_steps must be an integer of at least 1"),
        ({"cg_iterations": 2.5}, "cg_iterations must be an integer"),
        ({"fisher_subsampling": 0}, "fisher_subsampling must be an integer"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrustRegion(TRPOLoss(gaussian()), **options)


@pytest.mark.parametrize("normalize", [True, False])
def test_nan_advantages_touch_nothing(normalize):
    actor = gaussian()
    data = experience(actor)
    data["advantage"][3] = float("nan")
    before = bits(actor)
    region = TrustRegion(TRPOLoss(actor, normalize_advantage=normalize))
    with pytest.raises(ValueError, match=r"no parameter touched.*'advantage'"):
        region.step(data)
    assert same_bits(actor, before)
    assert region.num_steps == 0


@pytest.mark.parametrize("normalize", [True, False])
def test_a_batch_of_one(normalize):
    actor = gaussian()
    data = experience(actor, n=1)
    statistics = TrustRegion(TRPOLoss(actor, normalize_advantage=normalize)).step(data)
    assert all(bool(value.isfinite()) for value in statistics.values())
    assert all(bool(p.isfinite().all()) for p in actor.parameters())
    assert statistics["accepted"]


def test_an_unreduced_loss_is_refused():
    actor = gaussian()
    with pytest.raises(ValueError, match="reduction='mean'"):
        TrustRegion(TRPOLoss(actor, reduction="none")).step(experience(actor))


def test_a_loss_without_a_policy_is_refused():
    with pytest.raises(TypeError, match="Linear holds no stochastic policy"):
        TrustRegion(nn.Linear(2, 2))


def test_it_bounds_other_losses_too():
    """A clipped surrogate, say: what it lowers is named by ``loss_fn``."""
    actor, critic = gaussian(), ValueOperator(nn.Linear(3, 1), ["observation"])
    data = experience(actor)
    loss = ClipPPOLoss(actor, critic, entropy_bonus=False)
    data["value_target"] = torch.zeros(256, 1)
    region = TrustRegion(loss, loss_fn=lambda td: loss(td).select("loss_objective"))
    assert region.step(data)["accepted"]


def test_no_state_to_measure_on_is_refused():
    actor = gaussian()
    data = experience(actor)
    with pytest.raises(ValueError, match="no state is left"):
        TrustRegion(TRPOLoss(actor)).step(data, data[:0])
