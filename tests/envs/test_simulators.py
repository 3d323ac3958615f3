"""Simulators in observed states: they go on as the task did, and know what cannot be."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from torchrl.envs import (
    ActionDiscretizer,
    Compose,
    FrameSkipTransform,
    GymEnv,
    ObservationNorm,
    RewardSum,
    StepCounter,
    TransformedEnv,
)

from torchrl_recall.envs import (
    FourRoomsEnv,
    GoalMazeEnv,
    MuJoCoSimulator,
    PointMassEnv,
    Simulator,
    make_simulator,
)
from torchrl_recall.trainers.tasks.gym import make_env

pytestmark = pytest.mark.filterwarnings("ignore")


def episode(task: gymnasium.Env, num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States and actions of a random episode, ``[num_steps + 1, dim]`` and ``[num_steps, *]``."""
    task.action_space.seed(1)
    states, actions = [task.reset(seed=3)[0]], []
    for _ in range(num_steps):
        actions.append(task.action_space.sample())
        states.append(task.step(actions[-1])[0])
    return torch.from_numpy(np.array(states)), torch.from_numpy(np.array(actions))


@pytest.mark.parametrize(
    ("name", "num_steps"),
    [
        ("Hopper-v5", 8), ("HalfCheetah-v5", 8), ("Ant-v5", 8), ("InvertedPendulum-v5", 8),
        ("Pendulum-v1", 8), ("CartPole-v1", 8), ("Acrobot-v1", 8), ("MountainCar-v0", 8),
        ("point_umaze", 8), ("pendulum_swingup", 8), ("torchrl_recall/FourRooms-v0", 8),
    ],
)  # fmt: skip
def test_a_simulator_goes_on_as_the_task_did(name, num_steps):
    states, actions = episode(gymnasium.make(name), num_steps)
    simulator = make_simulator(gymnasium.make(name))
    assert isinstance(simulator, Simulator)
    assert simulator.is_valid(states[:1]).all()
    path = simulator.replay(states[:1], actions[None])[0]
    expected = simulator.coordinates(states[1:])
    assert torch.allclose(simulator.coordinates(path), expected, atol=1e-4)
    begun = simulator.coordinates(states[:1])
    assert not torch.allclose(begun.expand_as(expected), expected, atol=1e-3)  # it moved
    assert (expected[-1] - simulator.coordinates(states[0])).abs().max() > 1e-3  # it did move


def test_order_does_not_matter():
    """Forget what the solver keeps from the step before."""
    states, actions = episode(gymnasium.make("Ant-v5"), 6)
    simulator = make_simulator(gymnasium.make("Ant-v5"))
    alone = simulator.replay(states[2:3], actions[None, 2:4])
    together = simulator.replay(states[[0, 2]], torch.stack([actions[0:2], actions[2:4]]))
    assert torch.equal(alone[0], together[1])


@pytest.mark.parametrize("name", ["Hopper-v5", "HalfCheetah-v5", "Ant-v5", "InvertedPendulum-v5"])
def test_the_simulator_observes_the_state_that_it_was_put_into(name):
    task = gymnasium.make(name)
    simulator = MuJoCoSimulator(task)
    states, _ = episode(task, 5)
    inner = task.unwrapped
    positions = inner.data.qpos.copy()
    task.reset(seed=4)
    simulator.put(states[-1].numpy())
    assert inner.data.qpos[simulator.skipped :] == pytest.approx(positions[simulator.skipped :])
    assert (inner.data.qpos[: simulator.skipped] == 0).all()
    size = simulator.coordinates(states).shape[1]
    assert size == inner.model.nq + inner.model.nv - simulator.skipped
    assert inner._get_obs()[:size] == pytest.approx(states[-1, :size].numpy())


def test_what_cannot_be_is_known():
    hopper, _ = gymnasium.make("Hopper-v5").reset(seed=0)
    states = torch.from_numpy(hopper).repeat(3, 1)
    states[1, 0] = 0.5  # fallen: the episode has ended
    states[2, 3] = torch.nan
    assert make_simulator(gymnasium.make("Hopper-v5")).is_valid(states).tolist() == [1, 0, 0]
    task = gymnasium.make("Hopper-v5", terminate_when_unhealthy=False)
    assert make_simulator(task).is_valid(states).tolist() == [1, 1, 0]

    pendulum = torch.tensor([[1.0, 0.0, 8.0], [1.0, 0.0, 8.1], [0.95, 0.0, 0.0], [0.8, 0.0, 0.0]])
    for name in ("Pendulum-v1", "pendulum_swingup"):
        assert make_simulator(gymnasium.make(name)).is_valid(pendulum).tolist() == [1, 0, 1, 0]

    cart_pole = torch.tensor([[0.0, 0.0, 0.2, 0.0], [0.0, 0.0, 0.3, 0.0], [2.5, 0.0, 0.0, 0.0]])
    assert make_simulator(gymnasium.make("CartPole-v1")).is_valid(cart_pole).tolist() == [1, 0, 0]

    place = torch.tensor([[0.0, -0.5], [0.0, 0.0], [0.0, 1.1]])
    for task in (gymnasium.make("point_umaze"), PointMassEnv(2, maze="u")):
        assert make_simulator(task).is_valid(place).tolist() == [1, 0, 0]

    rooms = FourRoomsEnv(5)  # a wall, a free cell, the goal
    assert make_simulator(rooms).is_valid(torch.tensor([0, 6, 18])).tolist() == [0, 1, 0]


def test_a_maze_goes_on_whatever_its_batch_size():
    env = GoalMazeEnv("PointMaze_UMaze-v3", batch_size=[2])
    env.set_goals(torch.tensor([[-1.0, 1.0]]))  # far, so that no episode begins again
    rollout = env.rollout(5, break_when_any_done=False)
    states = rollout["observation"][:, 0].repeat(2, 1)[:3]
    actions = rollout["action"].repeat(2, 1, 1)[:3]
    path = make_simulator(env).replay(states, actions)
    assert torch.allclose(path[:2], rollout["next", "observation"], atol=1e-5)
    assert not torch.allclose(path[:, -1], states, atol=1e-3)  # it moved
    assert torch.equal(path[0], path[2])


def test_recipes_tasks_are_unwrapped():
    env = make_env("Hopper-v5", clip_actions=True, delay=5)
    state = torch.from_numpy(gymnasium.make("Hopper-v5").reset(seed=0)[0]).float()[None]
    simulator = make_simulator(env)
    far, bound = (simulator.replay(state, torch.full((1, 3, 3), x)) for x in (7.0, 1.0))
    assert torch.equal(far, bound)


@pytest.mark.parametrize("name", ["Reacher-v5", "InvertedDoublePendulum-v5", "CliffWalking-v1"])
def test_other_observations_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} cannot be put into the state that it observes"):
        make_simulator(gymnasium.make(name))


def test_an_observation_in_other_units_is_refused():
    task = gymnasium.wrappers.TransformObservation(
        gymnasium.make("Pendulum-v1"), lambda x: 0.5 * x, gymnasium.spaces.Box(-8, 8, (3,))
    )
    with pytest.raises(ValueError, match=r"Pendulum-v1 cannot be put"):
        make_simulator(task)


def test_an_observation_without_all_velocities_is_refused():
    task = gymnasium.wrappers.TransformObservation(
        gymnasium.make("Hopper-v5"), lambda x: x[:5], gymnasium.spaces.Box(-np.inf, np.inf, (5,))
    )
    with pytest.raises(ValueError, match=r"Hopper-v5 cannot be put"):
        make_simulator(task)


def test_an_orientation_has_unit_length():
    task = gymnasium.make("Ant-v5")
    states = torch.from_numpy(task.reset(seed=0)[0]).repeat(4, 1)
    length = states[0, 1:5].norm()
    states[:, 1:5] *= torch.tensor([1.0, 1.05, 1.5, 0.0])[:, None] / length
    assert make_simulator(task).is_valid(states).tolist() == [1, 1, 0, 0]


def test_slips_and_strangers_are_refused():
    with pytest.raises(ValueError, match=r"slip with probability 0.1.*Audit with slip=0"):
        make_simulator(FourRoomsEnv(5, slip=0.1))
    with pytest.raises(ValueError, match=r"a str cannot be put.*Give an object with is_valid"):
        make_simulator("Hopper-v5")


class Line(gymnasium.Env):
    """A task of a user, which knows how to go on from any of its states."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def is_valid(self, states):
        return states.abs().le(1).all(-1)

    def replay(self, states, actions):
        return states.unsqueeze(1) + 0.1 * actions.cumsum(1)

    def coordinates(self, states):
        return states


def test_a_task_of_ones_own_with_the_methods_is_its_simulator():
    task = gymnasium.wrappers.TimeLimit(Line(), 10)
    assert make_simulator(task) is task.unwrapped
    scaled = gymnasium.wrappers.RescaleAction(task, np.float32(0), np.float32(1))
    with pytest.raises(ValueError, match="RescaleAction changes what Line observes or is given"):
        make_simulator(scaled)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GymEnv("Pendulum-v1", frame_skip=4),
        lambda: TransformedEnv(GymEnv("Pendulum-v1"), FrameSkipTransform(4)),
        lambda: TransformedEnv(
            GymEnv("Pendulum-v1"),
            Compose(StepCounter(), ObservationNorm(0.0, 0.1, ["observation"])),
        ),
        lambda: TransformedEnv(GymEnv("Pendulum-v1"), ActionDiscretizer(5)),
    ],
)
def test_changed_steps_are_refused(make):
    with pytest.raises(ValueError, match="Audit"):
        make_simulator(make())


def test_transforms_that_change_no_step_are_looked_through():
    states, actions = episode(gymnasium.make("Pendulum-v1"), 3)
    env = TransformedEnv(GymEnv("Pendulum-v1"), Compose(StepCounter(), RewardSum()))
    after = make_simulator(env).replay(states[:1].double(), actions.unsqueeze(0))
    torch.testing.assert_close(after[0], states[1:].double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_one_hot_vectors_of_any_type_are_cells_and_actions(dtype):
    env = gymnasium.make("torchrl_recall/FourRooms-v0")
    states, actions = episode(env, 4)
    num = env.observation_space.n
    one_hot = torch.nn.functional.one_hot
    after = make_simulator(env).replay(
        one_hot(states[:1], num).to(dtype), one_hot(actions, 4).to(dtype).unsqueeze(0)
    )
    assert torch.equal(after[0].long().argmax(-1), states[1:])
    car = make_simulator(gymnasium.make("MountainCar-v0"))
    kept = car.replay(torch.tensor([[-0.5, 0.0]]), one_hot(torch.tensor([[2]]), 3).to(dtype))
    assert kept[0, 0, 1] > 0


def test_a_fallen_inverted_pendulum_is_not_valid():
    angles = torch.tensor([[0.0, 0.5, 0.0, 0.0], [0.0, -0.1, 0.0, 0.0]])
    valid = make_simulator(gymnasium.make("InvertedPendulum-v5")).is_valid(angles)
    assert valid.tolist() == [False, True]


class Turned(gymnasium.ActionWrapper):
    def action(self, action):
        return (action + 1) % 4


def test_other_actions_than_those_of_the_grid_are_refused():
    task = gymnasium.make("torchrl_recall/FourRooms-v0")
    make_simulator(task)
    with pytest.raises(ValueError, match="Turned changes what"):
        make_simulator(Turned(task))


def test_cells_of_the_grid_have_coordinates_in_any_batch():
    simulator = make_simulator(FourRoomsEnv(11))
    actions = torch.tensor([[1, 2, 2], [1, 2, 2]])
    path = simulator.replay(torch.tensor([12, 13]), actions)
    assert simulator.coordinates(path).tolist() == [
        [[1, 2], [2, 2], [3, 2]], [[1, 3], [2, 3], [3, 3]],
    ]  # fmt: skip
    soft = 0.9 * torch.nn.functional.one_hot(torch.tensor([60]), 121).float()
    assert simulator.coordinates(soft).tolist() == [[5, 5]]
    assert simulator.is_valid(soft).tolist() == simulator.is_valid(torch.tensor([60])).tolist()


def test_replays_of_no_state():
    simulator = make_simulator(gymnasium.make("Pendulum-v1"))
    assert simulator.replay(torch.zeros(0, 3), torch.zeros(0, 5, 1)).shape == (0, 5, 3)
