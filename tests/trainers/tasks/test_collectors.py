"""Frames of one environment, or of several, and the policies that choose their actions."""

from __future__ import annotations

import warnings

import pytest
import torch
from recipe_fixtures import configure, load, short, summary, tiny, train
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.envs import ExplorationType

from torchrl_recall.trainers.hosts.sac import SAC
from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.acting import make_policy
from torchrl_recall.trainers.tasks.collectors import make_collector
from torchrl_recall.trainers.tasks.gym import make_env
from torchrl_recall.trainers.tasks.step_collector import StepCollector

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory


def build(seed: int, name: str = "Hopper-v5", **frames):
    env = make_env(name)
    torch.manual_seed(0)
    actor = SAC(env, configure(tiny()), CPU).actor
    env.set_seed(seed)
    frames = {"frames_per_batch": 1, "total_frames": 100, "init_random_frames": 5} | frames
    policy = make_policy(actor, ExplorationType.RANDOM, compile=False)
    return StepCollector(env, policy, **frames)


def collect(collector, n):
    return [collector.collect() for _ in range(n)]


@pytest.mark.parametrize("frames_per_batch", [1, 7])
def test_frames_are_those_of_torchrls_collector(frames_per_batch):
    name = short("Hopper-v5")  # 60 steps cross several ends of episodes
    env = make_env(name)
    actor = SAC(env, configure(tiny()), CPU).actor
    policy = make_policy(actor, ExplorationType.DETERMINISTIC, compile=False)
    sizes = {"frames_per_batch": frames_per_batch, "total_frames": 63, "init_random_frames": 0}
    env.set_seed(3)
    ours = torch.cat(list(StepCollector(env, policy, **sizes)))

    reference = make_env(name)
    reference.set_seed(3)
    collector = Collector(
        reference, TensorDictModule(policy, ["observation"], ["action"]),
        auto_register_policy_transforms=False, **sizes
    )  # fmt: skip
    theirs = torch.cat([data.clone() for data in collector])
    assert theirs["next", "done"].any()
    assert ours.shape == theirs.shape == (63,)
    for key in ours.keys(True, True):
        assert ours[key].dtype == theirs[key].dtype
        assert torch.equal(ours[key], theirs[key]), key
    collector.shutdown()


def test_random_frames_come_first_and_the_number_of_frames_is_kept():
    collector = build(1, init_random_frames=4, total_frames=10)
    calls = []
    policy = collector.policy
    collector.policy = lambda observation: calls.append(1) or policy(observation)
    assert len(list(collector)) == collector.frames == 10
    assert len(calls) == 6
    collector.shutdown()
    assert collector.env.is_closed


@pytest.mark.parametrize("exploration", [ExplorationType.RANDOM, ExplorationType.DETERMINISTIC])
def test_compiled_policies_are_eager_ones(exploration):
    env = make_env("Hopper-v5")
    actor = SAC(env, configure(tiny()), CPU).actor
    policies = [make_policy(actor, exploration, compile=compile) for compile in (False, True)]
    observations = torch.randn(5, 11)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*could not be compiled.*")
        for _ in range(2):  # again after the weights have changed
            actions = []
            for policy in policies:
                torch.manual_seed(4)
                actions.append(torch.stack([policy(o) for o in observations]))
            torch.testing.assert_close(*actions)
            again = policies[1](observations[0])
            assert torch.equal(again, policies[1](observations[0])) == (
                exploration is ExplorationType.DETERMINISTIC
            )
            with torch.no_grad():
                for parameter in actor.parameters():
                    parameter.add_(0.1)


def test_a_collector_goes_on_where_another_was():
    collector = build(1)
    last = collect(collector, 8)[-1]
    state, rng = collector.state_dict(), torch.get_rng_state()
    assert torch.equal(state["observation"], last["next", "observation"][0])
    expected = collect(collector, 20)
    other = build(2)
    assert other.load_state_dict(state, 8)
    torch.set_rng_state(rng)
    got = collect(other, 20)
    assert all((a == b).all() for a, b in zip(got, expected, strict=True))
    assert other.frames == 28


@pytest.mark.parametrize("reason", ["not saved", "nan"])
def test_a_new_episode_starts_where_the_old_one_cannot_go_on(reason):
    state = build(1).state_dict()
    if reason == "nan":
        state["observation"] = torch.full_like(state["observation"], float("nan"))
    else:
        state["env"] = None
    other = build(2)
    start = other.state_dict()["observation"]
    with pytest.warns(UserWarning, match="new"):
        assert not other.load_state_dict(state, 3)
    assert torch.equal(other.collect()["observation"][0], start)
    assert other.frames == 4


def test_several_environments_fill_one_batch():
    env = make_env("Hopper-v5")
    config = configure(
        tiny(collector__num_envs=2, collector__frames_per_batch=8, collector__total_frames=96)
    )
    actor = SAC(env, config, CPU).actor
    collector = make_collector(env, actor, config, CPU)
    data = [batch.clone() for batch in collector]
    collector.shutdown()
    assert [batch.shape for batch in data] == [(2, 4)] * 12
    rows = torch.cat(data, 1)
    assert not torch.equal(rows["observation"][0], rows["observation"][1])
    follows = (rows["next", "observation"][:, :-1] == rows["observation"][:, 1:]).all(-1)
    assert (follows | rows["next", "done"][:, :-1, 0]).all()


def test_frames_must_be_shared_evenly():
    with pytest.raises(ConfigError, match=r"frames_per_batch=3 .*num_envs=2"):
        configure(tiny(collector__num_envs=2, collector__frames_per_batch=3))


def test_a_run_with_several_environments_goes_on_in_new_episodes(tmp_path):
    words = tiny(collector__num_envs=2, collector__frames_per_batch=8)
    run = tmp_path / "run"
    assert train(run, words) == 0
    assert summary(run)["frames"] == 160
    _, state = load(run)
    assert len(state["replay_buffer"]["rows"]) == state["recall"]["schedule"]["frames"] == 160
    with pytest.warns(UserWarning, match="new episodes"):
        train(run, [*words, "collector.total_frames=240", "resume=auto"])
    assert summary(run)["frames"] == 240


def test_methods_of_one_seed_find_the_first_reward_in_the_same_step():
    from torchrl_recall.trainers.tasks.step_collector import StepCollector

    def first_reward(numbers_drawn: int) -> tuple[int, list]:
        env = make_env("point_umaze", seed=3)
        collector = StepCollector(
            env, lambda observation: torch.zeros(2), frames_per_batch=1, total_frames=2_000,
            init_random_frames=1, random_until_reward=True, seed=3,
        )  # fmt: skip
        actions = []
        for data in collector:
            torch.rand(numbers_drawn)  # as another method's updates do
            actions.append(data["action"])
            if data["next", "reward"] > 0:
                following = next(iter(collector))
                assert (following["action"] == 0).all()  # the policy acts now
                return len(actions), actions
        raise AssertionError("no reward was found")

    one, other = first_reward(0), first_reward(7)
    assert one[0] == other[0] > 1
    assert all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))
