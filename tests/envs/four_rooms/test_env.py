import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from torchrl.envs import GymEnv, ParallelEnv, SerialEnv, check_env_specs

from torchrl_recall.envs import FourRoomsEnv, FourRoomsGymEnv, FourRoomsLayout


@pytest.mark.parametrize("size", [5, 7, 9, 11, 13, 15, 19])
def test_four_rooms_are_joined_by_four_doors(size):
    layout = FourRoomsLayout(size, start="uniform")
    room = size // 2 - 1
    assert len(layout.free) == 4 * room**2 + 4
    assert len(layout.starts) == len(layout.free) - 1
    middle = size // 2
    assert int((~layout.walls[middle]).sum()) == int((~layout.walls[:, middle]).sum()) == 2
    assert layout.distances()[layout.free].isfinite().all()


def test_opposite_starts_are_the_room_across():
    layout = FourRoomsLayout(11)
    rows, columns = layout.starts // 11, layout.starts % 11
    assert len(layout.starts) == 16
    assert int(rows.max()) == int(columns.max()) == 4
    other = FourRoomsLayout(11, goal=(1, 9))
    assert int((other.starts // 11).min()) == 6
    assert int((other.starts % 11).max()) == 4


def test_distances_are_those_of_a_breadth_first_search():
    layout = FourRoomsLayout(9, start="uniform")
    distance, frontier, steps = {layout.goal: 0}, [layout.goal], 0
    while frontier:
        steps += 1
        reached = []
        for cell in map(int, layout.free):
            if cell not in distance and set(layout.next_cell[cell].tolist()) & set(frontier):
                reached.append(cell)
        for cell in reached:
            distance[cell] = steps
        frontier = reached
    expected = torch.full((81,), float("inf"))
    for cell, number in distance.items():
        expected[cell] = number
    assert layout.distances().equal(expected)


def test_transitions_are_probabilities():
    for slip in (0.0, 0.3):
        source, action, following, probability = FourRoomsLayout(7, slip=slip).transitions()
        layout = FourRoomsLayout(7, slip=slip)
        total = torch.zeros(49 * 4, dtype=torch.float64).index_add(
            0, source * 4 + action, probability
        )
        expected = torch.zeros(49, 4, dtype=torch.float64)
        expected[layout.free[layout.free != layout.goal]] = 1
        torch.testing.assert_close(total.reshape(49, 4), expected)
        assert not (source == layout.goal).any()
        assert not layout.walls.flatten()[following].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 3}, "size must be an odd integer of at least 5"),
        ({"size": 12}, "size must be an odd integer"),
        ({"size": 11.0}, "size must be an odd integer"),
        ({"size": 11, "goal": (5, 5)}, "the goal is (5, 5), which is a wall"),
        ({"size": 11, "goal": (11, 0)}, "outside the grid"),
        ({"size": 11, "goal": (-1, 3)}, "outside the grid"),
        ({"size": 11, "start": (0, 0)}, "the start is (0, 0), which is a wall"),
        ({"size": 11, "start": (9, 9)}, "the start is the goal"),
        ({"size": 11, "start": "far"}, "start must be 'opposite', 'uniform' or a cell"),
        ({"size": 11, "goal": (5, 2)}, "needs a goal inside a room"),
        ({"size": 11, "slip": 1.0}, "slip must be in [0, 1)"),
        ({"size": 11, "slip": -0.1}, "slip must be in [0, 1)"),
        ({"size": 11, "slip": float("nan")}, "slip must be in [0, 1)"),
        ({"size": 11, "max_steps": 0}, "max_steps must be an integer of at least 1"),
        # Both doors of the goal's room closed.
        (
            {"size": 11, "blocked": [(5, 8), (8, 5)]},
            "the goal (9, 9) cannot be reached from 16 of the 16 start cells",
        ),
        # The starts' room is open, another one is cut off.
        (
            {"size": 11, "start": "uniform", "blocked": [(2, 5), (5, 8)]},
            "cannot be reached from 16 of the",
        ),
    ],
)
def test_impossible_tasks_are_refused(arguments, message):
    with pytest.raises(ValueError, match="^.*" + __import__("re").escape(message)):
        FourRoomsEnv(**arguments)


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
    count, done = rollout["step_count"], rollout["next", "done"].squeeze(-1)
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
    gym_env = gymnasium.make("torchrl_recall/FourRooms-v0", size=5, disable_env_checker=True)
    gym_env.reset(seed=0)
    with pytest.raises(ValueError, match="an action must be 0"):
        gym_env.step(action)


def test_gymnasium_contract():
    check_gymnasium_env(FourRoomsGymEnv(7, slip=0.1, render_mode="rgb_array"))
    check_env_specs(GymEnv("torchrl_recall/FourRooms-v0", size=7))


def test_both_environments_are_the_same_task():
    gym_env = gymnasium.make("torchrl_recall/FourRooms-v0", size=9, max_steps=40)
    env = FourRoomsEnv(9, max_steps=40)
    rng = np.random.default_rng(0)
    for seed in range(5):
        cell, _ = gym_env.reset(seed=seed)
        data = env.reset().set("observation", torch.tensor(int(cell)))
        done = False
        while not done:
            action = int(rng.integers(4))
            cell, reward, terminated, truncated, _ = gym_env.step(action)
            data = env.step(data.set("action", torch.tensor(action)))["next"]
            done = terminated or truncated
            assert int(data["observation"]) == cell
            assert data["reward"].item() == reward
            assert data["terminated"].item() == terminated
            assert data["truncated"].item() == truncated


def test_pictures_show_walls_goal_agent_values_and_traces():
    env = FourRoomsEnv(5, start=(1, 1), batch_size=[1])
    plain = env.render(pixels=8)
    assert plain.shape == (40, 40, 3)
    assert plain.dtype == np.uint8
    assert (plain[:8] == 0).all()  # the wall
    assert (plain[24:32, 24:32] == (60, 170, 90)).all()  # the goal
    assert (plain[8:16, 8:16] == 255).all()
    agent = env.render(env.reset(), pixels=8)
    assert (agent[12, 12] == (240, 140, 30)).all()
    values = torch.zeros(25)
    values[7] = 3.0
    shaded = env.render(values=values, traces=torch.tensor([[8]]), pixels=8)
    assert (shaded[8:16, 16:24] == (33, 82, 165)).all()
    assert (shaded[12, 28] == (200, 40, 60)).all()


def test_rendering_a_gymnasium_environment():
    env = gymnasium.make("torchrl_recall/FourRooms-v0", size=5, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (80, 80, 3)
