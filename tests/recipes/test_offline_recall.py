import os
import shutil
import signal

import pytest
import torch
from hydra import compose, initialize_config_dir
from recipe_fixtures import (
    RECIPES,
    checkpoint_frames,
    load,
    metrics,
    process_state_kept,
    sha256,
    stopped_copy,
    summary,
)
from tensordict import TensorDict

from torchrl_recall import from_pretrained, load_policy
from torchrl_recall.recipes import offline_recall
from torchrl_recall.reward_updates import RewardUpdates
from torchrl_recall.trained.export import export_run
from torchrl_recall.trained.roll_out import roll_out
from torchrl_recall.trainers.schema import ConfigError, OfflineRecallConfig, validate
from torchrl_recall.trainers.tasks.gym import DivergenceError

HOSTS = ["iql", "cql", "td3bc"]
TINY = [
    "env.name=point_free4", "collector.total_frames=40", "collector.frames_per_batch=10",
    "replay_buffer.batch_size=16", "eval.interval=20", "eval.num_episodes=2",
    "checkpoint.interval=20", "checkpoint.keep=9", "logger.backend=none", "compile=false",
    "recall.interval=10", "recall.reward_updates=3", "recall.num_high_value_states=20",
    "recall.state_batch_size=64", "backtracking.num_cells=[8]", "backtracking.batch_size=16",
    *(f"{host}.num_cells=[8,8]" for host in HOSTS),
]  # fmt: skip


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """Random moves of the point mass."""
    torch.manual_seed(0)
    states, actions = torch.rand(300, 4) * 2 - 1, torch.rand(300, 4) * 2 - 1
    following, ends = (states + 0.15 * actions).clamp(-1, 1), torch.zeros(300, 1, dtype=torch.bool)
    ends[::50] = True
    data = TensorDict({
        "observation": states, "action": actions,
        "next": {
            "observation": following, "reward": ends.float(), "terminated": ends, "done": ends,
        },
    }, [300])  # fmt: skip
    folder = tmp_path_factory.mktemp("data") / "set"
    data.memmap(folder)
    return folder


def configure(*words: str) -> OfflineRecallConfig:
    path = str(RECIPES / "config" / "offline")
    with initialize_config_dir(config_dir=path, version_base="1.3"):
        return validate(compose("offline_recall", [*TINY, *words]), OfflineRecallConfig)


def train(run_dir, data_set, recall="backtracking", *words):
    updates = 0 if recall == "random_model" else 3
    words = f"recall={recall}", f"backtracking.num_updates={updates}", *words
    config = configure(f"data_set={data_set}", f"run_dir={run_dir}", *words)
    with process_state_kept():
        os.chdir(run_dir.parent)
        return offline_recall.train(config)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_set):
    """Finished runs, made once."""
    made = {}

    def get(host, recall="backtracking"):
        if (host, recall) not in made:
            run_dir = tmp_path_factory.mktemp("runs") / "run"
            assert train(run_dir, data_set, recall, f"host={host}").status == 0
            made[host, recall] = run_dir
        return made[host, recall]

    return get


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("recall", ["none", "backtracking", "random_model"])
def test_every_host_runs_with_every_group(runs, host, recall):
    run = runs(host, recall)
    assert summary(run)["recall"] == recall
    assert summary(run)["frames"] == 40
    last = metrics(run)[-1]
    assert "loss_qvalue" in last
    assert ("recall/kept_transitions" in last) == (recall != "none")
    assert ("reward_model/loss_reward" in last) == (recall != "none")
    assert ("backtracking/loss_backward_policy" in last) == (recall == "backtracking")
    assert ("forward_model/loss_state_predictor" in last) == (recall == "backtracking")


def test_an_audit_of_its_traces_moves_no_bit(runs, data_set, tmp_path):
    for recall in ("backtracking", "random_model"):
        last = metrics(runs("iql", recall))[-1]
        assert 0 <= float(last["traces/impossible_1"]) <= 1
        assert float(last["traces/displacement_5"]) > 0
    assert train(tmp_path / "run", data_set, "backtracking", "recall.audit=0").status == 0
    assert not any(key.startswith("traces/") for key in metrics(tmp_path / "run")[-1])
    assert sha256(tmp_path / "run") == sha256(runs("iql"))


@pytest.mark.parametrize("host", HOSTS)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(runs, host, data_set, tmp_path):
    whole = runs(host)
    assert checkpoint_frames(whole) == [20, 40]
    stopped_copy(whole, tmp_path / "again", 20)
    run = train(tmp_path / "again", data_set, "backtracking", f"host={host}", "resume=auto")
    assert run.status == 0
    assert sha256(tmp_path / "again") == sha256(whole)
    assert metrics(tmp_path / "again") == metrics(whole)


def test_a_run_says_that_models_learn_first(data_set, tmp_path, capsys):
    words = "collector.total_frames=10", "eval.num_episodes=1"
    for recall in ("none", "backtracking"):
        assert train(tmp_path / recall, data_set, recall, *words).status == 0
        assert ("models learn first, 3 steps each" in capsys.readouterr().out) is (recall != "none")
    again = train(tmp_path / "backtracking", data_set, "backtracking", *words[1:], "resume=auto")
    assert again.status == 0
    assert "models learn first" not in capsys.readouterr().out


def test_a_signal_while_models_learn_ends_the_run_at_once(data_set, tmp_path, monkeypatch, capsys):
    def signalled(self, experience):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the run went on")

    with monkeypatch.context() as patched:
        patched.setattr(RewardUpdates, "__call__", signalled)
        assert train(tmp_path / "run", data_set).status == 128 + signal.SIGTERM
    assert "stopped by SIGTERM before the first step; begin again" in capsys.readouterr().out
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert train(tmp_path / "run", data_set, "backtracking", "resume=auto").status == 0
    train(tmp_path / "whole", data_set)
    assert sha256(tmp_path / "run") == sha256(tmp_path / "whole")


def test_the_data_set_is_not_saved_but_told_from_another(runs, data_set, tmp_path):
    _, state = load(runs("iql"))
    assert set(state["replay_buffer"]) == {"sha256"}
    stopped_copy(runs("iql"), tmp_path / "again", 20)
    shutil.copytree(data_set, tmp_path / "data")
    changed = bytearray((tmp_path / "data" / "action.memmap").read_bytes())
    changed[2] ^= 1
    (tmp_path / "data" / "action.memmap").write_bytes(changed)
    moved = data_set.with_name("moved")
    data_set.rename(moved)
    try:
        shutil.copytree(tmp_path / "data", data_set)
        with pytest.raises(ConfigError, match="data_set has changed"):
            train(tmp_path / "again", data_set, "backtracking", "host=iql", "resume=auto")
    finally:
        shutil.rmtree(data_set)
        moved.rename(data_set)


@pytest.mark.parametrize("host", HOSTS)
def test_its_policy_is_loaded_exported_and_its_model_rolled_out(runs, host, tmp_path):
    states = TensorDict({"observation": torch.rand(5, 4)}, [5])
    policy = load_policy(runs(host))
    action = policy(states.clone())["action"]
    assert (action.abs() <= 1).all()
    pretrained = from_pretrained(export_run(runs(host), tmp_path / "exported"))
    assert torch.equal(pretrained.policy(states.clone())["action"], action)
    assert pretrained.backtracking_model is not None
    _, traces = roll_out(runs(host), num_states=3, num_traces=2)
    assert traces.shape == (6, 5)


@pytest.mark.parametrize("host", ["iql", "td3bc"])
def test_its_policy_is_loaded_where_its_data_set_is_gone(runs, host, data_set):
    run = runs(host)
    states = TensorDict({"observation": torch.rand(5, 4)}, [5])
    action = load_policy(run)(states.clone())["action"]
    gone = data_set.with_name("gone")
    data_set.rename(gone)
    try:
        assert torch.equal(load_policy(run)(states.clone())["action"], action)
    finally:
        gone.rename(data_set)


def test_td3bc_sees_standardised_states(runs, data_set):
    _, state = load(runs("td3bc"))
    buffers = {key: value for key, value in state["host"]["loss"].items() if key.endswith("scale")}
    assert buffers
    scale = next(value for key, value in buffers.items() if "actor" in key)
    assert scale.flatten()[:4].tolist() == pytest.approx([0.58] * 4, abs=0.05)


def test_faults_are_named(data_set, tmp_path):
    with pytest.raises(ConfigError, match="data_set"):
        configure()
    with pytest.raises(ConfigError, match="asks a forward model"):
        configure(f"data_set={data_set}", "backtracking.num_updates=0")
    with pytest.raises(ConfigError, match="leaves no real row"):
        configure(f"data_set={data_set}", "recall.share=0.99")
    with pytest.raises(ConfigError, match=r"data_set=.*nowhere does not exist"):
        train(tmp_path / "run", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"has the shape \(4,\), the task's is \(3,\)"):
        train(tmp_path / "run", data_set, "none", "env.name=pendulum_swingup")
    with pytest.raises(DivergenceError, match="training has diverged"):
        train(tmp_path / "diverged", data_set, "none", "iql.lr=1e30")
    assert not (tmp_path / "diverged" / "checkpoints").exists()
