"""Play trained policies, and record them."""

from __future__ import annotations

import sys

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from trained_fixtures import Runs

from torchrl_recall.trained.draw import check_drawing
from torchrl_recall.trained.export import export_run
from torchrl_recall.trained.play import check_video, play
from torchrl_recall.trained.record import record_run
from torchrl_recall.trainers.schema import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("kind", ["sac", "sparse", "dqn", "trpo"])
def test_returns_are_those_of_the_runs_own_evaluation(kind, runs: Runs):
    run_dir, run = runs(kind)
    evaluation = run.parts.evaluation
    _, returns = play(run_dir, episodes=evaluation.num_episodes, seed=evaluation.seed)
    assert torch.equal(returns, evaluation.results[-1])


def test_a_seed_gives_other_episodes(runs: Runs):
    run_dir, _ = runs("sac")
    one, again, other = (play(run_dir, episodes=2, seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("kind", ["goal_gan", "hindsight_sac"])
def test_goals_are_reached_or_not(kind, runs: Runs):
    returns = play(runs(kind)[0], episodes=40, seed=1)[1]
    assert returns.shape == (40,)
    assert set(returns.unique().tolist()) == {0.0, 1.0}  # goals near the start are reached by all


def test_a_gif_has_a_picture_of_each_state(runs: Runs, tmp_path):
    steps: list = []
    run_dir, run = runs("hopper")
    evaluation = run.parts.evaluation
    task = evaluation.env.base_env._env
    step = type(task).step
    evaluation.seed, seed = 5, evaluation.seed
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                type(task), "step", lambda self, action: steps.append(1) or step(self, action)
            )
            expected = evaluation.evaluate()
    finally:
        evaluation.seed = seed
    video = tmp_path / "deep" / "hopper.gif"
    _, returns = play(run_dir, episodes=1, seed=5, video=video)
    assert torch.equal(returns, expected)
    pictures = imageio.imread(video)
    assert len(pictures) == len(steps) + 1
    assert pictures.shape[1:] == (480, 480, 3)
    assert np.ptp(pictures[0]) > 100  # something is to be seen, and it moves
    assert (pictures[0] != pictures[-1]).any()
    assert [path.name for path in video.parent.iterdir()] == ["hopper.gif"]


def test_what_cannot_be_recorded_is_refused_at_once(runs: Runs, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"must end in .mp4 or .gif"):
        play(tmp_path / "nowhere", video="film.avi")
    with pytest.raises(ConfigError, match="does not draw itself as rgb_array"):
        play(runs("sparse")[0], video=tmp_path / "film.gif")
    with pytest.raises(ConfigError, match=r"batches of states.*Leave video= out"):
        play(runs("goal_gan")[0], video=tmp_path / "film.gif")
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"imageio_ffmpeg: pip .*\[video\]', or take video=a.gif"):
        check_video(tmp_path.__class__("a.mp4"))


@pytest.mark.parametrize("options", [{"seed": -1}, {"episodes": 0}, {"episodes": 1.5}])
def test_numbers_out_of_range_are_refused(options, runs: Runs):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be an integer of at least"):
        play(runs("sac")[0], **options)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(runs: Runs, tmp_path):
    (tmp_path / "file").touch()
    refused = pytest.raises(ConfigError, match=r"file is a file, not a folder; take another \w+=")
    with refused:
        play(tmp_path / "nowhere", video=tmp_path / "file" / "film.gif")
    with refused:
        check_drawing("out", tmp_path / "file" / "deep" / "traces.png")
    with refused:
        record_run(tmp_path / "nowhere", tmp_path / "file" / "data", episodes=1)
    with refused:
        export_run(tmp_path / "nowhere", tmp_path / "file" / "folder")


def test_errors_of_the_task_itself_are_not_called_errors_of_drawing(
    runs: Runs, tmp_path, monkeypatch
):
    def fail(self, action):
        raise RuntimeError("the cart fell off the table")

    run_dir, run = runs("hopper")
    monkeypatch.setattr(type(run.parts.evaluation.env.base_env._env), "step", fail)
    with pytest.raises(RuntimeError, match="the cart fell off the table") as caught:
        play(run_dir, episodes=1, video=tmp_path / "film.gif")
    assert not isinstance(caught.value, ConfigError)
    assert not list(tmp_path.iterdir())


def test_a_machine_that_cannot_draw_is_told_how(runs: Runs, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "none")
    with pytest.raises(ConfigError, match=r"could not be drawn.*set MUJOCO_GL=egl"):
        play(runs("hopper")[0], episodes=1, video=tmp_path / "film.gif")
    assert not list(tmp_path.iterdir())
