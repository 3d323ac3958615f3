"""
6. Reading a run: is my model good enough?
==========================================

A trace is only as good as the model that drew it. Four numbers say whether traces can be trusted,
when to make them shorter, and when to leave recall off.
"""

# %%
# A run to look at
# ----------------
# SAC with imitation of traces, on the small U-maze: the recipe with small networks.

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from tensordict import TensorDict
from torchrl.envs import GymEnv

from torchrl_recall import RecallTraceGenerator, WithinSupport, load_backtracking_model
from torchrl_recall.envs import PointMassEnv

run_dir = Path(tempfile.mkdtemp()) / "run"
words = (
    "env.name=point_umaze recall=imitation collector.total_frames=1500 eval.interval=250 "
    "eval.num_episodes=5 collector.init_random_frames=500 sac.num_cells=[64,64] "
    "replay_buffer.batch_size=64 compile=false logger.backend=none recall.interval=100 "
    f"backtracking.num_updates=40 recall.num_updates=5 run_dir={run_dir}"
)
subprocess.run(
    [sys.executable, "-m", "torchrl_recall.recipes.sac_recall", *words.split()],
    check=True,
    capture_output=True,
)
with open(run_dir / "metrics.csv") as file:
    rows = list(csv.DictReader(file))
names = [name for name in rows[0] if name.startswith(("recall/", "backtracking/", "traces/"))]
for name in names:
    print(f"{name:40}", *(f"{float(row[name]):8.2f}" for row in rows[-4:] if row[name]))

# %%
# What every column means is on :doc:`../run_folder`. Those that decide are explained here.
#
# 1. What the filters keep
# ------------------------
# ``recall/kept`` is the share of the traces that was imitated. Near zero, recall does nothing but
# cost time: make traces shorter (``recall.trace_length``), or train the model more
# (``backtracking.num_updates``). Near one, ask whether the filters cut anything at all.

kept = [float(row["recall/kept"]) for row in rows if row["recall/kept"]]
print(f"kept in the last rounds: {kept[-1]:.2f}")

# %%
# 2. Likelihood of what it has not seen
# -------------------------------------
# ``backtracking/loss_*`` are of transitions that the model is trained on. What counts is new
# experience. A model that has learned nothing is the yardstick: the same networks, with statistics
# of the data but no training.

from torchrl_recall import BacktrackingModel

torch.manual_seed(0)
env = GymEnv("point_umaze")
env.set_seed(1)
fresh = env.rollout(600, break_when_any_done=False).select(
    "observation", "action", ("next", "observation")
)
model = load_backtracking_model(run_dir)
untrained = BacktrackingModel.from_specs(
    env.observation_spec, env.action_spec, action_scale="learned"
)
untrained.update_statistics(fresh)
with torch.no_grad():
    for name, each in {"trained": model, "untrained": untrained}.items():
        before = each.state_predictor_log_prob(fresh).mean()
        print(f"{name:10} log q(s_t | a_t, s_t+1) of new transitions: {before:6.2f} nats")

# %%
# 3. Where a trace lands
# ----------------------
# Take the actions of a trace from where it says that it begins. Where the simulator can be put into
# any state, as here, the distance between where one lands and where the trace ends is the error
# that matters. It grows with their number. The run has measured it: ``traces/landing_error_5`` of
# its newest traces, 5 steps before their end, to be compared with ``traces/displacement_5``. Here
# it is done by hand, in units of the maze.

ends = fresh["observation"][torch.randperm(len(fresh))[:64]]
traces = RecallTraceGenerator(model, trace_length=12, num_traces=4)(
    TensorDict({"observation": ends}, [64])
)
maze = PointMassEnv(2, maze="u", step_size=0.4)  # the dynamics of point_umaze
lengths, errors, moved = [1, 2, 3, 5, 8, 12], [], []
for length in lengths:
    state = traces["observation"][:, -length]
    valid = maze.is_valid(state)
    for step in range(length, 0, -1):
        state = maze.move(state, traces["action"][:, -step])
    end = traces["next", "observation"][:, -1]
    errors.append(float((state - end)[valid].norm(dim=-1).median()))
    moved.append(float((traces["observation"][:, -length] - end)[valid].norm(dim=-1).median()))

plt.plot(lengths, errors, "o-", color="#d55e00", label="error where it lands")
plt.plot(lengths, moved, "o-", color="#0072b2", label="way that the trace goes")
plt.xlabel("steps before the end state")
plt.ylabel("distance, median")
plt.legend()

# %%
# As long as the error is well below the way, a trace says something. Where the two curves meet,
# traces are too long: set ``recall.trace_length`` below that.

trusted = [n for n, error, way in zip(lengths, errors, moved, strict=True) if error < 0.5 * way]
print("lengths to trust:", trusted)

# %%
# 4. Where traces leave the data
# ------------------------------
# Without a simulator that takes any state, the mask of a filter says how long traces last.

mask = WithinSupport(model.observations.normalize, max_deviation=3.0)(traces)["mask"]
print("share of traces that is left, by steps before the end state:")
print({n: round(float(mask[:, -n].float().mean()), 2) for n in lengths})

# %%
# When to leave recall off
# ------------------------
# - The landing error is as large as the way from two steps on, as it was for the ant
#   (:doc:`../results/goal_gan`).
# - ``recall=self_imitation`` does as well: then the model adds nothing to the real trajectories.
# - The host alone is as good on three seeds: :doc:`../when_to_use` says where that was so.
