"""Networks of many seeds, stacked along the first dimension."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from torchrl_recall.seeds.streams import Rand

__all__ = ["StackedEmbedding", "StackedLinear", "StackedMLP", "clip_grad_norm_per_seed_"]


class StackedEmbedding(nn.Module):
    """Linear layers of one-hot vectors, one for each seed, which look up their weights.

    Initial weights are uniform in [-1, 1], drawn from the random numbers of each seed.

    Args:
        num_seeds: number of tables.
        categories: number of categories of each input.
        num_out: number of output units.

    Keyword Args:
        zero: whether the last input's weights start at zero. A category never seen in training then
            has no effect on the output.
        rand: function of a shape that draws numbers in [0, 1).

    Examples:
        >>> import torch
        >>> from torchrl_recall.seeds import StackedEmbedding
        >>> StackedEmbedding(3, [4], 8)(torch.zeros(3, 5, dtype=torch.long)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        num_seeds: int,
        categories: Sequence[int],
        num_out: int,
        *,
        zero: bool = False,
        rand: Rand = torch.rand,
    ) -> None:
        super().__init__()
        self.num_seeds, self.categories = num_seeds, list(categories)
        self.weight, self.bias = _uniform(num_seeds, sum(categories), num_out, 1, rand)
        if zero:
            nn.init.zeros_(self.weight[:, -self.categories[-1] :])

    def forward(self, *inputs: Tensor) -> Tensor:
        """Evaluate the layers.

        Args:
            inputs: indices of shape ``[*batch]``, one tensor for each input. The batch is divided
                equally among seeds, in order.

        Returns:
            Outputs of shape ``[*batch, num_out]``.

        Raises:
            IndexError: an index is none of its input's categories.
        """
        # One table holds the rows of all seeds; offsets select the seed and the input.
        table = self.weight.flatten(0, 1)
        x: Tensor = self.bias
        offset = torch.arange(self.num_seeds, device=x.device).unsqueeze(-1) * self.weight.shape[1]
        for index, number in zip(inputs, self.categories, strict=True):
            index = index.reshape(self.num_seeds, -1)
            # Beyond its categories are those of another input or seed; -1 is refused.
            row = torch.where((index >= 0) & (index < number), index + offset, -1)
            x = x + nn.functional.embedding(row, table)
            offset = offset + number
        return x.reshape(*inputs[0].shape, -1)


class StackedLinear(nn.Module):
    """Linear layers, one for each seed.

    Args:
        num_seeds: number of layers.
        num_in: number of input features. The batch is divided equally among seeds, in order.
        num_out: number of output units.

    Keyword Args:
        rand: function of a shape that draws numbers in [0, 1).

    Examples:
        >>> import torch
        >>> from torchrl_recall.seeds import StackedLinear
        >>> StackedLinear(3, 4, 8)(torch.zeros(3, 5, 4)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(
        self, num_seeds: int, num_in: int, num_out: int, *, rand: Rand = torch.rand
    ) -> None:
        super().__init__()
        self.weight, self.bias = _uniform(num_seeds, num_in, num_out, num_in, rand)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the layers.

        Args:
            x: inputs of shape ``[*batch, num_in]``.

        Returns:
            Outputs of shape ``[*batch, num_out]``.
        """
        rows = x.reshape(len(self.weight), -1, x.shape[-1])
        # With one unit, a matrix product's rounding depends on the number of seeds, so sum here.
        if self.weight.shape[-1] == 1:
            out = (rows * self.weight.mT).sum(-1, keepdim=True) + self.bias
        else:
            out = torch.baddbmm(self.bias, rows, self.weight)
        return out.reshape(*x.shape[:-1], -1)


class StackedMLP(nn.Module):
    """Perceptrons of categorical inputs with one hidden layer, one for each seed.

    Args:
        num_seeds: number of perceptrons.
        categories: number of categories of each input.
        hidden: number of hidden units.
        num_out: number of output units.

    Keyword Args:
        zero: whether the last input's weights start at zero; see :class:`StackedEmbedding`.
        rand: function of a shape that draws numbers in [0, 1).

    Examples:
        >>> import torch
        >>> from torchrl_recall.seeds import StackedMLP
        >>> mlp = StackedMLP(3, [4, 9], 8, 2)
        >>> mlp(torch.zeros(3, 5, dtype=torch.long), torch.ones(3, 5, dtype=torch.long)).shape
        torch.Size([3, 5, 2])
    """

    def __init__(
        self,
        num_seeds: int,
        categories: Sequence[int],
        hidden: int,
        num_out: int,
        *,
        zero: bool = False,
        rand: Rand = torch.rand,
    ) -> None:
        super().__init__()
        self.embedding = StackedEmbedding(num_seeds, categories, hidden, zero=zero, rand=rand)
        self.linear = StackedLinear(num_seeds, hidden, num_out, rand=rand)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Evaluate the perceptrons.

        Args:
            inputs: indices of shape ``[*batch]``, one tensor for each input.

        Returns:
            Outputs of shape ``[*batch, num_out]``.
        """
        return self.linear(self.embedding(*inputs).relu())


def _uniform(
    num_seeds: int, num_in: int, num_out: int, fan_in: int, rand: Rand
) -> tuple[nn.Parameter, nn.Parameter]:
    """Draw weight and bias uniformly within ±1 / sqrt(fan_in), as a linear layer does."""
    numbers = (2 * rand((num_seeds, num_in + 1, num_out)) - 1) / math.sqrt(fan_in)
    return nn.Parameter(numbers[:, :-1].clone()), nn.Parameter(numbers[:, -1:].clone())


def clip_grad_norm_per_seed_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients of each seed so that their norm is at most ``max_norm``.

    Args:
        parameters: stacked parameters, whose first dimension is the seed.
        max_norm: largest norm of all gradients of one seed together.

    Returns:
        The norms before scaling, shape ``[num_seeds]``.

    Raises:
        ValueError: no parameter has a gradient.

    Examples:
        >>> import torch
        >>> from torchrl_recall.seeds import clip_grad_norm_per_seed_
        >>> weight = torch.nn.Parameter(torch.zeros(2, 1))
        >>> weight.grad = torch.tensor([[4.0], [0.5]])
        >>> clip_grad_norm_per_seed_([weight], max_norm=1.0)
        tensor([4.0000, 0.5000])
        >>> weight.grad
        tensor([[1.0000],
                [0.5000]])
    """
    # The norm of each seed over all its gradients.
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        raise ValueError("no parameter has a gradient; call backward() first.")
    norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()

    # Scale the gradients of seeds with a larger norm, in place.
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.reshape(-1, *[1] * (gradient.ndim - 1)))
    return norm
