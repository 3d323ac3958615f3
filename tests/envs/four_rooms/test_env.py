"""The four-room grid world: moves by hand, resets, and TorchRL's contracts."""

from __future__ import annotations

import pytest
import torch
from torchrl.envs import ParallelEnv, SerialEnv, check_env_specs

from torchrl_recall.envs import FourRoomsEnv


def test_impossible_tasks_are_refused():
    with pytest.raises(ValueError, match="max_steps must be an integer of at least 1"):
        FourRoomsEnv(11, max_steps=0)
    with pytest.raises(ValueError, match="size must be an odd integer"):
        FourRoomsEnv(12)


def test_torchrl_contract_eager_serial_and_parallel():
    check_env_specs(FourRoomsEnv(7))
    check_env_specs(FourRoomsEnv(7, start="uniform", slip=0.2, batch_size=[3, 2]))
    for kind in (SerialEnv, ParallelEnv):
        env = kind(2, lambda: FourRoomsEnv(7))
        try:
            check_env_specs(env)
            assert env.rollout(5).shape == (2, 5)
        finally:
            env.close()


@pytest.mark.parametrize("slip", [0.0, 0.3])
def test_compiled_steps_are_eager_steps(slip):
    env = FourRoomsEnv(9, slip=slip, batch_size=[16])
    check_env_specs(env)
    env.generator = torch.default_generator  # of which a graph draws
    step = torch.compile(env._step, fullgraph=True, options={"fallback_random": True})
    data = env.reset()
    for seed in range(20):
        data["action"] = torch.randint(4, (16,), generator=torch.Generator().manual_seed(seed))
        torch.manual_seed(seed)
        eager = env._step(data)
        torch.manual_seed(seed)
        compiled = step(data)
        for key, value in eager.items():
            assert compiled[key].equal(value), key
        data = env.step_mdp(data.set("next", eager))


def test_moves_walls_and_reward():
    env = FourRoomsEnv(5, start=(1, 1), max_steps=6)
    cells = []
    data = env.reset()
    for action in (0, 1, 1, 2, 2):  # a bump at the top, then right through the door and down
        data = env.step(data.set("action", torch.tensor(action)))["next"]
        cells.append(divmod(int(data["observation"]), 5))
    assert cells == [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3)]
    assert data["reward"].item() == 1
    assert data["terminated"].item()
    assert data["done"].item()
    assert not data["truncated"].item()


def test_time_limit_truncates_but_a_goal_on_the_last_step_terminates():
    env = FourRoomsEnv(5, start=(2, 3), max_steps=1)
    up = env.step(env.reset().set("action", torch.tensor(0)))["next"]
    assert up["truncated"].item()
    assert up["done"].item()
    assert not up["terminated"].item()
    down = env.step(env.reset().set("action", torch.tensor(2)))["next"]
    assert down["terminated"].item()
    assert not down["truncated"].item()


def test_partial_resets_leave_the_others_alone():
    torch.manual_seed(0)
    env = FourRoomsEnv(7, start="uniform", batch_size=[64], max_steps=9)
    rollout = env.rollout(200, break_when_any_done=False)
    count, done = rollout["elapsed_steps"], rollout["next", "done"].squeeze(-1)
    following = rollout["next", "observation"]
    goes_on = ~done[:, :-1]
    assert count[:, 1:][goes_on].equal(count[:, :-1][goes_on] + 1)
    assert (count[:, 1:][~goes_on] == 0).all()
    assert rollout["observation"][:, 1:][goes_on].equal(following[:, :-1][goes_on])
    assert (rollout["observation"] != env.layout.goal).all()
    assert int(done.sum()) > 500


def test_steps_follow_the_table_of_transitions():
    torch.manual_seed(0)
    env = FourRoomsEnv(5, start="uniform", slip=0.4, batch_size=[4096])
    rollout = env.rollout(50, break_when_any_done=False)
    source, action, following, probability = env.layout.transitions()
    triple = (rollout["observation"] * 4 + rollout["action"]) * 25 + rollout["next", "observation"]
    counts = torch.bincount(triple.flatten(), minlength=25 * 4 * 25).double()
    tried = counts.reshape(100, 25).sum(1)
    index = (source * 4 + action) * 25 + following
    assert counts.sum() == counts[index].sum()  # nothing outside the table
    error = counts[index] / tried[source * 4 + action] - probability
    deviation = (probability * (1 - probability) / tried[source * 4 + action]).sqrt()
    assert float((error.abs() / deviation.clamp_min(1e-9))[probability < 1].max()) < 5


@pytest.mark.parametrize("action", [-1, 4])
def test_actions_out_of_range_are_refused(action):
    env = FourRoomsEnv(5, batch_size=[2])
    data = env.reset().set("action", torch.tensor([0, action]))
    with pytest.raises(ValueError, match="actions must be 0"):
        env.step(data)
