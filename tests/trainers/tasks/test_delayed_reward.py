"""Rewards that are paid late."""

from __future__ import annotations

import gymnasium
import pytest
from recipe_fixtures import configure, metrics, sha256, stopped_copy, tiny, train

from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.delayed_reward import DelayedReward


class Ones(gymnasium.Env):
    """Pays 1, 2, 3, ... and ends after seven steps."""

    observation_space = action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return 0, {}

    def step(self, action):
        self.steps += 1
        return 0, float(self.steps), self.steps == 7, False, {}


@pytest.mark.parametrize(
    ("delay", "paid"),
    [
        (1, [1, 2, 3, 4, 5, 6, 7]),
        (3, [0, 0, 6, 0, 0, 15, 7]),
        (10, [0, 0, 0, 0, 0, 0, 28]),
        ("end", [0, 0, 0, 0, 0, 0, 28]),
    ],
)
def test_by_hand_in_two_episodes(delay, paid):
    task = DelayedReward(Ones(), delay)
    for _ in range(2):
        task.reset(seed=0)
        assert [task.step(0)[1] for _ in range(7)] == paid


def test_what_is_owed_is_not_paid_in_the_next_episode():
    task = DelayedReward(Ones(), 3)
    task.reset()
    task.step(0)
    task.reset()
    assert [task.step(0)[1] for _ in range(3)] == [0, 0, 6]


@pytest.mark.parametrize("delay", ["7", "end"])
def test_runs_go_on_bitwise_in_mid_payment(delay, tmp_path):
    words = tiny("none", env__delay=delay, env__name="Hopper-v5")
    assert train(tmp_path / "whole", words) == 0
    again = stopped_copy(tmp_path / "whole", tmp_path / "again", 120)
    assert train(again, [*words, "resume=auto"]) == 0
    assert sha256(again) == sha256(tmp_path / "whole")
    assert metrics(again) == metrics(tmp_path / "whole")
    plain = [word for word in words if not word.startswith("env.delay")]
    assert train(tmp_path / "plain", plain) == 0
    assert sha256(tmp_path / "plain") != sha256(again)


@pytest.mark.parametrize("delay", ["0", "-1", "late", "1.5"])
def test_other_delays_are_named(delay):
    with pytest.raises(ConfigError, match=r"env\.delay"):
        configure(tiny(env__delay=delay))
