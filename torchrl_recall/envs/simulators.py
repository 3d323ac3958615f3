"""Simulators that are put into observed states, to compute where actions lead from there."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.envs.classic_control import (
    AcrobotEnv,
    CartPoleEnv,
    Continuous_MountainCarEnv,
    MountainCarEnv,
    PendulumEnv,
)
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from gymnasium.spaces import Box, Discrete
from torch import Tensor
from torchrl.envs import (
    Compose,
    DeviceCastTransform,
    DTypeCastTransform,
    InitTracker,
    RenameTransform,
    RewardClipping,
    RewardScaling,
    RewardSum,
    StepCounter,
    TransformedEnv,
)

from torchrl_recall.envs.four_rooms.env import FourRoomsEnv
from torchrl_recall.envs.four_rooms.gym import FourRoomsGymEnv
from torchrl_recall.envs.four_rooms.layout import FourRoomsLayout
from torchrl_recall.envs.sparse_tasks import (
    ROUNDING,
    SPARSE_TASKS,
    SparseTask,
    from_angles,
    on_circle,
)

__all__ = ["MuJoCoSimulator", "Simulator", "make_simulator"]

# Angles that a task observes as cosine and sine, before all else.
_NUM_ANGLES: dict[type, int] = {
    PendulumEnv: 1,
    AcrobotEnv: 2,
    CartPoleEnv: 0,
    MountainCarEnv: 0,
    Continuous_MountainCarEnv: 0,
}
_HARMLESS = (  # transforms after which states and actions are those of the task
    DeviceCastTransform,
    DTypeCastTransform,
    InitTracker,
    RenameTransform,
    RewardClipping,
    RewardScaling,
    RewardSum,
    StepCounter,
)
_FALLEN = 0.2  # radians, at which InvertedPendulum-v5 ends
_OFF_UNIT = 0.1  # largest deviation of a quaternion from unit length, for imagined states
_FREE, _BALL = int(mujoco.mjtJoint.mjJNT_FREE), int(mujoco.mjtJoint.mjJNT_BALL)


@runtime_checkable
class Simulator(Protocol):
    """Interface of a task that can be put into the states that it observes."""

    def is_valid(self, states: Tensor) -> Tensor:
        """Return True for possible states in which the episode has not ended.

        The ends that are known are listed at :func:`make_simulator`.

        Args:
            states: states of shape ``[num, *state_shape]``, environment units.

        Returns:
            Booleans of shape ``[num]``.
        """

    def replay(self, states: Tensor, actions: Tensor) -> Tensor:
        """Take sequences of actions from given states.

        Args:
            states: valid states, shape ``[num, *state_shape]``, environment units.
            actions: actions of shape ``[num, steps, *action_shape]``, which are clipped to their
                bounds.

        Returns:
            The states after each action, shape ``[num, steps, *state_shape]``.
        """

    def coordinates(self, states: Tensor) -> Tensor:
        """Return the part of states that distances are computed on, shape ``[*batch, dim]``.

        Args:
            states: states of shape ``[*batch, *state_shape]``, environment units.
        """


def make_simulator(task: Any) -> Simulator:
    """Make a simulator of a task, which can be put into any state that the task observes.

    These tasks are supported:

    - MuJoCo tasks of Gymnasium whose observation begins with positions and velocities, such as
      Hopper-v5. Positions that are not observed are set to zero. Other parts of the observation,
      such as contact forces, are not compared. If an observation clips velocities, as Hopper's does
      at 10, the clipped ones are used. A state is not valid if it would end the episode as
      unhealthy, or if a quaternion is more than 0.1 off unit length.
    - Pendulum, Acrobot, CartPole and MountainCar, and the small sparse tasks of this package.
      States are not valid out of bounds, in walls, or if cosine and sine of an angle are more than
      0.1 off the unit circle.
    - The four rooms without slips, where walls and the goal are not valid. Distances are computed
      on row and column.
    - A :class:`~torchrl_recall.envs.GoalEnv`, and any other object with the methods of
      :class:`Simulator`. A task of your own that has them is audited in the recipes too.

    Args:
        task: a task of Gymnasium or TorchRL, possibly in wrappers that do not change its states.
            The simulator steps it, so do not collect from the same object.

    Returns:
        The simulator.

    Raises:
        ValueError: the task cannot be put into the state that it observes, or a transform or
            ``frame_skip`` of TorchRL changes what a step is.

    Examples:
        >>> import gymnasium, torch
        >>> from torchrl_recall.envs import make_simulator
        >>> simulator = make_simulator(gymnasium.make("Pendulum-v1"))
        >>> hanging = torch.tensor([[-1.0, 0.0, 0.0]])
        >>> after = simulator.replay(hanging, torch.zeros(1, 2, 1))[0, -1]
        >>> torch.allclose(after, hanging[0], atol=1e-5)      # it hangs on
        True
    """
    base = _in_transforms(task)
    if isinstance(base, Simulator):
        return base
    if isinstance(base, FourRoomsEnv):
        return _GridSimulator(base.layout)
    if getattr(base, "wrapper_frame_skip", 1) > 1:
        raise ValueError(
            f"frame_skip={base.wrapper_frame_skip} of {type(base).__name__} repeats each action, "
            "which the simulator of one step does not. Audit the task without it."
        )
    task = getattr(base, "_env", base)  # in TorchRL's wrapper
    if not isinstance(task, gymnasium.Env):
        raise ValueError(
            f"a {type(task).__name__} cannot be put into an observed state. Give an object with "
            "is_valid(states), replay(states, actions) and coordinates(states)."
        )
    inner = task.unwrapped
    if isinstance(inner, Simulator):  # a user's own
        _refuse_changed_states(task)
        return inner
    if isinstance(inner, FourRoomsGymEnv):
        return _GridSimulator(inner.layout)
    if isinstance(inner, SparseTask):
        return _SparseTaskSimulator(task)
    if type(inner) in _NUM_ANGLES:
        return _ClassicSimulator(task)
    return MuJoCoSimulator(task)


def _in_transforms(task: Any) -> Any:
    """Return the environment in TorchRL's transforms; refuse those that change its steps."""
    while isinstance(task, TransformedEnv):
        transform = task.transform
        for one in transform if isinstance(transform, Compose) else [transform]:
            if not isinstance(one, _HARMLESS):
                raise ValueError(
                    f"{type(one).__name__} may change states, actions or what a step is, which "
                    "the simulator of the task within does not know. Audit traces of that task, "
                    "or give an object with is_valid(states), replay(states, actions) and "
                    "coordinates(states)."
                )
        task = task.base_env
    return task


def _refuse_changed_states(task: gymnasium.Env) -> None:
    """Refuse wrappers in which states or actions are not those of the task."""
    while isinstance(task, gymnasium.Wrapper):
        if isinstance(task, gymnasium.ObservationWrapper | gymnasium.ActionWrapper):
            raise ValueError(
                f"{type(task).__name__} changes what {type(task.unwrapped).__name__} observes or "
                "is given, so its own methods do not fit. Give the simulator's methods to an "
                "object of your own, and that to TraceAuditor."
            )
        task = task.env


class _GymSimulator(ABC):
    """Simulator of a task of Gymnasium, for one state at a time."""

    def __init__(self, task: gymnasium.Env) -> None:
        self._task, self._inner = task, task.unwrapped
        self.name = type(self._inner).__name__ if task.spec is None else task.spec.id
        self._check()

    @abstractmethod
    def put(self, observation: np.ndarray) -> None:
        """Put the simulator into an observed state, shape ``[observation_dim]``."""

    def is_valid(self, states: Tensor) -> Tensor:
        """Return True for possible states in which the episode has not ended, as far as known."""
        self._require("state", states.shape[1:], self._state_shapes())
        rows = states.detach().double().cpu().numpy()
        valid = [bool(np.isfinite(row).all()) and self._can_be(row) for row in rows]
        return torch.tensor(valid, dtype=torch.bool, device=states.device)

    @abstractmethod
    def _can_be(self, observation: np.ndarray) -> bool:
        """Return whether an episode can go on in a state that is finite."""

    def replay(self, states: Tensor, actions: Tensor) -> Tensor:
        """Take actions from states, and return the states after each."""
        self._require("state", states.shape[1:], self._state_shapes())
        if isinstance(self._task.action_space, Box):
            self._require("action", actions.shape[2:], [self._task.action_space.shape])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the physics may warn in imagined states
            paths = [self._replay(*row) for row in zip(states, actions, strict=True)]
        return torch.stack(paths).to(states)

    def coordinates(self, states: Tensor) -> Tensor:
        """Return the whole state."""
        return states

    def _state_shapes(self) -> list[tuple[int, ...]]:
        """List the shapes of states that the simulator understands; errors name the first."""
        return [self._task.observation_space.shape or ()]

    def _require(self, name: str, shape: Sequence[int], known: list[tuple[int, ...]]) -> None:
        """Refuse states or actions of another task."""
        if tuple(shape) not in known:
            raise ValueError(
                f"{self.name} has the {name} shape {known[0]}, the traces have {tuple(shape)}. "
                "Audit them by the task that their model has learned, with the observation space "
                "that it sees."
            )

    def _replay(self, state: Tensor, actions: Tensor) -> Tensor:
        self.put(state.detach().double().cpu().numpy())
        path = [self._step(action) for action in actions.detach().cpu()]
        return torch.from_numpy(np.array(path))

    def _step(self, action: Tensor) -> np.ndarray:
        return self._task.step(self._to_task(action))[0]

    def _to_task(self, action: Tensor) -> Any:
        space = self._task.action_space
        if isinstance(space, Discrete):  # one-hot, or a number
            return int(action.long().argmax(-1)) if action.ndim else int(action)
        assert isinstance(space, Box)
        return action.numpy().clip(space.low, space.high)

    def _check(self) -> None:
        """Refuse a task that continues differently after it is put into an observed state."""
        steps: list[Tensor] = []
        for is_put in (False, True):
            first, _ = self._task.reset(seed=0)
            self._task.action_space.seed(0)
            action = self._task.action_space.sample()
            try:
                if is_put:
                    self.put(np.asarray(first, np.float64))
                after = self._task.step(action)[0]
                steps.append(self.coordinates(torch.from_numpy(np.asarray(after, np.float64))))
            except (AssertionError, AttributeError, IndexError, TypeError, ValueError) as error:
                raise ValueError(self._refusal()) from error
        if steps[0].shape != steps[1].shape or not torch.allclose(steps[0], steps[1], atol=1e-4):
            raise ValueError(self._refusal())

    def _refusal(self) -> str:
        return (
            f"{self.name} cannot be put into the state that it observes. Take a MuJoCo task of "
            "Gymnasium whose observation begins with its positions and velocities, such as "
            "Hopper-v5, Walker2d-v5, HalfCheetah-v5 or Ant-v5, a task of classic control, or give "
            "the class of your task the methods of torchrl_recall.envs.Simulator."
        )


class MuJoCoSimulator(_GymSimulator):
    """Simulator of a MuJoCo task of Gymnasium, which can also draw states.

    Positions that the task does not observe, such as the distance covered, are set to zero.

    Args:
        task: a task whose observation begins with positions and velocities.

    Attributes:
        skipped: number of positions that are not observed.

    Raises:
        ValueError: the task is not such a task.

    Examples:
        >>> import gymnasium, torch
        >>> from torchrl_recall.envs import MuJoCoSimulator
        >>> simulator = MuJoCoSimulator(gymnasium.make("Hopper-v5"))
        >>> standing = torch.tensor([[1.25, *[0.0] * 10]])
        >>> simulator.is_valid(standing), simulator.replay(standing, torch.zeros(1, 5, 3)).shape
        (tensor([True]), torch.Size([1, 5, 11]))
    """

    _inner: Any

    def __init__(self, task: gymnasium.Env) -> None:
        inner: Any = task.unwrapped
        structure = getattr(inner, "observation_structure", {})
        self.skipped = structure.get("skipped_qpos", 0)
        self._num = structure.get("qpos", 0), structure.get("qvel", 0)
        model = getattr(inner, "model", None)
        self._is_whole = model is not None and (self.skipped + self._num[0], self._num[1]) == (
            getattr(model, "nq", None),
            getattr(model, "nv", None),
        )
        super().__init__(task)

    def _state_shapes(self) -> list[tuple[int, ...]]:
        return [*super()._state_shapes(), (sum(self._num),)]  # contact forces are not compared

    def put(self, observation: np.ndarray) -> None:
        """Put the simulator into an observed state.

        Args:
            observation: the state, shape ``[observation_dim]``, environment units.

        Raises:
            ValueError: the observation has fewer entries than positions and velocities.
        """
        positions, velocities = self._num
        if len(observation) < positions + velocities:
            raise ValueError(
                f"{self.name} observes {positions} positions and {velocities} velocities, but a "
                f"state has {len(observation)} entries. Leave out the wrapper that drops some."
            )
        qpos = np.concatenate([np.zeros(self.skipped), observation[:positions]])
        mujoco.mj_resetData(self._inner.model, self._inner.data)  # what solved the step before
        self._inner.set_state(qpos, observation[positions : positions + velocities])

    def draw(self) -> np.ndarray:
        """Return an image of the present state, uint8, shape ``[height, width, 3]``."""
        picture: Any = self._task.render()
        return picture

    def coordinates(self, states: Tensor) -> Tensor:
        """Return positions and velocities, shape ``[*batch, dim]``.

        Args:
            states: states of shape ``[*batch, state_dim]``, environment units.
        """
        return states[..., : sum(self._num)]

    def _can_be(self, observation: np.ndarray) -> bool:
        if not self._has_unit_quaternions(observation):
            return False
        if isinstance(self._inner, InvertedPendulumEnv):  # its step has the rule
            return bool(abs(observation[1]) <= _FALLEN)
        if not getattr(self._inner, "_terminate_when_unhealthy", False):
            return True
        self.put(observation)
        return bool(self._inner.is_healthy)

    def _has_unit_quaternions(self, observation: np.ndarray) -> bool:
        """Return whether all observed quaternions are within 0.1 of unit length."""
        model = self._inner.model
        for kind, address in zip(model.jnt_type, model.jnt_qposadr, strict=True):
            if kind not in (_FREE, _BALL):
                continue
            after_place = 3 if kind == _FREE else 0
            first = address + after_place - self.skipped
            if abs(np.linalg.norm(observation[first : first + 4]) - 1) > _OFF_UNIT:
                return False
        return True

    def _check(self) -> None:
        if not self._is_whole:
            raise ValueError(self._refusal())
        super()._check()


class _ClassicSimulator(_GymSimulator):
    """Simulator of a task of classic control."""

    _inner: Any

    def put(self, observation: np.ndarray) -> None:
        self._inner.state = from_angles(observation, _NUM_ANGLES[type(self._inner)])
        self._go_on()

    def _step(self, action: Tensor) -> np.ndarray:
        self._go_on()
        return super()._step(action)

    def _go_on(self) -> None:
        if isinstance(self._inner, CartPoleEnv):  # it warns of steps after a fall
            self._inner.steps_beyond_terminated = None

    def _can_be(self, observation: np.ndarray) -> bool:
        if isinstance(self._inner, CartPoleEnv):  # it ends well within its observation's bounds
            limits = self._inner.x_threshold, self._inner.theta_threshold_radians
            return bool((np.abs(observation[[0, 2]]) <= limits).all())
        num, space = _NUM_ANGLES[type(self._inner)], self._task.observation_space
        assert isinstance(space, Box)
        rest = observation[2 * num :]  # cosine and sine have the circle
        low, high = space.low[2 * num :] - ROUNDING, space.high[2 * num :] + ROUNDING
        return bool(((rest >= low) & (rest <= high)).all() and on_circle(observation, num))


class _SparseTaskSimulator(_GymSimulator):
    """Simulator of a small sparse task."""

    _inner: SparseTask

    def put(self, observation: np.ndarray) -> None:
        dynamics = SPARSE_TASKS[self._inner.name]
        self._inner.state = dynamics.state_of(observation[None]).astype(np.float32)

    def _can_be(self, observation: np.ndarray) -> bool:
        return bool(SPARSE_TASKS[self._inner.name].is_valid(observation[None].astype(np.float32)))


class _GridSimulator:
    """Simulator of the four rooms, with cells as indices or one-hot vectors."""

    def __init__(self, layout: FourRoomsLayout) -> None:
        if layout.slip:
            raise ValueError(
                f"the four rooms slip with probability {layout.slip}, so that a trace's actions "
                "lead elsewhere each time. Audit with slip=0."
            )
        self._layout = layout

    def is_valid(self, states: Tensor) -> Tensor:
        cells = self._cells(states)
        return ~self._layout.walls.flatten()[cells] & (cells != self._layout.goal)

    def replay(self, states: Tensor, actions: Tensor) -> Tensor:
        cells, path = self._cells(states), []
        for action in actions.cpu().unbind(1):
            action = action.long().argmax(-1) if action.ndim > 1 else action
            cells = self._layout.next_cell[cells, action]
            path.append(cells)
        cells = torch.stack(path, 1)
        if states.ndim > 1:
            cells = torch.nn.functional.one_hot(cells, self._layout.num_cells)
        return cells.to(states)

    def coordinates(self, states: Tensor) -> Tensor:
        cells, size = self._cells(states), self._layout.size
        return torch.stack([cells // size, cells % size], -1).float()

    def _cells(self, states: Tensor) -> Tensor:
        states = states.cpu()
        return states.long().argmax(-1) if states.ndim > 1 else states.long()
