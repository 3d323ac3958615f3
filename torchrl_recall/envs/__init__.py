"""Environments: the reversed decision process, the four-room grid, and tasks with goals."""

import gymnasium

from torchrl_recall.envs.four_rooms.env import FourRoomsEnv
from torchrl_recall.envs.four_rooms.exact_model import (
    DisplacementPredictor,
    ExactPredecessors,
    four_rooms_model,
)
from torchrl_recall.envs.four_rooms.gym import FourRoomsGymEnv
from torchrl_recall.envs.four_rooms.layout import FourRoomsLayout
from torchrl_recall.envs.four_rooms.oracle import Oracle
from torchrl_recall.envs.goal_env import GoalEnv
from torchrl_recall.envs.goal_maze import GoalMazeEnv
from torchrl_recall.envs.point_mass import PointMassEnv
from torchrl_recall.envs.simulators import MuJoCoSimulator, Simulator, make_simulator
from torchrl_recall.envs.sparse_tasks import SparseTask

__all__ = [
    "DisplacementPredictor",
    "ExactPredecessors",
    "FourRoomsEnv",
    "FourRoomsGymEnv",
    "FourRoomsLayout",
    "GoalEnv",
    "GoalMazeEnv",
    "MuJoCoSimulator",
    "Oracle",
    "PointMassEnv",
    "Simulator",
    "SparseTask",
    "four_rooms_model",
    "make_simulator",
]

gymnasium.register(
    "torchrl_recall/FourRooms-v0", entry_point="torchrl_recall.envs.four_rooms:FourRoomsGymEnv"
)
for _name, _steps in {"mujoco_umaze": 300, "mujoco_medium_maze": 600}.items():  # extra mazes
    gymnasium.register(
        _name,
        entry_point="torchrl_recall.envs.sparse_mazes:SparseMaze",
        max_episode_steps=_steps,
        kwargs={"name": _name},
    )
