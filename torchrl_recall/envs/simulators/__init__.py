"""Simulators that are put into observed states, to compute where actions lead from there."""

from torchrl_recall.envs.simulators.making import make_simulator
from torchrl_recall.envs.simulators.mujoco_simulator import MuJoCoSimulator
from torchrl_recall.envs.simulators.simulator import Simulator

__all__ = ["MuJoCoSimulator", "Simulator", "make_simulator"]
