"""Recall Traces (Goyal et al., ICLR 2019): backtracking models as composable TorchRL modules."""

from importlib.metadata import version as _version

from torchrl_recall.controls import (
    Cloning,
    ForwardDyna,
    ForwardModelImitation,
    NoRecall,
    SelfImitation,
)
from torchrl_recall.data.buffer_reader import BufferReader
from torchrl_recall.data.buffer_state import BufferState
from torchrl_recall.data.data_sets import DataSetError, read_data_set
from torchrl_recall.data.demonstrations import whole_trajectories
from torchrl_recall.data.top_k_trajectories import TopKTrajectories
from torchrl_recall.envs.backtracking_env import BacktrackingEnv, reverse_time
from torchrl_recall.goals.curriculum import GoalGANCurriculum
from torchrl_recall.goals.gan import GoalGAN, GoalGANLoss
from torchrl_recall.goals.hindsight import HindsightGoal
from torchrl_recall.goals.states import GoalGANStates
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.backward_model import BackwardModel
from torchrl_recall.modules.joint_model import JointModel
from torchrl_recall.modules.policies import BoltzmannPolicy, GaussianPolicy
from torchrl_recall.modules.reward_model import RewardModel
from torchrl_recall.modules.state_values import StateValues
from torchrl_recall.objectives.backtracking import BacktrackingLoss
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.objectives.joint import JointLoss
from torchrl_recall.objectives.reward import RewardModelLoss
from torchrl_recall.objectives.trpo import TRPOLoss
from torchrl_recall.offline import OfflineRecall
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.optim.trust_region import TrustRegion
from torchrl_recall.recall import Recall
from torchrl_recall.traces.agreement import Agreement, Disagreement
from torchrl_recall.traces.audit import AuditedLength, ExactDynamics, TraceAuditor
from torchrl_recall.traces.filters import (
    AdvantageGate,
    ConfidentSteps,
    LoopErasure,
    NearVisited,
    WithinSupport,
)
from torchrl_recall.traces.generator import RecallTraceGenerator
from torchrl_recall.traces.high_value_states import (
    CriticStates,
    GoalStates,
    HighValueStates,
)
from torchrl_recall.traces.measured_length import MeasuredLength
from torchrl_recall.traces.reached_states import ReturnStates, RewardStates, UniformStates
from torchrl_recall.traces.transitions import TraceTransitions, join_rows
from torchrl_recall.trained.load import load_backtracking_model, load_policy
from torchrl_recall.trained.pretrained import from_pretrained
from torchrl_recall.trainers.hook import RecallHook
from torchrl_recall.trainers.make_recall import make_recall

#: Former name of :class:`~torchrl_recall.StateValues`, from when it only supported losses of SAC.
SACCritic = StateValues

__version__ = _version("torchrl-recall")

__all__ = [
    "AdvantageGate",
    "Agreement",
    "AuditedLength",
    "BacktrackingEnv",
    "BacktrackingLoss",
    "BacktrackingModel",
    "BackwardModel",
    "BoltzmannPolicy",
    "BufferReader",
    "BufferState",
    "Cloning",
    "ConfidentSteps",
    "CriticStates",
    "DataSetError",
    "Disagreement",
    "ExactDynamics",
    "ForwardDyna",
    "ForwardModelImitation",
    "GaussianPolicy",
    "GoalGAN",
    "GoalGANCurriculum",
    "GoalGANLoss",
    "GoalGANStates",
    "GoalStates",
    "HighValueStates",
    "HindsightGoal",
    "ImitationLoss",
    "JointLoss",
    "JointModel",
    "LoopErasure",
    "MeasuredLength",
    "NearVisited",
    "NoRecall",
    "OfflineRecall",
    "Recall",
    "RecallHook",
    "RecallTraceGenerator",
    "ReturnStates",
    "RewardModel",
    "RewardModelLoss",
    "RewardStates",
    "SACCritic",
    "SelfImitation",
    "StateValues",
    "TRPOLoss",
    "TopKTrajectories",
    "TraceAuditor",
    "TraceTransitions",
    "TrustRegion",
    "UniformStates",
    "WithinSupport",
    "from_pretrained",
    "join_rows",
    "load_backtracking_model",
    "load_policy",
    "make_recall",
    "make_update",
    "read_data_set",
    "reverse_time",
    "whole_trajectories",
]
