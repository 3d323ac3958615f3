"""
1. Recall in ten minutes
========================

An actor-critic learns to cross four rooms, with and without recall traces. You need not write any
code: a recipe runs from the command line, and writes all its measurements into a folder.
"""

# %%
# Two runs
# --------
# We run three seeds in one process, on a grid of 11 x 11. The goal is in the lower right corner,
# and episodes begin in any cell. ``recall=none`` is the actor-critic alone. ``recall=backtracking``
# learns a model of the predecessors of each cell, and imitates traces to the goal.

import csv
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from tensordict import TensorDict

runs = Path(tempfile.mkdtemp())
for recall in ("none", "backtracking"):
    words = "env.size=11 seeds=[0,1,2] collector.total_frames=7_680 eval.stop_at_target=true"
    words += f" recall={recall} run_dir={runs / recall}"
    subprocess.run(
        [sys.executable, "-m", "torchrl_recall.recipes.a2c_recall", *words.split()],
        check=True,
        capture_output=True,
    )
print(sorted(path.name for path in (runs / "backtracking").iterdir()))

# %%
# On the command line this is ``python recipes/a2c_recall.py env.size=11 ...``, or
# ``recall-four-rooms`` after an installation.
#
# The results
# -----------
# ``returns.csv`` has the exact return of each seed, as a share of the optimum. A run ends when all
# of its seeds are near the optimum.

colors = {"none": "#8a8f98", "backtracking": "#0072b2"}
names = {"none": "actor-critic alone", "backtracking": "with recall traces"}
steps = {}
for recall, color in colors.items():
    curves = defaultdict(list)
    with open(runs / recall / "returns.csv") as file:
        for row in csv.DictReader(file):
            curves[row["seed"]].append((int(row["frames"]), float(row["return"])))
    steps[recall] = max(frames for curve in curves.values() for frames, _ in curve)
    for index, curve in enumerate(curves.values()):
        plt.plot(*zip(*curve, strict=True), color=color, label=None if index else names[recall])
plt.axhline(0.9, color="black", linestyle=":", linewidth=1)
plt.xlabel("steps of each seed")
plt.ylabel("share of the optimal return")
plt.legend()
print("steps until all seeds were there, or the end:", steps)

# %%
# Three seeds are too few to measure the gain. The page of
# :doc:`results in the four rooms <../results/four_rooms>` has twenty seeds and the controls.
#
# Recall traces
# -------------
# The next model is exact and needs no training: ``four_rooms_model`` knows the predecessors of each
# cell. Its traces end at the goal. Loop erasure removes detours from each trace.

from torchrl_recall import LoopErasure, RecallTraceGenerator
from torchrl_recall.envs import FourRoomsLayout, four_rooms_model
from torchrl_recall.envs.four_rooms.drawing import draw

torch.manual_seed(0)
layout = FourRoomsLayout(11)
backward_policy = torch.nn.Embedding(layout.num_cells, 4)  # untrained: a random walk backwards
model = four_rooms_model(layout, backward_policy)
goals = TensorDict({"observation": torch.full((6,), layout.goal)}, [6])
traces = LoopErasure()(RecallTraceGenerator(model, trace_length=60)(goals))

figure, axes = plt.subplots(1, 3, figsize=(9, 3.2))
for panel, trace in zip(axes, traces, strict=False):
    panel.imshow(draw(layout, traces=trace["observation"][trace["mask"]]))
    panel.set_axis_off()
    panel.set_title(f"{int(trace['mask'].sum())} of 60 steps are left", fontsize=9)

# %%
# Every trace ends at the goal.

last = traces["next", "observation"][:, -1]
print(bool((last == layout.goal).all()), np.shape(traces["observation"]))
