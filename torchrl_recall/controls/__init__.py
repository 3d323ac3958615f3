"""Controls of recall: the same rounds with real pairs, with a forward model, or with nothing."""

from torchrl_recall.controls.forward_dyna import ForwardDyna
from torchrl_recall.controls.forward_model import ForwardModelImitation
from torchrl_recall.controls.no_recall import NoRecall
from torchrl_recall.controls.self_imitation import SelfImitation

__all__ = ["ForwardDyna", "ForwardModelImitation", "NoRecall", "SelfImitation"]
