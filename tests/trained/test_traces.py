"""Traces of trained runs: where they end, what is drawn, and the simulator in their states."""

from __future__ import annotations

import gymnasium
import matplotlib.image
import numpy as np
import pytest
import torch
from trained_fixtures import Runs

from torchrl_recall.envs import MuJoCoSimulator
from torchrl_recall.trained.draw import draw_traces
from torchrl_recall.trained.film import draw_film, film_strip
from torchrl_recall.trained.roll_out import path_of, roll_out
from torchrl_recall.trainers.schema import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")


def is_picture(path) -> bool:
    return np.ptp(matplotlib.image.imread(path)[..., :3]) > 0.5


@pytest.mark.parametrize("kind", ["sac", "ppo", "goal_gan", "dqn"])
def test_traces_end_in_states_of_the_runs_own_source(kind, runs: Runs, tmp_path):
    run_dir, run = runs(kind)
    before = torch.get_rng_state()
    loaded, traces = roll_out(run_dir, num_states=3, num_traces=2, trace_length=6)
    assert torch.equal(torch.get_rng_state(), before)
    assert traces.shape[1] == 6
    ends = path_of(traces)[:, -1]
    assert torch.equal(ends[0::2], ends[1::2])  # those to one end state are contiguous
    if kind != "goal_gan":  # whose ends are goals of the GAN
        assert traces.shape[0] == 6
        experience = run.parts.experience[:]
        visited = torch.cat([experience["observation"], experience["next", "observation"]])
        assert all((visited == end).all(-1).any() for end in ends)
    draw_traces(loaded, traces, [0, 1], 2, tmp_path / "plane.png")
    draw_traces(loaded, traces, [1], 2, tmp_path / "time.png")
    assert is_picture(tmp_path / "plane.png")
    assert is_picture(tmp_path / "time.png")


def test_a_seed_gives_the_same_traces(runs: Runs):
    run_dir, _ = runs("sac")
    one, again, other = (roll_out(run_dir, seed=seed)[1] for seed in (0, 0, 1))
    assert (one == again).all()
    assert not torch.equal(one["observation"], other["observation"])


def test_what_has_no_traces_says_why(runs: Runs, tmp_path):
    with pytest.raises(ConfigError, match=r"no backtracking model.*Take a run of recall=back"):
        roll_out(runs("none")[0])
    with pytest.raises(ConfigError, match=r"after 160 frames no state .* was rewarded"):
        roll_out(runs("sparse")[0])
    run, traces = roll_out(runs("four_rooms")[0], num_states=1, num_traces=1)
    with pytest.raises(ConfigError, match="are categories"):
        draw_traces(run, traces, [0, 1], 1, tmp_path / "a.png")
    run, traces = roll_out(runs("sac")[0], num_states=1, num_traces=1)
    with pytest.raises(ConfigError, match=r"dims=\[0, 3\]: .* has the dimensions 0 to 2"):
        draw_traces(run, traces, [0, 3], 1, tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"film= draws tasks of MuJoCo, and Pendulum-v1 is none"):
        draw_film(run, traces, tmp_path / "a.png", num_traces=1)
    with pytest.raises(ConfigError, match=r"must end in .png"):
        draw_film(run, traces, tmp_path / "a.gif", num_traces=1)
    run, traces = roll_out(runs("goal_gan")[0], num_states=4, num_traces=1)
    with pytest.raises(ConfigError, match=r"film= draws tasks of Gymnasium"):
        draw_film(run, traces, tmp_path / "a.png", num_traces=1)
    assert not list(tmp_path.iterdir())


def test_a_film_strip_has_its_pictures(runs: Runs, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    run, traces = roll_out(runs("hopper")[0], num_states=2, num_traces=2, trace_length=4)
    task = gymnasium.make("Hopper-v5", render_mode="rgb_array", width=64, height=48)
    strip = film_strip(MuJoCoSimulator(task), path_of(traces)[::2], 3)
    assert strip.shape == (2, 3, 48, 64, 3)
    assert (strip[0, 0] != strip[0, -1]).any()
    told = draw_film(run, traces, tmp_path / "film.png", num_traces=2, num_pictures=9)
    assert told.startswith("2 traces, 5 pictures each; the first 1 of qpos is not observed")
    assert is_picture(tmp_path / "film.png")
