"""Coverage: which goals are reached, when the target is, and the files that say so."""

from __future__ import annotations

import csv

import pytest
import torch
from goal_fixtures import along, configure, tiny

from torchrl_recall.envs import PointMassEnv
from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.coverage import Coverage, coverage_goals

GOALS = torch.tensor([[0.5, 0.0], [0.0, 0.9], [0.8, 0.0], [-0.5, 0.0]])


def build(policy=None, **changes) -> Coverage:
    env = PointMassEnv(2, max_steps=10, goal_radius=0.15, batch_size=[4])
    changes = {"eval__target": 0.5} | changes
    return Coverage(env, policy or along(1.0), GOALS, configure(tiny(**changes)))


def test_coverage_counts_the_goals_that_are_reached():
    coverage = build()
    assert coverage(100).tolist() == [0.5]
    assert coverage.results[0].tolist() == [True, False, True, False]
    assert coverage.frames_to_target() == 100


def test_the_target_is_the_first_evaluation_that_reaches_it():
    coverage = build()
    coverage.policy = along(-1.0)
    assert coverage(100).tolist() == [0.25]
    assert coverage.frames_to_target() is None
    assert not coverage.reached_target
    coverage.policy = along(1.0)
    coverage(200)
    coverage(300)
    assert coverage.frames_to_target() == 200
    assert not coverage.reached_target  # unless it is asked for
    assert coverage.values == [0.25, 0.5, 0.5]


def test_a_run_may_end_at_its_target():
    coverage = build(along(-1.0), eval__stop_at_target="true")
    coverage(100)
    assert not coverage.reached_target
    coverage.policy = along(1.0)
    coverage(200)
    assert coverage.reached_target


def test_no_random_number_is_drawn():
    coverage, before = build(), torch.get_rng_state()
    coverage(100)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_table_has_a_row_for_each_evaluation(tmp_path):
    coverage = build()
    coverage(100)
    coverage(200)
    assert coverage.finish(tmp_path) == {"frames_to_target": 100}
    with (tmp_path / "coverage.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == [
        "frames", "coverage", "0.500 0.000", "0.000 0.900", "0.800 0.000", "-0.500 0.000",
    ]  # fmt: skip
    assert rows == [[str(frames), "0.5", "1", "0", "1", "0"] for frames in (100, 200)]


def test_state_holds_all_evaluations():
    coverage, other = build(), build()
    coverage(100)
    other.load_state_dict(coverage.state_dict())
    coverage(200)  # what was saved does not grow
    assert other.frames == [100]
    assert other.frames_to_target() == 100


def test_coverage_goals_are_the_centres_of_a_grid():
    goals = coverage_goals(PointMassEnv(2), 4)
    low, high = PointMassEnv(2).goal_spec.space.low[0], PointMassEnv(2).goal_spec.space.high[0]
    quarter = float(high - low) / 4
    expected = [float(low) + quarter, float(high) - quarter]
    assert goals.tolist() == pytest.approx(torch.cartesian_prod(*[torch.tensor(expected)] * 2))


def test_coverage_goals_are_valid_and_the_same_for_all_seeds():
    maze = coverage_goals(PointMassEnv(2, maze="u"), 400)
    assert PointMassEnv(2, maze="u").is_valid(maze).all()
    assert 300 < len(maze) < 400
    torch.manual_seed(1)
    first = coverage_goals(PointMassEnv(4), 50)
    torch.manual_seed(2)
    assert torch.equal(first, coverage_goals(PointMassEnv(4), 50))


def test_a_grid_inside_walls_is_refused():
    with pytest.raises(ConfigError, match=r"eval\.num_goals=1 makes a grid"):
        coverage_goals(PointMassEnv(2, maze="u"), 1)
