"""The Goal GAN recipe: every variant, resumption, and what a user gets wrong."""

from __future__ import annotations

import math

import pytest
import torch
from goal_fixtures import RECALLS, TASKS, configure, parts, tiny, train
from recipe_fixtures import checkpoint_frames, metrics, sha256, stopped_copy, summary
from tensordict import TensorDict

from torchrl_recall import HindsightGoal, NearVisited, NoRecall, Recall, SelfImitation
from torchrl_recall.trainers.schema import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:none of .* goals had a success rate")


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


def test_the_group_decides_what_is_imitated():
    kinds = {
        "none": NoRecall,
        "backtracking": Recall,
        "random_model": Recall,
        "self_imitation": SelfImitation,
    }
    for recall, kind in kinds.items():
        assert type(parts(recall).recall) is kind


def test_traces_are_imitated_for_the_goal_that_they_reach():
    built = parts()
    assert isinstance(built.recall.imitate.transforms[0], HindsightGoal)
    states = torch.randn(5, 4, 2)
    traces = TensorDict({"next": {"observation": states}}, [5, 4])
    goals = HindsightGoal(lambda state: state[:, :1])(traces)["desired_goal"]
    assert torch.equal(goals, states[:, -1:, :1].expand(5, 4, 1))
    assert built.curriculum.gan.goal_dim == 2


def test_traces_end_where_the_visited_states_do():
    built = parts(recall__support_radius=0.1, recall__state_batch_size=1_000)
    near = next(t for t in built.recall.imitate.transforms if isinstance(t, NearVisited))
    built.replay_buffer.extend(
        TensorDict({"observation": torch.tensor([[0.0, 0.0], [0.1, 0.0]])}, [2])
    )
    path = torch.tensor([[[0.5, 0.0], [0.0, 0.05], [0.1, 0.0]]])
    traces = TensorDict({"observation": path[:, :-1], "next": {"observation": path[:, 1:]}}, [1, 2])
    assert near(traces)["mask"].tolist() == [[False, True]]


@pytest.mark.parametrize("recall", ["none", "backtracking", "self_imitation"])
def test_hindsight_sac_runs_and_resumes_bitwise(recall, tmp_path):
    words = tiny(recall, host="hindsight_sac", sac__num_updates=3, sac__num_cells="[8,8]")
    words.append("hindsight.buffer_size=500")
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train(whole, words) == 0
    assert {"sac/loss_actor", "sac/alpha", "goal_gan/good"} <= set(metrics(whole)[-1])
    if recall != "none":  # Eq. 3 moved the policy towards goals that traces reach
        assert float(metrics(whole)[-1]["recall/ready"]) == 1
        assert float(metrics(whole)[-1]["recall/kept"]) > 0
    stopped_copy(whole, again, checkpoint_frames(whole)[1])
    assert train(again, [*words, "resume=auto"]) == 0
    assert sha256(again) == sha256(whole)
    assert metrics(again) == metrics(whole)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+goal_gan.num_news=5", r"goal_gan\.num_news"),
        ("goal_gan.num_new=0", r"goal_gan\.num_new must be positive"),
        ("collector.total_frames=15000", r"leaves nothing to learn from.* 22500 frames"),
        ("goal_gan.min_success=0.95", r"min_success=0\.95 must be below"),
        ("env.task=foo", r"env\.task='foo' must be point_mass or a maze"),
        ("env.maze=v", r"env\.maze must be one of free, u"),
        ("eval.target=1.5", r"eval\.target must be at most 1"),
        ("recall.method=prioritized_replay", r"recall\.method must be one of"),
        ("host=ppo", r"host must be one of trpo, hindsight_sac"),
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
