"""Prioritised replay: its schedule, priorities and state."""

from __future__ import annotations

import copy

import pytest
import torch
from four_rooms_fixtures import experience, parts, tiny

from torchrl_recall.trainers.hosts.prioritized_replay import PrioritizedReplay


def priorities(buffer):
    return torch.as_tensor(buffer.sampler._sum_tree[torch.arange(len(buffer))])


def test_priorities_are_temporal_difference_errors():
    _, built = parts("recall=prioritized_replay", "env.size=5", "seeds=[0,1]")
    replay, a2c = built.recall, built.host
    assert type(replay) is PrioritizedReplay
    replay.extend(experience(built, 100))
    before = a2c.policy_table()
    replay.step()
    assert not torch.equal(a2c.policy_table(), before)
    for buffer in replay.buffers:
        found = priorities(buffer)
        assert len(found) == 400
        rewarded = buffer[:]["next", "reward"].squeeze(-1) > 0
        assert rewarded.any()
        # What was replayed without a surprise has lost its priority.
        assert found[~rewarded].min() < found[rewarded].max()


def test_the_first_priorities_by_hand():
    """All values begin at zero, so an error is the reward: p = (|r| + 1e-8) ** 0.6."""
    words = ["seeds=[0]", "env.size=5", "prioritized_replay.num_updates=1"]
    _, built = parts("recall=prioritized_replay", "prioritized_replay.alpha=0.6", *words)
    replay = built.recall
    replay.extend(experience(built, 100))
    (buffer,) = replay.buffers
    reward = buffer[:]["next", "reward"].squeeze(-1)
    replay.step()
    found = priorities(buffer)
    assert found[reward > 0].tolist() == pytest.approx([1.0] * int((reward > 0).sum()), rel=1e-3)
    replayed = found < 0.5  # those that were not replayed keep the highest priority
    assert replayed.any()
    assert not reward[replayed].any()
    assert found[replayed].tolist() == pytest.approx([1e-8**0.6] * int(replayed.sum()), rel=1e-3)


def test_replays_are_due_every_interval_once_there_is_a_batch():
    words = tiny("prioritized_replay", prioritized_replay__interval=2)
    _, built = parts(*words, "prioritized_replay.batch_size=64")
    replay, moved = built.recall, []
    for _ in range(6):
        replay.extend(built.collector.collect())  # 32 frames of each seed
        before = [p.detach().clone() for p in built.host.parameters]
        assert replay.step() == {}
        moved.append(
            any(not torch.equal(p, b) for p, b in zip(built.host.parameters, before, strict=True))
        )
    assert moved == [False, True, False, True, False, True]


def test_state_goes_on_bitwise():
    words = tiny("prioritized_replay")
    _, built = parts(*words)
    _, other = parts(*words)
    data = built.collector.collect()
    for each in (built, other):
        each.recall.extend(data.clone())
    built.recall.step()  # priorities and numbers of this one are ahead
    other.host.load_state_dict(copy.deepcopy(built.host.state_dict()))
    other.recall.load_state_dict(copy.deepcopy(built.recall.state_dict()))
    for each in (built, other):
        each.recall.extend(data.clone())
        each.recall.step()
    assert torch.equal(built.host.policy_table(), other.host.policy_table())
    for ours, theirs in zip(built.recall.buffers, other.recall.buffers, strict=True):
        assert torch.equal(priorities(ours), priorities(theirs))
