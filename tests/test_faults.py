"""Faults that use has found, and others of their kinds: one named test each."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from recipe_fixtures import RECIPES, TINY, one_thread
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import (
    Bounded,
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    PrioritizedSampler,
    ReplayBuffer,
    ReplayBufferEnsemble,
    SamplerWithoutReplacement,
    TensorDictReplayBuffer,
    Unbounded,
)
from torchrl.envs import MultiStepTransform, StepCounter, TransformedEnv
from torchrl.modules import MLP, IndependentNormal, ProbabilisticActor, ValueOperator
from torchrl.objectives import SACLoss

from torchrl_recall import (
    BacktrackingLoss,
    BacktrackingModel,
    CriticStates,
    ForwardModelImitation,
    GoalGAN,
    GoalGANCurriculum,
    ImitationLoss,
    LoopErasure,
    Recall,
    RecallTraceGenerator,
    RewardStates,
    SACCritic,
    SelfImitation,
    TRPOLoss,
)
from torchrl_recall.envs import FourRoomsEnv, PointMassEnv
from torchrl_recall.trainers.runs import checkpoints
from torchrl_recall.trainers.runs.checkpoints import CheckpointError
from torchrl_recall.trainers.runs.log import RunLog
from torchrl_recall.trainers.runs.process import StopSignal
from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.goals import GoalCollector
from torchrl_recall.trainers.tasks.gym import DivergenceError, check_finite, make_env

PENDULUM = {
    "env.name": "Pendulum-v1",
    "collector.total_frames": 60,
    "collector.init_random_frames": 20,
    "eval.interval": 60,
    "sac.num_cells": "[8,8]",
}


def words(recall: str = "none", **changes) -> list[str]:
    values = TINY | PENDULUM | {key.replace("__", "."): value for key, value in changes.items()}
    return [f"recall={recall}", *(f"{key}={value}" for key, value in values.items())]


def shell(script: str, *overrides: str, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(RECIPES / script), *overrides],
        cwd=cwd,
        env=one_thread() | env,
        capture_output=True,
        text=True,
        timeout=180,
    )


# Seeds


def two_environments(run_dir: Path, cwd: Path) -> str:
    batch = ["collector.num_envs=2", "collector.frames_per_batch=2"]
    done = shell("sac_recall.py", *words(), *batch, f"run_dir={run_dir}", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads((cwd / run_dir / "summary.json").read_text())["weights_sha256"]


def test_one_seed_gives_one_run_with_several_environments(tmp_path):
    assert two_environments(Path("a"), tmp_path) == two_environments(Path("b"), tmp_path)


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda: FourRoomsEnv(11).set_seed(5),
        lambda: FourRoomsEnv(11, start="uniform").reset(),
        lambda: PointMassEnv(2).set_seed(5),
        lambda: PointMassEnv(2).reset(),
        lambda: PointMassEnv(4).sample_goals(7),
    ],
)
def test_an_environment_for_evaluation_shifts_no_numbers_of_training(meanwhile):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    meanwhile()
    assert torch.rand(1) == expected


@pytest.mark.parametrize(
    "make", [lambda: FourRoomsEnv(11, start="uniform"), lambda: PointMassEnv(2)]
)
def test_set_seed_repeats_an_environment(make):
    env = make()
    key = "observation" if isinstance(env, FourRoomsEnv) else "desired_goal"
    draws = []
    for seed in (3, 3, 4):
        env.set_seed(seed)
        draws.append(torch.stack([env.reset()[key] for _ in range(6)]))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


# Sweeps


def test_a_sweep_runs_every_job(tmp_path):
    done = shell("sac_recall.py", "-m", "seed=0,1", *words(), "run_dir=s${seed}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / name / "summary.json").exists() for name in ("s0", "s1"))
    assert "seed=1" in done.stdout.splitlines()[-1]  # the job's own command to go on
    assert "seed=0,1" not in done.stdout


def test_a_sweep_goes_on_after_a_job_that_failed_and_says_so(tmp_path):
    (tmp_path / "s0").mkdir()
    (tmp_path / "s0" / "metrics.csv").touch()  # holds a run, which is refused
    done = shell("sac_recall.py", "-m", "seed=0,1", *words(), "run_dir=s${seed}", cwd=tmp_path)
    assert done.returncode != 0
    assert "already holds a run" in done.stderr
    assert (tmp_path / "s1" / "summary.json").exists()


# Signals


class Endless(gymnasium.Env):
    """Never ends."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.full(3, action.mean(), np.float32), 0.0, False, False, {}


def test_an_evaluation_without_end_is_cut_and_said_once(tmp_path):
    from recipe_fixtures import configure, process_state_kept

    from torchrl_recall.recipes.sac_recall import train

    gymnasium.register("FaultEndless-v0", entry_point=Endless)
    limits = {"eval__max_steps": 30, "eval__num_episodes": 2, "env__name": "FaultEndless-v0"}
    config = configure([*words(**limits), f"run_dir={tmp_path / 'run'}"])
    with process_state_kept(), pytest.warns(UserWarning, match="eval.max_steps=30") as caught:
        assert train(config).status == 0
    assert sum("eval.max_steps" in str(w.message) for w in caught) == 1


@pytest.mark.parametrize(
    "name",
    [
        "SIGINT",
        "SIGTERM",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("SIGHUP", "SIGUSR1")),
    ],
)
def test_a_signal_to_the_whole_group_saves_a_run_of_several_environments(name, tmp_path):
    overrides = [
        "env.name=Pendulum-v1", "recall=none", "collector.num_envs=2",
        "collector.frames_per_batch=512", "collector.total_frames=512000", "eval.interval=512",
        "eval.num_episodes=1", "compile=false", "logger.backend=none", "checkpoint.interval=0",
        "run_dir=run",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(RECIPES / "trpo_recall.py"), *overrides],
        cwd=tmp_path, env=one_thread(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(getattr(signal, name), signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline = time.time() + 120
        while not (tmp_path / "run" / "metrics.csv").exists() and time.time() < deadline:
            time.sleep(0.2)
        time.sleep(0.5)
        number = getattr(signal, name)
        os.killpg(process.pid, number)
        out, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number, out
    assert f"stopped by {name}" in out
    assert list((tmp_path / "run" / "checkpoints").iterdir())


def test_under_nohup_a_run_outlives_its_terminal():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    remembered = StopSignal()
    try:
        signal.raise_signal(signal.SIGHUP)
        assert remembered.received is None
    finally:
        remembered.restore()
        assert signal.signal(signal.SIGHUP, previous) is signal.SIG_IGN


def test_a_second_ctrl_c_ends_the_process_at_once():
    remembered = StopSignal()
    try:
        signal.raise_signal(signal.SIGINT)
        assert remembered.received is signal.SIGINT
        with pytest.raises(KeyboardInterrupt, match="second"):
            signal.raise_signal(signal.SIGINT)
    finally:
        remembered.restore()


def test_a_recipe_runs_outside_of_the_main_thread(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from recipe_fixtures import configure, process_state_kept

    from torchrl_recall.recipes.sac_recall import train

    config = configure([*words(), f"run_dir={tmp_path / 'run'}"])
    with process_state_kept(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(train, config).result(timeout=120).status == 0


# Faults of an environment


class Raises(gymnasium.Wrapper):
    """Raises at a step or at a reset."""

    at: dict = {}  # noqa: RUF012

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.count = {"step": 0, "reset": 0}

    def _maybe_raise(self, kind: str) -> None:
        self.count[kind] += 1
        if self.at.get(kind) == self.count[kind]:
            raise OSError("the simulator is gone")

    def step(self, action):
        self._maybe_raise("step")
        return self.env.step(action)

    def reset(self, **kwargs):
        self._maybe_raise("reset")
        return self.env.reset(**kwargs)


if "FaultRaises-v0" not in gymnasium.registry:
    gymnasium.register(
        "FaultRaises-v0",
        lambda **kwargs: Raises(gymnasium.make("Pendulum-v1", max_episode_steps=15)),
    )


@pytest.mark.parametrize("at", [{"step": 45}, {"reset": 3}])
def test_an_exception_of_the_task_saves_first_and_says_where(at, tmp_path, monkeypatch):
    from recipe_fixtures import checkpoint_frames, configure, process_state_kept

    from torchrl_recall.recipes.sac_recall import train

    monkeypatch.setattr(Raises, "at", at)
    changes = {"env__name": "FaultRaises-v0", "checkpoint__interval": 0}
    arguments = [*words(**changes), f"run_dir={tmp_path / 'run'}"]
    with process_state_kept(), pytest.raises(OSError, match="simulator is gone") as caught:
        train(configure(arguments))
    assert any("FaultRaises-v0 failed" in note for note in caught.value.__notes__)
    (frames,) = checkpoint_frames(tmp_path / "run")
    assert frames == (44 if "step" in at else 14)  # TorchRL resets once when it wraps a task
    monkeypatch.setattr(Raises, "at", {})
    with process_state_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert train(configure([*arguments, "resume=auto"])).frames == 60


def steps(*, where: str | None = None, at: int = 3) -> TensorDict:
    data = TensorDict(
        {
            "observation": torch.zeros(6, 2),
            "action": torch.zeros(6, 1),
            "next": {"observation": torch.zeros(6, 2), "reward": torch.zeros(6, 1)},
        },
        [6],
    )
    if where is not None:
        data[("next", where[5:]) if where.startswith("next_") else where][at:] = torch.nan
    return data


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("observation", FloatingPointError),
        ("action", DivergenceError),
        ("next_observation", FloatingPointError),
        ("next_reward", FloatingPointError),
    ],
)
def test_nan_is_blamed_on_whose_it_is(where, kind):
    with pytest.raises(FloatingPointError) as caught:
        check_finite(steps(where=where), env_name="Task-v0", frames=0)
    assert caught.type is kind


def test_nan_of_an_observation_is_not_blamed_on_the_action_that_follows_it():
    data = steps(where="observation")
    data["action"][3:] = torch.nan  # what a policy makes of NaN
    data["next", "observation"][2:] = torch.nan
    with pytest.raises(FloatingPointError, match=r"\('next', 'observation'\)") as caught:
        check_finite(data, env_name="Task-v0", frames=0)
    assert caught.type is FloatingPointError


def test_nan_of_an_action_is_not_blamed_on_the_state_that_follows_it():
    data = steps(where="action")
    data["next", "observation"][3:] = torch.nan
    with pytest.raises(DivergenceError):
        check_finite(data, env_name="Task-v0", frames=0)


@pytest.mark.parametrize("lr", ["1e30", "1e36"])
def test_numbers_that_stop_being_numbers_stop_a_run_of_the_four_rooms(lr, tmp_path):
    overrides = ["env.size=7", "collector.total_frames=2560", f"optim.lr={lr}", "run_dir=run"]
    done = shell("a2c_recall.py", *overrides, cwd=tmp_path)
    assert done.returncode
    assert "optim.lr" in done.stderr.splitlines()[-1]


# Tasks


def test_a_task_of_a_module_is_imported(tmp_path, monkeypatch):
    (tmp_path / "fault_module.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control.pendulum import PendulumEnv\n"
        "gymnasium.register('FaultMine-v0', entry_point=PendulumEnv, max_episode_steps=200)\n"
    )
    done = shell(
        "sac_recall.py", *words(env__name="fault_module:FaultMine-v0"),
        cwd=tmp_path, PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (summary,) = tmp_path.glob("runs/fault_module_FaultMine-v0_none_seed0*/summary.json")
    assert ":" not in str(summary)


def test_a_module_that_is_missing_is_named():
    with pytest.raises(ConfigError, match=r"no_such_module.*cannot be imported"):
        make_env("no_such_module:Task-v0")


@pytest.mark.parametrize("make", [FourRoomsEnv, lambda n, **kw: PointMassEnv(2, **kw)])
@pytest.mark.filterwarnings("ignore")
def test_environments_take_a_step_counter_and_a_limit(make):
    env = TransformedEnv(make(11, batch_size=[4]), StepCounter(max_steps=7))
    rollout = env.rollout(20, break_when_any_done=False)
    assert rollout["step_count"].max() == 6
    limit = {"frames_per_batch": 40, "total_frames": 40, "max_frames_per_traj": 7}
    collector = Collector(make(11, batch_size=[4]), None, **limit)
    assert next(iter(collector))["step_count"].max() == 6
    collector.shutdown()


# Replay buffers


def recall_of(make_actor, **kwargs) -> tuple[Recall, nn.Module]:
    actor = make_actor()
    model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)), num_cells=(8, 8))
    options = {"interval": 40, "num_updates": 2, "num_model_updates": 2, "trace_length": 4}
    return Recall(model, ImitationLoss(actor), RewardStates(4), **options | kwargs), actor


def experience(*shape: int, reward: float | None = None) -> TensorDict:
    """Two episodes of 20 steps in each row."""
    path = torch.randn(*shape, 2, 21, 3).cumsum(-2)
    done = (torch.arange(40) % 20 == 19).unsqueeze(1).expand(*shape, 40, 1).clone()
    rewards = torch.randn(*shape, 40, 1)
    following = {
        "observation": path[..., 1:, :].flatten(-3, -2),
        "reward": rewards if reward is None else torch.full_like(rewards, reward),
        "done": done,
    }
    data = {"observation": path[..., :-1, :].flatten(-3, -2), "action": torch.rand(*shape, 40, 2)}
    return TensorDict(data | {"next": following}, [*shape, 40])


@pytest.mark.parametrize("written", [160, 240])
def test_a_buffer_of_two_dimensions_is_drawn_from_as_a_whole(written, make_actor):
    recall, _ = recall_of(make_actor)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(400, ndim=2), batch_size=8)
    for _ in range(written // 160 + (written > 160)):
        data = experience(4)
        buffer.extend(data)
        recall.extend(data)
    assert recall.step(buffer)["recall/loss_imitation"].isfinite()
    drawn = recall.draws.candidates(buffer, 5000)
    assert len(drawn) == len(buffer)


def test_buffers_that_recall_cannot_draw_from_are_named(make_actor):
    size = {"storage": LazyTensorStorage(400), "batch_size": 8}
    ensemble = ReplayBufferEnsemble(
        *(TensorDictReplayBuffer(storage=LazyTensorStorage(400)) for _ in range(2)), batch_size=8
    )
    for buffer, kind, reason in (
        (TensorDictReplayBuffer(**size), ValueError, "the replay buffer .* is empty"),
        (
            TensorDictReplayBuffer(**size, transform=MultiStepTransform(3, 0.9)),
            ValueError,
            "transitions of several steps",
        ),
        (ensemble, TypeError, "ReplayBufferEnsemble"),
    ):
        recall, _ = recall_of(make_actor)
        for part in [buffer] if buffer is not ensemble else list(ensemble._rbs):
            if "empty" not in reason:
                part.extend(experience())
        recall.extend(experience())
        with pytest.raises(kind, match=reason):
            recall.step(buffer)


@pytest.mark.parametrize("storage", [ListStorage, LazyMemmapStorage, LazyTensorStorage])
@pytest.mark.parametrize("sampler", [None, SamplerWithoutReplacement, PrioritizedSampler])
def test_buffers_of_other_kinds_are_drawn_from(storage, sampler, make_actor):
    kinds = {
        None: {},
        SamplerWithoutReplacement: {"sampler": SamplerWithoutReplacement()},
        PrioritizedSampler: {"sampler": PrioritizedSampler(400, 0.7, 0.5)},
    }
    buffer = ReplayBuffer(storage=storage(400), batch_size=8, **kinds[sampler])
    recall, _ = recall_of(make_actor)
    buffer.extend(experience())
    recall.extend(experience())
    assert recall.step(buffer)["recall/ready"] == 1


def test_experience_without_time_is_named(make_actor):
    recall, _ = recall_of(make_actor)
    with pytest.raises(ValueError, match=r"needs a time dimension.*unsqueeze"):
        recall.extend(experience()[0])


def test_only_what_is_read_is_kept(make_actor):
    recall, _ = recall_of(make_actor)
    data = experience()
    data["pixels"] = torch.zeros(40, 64, 64)
    data["next", "pixels"] = torch.zeros(40, 64, 64)
    recall.extend(data)
    kept = recall.trajectories.transitions()
    assert ("next", "observation") in kept.keys(True)
    assert not any("pixels" in str(key) for key in kept.keys(True))


# Nothing learned, and nobody says why


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "extend"),
        (experience(reward=0.0), "same return"),
        (experience().apply(lambda x: x & False if x.dtype == torch.bool else x), "no episode"),
    ],
    ids=["no experience", "equal returns", "no end"],
)
def test_a_recall_that_never_learns_says_why_once(data, reason, make_actor):
    recall, _ = recall_of(make_actor)
    recall.schedule.patience = 100
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(200 if data is None else 6):
            if data is not None:
                recall.extend(data)
            told = recall.step(TensorDictReplayBuffer(storage=LazyTensorStorage(1)))
            assert told == ({} if data is None else {"recall/ready": 0})
    found = [str(w.message) for w in caught if "learned nothing" in str(w.message)]
    assert len(found) == 1
    assert reason in found[0]


# Losses and critics


def test_an_actor_that_writes_an_action_is_scored_on_the_data():
    """A deterministic policy, wrapped in a Gaussian, writes its own action on its way."""
    net = nn.Linear(3, 2)
    inner = TensorDictModule(net, ["observation"], ["action"])
    to_loc = TensorDictModule(lambda a: (a, torch.ones_like(a)), ["action"], ["loc", "scale"])
    head = ProbabilisticActor(
        to_loc, ["loc", "scale"], distribution_class=IndependentNormal, out_keys=["action"]
    )
    actor = ProbabilisticTensorDictSequential(inner, *head)
    data = TensorDict({"observation": torch.randn(8, 3), "action": torch.ones(8, 2)}, [8])
    loss = ImitationLoss(actor)
    expected = -IndependentNormal(net(data["observation"]), torch.ones(8, 2)).log_prob(
        torch.ones(8, 2)
    )
    found = loss(data)["loss_imitation"]
    torch.testing.assert_close(found, expected.mean())
    found.backward()
    assert sum(float(p.grad.abs().sum()) for p in loss.parameters()) > 0


def test_losses_write_nothing_into_their_data(make_actor, make_model, transitions):
    data = transitions(8)
    data["advantage"] = torch.randn(8, 1)
    actor = make_actor(return_log_prob=True)
    log_prob = actor.get_dist(data.select("observation")).log_prob(data["action"])
    data["action_log_prob"] = log_prob.detach()
    before = data.clone()
    ImitationLoss(actor)(data)
    BacktrackingLoss(make_model())(data)
    TRPOLoss(actor, ValueOperator(nn.Linear(3, 1), ["observation"])).actor_loss(data)
    assert set(data.keys(True, True)) == set(before.keys(True, True))
    assert (data == before).all()


def test_actions_are_never_broadcast(make_actor):
    data = TensorDict({"observation": torch.zeros(4, 3), "action": torch.zeros(4, 1)}, [4])
    with pytest.raises(ValueError, match=r"\(4, 1\).*\(4, 2\)"):
        ImitationLoss(make_actor())(data)


def test_loop_erasure_names_a_flat_batch():
    data = TensorDict(
        {"observation": torch.randn(6, 3), "next": {"observation": torch.randn(6, 3)}}, [6]
    )
    with pytest.raises(ValueError, match="num_traces, trace_length"):
        LoopErasure()(data)


# Copies and restored objects


@pytest.mark.parametrize("kind", [Recall, SelfImitation, ForwardModelImitation])
def test_a_deep_copy_never_trains_the_original(kind, make_actor):
    recall, actor = recall_of(make_actor)
    if kind is SelfImitation:
        recall = SelfImitation(ImitationLoss(actor))
    elif kind is ForwardModelImitation:
        critic = ValueOperator(nn.Linear(3, 1), ["observation"])
        recall = ForwardModelImitation(recall.model, ImitationLoss(actor), critic)
    with pytest.raises(TypeError, match="state_dict"):
        copy.deepcopy(recall)


def test_other_copies_and_foreign_states_are_refused(make_actor):
    recall, _ = recall_of(make_actor)
    for act in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="state_dict"):
            act(recall)
    with pytest.raises(KeyError, match=r"parts .*but this one has \['x'\]"):
        recall.load_state_dict({"x": 1})
    torch.save(recall.state_dict(), io.BytesIO())


def test_a_deep_copy_of_a_curriculum_is_refused():
    with pytest.raises(TypeError, match="state_dict"):
        copy.deepcopy(GoalGANCurriculum(GoalGAN(Bounded(-1, 1, (2,)))))


@pytest.mark.parametrize("compile", [False, True])
def test_a_deep_copy_of_a_generator_uses_its_own_model(compile, make_model):
    generate = RecallTraceGenerator(make_model(), trace_length=3, compile=compile)
    ends = TensorDict({"observation": torch.zeros(4, 3)}, [4])
    torch.manual_seed(0)
    before = generate(ends)
    other = copy.deepcopy(generate)
    with torch.no_grad():
        for parameter in generate.model.parameters():
            parameter.add_(1.0)
    torch.manual_seed(0)
    assert torch.equal(other(ends)["observation"], before["observation"])


def test_kept_goals_are_restored_onto_the_gans_device():
    saved = GoalGANCurriculum(GoalGAN(Bounded(-1, 1, (2,)))).state_dict()
    other = GoalGANCurriculum(GoalGAN(Bounded(-1, 1, (2,))).to("meta"))
    other.loss_module.load_state_dict = other.optimizer.load_state_dict = lambda state: None
    other.load_state_dict(copy.deepcopy(saved))
    assert other.kept.device == other.gan.low.device


# Goals


def test_success_rates_count_one_episode_of_each_environment():
    """Four of five episodes go to the goal, the fifth goes away from it."""
    env = PointMassEnv(2, max_steps=50, batch_size=[3000])
    env.assign_goals(torch.full((3000, 2), 0.3))
    way = torch.ones(3000, 1)

    def policy(td: TensorDict) -> TensorDict:
        nonlocal way
        new = (td["elapsed_steps"] == 0).unsqueeze(1)
        way = torch.where(new, (torch.rand(3000, 1) < 0.8).float() * 2 - 1, way)
        return td.set("action", way * (td["desired_goal"] - td["observation"]).sign())

    data = env.rollout(50, policy, break_when_any_done=False)
    collector = GoalCollector.__new__(GoalCollector)
    collector.goals = torch.full((1, 2), 0.3)
    _, rate = collector.success_rates(data)
    assert rate.item() == pytest.approx(0.8, abs=0.03)
    reached, done = data["next", "terminated"], data["next", "done"]
    assert reached.sum() / done.sum() > 0.9  # what the share of all finished episodes would say


def test_goals_outside_of_the_bounds_are_not_kept():
    curriculum = GoalGANCurriculum(GoalGAN(Bounded(-1, 1, (2,))), num_updates=1)
    curriculum.pretrain(torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.5, -0.5]]))
    assert curriculum.kept.abs().max() <= 1
    with pytest.raises(ValueError, match="within the bounds"):
        curriculum.pretrain(torch.full((3, 2), 7.0))


def test_a_goal_space_without_width_is_refused():
    with pytest.raises(ValueError, match="of some width"):
        GoalGAN(Bounded(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.0]), (2,)))


# The model


def test_data_outside_of_the_declared_bounds_are_said_once():
    model = BacktrackingModel.from_specs(Bounded(-1, 1, (3,)), Bounded(-1, 1, (2,)))
    after = 5 + torch.randn(64, 3)
    data = {"observation": after - 0.1, "action": torch.rand(64, 2), "next": {"observation": after}}
    with pytest.warns(UserWarning, match="bounds of its spec"):
        model.update_statistics(TensorDict(data, [64]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.update_statistics(TensorDict(data, [64]))


def test_recall_bounds_its_traces_by_default(make_actor):
    recall, _ = recall_of(make_actor, trace_length=200)
    data = experience()
    recall.extend(data)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100))
    buffer.extend(data)
    assert recall.step(buffer)["recall/kept"] < 0.9
    literal, _ = recall_of(make_actor, trace_length=200, filters=[])
    literal.extend(data)
    assert literal.step(buffer)["recall/kept"] == 1


# What a run leaves


def test_summary_is_json_whatever_the_numbers(tmp_path):
    log = RunLog(tmp_path, 10, backend="none")
    log.write(10, {"eval_return": float("nan")})
    log.finish({"env": "x", "recall": "none", "seed": 0, "rate": [float("inf"), 1.0]})

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text, parse_constant=refuse)["rate"] == [None, 1.0]


def test_tensorboard_drops_what_was_taken_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, frames in ((0, (10, 20, 30)), (15, (20, 30))):
        log = RunLog(tmp_path, 30, backend="tensorboard", frames=first)
        for n in frames:
            log.write(n, {"eval_return": float(n + first)})
        log._logger.experiment.close()
        time.sleep(1.1)  # event files are ordered by the second
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("eval_return")] == [
        (10, 10), (20, 35), (30, 45),
    ]  # fmt: skip


def test_half_written_checkpoints_are_removed(tmp_path):
    checkpoints.save(tmp_path, 5, {"a": 1})
    (tmp_path / ".writing-000000000123").mkdir()
    checkpoints.clean(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["000000000005"]


def test_a_checkpoint_that_is_written_again_is_never_missing(tmp_path, monkeypatch):
    """A kill between the two renames leaves the old one aside, from where it comes back."""
    checkpoints.save(tmp_path, 5, {"a": 1}, keep=1)
    replace, calls = os.replace, []

    def killed(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path, 5, {"a": 2}, keep=1)
    monkeypatch.undo()
    checkpoints.clean(tmp_path)
    assert checkpoints.load_latest(tmp_path) == (5, {"a": 1})


def _forge(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and its checksum."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = checkpoints.file_sha256(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _fifo(folder: Path) -> None:
    (folder / "state.json").unlink()
    os.mkfifo(folder / "state.json")


def _folder(folder: Path) -> None:
    (folder / "state.json").unlink()
    (folder / "state.json").mkdir()


def _link(folder: Path) -> None:
    target = folder.parent.parent / "elsewhere.json"
    (folder / "state.json").rename(target)
    (folder / "state.json").symlink_to(target)


def _manifest(**changes):
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | changes))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: _forge(f, "state.json", b"garbage"),
        lambda f: _forge(f, "state.json", b"[" * 100_000 + b"]" * 100_000),
        lambda f: _forge(f, "state.json", b'{"dict": 3}'),
        lambda f: _forge(f, "state.json", b'{"tensor": "no such"}'),
        lambda f: _forge(f, "state.json", b"{}"),
        lambda f: _forge(f, "state.json", b"7"),
        lambda f: _forge(f, "state.json", b"\xff\xfe"),
        lambda f: _forge(f, "tensors.safetensors", b"garbage"),
        lambda f: _forge(f, "tensors.safetensors", b""),
        _fifo,
        _folder,
        _link,
        _manifest(sha256=3),
        _manifest(sha256={"state.json": 7}),
        _manifest(sha256=None),
        _manifest(format=None),
        _manifest(format="torchrl_recall checkpoint 1"),
        _manifest(frames="5"),
        lambda f: (f / "manifest.json").write_text("[]"),
        lambda f: (f / "manifest.json").write_text("[" * 100_000),
        lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"),
        lambda f: (f / "manifest.json").unlink(),
        lambda f: (f / "odd.pickle").write_bytes(b"x"),
    ],
)
def test_a_damaged_or_hostile_checkpoint_falls_back_to_the_one_before(damage, tmp_path):
    directory = tmp_path / "checkpoints"
    checkpoints.save(directory, 4, {"a": torch.ones(2)})
    damage(checkpoints.save(directory, 5, {"a": torch.zeros(2)}))
    with pytest.warns(UserWarning, match="refused"):
        frames, state = checkpoints.load_latest(directory)
    assert frames == 4
    assert torch.equal(state["a"], torch.ones(2))


def test_advice_about_older_checkpoints_is_true(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CheckpointError, match="There is no older one"):
        checkpoints.save(tmp_path, 5, {"a": 1})
    monkeypatch.undo()
    checkpoints.save(tmp_path, 5, {"a": 1})
    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CheckpointError, match="The one at 5 frames is intact"):
        checkpoints.save(tmp_path, 6, {"a": 1})


def test_a_ranking_critic_of_sac_still_works(make_actor):
    qvalue = ValueOperator(MLP(in_features=5, out_features=1), ["observation", "action"])
    critic = SACCritic(SACLoss(make_actor(), qvalue, action_spec=Bounded(-1, 1, (2,))))
    data = TensorDict({"observation": torch.randn(9, 3)}, [9])
    assert CriticStates(critic, 4)(data).shape == (4,)
