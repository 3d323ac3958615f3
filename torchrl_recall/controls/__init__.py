"""Controls of recall: the same rounds with real pairs, demonstrations, another model or nothing."""

from torchrl_recall.controls.cloning import Cloning
from torchrl_recall.controls.forward_dyna import ForwardDyna
from torchrl_recall.controls.forward_model import ForwardModelImitation
from torchrl_recall.controls.no_recall import NoRecall
from torchrl_recall.controls.self_imitation import SelfImitation

__all__ = ["Cloning", "ForwardDyna", "ForwardModelImitation", "NoRecall", "SelfImitation"]
