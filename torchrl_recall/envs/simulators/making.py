"""Making the simulator of a task."""

from __future__ import annotations

from typing import Any

import gymnasium
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
from torchrl_recall.envs.simulators.classic_simulators import (
    NUM_ANGLES,
    ClassicSimulator,
    SparseTaskSimulator,
)
from torchrl_recall.envs.simulators.grid_simulator import GridSimulator
from torchrl_recall.envs.simulators.mujoco_simulator import MuJoCoSimulator
from torchrl_recall.envs.simulators.simulator import Simulator
from torchrl_recall.envs.sparse_tasks import SparseTask

__all__ = ["make_simulator"]

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
        return GridSimulator(base.layout)
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
        _refuse_changed_states(task, gymnasium.ActionWrapper, gymnasium.ObservationWrapper)
        return inner
    if isinstance(inner, FourRoomsGymEnv):
        _refuse_changed_states(task, gymnasium.ActionWrapper)  # cells may be one-hot
        return GridSimulator(inner.layout)
    if isinstance(inner, SparseTask):
        return SparseTaskSimulator(task)
    if type(inner) in NUM_ANGLES:
        return ClassicSimulator(task)
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


def _refuse_changed_states(task: gymnasium.Env, *kinds: type[gymnasium.Wrapper]) -> None:
    """Refuse wrappers in which states or actions are not those of the task."""
    while isinstance(task, gymnasium.Wrapper):
        if isinstance(task, kinds):
            raise ValueError(
                f"{type(task).__name__} changes what {type(task.unwrapped).__name__} observes or "
                "is given, so its own methods do not fit. Give the simulator's methods to an "
                "object of your own, and that to TraceAuditor."
            )
        task = task.env
