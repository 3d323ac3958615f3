"""
5. Goals and mazes
==================

If an agent has to reach any goal, good states are not those of high reward. Good states are goals
at the edge of what the agent can reach. A Goal GAN proposes them, and traces show ways to them
(Algorithm 2).
"""

# %%
# A maze
# ------
# The task is a point mass in a U-maze. It begins at the lower left, and the farthest goals are
# above the wall. The policy of this page is not trained: it goes straight towards its goal, and
# walls stop it. This is enough to show how recall works with goals.

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle

from torchrl_recall.envs import PointMassEnv

torch.manual_seed(0)
env = PointMassEnv(2, maze="u", batch_size=[150])


def straight(tensordict):
    ahead = tensordict["desired_goal"] - tensordict["observation"]
    noise = 0.7 * torch.randn_like(ahead)
    return tensordict.set("action", (10 * ahead + noise).clamp(-1, 1))


# %%
# A curriculum
# ------------
# Each iteration proposes goals, runs the policy for each goal, and gives the success rates to the
# GAN. The GAN learns to propose goals that are reached sometimes, but not always.

from torchrl_recall import GoalGAN, GoalGANCurriculum

gan = GoalGAN(env.goal_spec)
curriculum = GoalGANCurriculum(gan, num_new=100, num_old=50, num_updates=100)
curriculum.pretrain(env.start + 0.6 * torch.randn(500, 2).clamp(-1, 1))
experience, seen = [], []
for _ in range(12):
    goals = curriculum.propose()
    env.assign_goals(goals)
    success = torch.zeros(len(goals))
    for _ in range(3):
        rollout = env.rollout(50, straight, break_when_any_done=False)
        success += rollout["next", "terminated"].any(1).squeeze(-1)
        experience.append(rollout.select("observation", "action", ("next", "observation")))
    metrics = curriculum.update(goals, success / 3)
    seen.append((goals, success / 3))
print({name.partition("/")[2]: round(float(value), 2) for name, value in metrics.items()})

# %%
# The backtracking model
# ----------------------
# The model learns from all experience, whatever the goals were.

from torchrl_recall import BacktrackingLoss, BacktrackingModel, make_update

data = torch.cat(experience).reshape(-1)
model = BacktrackingModel.from_specs(
    env.observation_spec_unbatched, env.action_spec_unbatched, action_scale="learned"
)
model.update_statistics(data)
loss = BacktrackingLoss(model)
update = make_update(loss, torch.optim.Adam(loss.parameters(), 1e-3))
for _ in range(600):
    update(data[torch.randint(len(data), (256,))])

# %%
# Traces to goals
# ---------------
# End states are goals of the GAN, without those inside the wall. ``HindsightGoal`` sets the desired
# goal of each trace to the goal that it reaches, so that a policy can imitate it.

from torchrl_recall import (
    GoalGANStates,
    HindsightGoal,
    LoopErasure,
    NearVisited,
    RecallTraceGenerator,
)

visited = data["observation"][torch.randperm(len(data))[:3_000]]
end_states = GoalGANStates(curriculum, 64, is_valid=env.is_valid)()
traces = RecallTraceGenerator(model, trace_length=20, num_traces=2)(end_states)
for complete in (NearVisited(lambda: visited, radius=0.1), LoopErasure(0.05), HindsightGoal()):
    traces = complete(traces)
print(traces["desired_goal"].shape, f"{traces['mask'].float().mean():.0%} of the steps are left")

# %%
# Left: goals of the last iteration, coloured by success rate. Right: traces to goals of the GAN,
# after the filters.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2))
for axes in (left, right):
    axes.add_patch(Rectangle((-1, -1 / 3), 4 / 3, 2 / 3, color="#c9ced6"))
    axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=[], yticks=[])
goals, success = seen[-1]
points = left.scatter(*goals.T, c=success, cmap="cividis", vmin=0, vmax=1, s=14)
figure.colorbar(points, ax=left, label="share of episodes that arrive")
for trace in traces:
    steps = trace[trace["mask"]]
    for step in steps:
        path = torch.stack([step["observation"], step["next", "observation"]])
        right.plot(*path.T, color="#0072b2", linewidth=1)
right.plot(*end_states["observation"].T, "o", color="#d55e00", markersize=4)
right.plot(*env.start, "k*", markersize=10)

# %%
# The recipe
# ----------
# ``python recipes/goal_gan_recall.py env=point_umaze recall.anneal_frames=300_000`` runs all of
# Algorithm 2 with TRPO. Measurements are in :doc:`../results/goal_gan`: 4.7 times fewer steps in
# open space, 1.9 in the U-maze if imitation ends early, and harm for the ant at the scale measured.
