"""Reading of demonstrations into the store of top trajectories, by a configuration."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDict, TensorDictBase
from torchrl.data import OneHot
from torchrl.envs import TransformedEnv

from torchrl_recall.controls import Cloning, SelfImitation
from torchrl_recall.data.data_sets import DataSetError, read_data_set
from torchrl_recall.data.demonstrations import whole_trajectories
from torchrl_recall.envs.four_rooms.layout import FourRoomsLayout
from torchrl_recall.recall import Recall
from torchrl_recall.seeds.recent_successes import RecentSuccesses
from torchrl_recall.trainers.recall_like import RecallLike
from torchrl_recall.trainers.schema import A2CRecallConfig, ConfigError

__all__ = ["demonstrate", "demonstrate_four_rooms"]


def demonstrate(recall: RecallLike, config: Any, env: TransformedEnv) -> None:
    """Fill the store of recall with the demonstrations that ``recall.demonstrations`` names.

    Args:
        recall: recall, or a control that imitates trajectories.
        config: configuration of a recipe of single seeds.
        env: environment that gives the specs.

    Raises:
        ConfigError: there are no demonstrations, they are of another task, or none is whole.
    """
    if (path := config.recall.demonstrations) is None:
        return
    assert isinstance(recall, Recall | SelfImitation | Cloning)
    specs = env.observation_spec_unbatched["observation"], env.action_spec_unbatched
    try:
        data = read_data_set(path, *specs, observation_keys=config.env.observation_keys)
        trajectories = whole_trajectories(data)
        recall.demonstrate([each.to(env.device or "cpu") for each in trajectories])
    except (DataSetError, ValueError) as error:
        raise ConfigError(f"recall.demonstrations={path}: {error}") from error


def demonstrate_four_rooms(
    recall: RecallLike, config: A2CRecallConfig, layout: FourRoomsLayout
) -> None:
    """Give each seed's store of successes the same demonstrations.

    Args:
        recall: recall, or self-imitation.
        config: configuration of the four rooms.
        layout: layout of the task, with which demonstrations are checked.

    Raises:
        ConfigError: there are no demonstrations, or one is of other rooms or does not reach the
            goal.
    """
    if (path := config.recall.demonstrations) is None:
        return
    assert isinstance(recall, Recall | SelfImitation)
    successes = recall.trajectories
    assert isinstance(successes, RecentSuccesses)
    try:
        data = read_data_set(path, OneHot(layout.num_cells), OneHot(4))
        trajectories = [_as_cells(each) for each in whole_trajectories(data)]
        for number, trajectory in enumerate(trajectories):
            _check_cells(number, trajectory, layout)
        successes.demonstrate(trajectories)
    except (DataSetError, ValueError) as error:
        raise ConfigError(f"recall.demonstrations={path}: {error}") from error


def _as_cells(trajectory: TensorDictBase) -> TensorDict:
    """Convert one-hot vectors of cells and directions to indices."""
    keys = ("observation", "action", ("next", "observation"))
    out = TensorDict({}, batch_size=trajectory.shape)
    for key in keys:
        out.set(key, trajectory.get(key).int().argmax(-1))
    return out


def _check_cells(number: int, trajectory: TensorDictBase, layout: FourRoomsLayout) -> None:
    cell, following = trajectory["observation"], trajectory["next", "observation"]
    neighbours = layout.next_cell[cell]  # by each direction
    taken = neighbours.gather(1, trajectory["action"].unsqueeze(1)).squeeze(1)
    possible = (neighbours == following.unsqueeze(1)).any(1) if layout.slip else taken == following
    if not possible.all():
        step = int((~possible).nonzero()[0])
        raise DataSetError(
            f"step {step} of episode {number} leads from cell {int(cell[step])} to "
            f"{int(following[step])}, which no step of env.size={layout.size} does. Record them "
            "in the same rooms."
        )
    if following[-1] != layout.goal:
        raise DataSetError(
            f"episode {number} ends in cell {int(following[-1])}, not in the goal {layout.goal}. "
            "Give successes of this task."
        )
