"""The parts of the Goal GAN recipe: goals, episodes towards them, and coverage."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import ReplayBuffer
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_recall import GoalGAN, GoalGANCurriculum, GoalGANStates, HindsightGoal, NearVisited
from torchrl_recall.envs import GoalEnv, GoalMazeEnv, PointMassEnv
from torchrl_recall.recall import candidates
from torchrl_recall.self_imitation import ImitationOfGoodPairs
from torchrl_recall.trainers.build_recall import wire_recall
from torchrl_recall.trainers.hosts.hindsight_sac import HindsightSAC
from torchrl_recall.trainers.hosts.on_policy import TRPO, OnPolicy
from torchrl_recall.trainers.schema.goal_gan import GoalGANRecallConfig
from torchrl_recall.trainers.schema.parts import ConfigError

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
__all__ = [
    "GoalCollector",
    "make_curriculum",
    "make_goal_env",
    "make_host",
    "make_recall",
    "success_rates",
]


def make_goal_env(config: GoalGANRecallConfig, num_envs: int) -> GoalEnv:
    """The task, so many times.

    Raises:
        ConfigError: it cannot be built.
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


def make_host(
    env: GoalEnv, config: GoalGANRecallConfig, device: torch.device
) -> OnPolicy | HindsightSAC:
    """What learns to reach goals."""
    return (TRPO if config.host == "trpo" else HindsightSAC)(env, config, device)


def make_curriculum(
    env: GoalEnv, config: GoalGANRecallConfig, device: torch.device
) -> GoalGANCurriculum:
    """A Goal GAN over the task's goals."""
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


def make_recall(
    env: GoalEnv,
    config: GoalGANRecallConfig,
    host: OnPolicy | HindsightSAC,
    curriculum: GoalGANCurriculum,
    device: torch.device,
    replay_buffer: ReplayBuffer,
) -> ImitationOfGoodPairs | None:
    """Recall from goals of the GAN (Alg. 2), or its control; None for ``recall.method=none``."""
    if config.recall.method == "none":
        return None
    assert isinstance(host, OnPolicy)  # the configuration was checked
    relabel: list[TensorDictModuleBase] = [HindsightGoal(env.goal_of_state)]
    if config.recall.support_radius is not None:
        relabel.append(
            NearVisited(
                lambda: candidates(replay_buffer, config.recall.state_batch_size)["observation"],
                config.recall.support_radius,
                project=env.goal_of_state,
            )
        )
    return wire_recall(
        env,
        config,
        host.actor,
        device,
        high_value_states=GoalGANStates(
            curriculum,
            config.recall.num_high_value_states,
            goal_decoder=env.state_of_goal,
            is_valid=env.is_valid,
        ),
        critic=host.critic,
        interval=config.frames_per_batch,
        longest_episode=config.env.max_steps,
        relabel=relabel,
    )


class GoalCollector:
    """Episodes towards goals, each tried by several environments.

    Args:
        env: as many environments as goals and tries.
        policy: acts.

    Keyword Args:
        num_rollouts: environments for each goal.
        num_steps: of each environment; at least one episode.
    """

    def __init__(
        self,
        env: GoalEnv,
        policy: TensorDictModuleBase,
        *,
        num_rollouts: int,
        num_steps: int,
    ) -> None:
        self.env, self.policy = env, policy
        self.num_rollouts, self.num_steps = num_rollouts, num_steps

    @torch.no_grad()
    def collect(self, goals: Tensor) -> TensorDictBase:
        """New episodes, ``[num_goals * num_rollouts, num_steps]``; those of a goal are contiguous.

        Args:
            goals: shape ``[num_goals, goal_dim]``.
        """
        self.env.assign_goals(goals.repeat_interleave(self.num_rollouts, 0))
        with set_exploration_type(ExplorationType.RANDOM):
            data = self.env.rollout(self.num_steps, self.policy, break_when_any_done=False)
        return data.select(*_KEYS)

    def shutdown(self) -> None:
        """Close the environment."""
        if not self.env.is_closed:
            self.env.close()

    def state_dict(self) -> dict:
        """Nothing: each batch begins with new episodes."""
        return {}

    def load_state_dict(self, state: dict | None, frames: int) -> bool:
        """Returns True: no episode was cut."""
        return True


def success_rates(data: TensorDictBase, num_goals: int) -> Tensor:
    """Successes per finished episode of each goal, shape ``[num_goals]``.

    Args:
        data: from :meth:`GoalCollector.collect`.
        num_goals: how many goals it was for.
    """
    reached, done = (data["next", key].reshape(num_goals, -1) for key in ("terminated", "done"))
    return reached.sum(1) / done.sum(1)  # each environment has time to finish an episode
