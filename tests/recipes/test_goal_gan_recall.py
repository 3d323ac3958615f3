"""The Goal GAN recipe: every variant, resumption, coverage, and what a user gets wrong."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from recipe_fixtures import (
    RECIPES,
    checkpoint_frames,
    metrics,
    process_state_kept,
    sha256,
    stopped_copy,
    summary,
)
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer

from torchrl_recall import HindsightGoal, NearVisited, Recall, SelfImitation
from torchrl_recall.envs import PointMassEnv
from torchrl_recall.recipes import goal_gan_recall
from torchrl_recall.trainers.hosts.hindsight_sac import HindsightSAC
from torchrl_recall.trainers.hosts.on_policy import TRPO
from torchrl_recall.trainers.schema.goal_gan import GoalGANRecallConfig
from torchrl_recall.trainers.schema.parts import ConfigError
from torchrl_recall.trainers.schema.validation import validate
from torchrl_recall.trainers.tasks.coverage import Coverage, coverage_goals
from torchrl_recall.trainers.tasks.goals import (
    GoalCollector,
    make_curriculum,
    make_goal_env,
    make_host,
    make_recall,
    success_rates,
)

pytestmark = pytest.mark.filterwarnings("ignore:none of .* goals had a success rate")
CPU = torch.device("cpu")
CONFIG = RECIPES / "config" / "goal_gan"
RECALLS = sorted(path.stem for path in (CONFIG / "recall").glob("*.yaml"))
TASKS = sorted(path.stem for path in (CONFIG / "env").glob("*.yaml"))
TINY = {
    "compile": "false",
    "collector.total_frames": 960,
    "collector.num_rollouts": 2,
    "env.max_steps": 10,
    "env.goal_radius": 0.4,
    "goal_gan.num_new": 8,
    "goal_gan.num_old": 4,
    "goal_gan.num_updates": 2,
    "goal_gan.batch_size": 8,
    "policy.num_cells": "[8,8]",
    "trpo.batch_size": 32,
    "trpo.num_epochs": 2,
    "eval.interval": 240,
    "eval.num_goals": 16,
    "checkpoint.interval": 240,
    "checkpoint.keep": 20,
    "recall.num_updates": 2,
    "recall.batch_size": 16,
    "recall.num_high_value_states": 4,
    "recall.trace_length": 5,
    "recall.state_batch_size": 64,
    "backtracking.num_cells": "[8,8]",
    "backtracking.num_updates": 2,
}


def tiny(recall: str = "backtracking", task: str = "point_free2", **changes) -> list[str]:
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    if recall == "random_model":
        values["backtracking.num_updates"] = 0
    groups = [f"recall={recall}", f"env={task}"]
    return groups + [f"{key}={value}" for key, value in values.items()]


def configure(overrides: list[str]) -> GoalGANRecallConfig:
    with initialize_config_dir(config_dir=str(CONFIG), version_base="1.3"):
        return validate(compose("goal_gan_recall", overrides), GoalGANRecallConfig)


def train(run_dir: Path, overrides: list[str]) -> int:
    config = configure([*overrides, f"run_dir='{run_dir}'"])
    with process_state_kept():
        return goal_gan_recall.train(config)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Uninterrupted runs, made once."""
    made = {}

    def get(recall):
        if recall not in made:
            made[recall] = tmp_path_factory.mktemp("runs") / "run"
            assert train(made[recall], tiny(recall)) == 0
        return made[recall]

    return get


@pytest.mark.parametrize("recall", RECALLS)
def test_every_variant_runs_end_to_end(runs, recall):
    run = runs(recall)
    assert summary(run)["recall"] == recall
    assert summary(run)["frames"] == 960
    assert "frames_to_target" in summary(run)
    last = metrics(run)[-1]
    assert all(math.isfinite(float(value)) for value in last.values())
    assert ("backtracking/loss_state_predictor" in last) == (recall == "backtracking")
    assert {"goal_gan/good", "goal_gan/kept", "trpo/loss_critic"} <= set(last)
    assert all((run / name).exists() for name in ("coverage.csv", "coverage.png", "coverage.gif"))
    if recall != "none":
        assert float(last["recall/loss_imitation"]) != 0
        assert sha256(run) != sha256(runs("none"))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_built_and_tried(tmp_path, task):
    assert train(tmp_path / "run", tiny(task=task, collector__total_frames=480)) == 0


@pytest.mark.parametrize("recall", RECALLS)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(runs, tmp_path, recall):
    whole = runs(recall)
    again = stopped_copy(whole, tmp_path / "again", checkpoint_frames(whole)[1])
    assert train(again, [*tiny(recall), "resume=auto"]) == 0
    assert sha256(again) == sha256(whole)
    assert metrics(again) == metrics(whole)
    assert (again / "coverage.csv").read_text() == (whole / "coverage.csv").read_text()


def test_a_run_can_end_at_its_target(tmp_path):
    words = tiny(eval__target=0.01, eval__stop_at_target="true", env__goal_radius=1.0)
    assert train(tmp_path / "run", words) == 0
    assert summary(tmp_path / "run")["frames_to_target"] == summary(tmp_path / "run")["frames"]


def build(recall: str = "backtracking", **changes):
    torch.manual_seed(0)
    config = configure(tiny(recall, **changes))
    env = make_goal_env(config, config.num_goals * config.collector.num_rollouts)
    host = TRPO(env, config, CPU)
    curriculum = make_curriculum(env, config, CPU)
    buffer = ReplayBuffer(storage=LazyTensorStorage(100), batch_size=1)
    recall = make_recall(env, config, host, curriculum, CPU, buffer)
    return env, host, curriculum, recall, buffer


def test_the_group_decides_what_is_imitated():
    assert build("none")[3] is None
    assert type(build("backtracking")[3]) is Recall
    assert type(build("random_model")[3]) is Recall
    assert type(build("self_imitation")[3]) is SelfImitation


def test_policy_and_critic_see_the_goal():
    _, host, *_ = build()
    data = TensorDict({"observation": torch.zeros(2, 2), "desired_goal": torch.eye(2)}, [2])
    assert host.in_keys == ["observation", "desired_goal"]
    for module, key in ((host.actor, "loc"), (host.critic, "state_value")):
        one, two = module(data.clone())[key]
        assert not torch.equal(one, two)


def test_traces_are_imitated_for_the_goal_that_they_reach():
    _, _, curriculum, recall, _ = build()
    assert isinstance(recall.filters[0], HindsightGoal)
    states = torch.randn(5, 4, 2)
    traces = TensorDict({"next": {"observation": states}}, [5, 4])
    goals = HindsightGoal(lambda state: state[:, :1])(traces)["desired_goal"]
    assert torch.equal(goals, states[:, -1:, :1].expand(5, 4, 1))
    assert curriculum.gan.goal_dim == 2


def test_traces_end_where_the_visited_states_do():
    *_, recall, buffer = build(recall__support_radius=0.1, recall__state_batch_size=1_000)
    near = next(keep for keep in recall.filters if isinstance(keep, NearVisited))
    buffer.extend(TensorDict({"observation": torch.tensor([[0.0, 0.0], [0.1, 0.0]])}, [2]))
    path = torch.tensor([[[0.5, 0.0], [0.0, 0.05], [0.1, 0.0]]])
    traces = TensorDict({"observation": path[:, :-1], "next": {"observation": path[:, 1:]}}, [1, 2])
    assert near(traces)["mask"].tolist() == [[False, True]]


def hindsight(**changes):
    config = configure(tiny("none", host="hindsight_sac", sac__num_updates=3, **changes))
    env = make_goal_env(config, config.num_goals * config.collector.num_rollouts)
    host = make_host(env, config, CPU)
    return env, host, GoalCollector(env, host.actor, num_rollouts=2, num_steps=10)


def test_hindsight_gives_goals_that_were_reached_later():
    env, host, collector = hindsight(hindsight__ratio=1.0, hindsight__batch_size=512)
    assert isinstance(host, HindsightSAC)
    data = collector.collect(torch.full((12, 2), 0.95))
    host.update(data)
    batch = host.replay_buffer.sample()
    goal, reached = batch["desired_goal"], batch["next", "terminated"]
    assert torch.equal(batch["next", "desired_goal"], goal)
    assert torch.equal(batch["next", "reward"], reached.float())
    near = (batch["next", "observation"] - goal).norm(dim=-1, keepdim=True) <= env.goal_radius
    assert torch.equal(near, reached)
    # each goal is a position of the same row, at this step or later
    rows = data["next", "observation"]
    row, time = batch["index"] // 10, batch["index"] % 10
    same = (rows[row] == goal.unsqueeze(1)).all(-1)
    later = torch.arange(10) >= time.unsqueeze(1)
    assert (same & later).any(1).all()
    assert not torch.equal(goal, torch.full_like(goal, 0.95))


def test_without_hindsight_goals_stay():
    _, host, collector = hindsight(hindsight__ratio=0.0)
    host.update(collector.collect(torch.full((12, 2), 0.95)))
    assert (host.replay_buffer.sample()["desired_goal"] == 0.95).all()


def test_the_hindsight_buffer_holds_whole_batches():
    _, host, collector = hindsight(hindsight__buffer_size=500)
    for _ in range(3):
        host.update(collector.collect(torch.zeros(12, 2)))
    assert len(host.replay_buffer) == 480  # 2 batches of 24 environments, 10 steps each


def test_hindsight_sac_runs_and_resumes_bitwise(tmp_path):
    words = tiny("none", host="hindsight_sac", sac__num_updates=3, sac__num_cells="[8,8]")
    words.append("hindsight.buffer_size=500")
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train(whole, words) == 0
    assert {"sac/loss_actor", "sac/alpha", "goal_gan/good"} <= set(metrics(whole)[-1])
    stopped_copy(whole, again, checkpoint_frames(whole)[1])
    assert train(again, [*words, "resume=auto"]) == 0
    assert sha256(again) == sha256(whole)
    assert metrics(again) == metrics(whole)


def test_each_goal_is_tried_by_its_environments_and_its_rate_is_theirs():
    env = PointMassEnv(2, max_steps=10, goal_radius=0.15, batch_size=[6])

    def right(td):
        return td.set("action", torch.tensor([1.0, 0.0]).expand(6, 2).clone())

    collector = GoalCollector(env, right, num_rollouts=2, num_steps=20)
    goals = torch.tensor([[0.5, 0.0], [0.0, 0.9], [-0.5, 0.0]])
    data = collector.collect(goals)
    assert data.shape == (6, 20)
    expected = goals.repeat_interleave(2, 0).unsqueeze(1).expand(6, 20, 2)
    assert torch.equal(data["desired_goal"], expected)
    assert success_rates(data, 3).tolist() == [1.0, 0.0, 0.0]


def test_coverage_counts_the_goals_that_are_reached():
    goals = torch.tensor([[0.5, 0.0], [0.0, 0.9], [0.8, 0.0], [-0.5, 0.0]])
    env = PointMassEnv(2, max_steps=10, goal_radius=0.15, batch_size=[4])

    def right(td):
        return td.set("action", torch.tensor([1.0, 0.0]).expand(4, 2).clone())

    coverage = Coverage(env, right, goals, target=0.5)
    assert coverage(100) == 0.5
    assert coverage.successes[0].tolist() == [True, False, True, False]
    assert coverage.frames_to_target() == 100


def test_coverage_goals_are_valid_and_the_same_for_all_seeds():
    maze = coverage_goals(PointMassEnv(2, maze="u"), 400)
    assert PointMassEnv(2, maze="u").is_valid(maze).all()
    assert 300 < len(maze) < 400
    torch.manual_seed(1)
    first = coverage_goals(PointMassEnv(4), 50)
    torch.manual_seed(2)
    assert torch.equal(first, coverage_goals(PointMassEnv(4), 50))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+goal_gan.num_news=5", r"goal_gan\.num_news"),
        ("goal_gan.num_new=0", r"goal_gan\.num_new must be positive"),
        ("goal_gan.min_success=0.95", r"min_success=0\.95 must be below"),
        ("env.maze=v", r"env\.maze must be one of free, u"),
        ("eval.target=1.5", r"eval\.target must be at most 1"),
        ("recall.method=prioritized_replay", r"recall\.method must be one of"),
        ("host=ppo", r"host must be one of trpo, hindsight_sac"),
        ("host=hindsight_sac", r"takes recall=none, not recall=backtracking"),
        ("hindsight.ratio=1.5", r"hindsight\.ratio must be at most 1"),
        ("recall.support_radius=0", r"recall\.support_radius must be positive"),
    ],
)
def test_mistakes_are_named(override, words):
    with pytest.raises(ConfigError, match=words):
        configure([override])


@pytest.mark.parametrize("override", ["env.dim=3", "env.step_size=0.9"])
def test_a_task_that_cannot_be_built_is_named(tmp_path, override):
    with pytest.raises(ConfigError, match="env: "):
        train(tmp_path / "run", [*tiny(task="point_umaze"), override])
