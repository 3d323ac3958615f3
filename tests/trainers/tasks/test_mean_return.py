"""Evaluation by whole episodes: repeatable, apart from the run, and the sum of rewards."""

from __future__ import annotations

import random
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from recipe_fixtures import configure, tiny
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, exploration_type

from torchrl_recall.trainers.hosts.sac import SAC
from torchrl_recall.trainers.tasks.gym import make_env
from torchrl_recall.trainers.tasks.mean_return import MeanReturn
from torchrl_recall.trainers.tasks.task_state import env_state_dict

CPU = torch.device("cpu")
FIRST_SEED = 1_000_000  # of evaluation, for a run of seed 0


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory


def build(num_episodes: int, seed: int = 0, name: str = "Hopper-v5", **kwargs):
    torch.manual_seed(0)
    config = configure(tiny(eval__num_episodes=num_episodes, seed=seed, env__name=name))
    actor = SAC(make_env(name), config, CPU).actor
    return MeanReturn(actor, config, CPU, **kwargs), actor


def test_evaluation_is_repeatable():
    evaluation, _ = build(3)
    first = evaluation(0).tolist()
    torch.rand(7)
    assert evaluation(100).tolist() == first
    assert build(3)[0](0).tolist() == first
    assert build(3, seed=1)[0](0).tolist() != first
    assert len(set(first)) == 3  # three episodes, not one three times


def test_evaluation_touches_no_random_state_outside():
    evaluation, outside = build(2)[0], make_env("Hopper-v5")
    outside.set_seed(3)
    outside.reset()

    def random_states():
        return (
            torch.get_rng_state().tolist(),
            repr(np.random.get_state()),  # noqa: NPY002
            random.getstate(),
            repr(env_state_dict(outside)["python"]),
        )

    before = random_states()
    evaluation(0)
    assert random_states() == before
    assert exploration_type() is not ExplorationType.DETERMINISTIC


def test_evaluation_sums_the_undiscounted_rewards_of_the_mean_policy():
    evaluation, actor = build(1)
    (got,) = evaluation(0).tolist()
    plain = gymnasium.make("Hopper-v5")
    observation, _ = plain.reset(seed=FIRST_SEED)
    total, done = 0.0, False
    while not done:
        data = TensorDict({"observation": torch.as_tensor(observation, dtype=torch.float32)})
        observation, reward, terminated, truncated, _ = plain.step(
            actor(data)["loc"].tanh().detach().numpy()
        )
        total += reward
        done = terminated or truncated
    assert got == pytest.approx(total, rel=1e-3)


def test_actions_beyond_the_bounds_are_clipped_where_asked():
    """The control cost of HalfCheetah, 0.1 |a|², shows which actions the task saw."""
    clipped, _ = build(1, name="HalfCheetah-v5", clip_actions=True)
    plain, _ = build(1, name="HalfCheetah-v5")
    ones, nines = (lambda x, a=a: torch.full((6,), a) for a in (1.0, 9.0))
    clipped.policy, plain.policy = nines, ones
    assert clipped(0).tolist() == plain(0).tolist()


def test_it_adds_nothing_to_the_log_and_never_ends_the_run():
    evaluation, _ = build(1)
    evaluation(0)
    assert evaluation.metrics() == {}
    assert not evaluation.reached_target


def test_state_holds_all_evaluations():
    evaluation, other = build(1)[0], build(1)[0]
    evaluation(100)
    other.load_state_dict(evaluation.state_dict())
    evaluation(200)  # what was saved does not grow
    assert other.frames == [100]
    assert other.results[0].tolist() == evaluation.results[0].tolist()


def test_an_episode_that_does_not_end_is_cut_and_said_so_once():
    """Pendulum never ends before its limit of 200 steps."""
    evaluation, _ = build(2, name="Pendulum-v1")
    evaluation.policy = lambda observation: torch.zeros(1)
    whole = evaluation.evaluate()
    evaluation.max_steps = 3
    with pytest.warns(UserWarning, match=r"within eval\.max_steps=3 steps") as told:
        cut = evaluation.evaluate()
    assert len(told) == 1
    plain = gymnasium.make("Pendulum-v1")
    plain.reset(seed=FIRST_SEED)
    by_hand = sum(float(plain.step(np.zeros(1, np.float32))[1]) for _ in range(3))
    assert float(cut[0]) == pytest.approx(by_hand, rel=1e-5)
    assert (whole < cut).all()  # costs add up


def test_a_signal_cuts_an_evaluation_short():
    evaluation, _ = build(1)
    evaluation.is_stopped = lambda: True
    assert evaluation(0).tolist() == []


def run_evaluation(**changes):
    from recipe_fixtures import configure, tiny

    from torchrl_recall.trainers.hosts.sac import SAC

    torch.manual_seed(0)
    config = configure(tiny("none", env__name="point_free4", **changes))
    env = make_env(config.env.name)
    host = SAC(env, config, torch.device("cpu"))
    return MeanReturn(host.actor, config, torch.device("cpu"))


def test_all_episodes_run_at_once_where_a_task_has_a_vector_version():
    evaluation = run_evaluation(eval__num_episodes=40)
    rng = torch.get_rng_state()
    first, second = evaluation.evaluate(), evaluation.evaluate()
    assert first.shape == (40,)
    assert torch.equal(first, second)  # the same episodes each time
    assert set(first.tolist()) <= {0.0, 1.0}
    assert torch.equal(rng, torch.get_rng_state())


def test_frames_to_the_first_of_two_evaluations_at_the_target():
    evaluation = run_evaluation(eval__target_return=0.5)
    assert not evaluation.reached_target
    for frames, value in enumerate((0.6, 0.4, 0.5, 0.9, 0.1), start=1):
        evaluation.frames.append(frames)
        evaluation.results.append(torch.full((3,), value, dtype=torch.float64))
    assert evaluation.frames_to_target() == 3
    assert evaluation.reached_target
    other = run_evaluation()
    other.frames, other.results = evaluation.frames, evaluation.results
    assert other.frames_to_target() is None  # no target was asked for
    assert other.finish(Path()) == {}
