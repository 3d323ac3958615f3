"""Successes of many seeds in a small grid, that several test modules share."""

from __future__ import annotations

from collections.abc import Sequence

from torchrl_recall.envs import FourRoomsEnv
from torchrl_recall.seeds import SeedStreams
from torchrl_recall.seeds.recent_successes import RecentSuccesses

NUM_ENVS = 3


def random_walks(seeds: Sequence[int], *, size: int = 5, steps: int = 60, start="uniform"):
    """Steps ``[num_seeds, 3, steps]`` of uniform actions, each seed with numbers of its own."""
    env = FourRoomsEnv(
        size,
        start=start,
        max_steps=20,
        batch_size=[len(seeds), NUM_ENVS],
        streams=SeedStreams(seeds, stream="env"),
    )
    act = SeedStreams(seeds, stream="act")

    def policy(tensordict):
        return tensordict.set("action", (act.rand(tensordict.shape) * 4).long())

    return env.rollout(steps, policy, break_when_any_done=False)


def successes_of(
    seeds: Sequence[int], *, size: int = 5, steps: int = 60, start="uniform", **kwargs
) -> RecentSuccesses:
    """Keep trajectories of random walks; without steps, nothing yet."""
    successes = RecentSuccesses(
        len(seeds),
        NUM_ENVS,
        num_trajectories=20,
        length=8,
        num_states=size**2,
        streams=SeedStreams(seeds, stream="recall"),
        **kwargs,
    )
    if steps:
        successes.extend(random_walks(seeds, size=size, steps=steps, start=start))
    return successes
