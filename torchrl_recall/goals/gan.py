"""Networks of a Goal GAN and their loss (Held et al., 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModule, dispatch
from torch import Tensor, nn
from torchrl.data import Bounded
from torchrl.modules import MLP
from torchrl.objectives import LossModule

from torchrl_recall.checks import require
from torchrl_recall.objectives.backtracking import check_reduction, zero_masked

__all__ = ["GoalGAN", "GoalGANLoss"]


class GoalGAN(nn.Module):
    """Generator of goals and discriminator that scores them, as tensordict modules.

    ``generator`` maps ``"noise"`` to ``"goal"``, within the bounds of the spec. ``discriminator``
    maps ``"goal"`` to ``"score"``, which is high for goals of intermediate difficulty.

    From Held et al., *Automatic Goal Generation for Reinforcement Learning Agents*, ICML 2018. The
    default sizes are those of the paper.

    Args:
        goal_spec: bounds and shape ``[goal_dim]`` of a goal, environment units.

    Keyword Args:
        noise_dim: dimension of the generator's Gaussian input.
        generator_cells: hidden units of each layer of the generator.
        discriminator_cells: hidden units of each layer of the discriminator.

    Raises:
        ValueError: the spec is not that of a bounded vector.

    Examples:
        >>> from torchrl.data import Bounded
        >>> from torchrl_recall import GoalGAN
        >>> gan = GoalGAN(Bounded(-1, 1, (2,)))
        >>> gan.sample(5).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        goal_spec: Bounded,
        *,
        noise_dim: int = 4,
        generator_cells: Sequence[int] = (256, 256),
        discriminator_cells: Sequence[int] = (128, 128),
    ) -> None:
        super().__init__()
        space = getattr(goal_spec, "space", None)
        low, high = getattr(space, "low", None), getattr(space, "high", None)
        if low is None or high is None or low.ndim != 1 or not _is_wide(low, high):
            raise ValueError(
                "goal_spec must be a Bounded vector with finite bounds of some width, such as "
                f"Bounded(-1, 1, (2,)), got {goal_spec}."
            )
        low, high = (end.to(torch.get_default_dtype()) for end in (low, high))  # as networks are
        self.noise_dim, self.goal_dim = noise_dim, len(low)
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", low.clone())
        self.register_buffer("high", high.clone())
        generator = _mlp(noise_dim, generator_cells, self.goal_dim)
        discriminator = _mlp(self.goal_dim, discriminator_cells, 1)
        self.generator = TensorDictModule(
            nn.Sequential(generator, nn.Tanh(), _Affine(low, high)), ["noise"], ["goal"]
        )
        self.discriminator = TensorDictModule(
            nn.Sequential(_Affine(low, high, inverse=True), discriminator), ["goal"], ["score"]
        )

    def noise(self, num: int) -> TensorDict:
        """Draw inputs of the generator.

        Args:
            num: number of inputs.

        Returns:
            ``"noise"`` in a tensordict of shape ``[num]``.
        """
        return TensorDict(
            {"noise": torch.randn(num, self.noise_dim, device=self.low.device)}, [num]
        )

    @torch.no_grad()
    def sample(self, num: int) -> Tensor:
        """Draw goals from the generator.

        Args:
            num: number of goals.

        Returns:
            Goals of shape ``[num, goal_dim]``, environment units.
        """
        return self.generator(self.noise(num))["goal"]

    def uniform(self, num: int) -> Tensor:
        """Draw goals uniformly within the bounds.

        Args:
            num: number of goals.

        Returns:
            Goals of shape ``[num, goal_dim]``, environment units.
        """
        share = torch.rand(num, self.goal_dim, device=self.low.device)
        return self.low + (self.high - self.low) * share

    def normalized(self, goals: Tensor) -> Tensor:
        """Scale goals so that their bounds are at -1 and 1.

        Args:
            goals: goals of shape ``[*batch, goal_dim]``, environment units.

        Returns:
            Scaled goals of the same shape.
        """
        return 2 * (goals - self.low) / (self.high - self.low) - 1

    def reset_parameters(self) -> None:
        """Draw new weights of both networks."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()


def _is_wide(low: Tensor, high: Tensor) -> bool:
    return bool(((high - low).isfinite() & (high > low)).all())


def _mlp(in_features: int, num_cells: Sequence[int], out_features: int) -> MLP:
    return MLP(in_features, out_features, num_cells=list(num_cells), activation_class=nn.ReLU)


class _Affine(nn.Module):
    """Affine map from [-1, 1] to bounds, or back."""

    def __init__(self, low: Tensor, high: Tensor, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.loc: Tensor
        self.scale: Tensor
        self.register_buffer("loc", (low + high) / 2)
        self.register_buffer("scale", (high - low) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.loc) / self.scale if self.inverse else self.loc + self.scale * x


class GoalGANLoss(LossModule):
    r"""Least-squares losses of a Goal GAN on labelled goals.

    .. math::
        L_D &= \mathbb{E}_g \left[ y_g (D(g) - 1)^2 + (1 - y_g) (D(g) + 1)^2 \right]
            + \mathbb{E}_z \left[ (D(G(z)) + 1)^2 \right] \\
        L_G &= \mathbb{E}_z \left[ D(G(z))^2 \right]

    This is Eq. 5 of Held et al., *Automatic Goal Generation for Reinforcement Learning Agents*,
    2018, with a = -1, b = 1 and c = 0. The label :math:`y_g` is 1 for a goal of intermediate
    difficulty and 0 for any other. Each loss has gradients for one network only, so their sum can
    be minimised in one step.

    Args:
        gan: generator and discriminator.

    Keyword Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over unmasked goals. Each labelled goal is
            paired with a generated one.

    Raises:
        KeyError: goals or labels are missing.
        ValueError: the reduction is unknown.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded
        >>> from torchrl_recall import GoalGAN, GoalGANLoss
        >>> loss = GoalGANLoss(GoalGAN(Bounded(-1, 1, (2,))))
        >>> goals = 2 * torch.rand(64, 2) - 1
        >>> data = TensorDict({"goal": goals, "label": goals[:, :1] > 0}, [64])
        >>> sorted(loss(data).keys())
        ['loss_discriminator', 'loss_generator']
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that :meth:`set_keys` may rename.

        Attributes:
            goal: goals, shape ``[num_goals, goal_dim]``, environment units.
            label: True for a goal of intermediate difficulty, shape ``[num_goals, 1]``.
            mask: optional booleans, shape ``[num_goals]``; False ignores a goal.
        """

        goal: NestedKey = "goal"
        label: NestedKey = "label"
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_discriminator", "loss_generator"]  # noqa: RUF012

    generator: TensorDictModule
    generator_params: TensorDictParams
    target_generator_params: TensorDictParams
    discriminator: TensorDictModule
    discriminator_params: TensorDictParams
    target_discriminator_params: TensorDictParams

    def __init__(self, gan: GoalGAN, *, reduction: Literal["none", "mean", "sum"] = "mean") -> None:
        super().__init__()
        self.reduction = check_reduction(reduction)
        self.noise_dim = gan.noise_dim
        self.convert_to_functional(gan.generator, "generator")
        self.convert_to_functional(gan.discriminator, "discriminator")
        self.set_keys()

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        self.in_keys = [self.tensor_keys.goal, self.tensor_keys.label]

    def _loss_mask_keys(self) -> tuple[NestedKey, ...]:
        return (self.tensor_keys.mask, *super()._loss_mask_keys())

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute both losses, on equal numbers of generated and labelled goals.

        Args:
            tensordict: labelled goals, batch shape ``[num_goals]``.

        Returns:
            ``loss_discriminator`` and ``loss_generator``, scalars unless the reduction is
            ``"none"``.
        """
        cure = "Rename it with loss.set_keys(goal=..., label=...)."
        for key in (self.tensor_keys.goal, self.tensor_keys.label):
            require(tensordict, key, "GoalGANLoss", cure)
        data = zero_masked(tensordict, self._loss_mask_keys(), self.in_keys)
        weights = next(iter(self.discriminator_params.values(True, True)))
        goal = data.get(self.tensor_keys.goal).to(weights.dtype)
        label = data.get(self.tensor_keys.label)
        label = label.reshape(len(goal), 1).to(goal.dtype)

        noise = TensorDict(
            {"noise": goal.new_empty(len(goal), self.noise_dim).normal_()}, [len(goal)]
        )
        with self.generator_params.to_module(self.generator, preserve_module_state=False):
            generated = self.generator(noise)["goal"]

        # Scores of both kinds of goals, and scores by a frozen discriminator for the generator.
        both = torch.cat([goal, generated.detach()])
        real, fake = self._score(both, self.discriminator_params).chunk(2)
        judged = self._score(generated, self.discriminator_params.detach())

        labelled, of_fake, of_generator = (
            self._reduce_loss(loss.squeeze(-1), tensordict)
            for loss in (
                label * (real - 1) ** 2 + (1 - label) * (real + 1) ** 2,
                (fake + 1) ** 2,
                judged**2,
            )
        )
        return TensorDict(
            {"loss_discriminator": labelled + of_fake, "loss_generator": of_generator},
            batch_size=labelled.shape,
        )

    def _score(self, goal: Tensor, params: TensorDictBase) -> Tensor:
        with params.to_module(self.discriminator, preserve_module_state=False):
            return self.discriminator(TensorDict({"goal": goal}, [len(goal)]))["score"]
