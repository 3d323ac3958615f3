"""Imitation of good pairs: the length of its steps, its transforms and what the mask leaves."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from experience import episode, padded, same, weights
from policies import Bandit, actor_of, gaussian
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor
from torchrl.modules import IndependentNormal

from torchrl_recall import ImitationLoss, LoopErasure
from torchrl_recall.imitation_updates import (
    AdamSteps,
    ImitationUpdates,
    TrustRegionSteps,
    make_steps,
)
from torchrl_recall.optim.natural_gradient import kl_divergence


def bandit() -> ImitationLoss:
    """A Gaussian of mean zero and deviation one half, whatever the state."""
    return ImitationLoss(actor_of(Bandit(), IndependentNormal))


def pairs(*actions: float) -> TensorDict:
    """A trace with these actions in both dimensions, at states that are far apart."""
    n = len(actions)
    action = torch.tensor(actions).reshape(1, n, 1).expand(1, n, 2).clone()
    state = 10.0 * torch.arange(n + 1.0).reshape(1, n + 1, 1).expand(1, n + 1, 3)
    return TensorDict(
        {"observation": state[:, :-1], "action": action, "next": {"observation": state[:, 1:]}},
        [1, n],
    )


def mean_of(loss: ImitationLoss) -> torch.Tensor:
    return loss.actor_network_params["module", "0", "module", "loc"].detach().clone()


# Steps of Adam


def test_the_first_step_of_adam_by_hand():
    """It goes lr towards the action, whatever the scale of the loss, and annealing shortens it."""
    for share, expected in ((1.0, 0.1), (0.25, 0.025)):
        loss = bandit()
        take = AdamSteps(loss, lr=0.1)
        take.begin(share, num_updates=1)
        told = take(pairs(0.7).reshape(-1))
        assert mean_of(loss).tolist() == pytest.approx([expected, expected], rel=1e-5)
        # -log N(0.7; 0, 0.5²) in two dimensions, before the step
        by_hand = 2 * (0.5 * (0.7 / 0.5) ** 2 + math.log(0.5) + 0.5 * math.log(2 * math.pi))
        assert float(told["loss_imitation"]) == pytest.approx(by_hand, rel=1e-5)


def test_a_round_does_not_keep_the_length_of_the_one_before():
    take = AdamSteps(bandit(), lr=0.1)
    for share in (0.5, 1.0, 0.25):
        take.begin(share, num_updates=3)
        assert take.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * share)


def test_an_optimizer_can_be_given():
    loss = bandit()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.2)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.4})
    take = AdamSteps(loss, optimizer=optimizer)
    take.begin(0.5, num_updates=1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.2])
    take(pairs(0.5).reshape(-1))
    # d/dμ of -log N(0.5; μ, 0.5²) at zero is -0.5 / 0.25 = -2, and the step is 0.1 of it
    assert mean_of(loss).tolist() == pytest.approx([0.2, 0.2], rel=1e-5)


def test_state_of_adam_goes_on_bitwise():
    loss, other = bandit(), bandit()
    take, again = AdamSteps(loss), AdamSteps(other)
    take(pairs(0.7).reshape(-1))
    other.load_state_dict(copy.deepcopy(loss.state_dict()))
    again.load_state_dict(copy.deepcopy(take.state_dict()))
    for each in (take, again):
        each(pairs(0.3).reshape(-1))
    assert same(weights(loss), weights(other))


# Steps within a trust region


@pytest.mark.parametrize(
    ("share", "num_updates", "radius"), [(1.0, 1, 0.01), (0.5, 1, 0.0025), (1.0, 5, 0.0004)]
)
def test_the_radius_of_a_step_by_hand(share, num_updates, radius):
    take = TrustRegionSteps(bandit(), max_kl=0.01)
    take.begin(share, num_updates)
    assert take.region.max_kl == pytest.approx(radius)
    told = take(pairs(0.7).reshape(-1))
    assert 0.5 * radius < float(told["kl"]) <= radius


def test_steps_in_one_direction_go_as_far_as_one_of_the_whole_radius():
    loss = bandit()
    loss.actor_network_params["module", "0", "module", "log_scale"].requires_grad_(False)
    take = TrustRegionSteps(loss, max_kl=0.01)
    take.region.damping = 0.0
    take.region.line_search_shrink = 0.999  # the whole step is on the edge, and rounding decides
    take.begin(1.0, 4)
    for _ in range(4):
        take(pairs(5.0).reshape(-1))
    # |Δμ|² / (2 · 0.5²) = 0.01
    assert float(mean_of(loss).square().sum()) == pytest.approx(0.01 * 2 * 0.25, rel=1e-2)


@pytest.mark.parametrize(
    ("frames", "kept"), [(5, 5), (4_096, 4_096), (8_191, 8_191), (8_192, 4_096), (20_000, 5_000)]
)
def test_large_batches_are_thinned(frames, kept):
    take = TrustRegionSteps(bandit())
    take.observe(TensorDict({"observation": torch.randn(frames, 3)}, [frames]))
    assert take.state_dict()["newest"].shape == (kept,)


def test_padding_is_no_state():
    take = TrustRegionSteps(bandit())
    take.observe(padded(episode(1.0, length=3), episode(1.0, length=5)))
    assert take.state_dict()["newest"].shape == (8,)


def observed(seed: int, frames: int = 64) -> TensorDict:
    torch.manual_seed(seed)
    return TensorDict({"observation": torch.randn(frames, 3)}, [frames])


def test_the_divergence_is_measured_on_the_newest_states():
    actor = gaussian()
    take = TrustRegionSteps(ImitationLoss(actor), max_kl=0.01)
    states = observed(1, 512)
    take.observe(observed(2))
    take.observe(states)
    before = copy.deepcopy(actor).get_dist(states.clone())
    take.begin(1.0, 1)
    told = take(pairs(0.7, -0.3, 0.2).reshape(-1))
    spent = kl_divergence(before, actor.get_dist(states.clone())).mean().detach()
    assert float(told["kl"]) == pytest.approx(float(spent), rel=1e-3)


def test_restored_steps_measure_their_divergence_on_the_same_newest_states():
    actor = gaussian()
    start = {key: value.clone() for key, value in actor.state_dict().items()}
    data = pairs(0.7, -0.3, 0.2).reshape(-1)

    def go_on(state: dict | None) -> list[torch.Tensor]:
        actor.load_state_dict(start)
        take = TrustRegionSteps(ImitationLoss(actor), max_kl=0.01)
        if state is not None:
            take.load_state_dict(copy.deepcopy(state))
        take.begin(1.0, 1)
        take(data)
        return weights(actor)

    take = TrustRegionSteps(ImitationLoss(actor), max_kl=0.01)
    take.observe(observed(5))
    saved = copy.deepcopy(take.state_dict())
    take.begin(1.0, 1)
    take(data)
    expected = weights(actor)
    assert same(go_on(saved), expected)
    # It is the saved states that decide this.
    assert not same(go_on(None), expected)
    assert not same(go_on(saved | {"newest": observed(6)}), expected)


def test_a_state_is_a_copy():
    take = TrustRegionSteps(bandit())
    assert take.state_dict()["newest"] is None
    states = observed(1)
    take.observe(states)
    saved = take.state_dict()["newest"]
    expected = saved.clone()
    states["observation"].zero_()
    take.observe(observed(2))
    assert (saved == expected).all()


# Which steps, and a round of them


def test_the_radius_decides_the_kind():
    assert type(make_steps(bandit(), lr=0.1)) is AdamSteps
    assert type(make_steps(bandit(), max_kl=0.02)) is TrustRegionSteps
    assert make_steps(bandit(), lr=0.1).optimizer.param_groups[0]["lr"] == 0.1
    assert make_steps(bandit(), max_kl=0.02).max_kl == 0.02


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"lr": math.nan}, {"lr": 0.0, "max_kl": 0.1}])
def test_a_rate_that_is_not_positive_is_refused(options):
    with pytest.raises(ValueError, match="lr must be positive"):
        make_steps(bandit(), **options)


@pytest.mark.parametrize("max_kl", [0.0, -1.0, math.nan])
def test_a_radius_that_is_not_positive_is_refused(max_kl):
    with pytest.raises(ValueError, match="max_kl must be positive"):
        make_steps(bandit(), max_kl=max_kl)


def build(**kwargs) -> tuple[ImitationLoss, ImitationUpdates]:
    loss = bandit()
    return loss, ImitationUpdates(loss, AdamSteps(loss, lr=0.1), **kwargs)


def test_only_what_the_mask_leaves_is_imitated():
    loss, imitate = build(num_updates=1)
    data = pairs(0.7, -0.7, -0.7, -0.7)
    data["mask"] = torch.tensor([[True, False, False, False]])
    told = imitate(data)
    assert float(told["recall/kept"]) == 0.25
    assert mean_of(loss).tolist() == pytest.approx([0.1, 0.1], rel=1e-5)  # towards 0.7


def test_nothing_left_is_no_step():
    loss, imitate = build()
    data = pairs(0.7, 0.7)
    data["mask"] = torch.zeros(1, 2, dtype=torch.bool)
    before = weights(loss)
    assert imitate(data) == {"recall/kept": 0}
    assert same(weights(loss), before)


def test_without_updates_nothing_is_computed():
    loss, imitate = build(num_updates=0, transforms=[lambda data: pytest.fail("computed")])
    before = weights(loss)
    assert imitate(pairs(0.7)) == {}
    assert same(weights(loss), before)


def test_the_mean_of_a_round_by_hand():
    """Two steps on one pair: the mean of the losses before each."""
    loss, imitate = build(num_updates=2)
    other = bandit()
    take = AdamSteps(other, lr=0.1)
    by_hand = [float(take(pairs(0.7).reshape(-1))["loss_imitation"]) for _ in range(2)]
    told = imitate(pairs(0.7))
    assert float(told["recall/kept"]) == 1
    assert float(told["recall/loss_imitation"]) == pytest.approx(sum(by_hand) / 2, rel=1e-5)
    torch.testing.assert_close(mean_of(loss), mean_of(other))


def test_transforms_are_applied_in_order():
    seen = []

    def double(data):
        seen.append("double")
        return data.set("action", 2 * data["action"])

    def add(data):
        seen.append("add")
        return data.set("action", data["action"] + 1)

    _, imitate = build(num_updates=1, transforms=[double, add])
    told = imitate(pairs(0.25))
    assert seen == ["double", "add"]
    by_hand = 2 * (0.5 * (1.5 / 0.5) ** 2 + math.log(0.5) + 0.5 * math.log(2 * math.pi))
    assert float(told["recall/loss_imitation"]) == pytest.approx(by_hand, rel=1e-5)


def test_transforms_narrow_the_mask():
    _, imitate = build(transforms=[LoopErasure()])
    data = pairs(0.7, 0.7, 0.7, 0.7)
    data["observation"][:, 1] = data["observation"][:, 3]  # the later visit stays
    assert float(imitate(data)["recall/kept"]) == 0.75


def test_the_share_reaches_the_steps():
    loss, imitate = build(num_updates=1)
    imitate(pairs(0.7), 0.5)
    assert mean_of(loss).tolist() == pytest.approx([0.05, 0.05], rel=1e-5)


def test_state_is_that_of_the_steps():
    _, imitate = build(num_updates=3)
    imitate(pairs(0.7))
    _, other = build(num_updates=3)
    other.load_state_dict(copy.deepcopy(imitate.state_dict()))
    assert other.steps.optimizer.state_dict()["state"][0]["step"] == 3


@pytest.mark.parametrize(("name", "value"), [("num_updates", -1), ("batch_size", 0)])
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        build(**{name: value})


@pytest.mark.parametrize("max_kl", [None, 0.01])
def test_running_statistics_of_the_policy_stay_those_of_real_data(max_kl):
    net = torch.nn.Sequential(
        torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 4), NormalParamExtractor()
    )
    loss = ImitationLoss(actor_of(net, IndependentNormal))
    steps = make_steps(loss, lr=0.1, max_kl=max_kl, compile=False)
    data = pairs(*torch.linspace(-1, 1, 9).tolist()).reshape(-1)
    steps.observe(data)
    steps.begin(1.0, num_updates=1)
    before = mean_weight(loss)
    steps(data)
    assert not torch.equal(mean_weight(loss), before)
    assert net[0].training
    assert net[0].num_batches_tracked == 0
    assert not net[0].running_mean.any()


def mean_weight(loss: ImitationLoss) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in loss.parameters()])
