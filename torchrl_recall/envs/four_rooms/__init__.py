"""Four-room grid world (Sec. 6.1): its dynamics, exact reverse dynamics and exact values."""

from torchrl_recall.envs.four_rooms.env import FourRoomsEnv
from torchrl_recall.envs.four_rooms.exact_model import (
    DisplacementPredictor,
    ExactPredecessors,
    four_rooms_model,
)
from torchrl_recall.envs.four_rooms.gym import FourRoomsGymEnv
from torchrl_recall.envs.four_rooms.layout import FourRoomsLayout
from torchrl_recall.envs.four_rooms.oracle import Oracle

__all__ = [
    "DisplacementPredictor",
    "ExactPredecessors",
    "FourRoomsEnv",
    "FourRoomsGymEnv",
    "FourRoomsLayout",
    "Oracle",
    "four_rooms_model",
]
