"""Goals and first states that an algorithm sets, tried on the point mass."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from torchrl_recall.envs import PointMassEnv


def test_a_goal_is_rewarded_and_ends_the_episode():
    env = PointMassEnv(2, step_size=0.1, goal_radius=0.1, batch_size=[2])
    goals = TensorDict({"desired_goal": torch.tensor([[0.2, 0.0], [0.9, 0.0]])}, [2])
    state = env.reset(goals, set_state=True)
    state["action"] = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    after = env.step(state)["next"]
    assert after["reward"].squeeze(-1).tolist() == [1.0, 0.0]
    assert after["terminated"].squeeze(-1).tolist() == [True, False]


def test_an_episode_is_truncated():
    env = PointMassEnv(2, max_steps=3, batch_size=[1])
    env.set_goals(torch.tensor([[1.0, 1.0]]))
    rollout = env.rollout(3, lambda td: td.set("action", torch.zeros(1, 2)))
    assert rollout["next", "truncated"].flatten().tolist() == [False, False, True]
    assert not rollout["next", "terminated"].any()


def test_goals_are_those_that_were_set():
    env = PointMassEnv(2, max_steps=2, batch_size=[512])
    goals = torch.tensor([[0.9, 0.9], [-0.9, 0.9], [0.9, -0.9]])
    env.set_goals(goals)
    seen = env.rollout(4, break_when_any_done=False)["desired_goal"].reshape(-1, 2)
    assert torch.equal(seen.unique(dim=0), goals.unique(dim=0))


def test_assigned_goals_stay_with_their_environments():
    env = PointMassEnv(2, max_steps=2, batch_size=[3])
    goals = torch.tensor([[0.9, 0.9], [-0.9, 0.9], [0.9, -0.9]])
    env.assign_goals(goals)
    seen = env.rollout(6, break_when_any_done=False)["desired_goal"]
    assert torch.equal(seen, goals.unsqueeze(1).expand(3, 6, 2))
    with pytest.raises(ValueError, match="one for each"):
        env.assign_goals(goals[:2])


def test_episodes_begin_where_they_are_told():
    env = PointMassEnv(2, maze="u", batch_size=[3])
    starts = env.sample_goals(3)
    state = env.reset(TensorDict({"observation": starts}, [3]), set_state=True)
    assert torch.equal(state["observation"], starts)


def test_goals_inside_the_wall_are_tried_and_never_reached():
    env = PointMassEnv(2, maze="u", goal_radius=0.1, batch_size=[64])
    inside = torch.tensor([[-0.5, 0.0]])
    assert not env.is_valid(inside).any()
    env.set_goals(inside)
    assert not env.rollout(200, break_when_any_done=False)["next", "terminated"].any()


@pytest.mark.parametrize(
    "goals", [torch.zeros(4, 3), torch.zeros(2), torch.zeros(0, 2), torch.full((1, 2), torch.nan)]
)
def test_bad_goals(goals):
    with pytest.raises(ValueError, match="goals"):
        PointMassEnv(2).set_goals(goals)


def test_a_start_in_the_wall_is_refused():
    env = PointMassEnv(2, maze="u", batch_size=[1])
    with pytest.raises(ValueError, match="inside a wall"):
        env.reset(TensorDict({"observation": torch.tensor([[-0.5, 0.0]])}, [1]), set_state=True)


def test_actions_are_clipped_and_finite():
    env = PointMassEnv(2, step_size=0.1, batch_size=[1])
    after = env.step(env.reset().set("action", torch.tensor([[3.0, -0.5]])))["next"]
    assert torch.allclose(after["observation"], torch.tensor([[0.1, -0.05]]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        env.step(env.reset().set("action", torch.full((1, 2), torch.nan)))


def test_a_fresh_start_ignores_what_the_tensordict_holds():
    env = PointMassEnv(2, batch_size=[1])
    env.set_goals(torch.tensor([[0.7, 0.7]]))
    old = env.reset()
    old["observation"] += 0.5
    old["desired_goal"] -= 0.1
    fresh = env.reset(old, set_state=False)
    assert torch.equal(fresh["observation"], env.reset()["observation"])
    assert fresh["desired_goal"].tolist() == [pytest.approx([0.7, 0.7])]


@pytest.mark.parametrize("key", ["observation", "desired_goal"])
def test_first_states_and_goals_have_their_shape(key):
    env = PointMassEnv(2, batch_size=[3])
    with pytest.raises(ValueError, match=rf"{key} must have the shape \(3, 2\), got \(3, 1\)"):
        env.reset(TensorDict({key: torch.zeros(3, 1)}, [3]), set_state=True)


def test_a_goal_that_is_nan_is_refused_at_the_start():
    env = PointMassEnv(2, batch_size=[1])
    goal = TensorDict({"desired_goal": torch.full((1, 2), torch.nan)}, [1])
    with pytest.raises(ValueError, match="the goals hold NaN"):
        env.reset(goal, set_state=True)


def test_no_valid_goal_is_an_error_and_no_endless_search(monkeypatch):
    env = PointMassEnv(2)
    nowhere = lambda states: torch.zeros(len(states), dtype=torch.bool)  # noqa: E731
    monkeypatch.setattr(env, "is_valid", nowhere)
    with pytest.raises(ValueError, match="is_valid was False for each"):
        env.sample_goals(4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_goals_and_states_get_the_dtype_of_their_spec(dtype):
    env = PointMassEnv(2, batch_size=[3])
    env.set_goals(torch.tensor([[1, 0]], dtype=dtype))
    assert env.reset()["desired_goal"].dtype == torch.float32
    env.assign_goals(torch.ones(3, 2, dtype=dtype))
    assert env.reset()["desired_goal"].dtype == torch.float32
    first = {key: torch.zeros(3, 2, dtype=dtype) for key in ("observation", "desired_goal")}
    after = env.reset(TensorDict(first, [3]), set_state=True)
    assert after["observation"].dtype == after["desired_goal"].dtype == torch.float32


def test_replays_of_nothing_and_of_nan():
    env = PointMassEnv(2)
    assert env.replay(torch.zeros(1, 2), torch.zeros(1, 0, 2)).shape == (1, 0, 2)
    with pytest.raises(ValueError, match="an action is NaN or infinite"):
        env.replay(torch.zeros(1, 2), torch.full((1, 2, 2), torch.nan))
