"""Episodes towards goals of a curriculum: collection, success rates and resumption."""

from __future__ import annotations

import copy

import pytest
import torch
from goal_fixtures import along, configure, parts, tiny, train
from recipe_fixtures import checkpoint_frames, load, metrics, sha256, stopped_copy
from tensordict import TensorDict

from torchrl_recall.envs import PointMassEnv
from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.goals import GoalCollector, make_curriculum, make_goal_env

pytestmark = pytest.mark.filterwarnings("ignore:none of .* goals had a success rate")
CPU = torch.device("cpu")


def collector(policy, num_envs: int, **changes) -> GoalCollector:
    env = PointMassEnv(2, max_steps=10, goal_radius=0.15, batch_size=[num_envs])
    config = configure(tiny(**{"env__max_steps": 20} | changes))
    return GoalCollector(env, policy, make_curriculum(env, config, CPU), config)


def test_each_goal_is_tried_by_its_environments_and_its_rate_is_theirs():
    tried = collector(along(1.0), 6)
    goals = torch.tensor([[0.5, 0.0], [0.0, 0.9], [-0.5, 0.0]])
    data = tried.collect(goals)
    assert data.shape == (6, 20)
    assert tried.frames == 120
    expected = goals.repeat_interleave(2, 0).unsqueeze(1).expand(6, 20, 2)
    assert torch.equal(data["desired_goal"], expected)
    tried.goals = goals
    named, rates = tried.success_rates(data)
    assert torch.equal(named, goals)
    assert rates.tolist() == [1.0, 0.0, 0.0]


def test_only_first_episodes_count_by_hand():
    """Two goals, tried twice each, in five steps; later episodes of an environment do not count."""
    tried = collector(along(1.0), 4)
    tried.goals = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    reached = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 1, 0]])
    limit = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]])
    flags = {"terminated": reached.bool(), "done": (reached | limit).bool()}
    data = TensorDict({"next": {k: v.unsqueeze(-1) for k, v in flags.items()}}, [4, 5])
    # The first environment succeeds at once, the others fail first.
    assert tried.success_rates(data)[1].tolist() == [0.5, 0.0]


def test_goals_change_after_their_batches():
    tried = collector(along(1.0), 24, collector__num_batches=2, env__max_steps=10)
    goals, left = [], []
    for _ in tried:  # 960 frames, 240 in a batch
        goals.append(tried.goals)
        left.append(tried.batches_left)
    assert left == [1, 0, 1, 0]
    assert torch.equal(goals[0], goals[1])
    assert torch.equal(goals[2], goals[3])
    assert not torch.equal(goals[0], goals[2])


def test_a_collector_goes_on_in_the_middle_of_a_set_of_goals():
    tried, other = (collector(along(1.0), 24, collector__num_batches=2) for _ in range(2))
    next(iter(tried))
    assert other.load_state_dict(copy.deepcopy(tried.state_dict()), tried.frames)
    goals = tried.goals
    next(iter(other))
    assert torch.equal(other.goals, goals)
    assert other.batches_left == 0
    assert other.frames == 2 * tried.frames == 960


def test_a_run_stopped_in_the_middle_of_a_set_of_goals_resumes_bitwise(tmp_path):
    words = tiny(collector__num_batches=2, collector__total_frames=1680)
    whole = tmp_path / "whole"
    assert train(whole, words) == 0
    left = []
    for frames in checkpoint_frames(whole)[:-1]:
        again = stopped_copy(whole, tmp_path / str(frames), frames)
        left.append(load(again)[1]["collector"]["batches_left"])
        assert train(again, [*words, "resume=auto"]) == 0
        assert sha256(again) == sha256(whole)
        assert metrics(again) == metrics(whole)
        assert (again / "coverage.csv").read_text() == (whole / "coverage.csv").read_text()
    assert 1 in left  # in the middle
    assert 0 in left


def test_pretraining_counts_its_frames_and_fits_the_goals():
    built = parts()
    before = {k: v.clone() for k, v in built.curriculum.loss_module.state_dict().items()}
    assert built.pretrain(12) == built.collector.frames == 240
    after = built.curriculum.loss_module.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("task", "dim"), [("point_free2", 2), ("point_free6", 6), ("point_maze", 2), ("ant_maze", 2)]
)
def test_tasks_have_their_goals(task, dim):
    env = make_goal_env(configure([f"env={task}"]), 3)
    assert env.batch_size == (3,)
    assert env.goal_spec.shape == (dim,)


@pytest.mark.parametrize("override", ["env.dim=3", "env.step_size=0.9"])
def test_a_task_that_cannot_be_built_is_named(override):
    with pytest.raises(ConfigError, match="env: "):
        make_goal_env(configure([*tiny(task="point_umaze"), override]), 3)
