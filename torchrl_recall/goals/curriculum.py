"""Curriculum of goals of intermediate difficulty (Held et al., 2018)."""

from __future__ import annotations

import math
import warnings

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_recall.checks import at_least, positive
from torchrl_recall.goals.gan import GoalGAN, GoalGANLoss
from torchrl_recall.optim.batches import mean_losses
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.stateful import NoDeepCopy

__all__ = ["GoalGANCurriculum"]


class GoalGANCurriculum(NoDeepCopy):
    r"""Curriculum of goals that learns from their success rates (Held et al., 2018, Alg. 1).

    A goal is *good* if its success rate lies within ``success_range``: neither too hard nor
    mastered. In each iteration, :meth:`propose` returns new goals from the GAN, with noise, and old
    goals that were reached before. :meth:`update` labels them and trains the GAN. It keeps each
    goal with the smallest success rate of a good one or more, unless a kept goal is near. If no
    goal was good, the next new goals are drawn uniformly. If the goals of the GAN collapse, the GAN
    is reset and trained on kept goals.

    Args:
        gan: generator and discriminator to train.

    Keyword Args:
        num_new: number of goals from the GAN in each iteration.
        num_old: number of kept goals in each iteration.
        success_range: smallest and largest success rate of a good goal, in [0, 1].
        goal_noise: standard deviation of noise on new goals, in units of half the bounds' range.
        min_distance: smallest distance between kept goals, in the same unit; 0.05 times the number
            of dimensions by default.
        max_kept: largest number of kept goals; the oldest are dropped.
        num_updates: gradient steps in each iteration.
        batch_size: goals in each gradient step.
        lr: learning rate of the discriminator.
        generator_lr: learning rate of the generator. Both networks are trained by Adam. With the
            published RMSprop at 1e-3 for both, the generator covered only one or two of twelve
            sectors of a ring.
        min_spread: the GAN counts as collapsed if the standard deviation of its goals is below this
            number in every dimension, in the same unit.
        compile: whether gradient steps are compiled; see :func:`~torchrl_recall.make_update`.

    Attributes:
        num_fallbacks: number of iterations in which no goal was good.
        num_collapses: number of resets of the GAN.

    Raises:
        ValueError: a number is out of its range, or goals or rates have another shape.

    Examples:
        >>> import torch
        >>> from torchrl.data import Bounded
        >>> from torchrl_recall import GoalGAN, GoalGANCurriculum
        >>> curriculum = GoalGANCurriculum(GoalGAN(Bounded(-1, 1, (2,))))
        >>> curriculum.pretrain(0.1 * torch.randn(500, 2))
        >>> goals = curriculum.propose()
        >>> reached = torch.exp(-5 * goals.norm(dim=1))            # of each goal's rollouts
        >>> sorted(curriculum.update(goals, reached))[:2]
        ['goal_gan/collapses', 'goal_gan/fallbacks']
    """

    def __init__(
        self,
        gan: GoalGAN,
        *,
        num_new: int = 200,
        num_old: int = 100,
        success_range: tuple[float, float] = (0.1, 0.9),
        goal_noise: float = 0.05,
        min_distance: float | None = None,
        max_kept: int = 5_000,
        num_updates: int = 200,
        batch_size: int = 64,
        lr: float = 1e-3,
        generator_lr: float = 1e-4,
        min_spread: float = 0.01,
        compile: bool = False,
    ) -> None:
        low, high = success_range
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"success_range must be two increasing rates in [0, 1], got {success_range}."
            )
        at_least(
            1, num_new=num_new, max_kept=max_kept, num_updates=num_updates, batch_size=batch_size
        )
        at_least(0, num_old=num_old)
        if not goal_noise >= 0:
            raise ValueError(f"goal_noise must be zero or positive, got {goal_noise}.")
        positive(lr=lr, generator_lr=generator_lr)
        for name, number in (("min_distance", min_distance or 0.0), ("min_spread", min_spread)):
            if not 0 <= number < math.inf:
                raise ValueError(f"{name} must be zero or positive, got {number}.")
        self.gan = gan
        self.num_new, self.num_old = num_new, num_old
        self.success_range = low, high
        self.goal_noise, self.min_spread = goal_noise, min_spread
        self.min_distance = 0.05 * gan.goal_dim if min_distance is None else min_distance
        self.max_kept, self.num_updates, self.batch_size = max_kept, num_updates, batch_size
        self.loss_module = GoalGANLoss(gan)
        networks = self.loss_module.discriminator_params, self.loss_module.generator_params
        self.optimizer = torch.optim.Adam(
            [
                {"params": [p for p in params.values(True, True) if p.requires_grad], "lr": rate}
                for params, rate in zip(networks, (lr, generator_lr), strict=True)
            ],
            betas=(0.5, 0.9),
            fused=True,
        )
        self._update = make_update(self.loss_module, self.optimizer, compile=compile)
        self.kept = gan.low.new_empty(0, gan.goal_dim)
        self.num_fallbacks = self.num_collapses = 0
        self._fall_back = False

    def pretrain(self, goals: Tensor) -> None:
        """Fit the GAN to goals that are reached by chance, such as those of a random policy.

        Args:
            goals: goals of shape ``[num_goals, goal_dim]``, environment units. Goals out of bounds
                are left out.

        Raises:
            ValueError: no goal is within the bounds.
        """
        goals = self._check(goals)
        goals = goals[((goals >= self.gan.low) & (goals <= self.gan.high)).all(1)]
        if not len(goals):
            raise ValueError(
                "none of the goals lies within the bounds of the GAN's goal_spec; give goals in "
                "environment units, or wider bounds."
            )
        goals = goals[torch.randperm(len(goals))[: self.max_kept]]
        self._keep(goals)
        self.fit(goals, torch.ones(len(goals), dtype=torch.bool, device=goals.device))

    def sample(self, num: int) -> Tensor:
        """Draw new goals, with noise; they are uniform if no goal was good in the last iteration.

        Args:
            num: number of goals.

        Returns:
            Goals of shape ``[num, goal_dim]``, within the bounds, environment units.
        """
        gan = self.gan
        if self._fall_back:
            return gan.uniform(num)
        goals = gan.sample(num)
        noise = self.goal_noise * (gan.high - gan.low) / 2 * torch.randn_like(goals)
        return (goals + noise).clamp(gan.low, gan.high)

    def propose(self, num: int | None = None) -> Tensor:
        """Draw the goals of an iteration, new goals first.

        While few goals are kept, new goals take the place of the missing old ones.

        Args:
            num: number of goals; ``num_new + num_old`` by default. The ratio of new and old goals
                stays the same.

        Returns:
            Goals of shape ``[num, goal_dim]``, environment units.
        """
        usual = self.num_new + self.num_old
        num = usual if num is None else num
        num_old = round(num * self.num_old / usual)
        old = self.kept[torch.randperm(len(self.kept))[:num_old]]
        return torch.cat([self.sample(num - len(old)), old])

    def label(self, success_rate: Tensor) -> Tensor:
        """Mark good goals.

        Args:
            success_rate: share of each goal's episodes that reached it, shape ``[num_goals]``.

        Returns:
            Booleans of shape ``[num_goals]``.
        """
        low, high = self.success_range
        return (success_rate >= low) & (success_rate <= high)

    def update(self, goals: Tensor, success_rate: Tensor) -> dict[str, Tensor]:
        """Train the GAN on the outcome of an iteration, and keep reached goals.

        Args:
            goals: goals that were tried, shape ``[num_goals, goal_dim]``, environment units.
            success_rate: share of each goal's episodes that reached it, shape ``[num_goals]``.

        Returns:
            Metrics for the log.
        """
        # Label the goals, and keep those that can be reached.
        goals = self._check(goals, success_rate)
        labels = self.label(success_rate)
        metrics = {"goal_gan/good": labels.float().mean()}
        metrics["goal_gan/hopeless"] = (success_rate < self.success_range[0]).float().mean()
        self._keep(goals[success_rate >= self.success_range[0]])

        # Train the GAN, or fall back to uniform goals where there is nothing to learn from.
        self._fall_back = not bool(labels.any())
        if self._fall_back:
            if not self.num_fallbacks:
                warnings.warn(
                    f"none of {len(goals)} goals had a success rate within {self.success_range}, "
                    "so the next ones are uniform; goal_gan/fallbacks counts such iterations.",
                    stacklevel=2,
                )
            self.num_fallbacks += 1
        else:
            # Count neighbouring goals once. Otherwise the GAN is trained most on what it already
            # proposes, and collapses.
            good_first = labels.int().argsort(descending=True, stable=True)
            chosen = good_first[self._apart(goals[good_first])]
            metrics |= self.fit(goals[chosen], labels[chosen])
            if self._collapsed():
                self.num_collapses += 1
                self.gan.reset_parameters()
                self.optimizer.state.clear()
                good = torch.cat([self.kept, goals[labels]])
                self.fit(good, torch.ones(len(good), dtype=torch.bool, device=goals.device))

        metrics["goal_gan/kept"] = torch.tensor(len(self.kept))
        metrics["goal_gan/fallbacks"] = torch.tensor(self.num_fallbacks)
        metrics["goal_gan/collapses"] = torch.tensor(self.num_collapses)
        return metrics

    def fit(self, goals: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Take ``num_updates`` gradient steps on labelled goals.

        Args:
            goals: goals of shape ``[num_goals, goal_dim]``, environment units.
            labels: True for good goals, of which there must be one, shape ``[num_goals]``.

        Returns:
            Means of the losses.

        Raises:
            ValueError: no goal is good.
        """
        goals = self._check(goals)
        if not labels.any():
            raise ValueError("no goal is labelled good, so that there is nothing to imitate.")
        data = TensorDict({"goal": goals, "label": labels.unsqueeze(-1)}, [len(goals)])
        # Half of each batch are good goals, even if they are few, so that none is forgotten.
        size, half = (self.num_updates, self.batch_size), self.batch_size // 2
        index = torch.randint(len(goals), size, device=goals.device)
        good = labels.nonzero().squeeze(-1)
        index[:, :half] = good[torch.randint(len(good), (size[0], half), device=goals.device)]
        return mean_losses([self._update(batch) for batch in data[index].unbind(0)], "goal_gan")

    def _collapsed(self) -> bool:
        """Return True if the GAN's goals are all near each other, or are NaN."""
        goals = self.gan.normalized(self.gan.sample(256))
        return not bool(goals.std(0).amax() >= self.min_spread)  # NaN too

    def _keep(self, goals: Tensor) -> None:
        """Add goals that are not near a kept goal, in the order given."""
        ours, new = (self.gan.normalized(g) for g in (self.kept, goals))
        goals = goals[(torch.cdist(new, ours) >= self.min_distance).all(1)]
        self.kept = torch.cat([self.kept, goals[self._apart(goals)]])[-self.max_kept :]

    def _apart(self, goals: Tensor) -> Tensor:
        """Choose goals in the order given, each of which is not near one that is chosen."""
        goals = self.gan.normalized(goals)
        near = (torch.cdist(goals, goals) < self.min_distance).cpu()
        chosen = torch.zeros(len(goals), dtype=torch.bool)
        free = ~chosen
        while free.any():
            first = int(free.int().argmax())
            chosen[first], free[first] = True, False
            free &= ~near[first]
        return chosen.to(goals.device)

    def _check(self, goals: Tensor, success_rate: Tensor | None = None) -> Tensor:
        """Refuse goals of another kind; return them in the GAN's type."""
        if goals.ndim != 2 or goals.shape[1] != self.gan.goal_dim or not len(goals):
            raise ValueError(
                f"goals must have the shape [num_goals, {self.gan.goal_dim}] of this GAN, got "
                f"{tuple(goals.shape)}."
            )
        if not goals.isfinite().all():
            raise ValueError("the goals hold NaN or infinity; drop those.")
        goals = goals.to(self.gan.low)
        if success_rate is None:
            return goals
        if success_rate.shape != goals.shape[:1]:
            raise ValueError(
                f"success_rate must have the shape [{len(goals)}] of the goals, got "
                f"{tuple(success_rate.shape)}."
            )
        if not ((success_rate >= 0) & (success_rate <= 1)).all():
            raise ValueError("success rates must be in [0, 1], without NaN.")
        return goals

    def state_dict(self) -> dict:
        """Return networks, optimiser, kept goals and counts."""
        return {
            "loss": self.loss_module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "kept": self.kept.clone(),
            "counts": [self.num_fallbacks, self.num_collapses, int(self._fall_back)],
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.loss_module.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.kept = state["kept"].clone().to(self.gan.low.device)
        self.num_fallbacks, self.num_collapses, fall_back = state["counts"]
        self._fall_back = bool(fall_back)
