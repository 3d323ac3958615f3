"""Share a task whose observation says which environment, episode and step it is of."""

from __future__ import annotations

import gymnasium
import numpy as np

LENGTHS = (3, 5, 4, 7)  # of episodes, in turn; an environment begins in this list by its number


class Labelled(gymnasium.Env):
    """A walk through labels: (environment, episode, step), which actions do not change.

    The environment's number is drawn from its first seed. A reward is 1 + the episode's number. The
    observation is one array, which every step and reset writes into.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self) -> None:
        self.number, self.episode, self.steps = 0, -1, 0
        self.labels = np.zeros(3, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.number, self.episode = int(self.np_random.integers(1, 1_000_000)), -1
        self.episode, self.steps = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        ended = self.steps == LENGTHS[(self.number + self.episode) % len(LENGTHS)]
        truncated = ended and self.episode % 2 == 1
        return self._observe(), 1.0 + self.episode, ended and not truncated, truncated, {}

    def _observe(self):
        self.labels[:] = self.number, self.episode, self.steps
        return self.labels


class Switched(Labelled):
    """The same task with discrete actions."""

    action_space = gymnasium.spaces.Discrete(3)


class Failing(Labelled):
    """The same task, whose 30th step goes wrong."""

    taken = 0

    def step(self, action):
        self.taken += 1
        if self.taken == 30:
            raise RuntimeError("the simulator broke")
        return super().step(action)


for _task in (Labelled, Switched, Failing):
    if f"{_task.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"{_task.__name__}-v0", f"labelled_task:{_task.__name__}")
