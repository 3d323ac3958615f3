"""Recall Traces (Goyal et al., ICLR 2019): backtracking models as composable TorchRL modules."""

from torchrl_recall.backtracking_env import BacktrackingEnv, reverse_time
from torchrl_recall.backtracking_loss import BacktrackingLoss
from torchrl_recall.backtracking_model import BacktrackingModel
from torchrl_recall.forward_model import ForwardModelImitation
from torchrl_recall.goal_curriculum import GoalGANCurriculum, GoalGANStates
from torchrl_recall.goal_gan import GoalGAN, GoalGANLoss
from torchrl_recall.high_value_states import (
    CriticStates,
    GoalStates,
    HighValueStates,
    RewardStates,
)
from torchrl_recall.hindsight_goal import HindsightGoal
from torchrl_recall.imitation_loss import ImitationLoss
from torchrl_recall.recall import Recall
from torchrl_recall.recall_traces import RecallTraceGenerator
from torchrl_recall.sac_critic import SACCritic
from torchrl_recall.self_imitation import SelfImitation
from torchrl_recall.trace_filters import (
    AdvantageGate,
    ConfidentSteps,
    LoopErasure,
    NearVisited,
    WithinSupport,
)
from torchrl_recall.trajectory_filter import TopKTrajectories
from torchrl_recall.trpo import TRPOLoss
from torchrl_recall.trust_region import TrustRegion

__all__ = [
    "AdvantageGate",
    "BacktrackingEnv",
    "BacktrackingLoss",
    "BacktrackingModel",
    "ConfidentSteps",
    "CriticStates",
    "ForwardModelImitation",
    "GoalGAN",
    "GoalGANCurriculum",
    "GoalGANLoss",
    "GoalGANStates",
    "GoalStates",
    "HighValueStates",
    "HindsightGoal",
    "ImitationLoss",
    "LoopErasure",
    "NearVisited",
    "Recall",
    "RecallTraceGenerator",
    "RewardStates",
    "SACCritic",
    "SelfImitation",
    "TRPOLoss",
    "TopKTrajectories",
    "TrustRegion",
    "WithinSupport",
    "reverse_time",
]
