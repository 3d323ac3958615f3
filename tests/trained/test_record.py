import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from torchrl.data import Bounded, LazyTensorStorage, ReplayBuffer

from torchrl_recall import read_data_set, whole_trajectories
from torchrl_recall.trained.load import TrainedRun
from torchrl_recall.trained.record import _experience, _returns, record_run
from torchrl_recall.trainers.schema import ConfigError


def specs(run):
    env = run.parts.env
    return env.observation_spec_unbatched["observation"], env.action_spec_unbatched


@pytest.mark.parametrize("kind", ["sparse", "dqn", "ppo"])
def test_whole_episodes_of_a_policy_are_recorded_again_from_the_same_seed(runs, kind, tmp_path):
    run_dir, run = runs(kind)
    about = record_run(run_dir, tmp_path / "a", episodes=2, seed=3)
    record_run(run_dir, tmp_path / "b", episodes=2, seed=3)
    found = read_data_set(tmp_path / "a", *specs(run))
    again = read_data_set(tmp_path / "b", *specs(run))
    assert (found == again).all()
    trajectories = whole_trajectories(found)
    assert len(trajectories) == about["episodes"] == 2
    returns = [float(each["next", "reward"].sum()) for each in trajectories]
    assert about["mean_return"] == pytest.approx(sum(returns) / 2)
    told = json.loads((tmp_path / "a" / "about.json").read_text())
    assert told["task"] == run.parts.name
    spec = specs(run)[1]
    if isinstance(spec, Bounded):
        assert ((found["action"] >= spec.space.low) & (found["action"] <= spec.space.high)).all()


def test_random_actions_and_a_runs_experience(runs, tmp_path):
    run_dir, run = runs("sparse")
    about = record_run(run_dir, tmp_path / "random", policy="random", frames=150)
    assert about["frames"] >= 150
    assert about["episodes"] == len(
        whole_trajectories(read_data_set(tmp_path / "random", *specs(run)))
    )
    record_run(run_dir, tmp_path / "replay", policy="replay")
    replay, rows = read_data_set(tmp_path / "replay", *specs(run)), run.parts.replay_buffer[:]
    assert torch.equal(replay["observation"], rows["observation"])
    assert torch.equal(replay["next", "reward"], rows["next", "reward"])


@pytest.mark.filterwarnings("ignore:none of .* goals")
def test_what_cannot_be_recorded_is_refused(runs, tmp_path):
    run_dir, _ = runs("sparse")
    (tmp_path / "there").mkdir()
    for changes, message in (
        ({"out": tmp_path / "there", "episodes": 1}, "exists"),
        ({}, "give either frames=10000 or episodes=5"),
        ({"policy": "replay", "frames": 5}, "leave out frames="),
        ({"episodes": 1, "min_return": 2.0}, "51 episodes had a return below min_return=2.0"),
    ):
        with pytest.raises(ConfigError, match=message):
            record_run(run_dir, **{"out": tmp_path / "new", **changes})
    with pytest.raises(ConfigError, match="many goals"):
        record_run(runs("goal_gan")[0], tmp_path / "new", episodes=1)
    with pytest.raises(ConfigError, match="transitions of several steps"):
        record_run(runs("none")[0], tmp_path / "new", policy="replay")
    assert not (tmp_path / "new").exists()


def test_rows_of_several_environments_are_no_replay(runs, tmp_path):
    run_dir = shutil.copytree(runs("sparse")[0], tmp_path / "run")
    config = OmegaConf.load(run_dir / "config.yaml")
    config.collector.num_envs = 2
    OmegaConf.save(config, run_dir / "config.yaml")
    with pytest.raises(ConfigError, match=r"2 environments in turn.*collector\.num_envs=1"):
        record_run(run_dir, tmp_path / "set", policy="replay")


def test_an_episode_after_a_cut_begins_with_a_reset(runs, tmp_path, monkeypatch):
    """Take the time limit of Pendulum-v1 away, so that its episodes have to be cut."""
    monkeypatch.setattr("torchrl_recall.trained.record.longest_episode", lambda task: None)
    run_dir = shutil.copytree(runs("none")[0], tmp_path / "run")
    config = OmegaConf.load(run_dir / "config.yaml")
    config.eval.max_steps = 5
    OmegaConf.save(config, run_dir / "config.yaml")
    with pytest.warns(UserWarning, match=r"3 of 3 episodes .* eval\.max_steps=5"):
        about = record_run(run_dir, tmp_path / "set", episodes=3, policy="random")
    assert about["cut_episodes"] == 3
    first, second, _ = whole_trajectories(read_data_set(tmp_path / "set", *specs(runs("none")[1])))
    assert len(first) == len(second) == 5
    assert not torch.equal(first["next", "observation"][-1], second["observation"][0])
    assert second["observation"][0, -1].abs() <= 1  # the speed that a reset of Pendulum-v1 draws


def test_a_time_limit_of_the_task_is_not_that_of_evaluations(runs, tmp_path):
    run_dir = shutil.copytree(runs("none")[0], tmp_path / "run")
    config = OmegaConf.load(run_dir / "config.yaml")
    config.eval.max_steps = 5
    OmegaConf.save(config, run_dir / "config.yaml")
    about = record_run(run_dir, tmp_path / "set", episodes=2, policy="random")
    assert (about["frames"], about["cut_episodes"]) == (400, 0)


@pytest.mark.parametrize("overwritten", [False, True])
def test_the_rest_of_an_episode_that_was_overwritten_does_not_count(overwritten):
    done = (torch.arange(250) % 200 == 49).unsqueeze(-1)
    begins = torch.cat([torch.tensor([[not overwritten]]), done[:-1]])
    data = TensorDict(
        {"is_init": begins, "next": {"reward": torch.ones(250, 1), "done": done}}, [250]
    )
    assert _returns(data) == {
        "frames": 250, "episodes": 1 if overwritten else 2,
        "mean_return": 200 if overwritten else 125,
    }  # fmt: skip


def test_an_episode_that_a_stop_cut_is_not_joined_to_the_next_in_a_replay(runs):
    run_dir, run = runs("sparse")
    rows = run.parts.replay_buffer[:].clone()
    path = torch.arange(len(rows) + 1.0).unsqueeze(-1).expand(-1, rows["observation"].shape[-1])
    rows["observation"], rows["next", "observation"] = path[:-1], path[1:].clone()
    rows["next", "observation"][100] += 1.0  # the next row is not what follows
    rows["next", "done"][:-1], rows["next", "done"][-1] = False, True
    found = TrainedRun(run_dir, run.config, SimpleNamespace(experience=full(rows)), 160, {})
    found = _experience(found)
    assert found["is_init"].flatten().nonzero().flatten().tolist() == [0, 101]
    expected = float(rows["next", "reward"][101:].sum())
    assert _returns(found)["episodes"] == 1
    assert _returns(found)["mean_return"] == pytest.approx(expected)


def full(rows):
    buffer = ReplayBuffer(storage=LazyTensorStorage(len(rows) + 1))
    buffer.extend(rows)
    return buffer


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"policy": "expert", "episodes": 1}, ValueError, "policy must be"),
        ({"episodes": 0}, ValueError, "episodes"),
        ({"frames": -5}, ValueError, "frames"),
        ({"episodes": 1, "seed": -1}, ValueError, "seed"),
        ({"policy": "random", "episodes": 1, "deterministic": True}, ConfigError, "deterministic"),
        ({"policy": "replay", "seed": 4}, ConfigError, "seed="),
        ({"policy": "replay", "deterministic": True}, ConfigError, "deterministic"),
    ],
)
def test_options_out_of_range_or_without_effect_are_refused(
    options, error, message, runs, tmp_path
):
    with pytest.raises(error, match=message):
        record_run(runs("sparse")[0], tmp_path / "new", **options)


def test_an_episode_that_a_resumed_run_left_is_not_part_of_the_next():
    done, begins = torch.zeros(650, 1, dtype=torch.bool), torch.zeros(650, 1, dtype=torch.bool)
    done[[199, 449, 649]] = True
    begins[[0, 200, 250, 450]] = True  # stopped at 250
    data = TensorDict(
        {"is_init": begins, "next": {"reward": torch.ones(650, 1), "done": done}}, [650]
    )
    assert _returns(data) == {"frames": 650, "episodes": 3, "mean_return": 200}
    cut = data[100:]  # its first episode was overwritten in part
    assert _returns(cut) == {"frames": 550, "episodes": 2, "mean_return": 200}
