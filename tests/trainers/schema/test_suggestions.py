import pytest

from torchrl_recall.trainers.schema import (
    A2CRecallConfig,
    GoalGANRecallConfig,
    PPORecallConfig,
    SACRecallConfig,
)
from torchrl_recall.trainers.schema.suggestions import closest


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("sac.gama", ["sac.gamma"]),
        ("recall.trace_lenght", ["recall.trace_length"]),
        ("recall.lengthy", ["recall.trace_length"]),  # by a word of it
        ("run_dirs", ["run_dir"]),
        ("recall.clamp_actions", ["backtracking.clamp_actions"]),  # in another group
        ("total_frame", ["collector.total_frames"]),
        ("lr", ["optim.lr", "recall.lr", "backtracking.lr"]),  # all as close
        ("recall.xyz", []),
        ("recal", []),  # a value, but recall is a group
        ("table_2.Hoper-v5", []),  # its keys are the user's
    ],
)
def test_a_value_resembles_values(key, known):
    assert closest(key, SACRecallConfig, is_group=False) == known


@pytest.mark.parametrize(
    ("key", "known"), [("colector", ["collector"]), ("tabel_2", ["table_2"]), ("sac.gama", [])]
)
def test_a_group_resembles_groups(key, known):
    assert closest(key, SACRecallConfig, is_group=True) == known


def test_a_word_of_a_key_in_another_group_is_too_little():
    assert closest("trpo.radius", GoalGANRecallConfig, is_group=False) == []


def test_every_schema_is_searched():
    assert closest("ppo.batchsize", PPORecallConfig, is_group=False) == ["ppo.batch_size"]
    assert closest("a2c.gama", A2CRecallConfig, is_group=False) == ["a2c.gamma"]
