"""SAC with hindsight: goals that were reached later, whole batches and its state."""

from __future__ import annotations

import copy

import torch
from goal_fixtures import parts

from torchrl_recall.trainers.hosts.hindsight_sac import HindsightSAC


def build(**changes):
    return parts("none", host="hindsight_sac", sac__num_updates=3, **changes)


def test_hindsight_gives_goals_that_were_reached_later():
    built = build(hindsight__ratio=1.0, hindsight__batch_size=512)
    env, host = built.env, built.host
    assert isinstance(host, HindsightSAC)
    data = built.collector.collect(torch.full((12, 2), 0.95))
    host.update(data)
    batch = host.replay_buffer.sample()
    goal, reached = batch["desired_goal"], batch["next", "terminated"]
    assert torch.equal(batch["next", "desired_goal"], goal)
    assert torch.equal(batch["next", "reward"], reached.float())
    near = (batch["next", "observation"] - goal).norm(dim=-1, keepdim=True) <= env.goal_radius
    assert torch.equal(near, reached)
    # each goal is a position of the same row, at this step or later
    rows = data["next", "observation"]
    row, time = batch["index"] // 10, batch["index"] % 10
    same = (rows[row] == goal.unsqueeze(1)).all(-1)
    later = torch.arange(10) >= time.unsqueeze(1)
    assert (same & later).any(1).all()
    assert not torch.equal(goal, torch.full_like(goal, 0.95))


def test_without_hindsight_goals_stay():
    built = build(hindsight__ratio=0.0)
    built.host.update(built.collector.collect(torch.full((12, 2), 0.95)))
    assert (built.host.replay_buffer.sample()["desired_goal"] == 0.95).all()


def test_the_hindsight_buffer_holds_whole_batches():
    built = build(hindsight__buffer_size=500)
    for _ in range(3):
        built.host.update(built.collector.collect(torch.zeros(12, 2)))
    assert len(built.host.replay_buffer) == 480  # 2 batches of 24 environments, 10 steps each


def test_the_last_step_of_each_row_ends_it():
    """The rows that follow in the buffer are another environment's."""
    built = build()
    built.host.update(built.collector.collect(torch.full((12, 2), 0.95)))
    done = built.host.replay_buffer[:]["next", "done"].reshape(24, 10)
    assert done[:, -1].all()


def test_state_goes_on_bitwise():
    built, other = build(), build()
    data = built.collector.collect(torch.zeros(12, 2))
    built.host.update(data)
    other.host.load_state_dict(copy.deepcopy(built.host.state_dict()))
    assert len(other.host.replay_buffer) == len(built.host.replay_buffer) == 240
    told = []
    for host in (built.host, other.host):
        torch.manual_seed(2)
        told.append(host.update(data))
    assert all(torch.equal(told[0][key], told[1][key]) for key in told[0])
    pairs = zip(*(x.host.loss_module.parameters() for x in (built, other)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
