"""The DQN recipe: every variant and kind of task, resumption, errors."""

from __future__ import annotations

import csv
import math
import signal

import gymnasium
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from recipe_fixtures import (
    RECIPES,
    Faulty,
    metrics,
    process_state_kept,
    sha256,
    stopped_copy,
    summary,
)
from torchrl.data import OneHot
from torchrl.envs import ExplorationType

from torchrl_recall import BoltzmannPolicy, CriticStates, NoRecall, Recall, SelfImitation
from torchrl_recall.recipes import dqn_recall
from torchrl_recall.traces.filters import AdvantageGate, LoopErasure, WithinSupport
from torchrl_recall.trainers.hosts.dqn import DQN
from torchrl_recall.trainers.schema import ConfigError, DQNRecallConfig, validate
from torchrl_recall.trainers.tasks.acting import make_policy
from torchrl_recall.trainers.tasks.gym import DivergenceError

RECALLS = sorted(  # but for cloning, which needs demonstrations
    {path.stem for path in (RECIPES / "config" / "dqn" / "recall").glob("*.yaml")} - {"cloning"}
)
FOUR_ROOMS = ["env.name=torchrl_recall/FourRooms-v0", "backtracking.return_threshold=null"]
TINY = [
    "compile=false", "collector.total_frames=512", "collector.frames_per_batch=64",
    "collector.init_random_frames=128", "dqn.num_cells=[16,16]", "dqn.num_updates=4",
    "dqn.target_update_interval=6", "eval.interval=128", "eval.num_episodes=1",
    "eval.max_steps=200", "checkpoint.interval=128", "checkpoint.keep=20", "logger.backend=none",
    "recall.num_updates=2", "recall.batch_size=16", "recall.num_high_value_states=4",
    "recall.state_batch_size=64", "recall.num_traces=1", "env.trace_length=5",
    "backtracking.num_cells=[16,16]", "backtracking.num_updates=2", "replay_buffer.batch_size=16",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def tiny(recall: str, *overrides: str) -> list[str]:
    never = ["backtracking.num_updates=0"] if recall == "random_model" else []
    return [f"recall={recall}", *TINY, *never, *overrides]


def configure(overrides: list[str]) -> DQNRecallConfig:
    path = str(RECIPES / "config" / "dqn")
    with initialize_config_dir(config_dir=path, version_base="1.3"):
        return validate(compose("dqn_recall", overrides), DQNRecallConfig)


def train(run_dir, overrides: list[str]) -> int:
    with process_state_kept():
        return dqn_recall.train(configure([*overrides, f"run_dir='{run_dir}'"])).status


def parts(*overrides: str):
    torch.manual_seed(0)
    return dqn_recall.build(configure(list(overrides)), torch.device("cpu"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Uninterrupted runs on CartPole, made once."""
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
    assert (summary(run)["recall"], summary(run)["frames"]) == (recall, 512)
    last = metrics(run)[-1]
    assert all(math.isfinite(float(value)) for value in last.values())
    assert float(last["loss"]) > 0
    trains = recall in ("backtracking", "imitation", "paper")
    assert ("backtracking/loss_state_predictor" in last) == trains
    assert ("recall/loss_imitation" in last) == (recall not in ("none", "backtracking"))
    assert ("reward_model/loss_reward" in last) == (recall == "backtracking")
    if recall != "none":
        assert sha256(run) != sha256(runs("none"))


@pytest.mark.parametrize(
    ("recall", "name"),
    [("none", "CartPole-v1"), ("backtracking", "CartPole-v1")]
    + [("backtracking", "torchrl_recall/FourRooms-v0")]
    + [
        pytest.param(*each, marks=pytest.mark.slow)
        for each in (
            ("imitation", "CartPole-v1"),
            ("self_imitation", "CartPole-v1"),
            ("none", "torchrl_recall/FourRooms-v0"),
            ("imitation", "torchrl_recall/FourRooms-v0"),
            ("self_imitation", "torchrl_recall/FourRooms-v0"),
        )
    ],
)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, recall, name):
    words = tiny(recall, f"env.name={name}", "dqn.annealed_fraction=1.0")
    assert train(tmp_path / "whole", words) == 0
    for frames in (128, 384):
        again = stopped_copy(tmp_path / "whole", tmp_path / str(frames), frames)
        assert train(again, [*words, "resume=auto"]) == 0
        assert sha256(again) == sha256(tmp_path / "whole")
        assert metrics(again) == metrics(tmp_path / "whole")


def test_a_signal_saves_and_the_run_goes_on(tmp_path, monkeypatch):
    words = tiny("backtracking", "env.entry_point=test_dqn_recall:faulty_cartpole", "env.name=mine")
    monkeypatch.syspath_prepend(str(RECIPES.parent / "tests" / "recipes"))
    assert train(tmp_path / "whole", words) == 0
    monkeypatch.setattr(Faulty, "fault", {"step": 200, "signal": signal.SIGTERM})
    assert train(tmp_path / "run", words) == 128 + signal.SIGTERM
    monkeypatch.setattr(Faulty, "fault", {})
    assert train(tmp_path / "run", [*words, "resume=auto"]) == 0
    assert sha256(tmp_path / "run") == sha256(tmp_path / "whole")


def faulty_cartpole():
    import gymnasium

    return Faulty(gymnasium.make("CartPole-v1"))


def test_minigrid_runs(tmp_path):
    pytest.importorskip("minigrid")
    words = tiny("backtracking", "env.name=minigrid:MiniGrid-Empty-5x5-v0")
    words += ["env.observation_keys=[image,direction]"]
    assert train(tmp_path / "run", words) == 0
    assert summary(tmp_path / "run")["frames"] == 512
    env = parts(*words).env
    assert env.observation_spec["observation"].shape == (7 * 7 * 3 + 4,)


def test_the_parts_are_those_that_recall_names():
    found = {recall: type(parts(*tiny(recall)).recall) for recall in RECALLS}
    assert found == {
        "backtracking": Recall, "imitation": Recall, "none": NoRecall, "paper": Recall,
        "random_model": Recall, "self_imitation": SelfImitation,
    }  # fmt: skip


def test_recall_ranks_by_the_hosts_values_and_imitates_by_their_softmax():
    made = parts(*tiny("imitation", "dqn.imitation_temperature=0.5"))
    assert isinstance(made.recall.high_value_states, CriticStates)
    assert isinstance(made.host.policy, BoltzmannPolicy)
    data = made.env.rollout(3).select("observation")
    dist = made.host.policy.get_dist(data.clone())
    values = made.host.actor(data.clone())["action_value"]
    torch.testing.assert_close(dist.probs, (values / 0.5).softmax(-1))


def test_numbers_of_states_are_categories_to_the_model():
    made = parts(*tiny("imitation", *FOUR_ROOMS))
    assert isinstance(made.recall.model.observation_spec, OneHot)
    assert [type(f) for f in made.recall.imitate.transforms] == [LoopErasure, AdvantageGate]
    continuous = parts(*tiny("imitation"))
    assert [type(f) for f in continuous.recall.imitate.transforms] == [
        WithinSupport,
        LoopErasure,
        AdvantageGate,
    ]


class Plain(gymnasium.Env):
    """A task as a user writes it: nothing wraps it."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return seen, float(action == 1), False, self.steps >= 10, {}


def as_coordinates():
    """Discrete states below a wrapper that turns them into coordinates."""
    task = gymnasium.make("CliffWalking-v1")
    space = gymnasium.spaces.Box(0, 12, (2,), np.float32)
    return gymnasium.wrappers.TransformObservation(
        task, lambda state: np.array(divmod(int(state), 12), np.float32), space
    )


@pytest.mark.parametrize("function", ["Plain", "as_coordinates"])
def test_vectors_of_a_users_own_task_are_no_categories(function, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(RECIPES.parent / "tests" / "recipes"))
    words = tiny("backtracking", f"env.entry_point=test_dqn_recall:{function}", "env.name=mine")
    assert not isinstance(parts(*words).recall.model.observation_spec, OneHot)
    if function == "Plain":
        assert train(tmp_path / "run", words) == 0


def test_several_environments(tmp_path):
    words = tiny("backtracking", "collector.num_envs=2", "eval.interval=512")
    assert train(tmp_path / "run", words) == 0
    assert summary(tmp_path / "run")["frames"] == 512


def test_values_of_nan_stop_the_run(tmp_path, monkeypatch):
    """TorchRL's argmax of NaN chooses no action at all, which is a finite vector of zeros."""

    def broken(self, batch, traces=None):
        with torch.no_grad():
            next(self.loss_module.parameters()).fill_(float("nan"))
        return update(self, batch)

    update = DQN.update
    monkeypatch.setattr(DQN, "update", broken)
    with pytest.raises(DivergenceError, match=r"chose no action.*Lower optim.lr"):
        train(tmp_path / "run", tiny("none", "dqn.eps_init=0", "dqn.eps_end=0"))


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
def test_the_explorer_compiles():
    made = parts(*tiny("none", "dqn.eps_init=0.5"))
    state = made.env.reset()["observation"]
    found = []
    for compile in (False, True):
        act = make_policy(made.host.explorer, ExplorationType.RANDOM, compile=compile)
        torch.manual_seed(0)
        found.append(torch.stack([act(state) for _ in range(20)]))
    assert torch.equal(*found)
    assert 0 < found[0][:, 0].sum() < 20


def test_exploration_falls_with_the_frames(tmp_path):
    made = parts(*tiny("none", "dqn.eps_init=0.8", "dqn.eps_end=0.2", "dqn.annealed_fraction=0.5"))
    seen = []
    for _ in range(3):
        seen.append(float(made.host.exploration.eps))
        made.host.explored(128)
    assert seen == pytest.approx([0.8, 0.5, 0.2], abs=1e-4)


def test_targets_are_copied_when_due():
    made = parts(*tiny("none", "dqn.target_update_interval=3"))
    data = made.env.rollout(20, break_when_any_done=False)
    loss, seen = made.host.loss_module, []
    for _ in range(6):
        made.host.update(data.clone())
        pairs = zip(
            loss.value_network_params.values(True, True),
            loss.target_value_network_params.values(True, True),
            strict=True,
        )
        seen.append(all(torch.equal(source, target) for source, target in pairs))
    assert seen == [False, False, True] * 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env.name=Pendulum-v1", r"discrete ones. sac_recall.py"),
        ("dqn.eps_init=0.1 dqn.eps_end=0.2", r"dqn.eps_end=0.2 is above dqn.eps_init=0.1"),
        ("replay_buffer.size=10", r"replay_buffer.size=10 is smaller than replay_buffer.batch"),
        ("dqn.gama=0.9", r"gama.*did you mean dqn.gamma"),
        ("env.name=minigrid:MiniGrid-Empty-5x5-v0", r"observation_keys=\[direction,image"),
    ],
)
def test_bad_input_is_refused_in_one_line(override, message):
    if "minigrid" in override:
        pytest.importorskip("minigrid")
    words = ["+" + word if "gama" in word else word for word in override.split()]
    with pytest.raises(ConfigError, match=message):
        parts(*tiny("none"), *words)


def test_sac_names_this_recipe_for_discrete_actions():
    from recipe_fixtures import configure as sac

    from torchrl_recall.recipes import sac_recall

    with pytest.raises(ConfigError, match=r"CartPole-v1 has discrete actions.*dqn_recall.py"):
        sac_recall.build(sac(["env.name=CartPole-v1"]), torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.filterwarnings("error:.*could not be compiled.*")
def test_compiled_and_eager_agree():
    found = []
    for compile in ("false", "true"):
        made = parts(*tiny("none", f"compile={compile}", "optim.lr=0.01"))
        torch.manual_seed(1)
        data = made.env.rollout(64, break_when_any_done=False)
        losses = [dict(made.host.update(data.clone()).items()) for _ in range(8)]
        found.append((losses, made.host.loss_module.state_dict()))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_it_learns_cartpole(tmp_path):
    """At chance an episode lasts some twenty steps; single evaluations go up and down."""
    words = ["recall=backtracking", "logger.backend=none", "compile=false", "seed=700"]
    assert train(tmp_path / "run", words) == 0
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        returns = [float(row["eval_return"]) for row in csv.DictReader(file)]
    assert sum(returns[-5:]) / 5 > 60
