"""Parts of the Goal GAN recipe: environments, goals, and episodes towards them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_recall.envs import GoalEnv, GoalMazeEnv, PointMassEnv
from torchrl_recall.goals.curriculum import GoalGANCurriculum
from torchrl_recall.goals.gan import GoalGAN
from torchrl_recall.trainers.hosts.hindsight_sac import HindsightSAC
from torchrl_recall.trainers.hosts.on_policy import OnPolicy
from torchrl_recall.trainers.runs.parts import Parts
from torchrl_recall.trainers.schema import ConfigError, GoalGANRecallConfig
from torchrl_recall.trainers.tasks.devices import PolicyFor, any_device

__all__ = [
    "GoalCollector",
    "GoalParts",
    "make_curriculum",
    "make_goal_env",
]

_KEYS = (
    "observation",
    "desired_goal",
    "action",
    ("next", "observation"),
    ("next", "reward"),
    ("next", "done"),
    ("next", "terminated"),
    ("next", "desired_goal"),
)


def make_goal_env(config: GoalGANRecallConfig, num_envs: int) -> GoalEnv:
    """Make a batch of environments of the task.

    Args:
        config: configuration with ``env``.
        num_envs: number of environments.

    Returns:
        An environment of batch shape ``[num_envs]``.

    Raises:
        ConfigError: the task cannot be built.
    """
    env = config.env
    given = {
        key: value
        for key in ("dim", "maze", "step_size", "goal_radius", "max_steps")
        if (value := getattr(env, key)) is not None
    }
    try:
        if env.task == "point_mass":
            return PointMassEnv(**given, batch_size=[num_envs])
        return GoalMazeEnv(env.task, **given, batch_size=[num_envs])
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"env: {error}") from error


def make_curriculum(
    env: GoalEnv, config: GoalGANRecallConfig, device: torch.device
) -> GoalGANCurriculum:
    """Make the curriculum of a Goal GAN over the goals of the task.

    Args:
        env: environment of the goals.
        config: configuration with ``goal_gan`` and ``compile``.
        device: device of the networks.

    Returns:
        The curriculum.
    """
    goals = config.goal_gan
    return GoalGANCurriculum(
        GoalGAN(env.goal_spec).to(device),
        num_new=goals.num_new,
        num_old=goals.num_old,
        success_range=(goals.min_success, goals.max_success),
        goal_noise=goals.goal_noise,
        num_updates=goals.num_updates,
        batch_size=goals.batch_size,
        lr=goals.lr,
        generator_lr=goals.generator_lr,
        compile=bool(config.compile),
    )


class GoalCollector:
    """Collector of episodes towards goals of a curriculum, with several environments per goal.

    Args:
        env: a batch of environments, ``num_rollouts`` for each goal.
        policy: policy that acts.
        curriculum: curriculum that proposes goals (Alg. 2, line 2).
        config: configuration with ``collector`` and ``env``.

    Attributes:
        goals: goals of the current batch, shape ``[num_goals, goal_dim]``.
        batches_left: number of further batches towards these goals.
    """

    def __init__(
        self,
        env: GoalEnv,
        policy: TensorDictModuleBase,
        curriculum: GoalGANCurriculum,
        config: GoalGANRecallConfig,
    ) -> None:
        self.env, self.curriculum = env, curriculum
        self.policy = PolicyFor(env, policy)
        self.config, self.num_steps, self.frames = config.collector, config.env.max_steps, 0
        self.goals, self.batches_left = curriculum.kept, 0

    def __iter__(self) -> Iterator[TensorDictBase]:
        while self.frames < self.config.total_frames:
            if not self.batches_left:
                self.goals, self.batches_left = self.curriculum.propose(), self.config.num_batches
            self.batches_left -= 1
            yield self.collect(self.goals)

    @torch.no_grad()
    def collect(self, goals: Tensor) -> TensorDictBase:
        """Collect episodes towards some goals.

        Args:
            goals: goals of shape ``[num_goals, goal_dim]``, environment units.

        Returns:
            Transitions of shape ``[num_goals * num_rollouts, num_steps]``; rows of the same goal
            are adjacent.
        """
        goals = goals.to(self.env.goal_spec.device)
        self.env.assign_goals(goals.repeat_interleave(self.config.num_rollouts, 0))
        with set_exploration_type(ExplorationType.RANDOM):
            data = self.env.rollout(self.num_steps, self.policy, break_when_any_done=False)
        self.frames += data.numel()
        return data.select(*_KEYS).to(self.policy.device)

    def success_rates(self, data: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Return the goals of a batch, and the share of first episodes that reached each goal.

        Later episodes do not count. Successes are shorter than failures, so more of them end within
        a fixed number of steps, and the rate would be too high.

        Args:
            data: result of :meth:`collect`.

        Returns:
            Goals of shape ``[num_goals, goal_dim]``, and rates of shape ``[num_goals]``.
        """
        reached, done = (data["next", key].squeeze(-1) for key in ("terminated", "done"))
        first_end = done.int().argmax(1, keepdim=True)  # each environment finishes an episode
        success = reached.gather(1, first_end).reshape(len(self.goals), -1)
        return self.goals, success.float().mean(1)

    def shutdown(self) -> None:
        """Close the environment."""
        if not self.env.is_closed:
            self.env.close()

    def state_dict(self) -> dict:
        """Return the current goals; each batch begins with new episodes."""
        return {
            "goals": self.goals.clone(),
            "batches_left": self.batches_left,
            "generator": self.env.generator.get_state(),
        }

    def load_state_dict(self, state: dict | None, frames: int) -> bool:
        """Restore :meth:`state_dict`.

        Returns:
            True, because no episode was cut.
        """
        self.frames = frames
        if state is not None:
            self.goals = state["goals"].clone().to(self.curriculum.kept.device)
            self.batches_left = state["batches_left"]
            self.env.generator.set_state(state["generator"].clone())
        return True


@dataclass
class GoalParts(Parts[OnPolicy | HindsightSAC]):
    """Parts of a recipe whose goals come from a curriculum; see :class:`Parts`."""

    collector: GoalCollector

    @property
    def curriculum(self) -> GoalGANCurriculum:
        """The collector's curriculum."""
        return self.collector.curriculum

    def pretrain(self, num_goals: int) -> int:
        """Fit the Goal GAN to states that the first policy reaches.

        Args:
            num_goals: number of uniform goals, towards which the policy acts.

        Returns:
            The number of frames that this took.
        """
        visited = self.collector.collect(self.curriculum.gan.uniform(num_goals))
        goal_of_state = any_device(self.collector.env, self.collector.env.goal_of_state)
        self.curriculum.pretrain(goal_of_state(visited["next", "observation"]).flatten(0, -2))
        return visited.numel()
