"""Typed configurations of the recipes, with a file for each, and their validation."""

from torchrl_recall.trainers.schema.dqn import DQNRecallConfig
from torchrl_recall.trainers.schema.four_rooms import A2CRecallConfig
from torchrl_recall.trainers.schema.goal_gan import GoalGANRecallConfig
from torchrl_recall.trainers.schema.offline import OfflineRecallConfig
from torchrl_recall.trainers.schema.on_policy import (
    OnPolicyRecallConfig,
    PPORecallConfig,
    TRPORecallConfig,
)
from torchrl_recall.trainers.schema.parts import ConfigError
from torchrl_recall.trainers.schema.sac import SACRecallConfig
from torchrl_recall.trainers.schema.validation import validate

__all__ = [
    "A2CRecallConfig",
    "ConfigError",
    "DQNRecallConfig",
    "GoalGANRecallConfig",
    "OfflineRecallConfig",
    "OnPolicyRecallConfig",
    "PPORecallConfig",
    "SACRecallConfig",
    "TRPORecallConfig",
    "validate",
]
