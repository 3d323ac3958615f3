"""The curriculum: it learns which goals are good, follows them, and never gets stuck."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torchrl.data import Bounded

from torchrl_recall import GoalGAN, GoalGANCurriculum


def curriculum(dim: int = 2, **kwargs) -> GoalGANCurriculum:
    return GoalGANCurriculum(GoalGAN(Bounded(-1, 1, (dim,))), **kwargs)


def in_ring(goals: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Say whether goals lie in a ring."""
    radius = goals.norm(dim=1)
    return (radius >= low) & (radius <= high)


def train(goal_gan: GoalGANCurriculum, low: float, high: float, iterations: int) -> torch.Tensor:
    """Samples of the last iterations, of tries that succeed in the ring half of the times."""
    samples = []
    for _ in range(iterations):
        goals = goal_gan.propose()
        goal_gan.update(goals, 0.5 * in_ring(goals, low, high).float())
        samples.append(goal_gan.gan.sample(500))
    return torch.cat(samples[-4:])


@pytest.mark.parametrize("dim", [2, 6])
def test_samples_land_on_good_goals_and_follow_them(dim):
    goal_gan = curriculum(dim)
    unit = torch.randn(500, dim)
    goal_gan.pretrain(0.6 * unit / unit.norm(dim=1, keepdim=True))
    for low, high in ((0.4, 0.8), (0.7, 1.0)):
        goals = train(goal_gan, low, high, 8)
        assert in_ring(goals, low, high).float().mean() >= 0.8
        octant = (torch.atan2(goals[:, 1], goals[:, 0]) / (torch.pi / 4)).floor().long() + 4
        in_each = torch.bincount(octant.clamp(max=7), minlength=8)
        assert (in_each > 20).sum() >= 4  # of 2,000: it has not collapsed to one place


def test_goals_stay_in_bounds_of_any_range():
    spec = Bounded(torch.tensor([0.0, -10.0]), torch.tensor([1.0, 30.0]))
    goal_gan = GoalGANCurriculum(GoalGAN(spec), goal_noise=0.5)
    assert all(spec.is_in(goal) for goal in goal_gan.sample(64))
    assert goal_gan.gan.normalized(goal_gan.sample(64)).abs().max() <= 1 + 1e-6


def test_kept_goals_are_apart_and_can_be_reached():
    goal_gan = curriculum(min_distance=0.1, num_updates=1)
    goals = torch.tensor([[0.0, 0.0], [0.05, 0.0], [0.5, 0.0], [0.9, 0.0]])
    goal_gan.update(goals, torch.tensor([0.5, 0.5, 1.0, 0.0]))
    assert goal_gan.kept.tolist() == [[0.0, 0.0], [0.5, 0.0]]
    goal_gan.update(goals, torch.tensor([0.5, 0.5, 1.0, 0.0]))
    assert len(goal_gan.kept) == 2


def test_without_a_good_goal_the_next_are_uniform_and_it_says_so():
    goal_gan = curriculum(num_updates=1)
    goals = goal_gan.propose()
    with pytest.warns(UserWarning, match="the next ones are uniform"):
        metrics = goal_gan.update(goals, torch.zeros(len(goals)))
    assert metrics["goal_gan/fallbacks"] == 1
    assert goal_gan.sample(2_000).std(0).allclose(torch.full((2,), 3**-0.5), atol=0.05)
    goal_gan.update(goals, torch.full((len(goals),), 0.5))
    assert goal_gan.num_fallbacks == 1
    assert not goal_gan._fall_back


def test_a_good_goal_next_to_a_hopeless_one_is_learned_from():
    goal_gan = curriculum(min_distance=0.1, num_updates=1)
    goals = torch.tensor([[0.0, 0.0], [0.01, 0.0]])
    metrics = goal_gan.update(goals, torch.tensor([0.0, 0.5]))
    assert metrics["goal_gan/loss_discriminator"].isfinite()


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_collapsed_gan_is_reset_and_counted(value):
    goal_gan = curriculum(num_updates=20)
    goal_gan.pretrain(torch.rand(100, 2))
    for parameter in goal_gan.gan.generator.parameters():
        torch.nn.init.constant_(parameter, value)
    goals = 2 * torch.rand(100, 2) - 1
    metrics = goal_gan.update(goals, torch.full((100,), 0.5))
    assert metrics["goal_gan/collapses"] == 1
    assert goal_gan.gan.sample(256).std(0).max() > 0.01


def test_state_dict_goes_on_bitwise():
    first, second = curriculum(num_updates=5), curriculum(num_updates=5)
    goals = first.propose()
    first.update(goals, torch.rand(len(goals)))
    second.load_state_dict(deepcopy(first.state_dict()))
    after = []
    for goal_gan in (first, second):
        torch.manual_seed(1)
        goals = goal_gan.propose()
        goal_gan.update(goals, torch.rand(len(goals)))
        after.append(goal_gan.propose())
    assert torch.equal(*after)


def test_old_goals_have_their_share_of_any_number():
    goal_gan = curriculum(num_new=20, num_old=10, min_distance=0.01)
    goal_gan.update(torch.full((1, 2), 0.5), torch.ones(1))  # one is kept
    assert len(goal_gan.propose()) == 30
    goal_gan.pretrain(2 * torch.rand(500, 2) - 1)
    for num, old in ((30, 10), (300, 100), (3, 1)):
        goals = goal_gan.propose(num)
        assert len(goals) == num
        known = (goals.unsqueeze(1) == goal_gan.kept).all(-1).any(1)
        assert known.tolist() == [False] * (num - old) + [True] * old


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"success_range": (0.9, 0.1)}, "success_range"),
        ({"num_new": 0}, "num_new"),
        ({"num_updates": 1.5}, "num_updates"),
        ({"lr": 0.0}, "lr"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        curriculum(**arguments)


def test_bad_goals_and_rates():
    goal_gan = curriculum()
    goals = torch.rand(4, 2)
    for bad in (torch.rand(4, 3), torch.rand(2), torch.full((4, 2), torch.nan)):
        with pytest.raises(ValueError, match="goals"):
            goal_gan.update(bad, torch.rand(4))
    for rate in (torch.rand(3), torch.full((4,), 1.5), torch.full((4,), torch.nan)):
        with pytest.raises(ValueError, match="success"):
            goal_gan.update(goals, rate)


def test_goals_on_a_line_are_thinned_and_not_lost():
    """A goal near a dropped one is kept if it is near none that is kept."""
    line = torch.stack([torch.linspace(-1, 1, 31), torch.zeros(31)], 1)  # 0.067 apart
    kept = curriculum(min_distance=0.1)
    kept._keep(line)
    assert torch.equal(kept.kept, line[::2])
    one_by_one = curriculum(min_distance=0.1)
    for goal in line:
        one_by_one._keep(goal.unsqueeze(0))
    assert torch.equal(one_by_one.kept, line[::2])
    kept._keep(line)  # nothing is left to add
    assert len(kept.kept) == 16


def test_every_dropped_goal_is_near_one_that_is_kept():
    goals = 0.1 * torch.randn(500, 2)
    goal_gan = curriculum()
    goal_gan._keep(goals)
    distances = torch.cdist(goals, goal_gan.kept)
    assert distances.amin(1).max() < goal_gan.min_distance
    among = torch.cdist(goal_gan.kept, goal_gan.kept).fill_diagonal_(9)
    assert among.min() >= goal_gan.min_distance


def test_goals_of_float64_are_taken():
    goal_gan = curriculum()
    goals = torch.rand(50, 2, dtype=torch.float64)
    goal_gan.pretrain(goals)
    goal_gan.update(goals, torch.full((50,), 0.5))
    assert goal_gan.kept.dtype is torch.float32


def test_noise_that_is_nan_and_goals_without_a_good_one_are_refused():
    with pytest.raises(ValueError, match="goal_noise must be zero or positive"):
        curriculum(goal_noise=float("nan"))
    with pytest.raises(ValueError, match="no goal is labelled good"):
        curriculum().fit(torch.rand(5, 2), torch.zeros(5, dtype=torch.bool))


@pytest.mark.parametrize("name", ["min_distance", "min_spread"])
@pytest.mark.parametrize("number", [-1.0, float("nan"), float("inf")])
def test_distances_out_of_range_are_refused(name, number):
    with pytest.raises(ValueError, match=f"{name} must be zero or positive"):
        curriculum(**{name: number})
