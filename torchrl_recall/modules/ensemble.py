"""Ensembles: several networks with stacked weights, and the mixture of their distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from torchrl_recall.checks import at_least
from torchrl_recall.seeds.stacked_networks import StackedLinear

__all__ = ["EnsembleDistribution", "EnsembleMLP"]


class EnsembleMLP(nn.Module):
    """Perceptrons of the same shape with independent initial weights, evaluated at once.

    Args:
        num_models: number of perceptrons.

    Keyword Args:
        in_features: number of features of all inputs together.
        out_features: number of outputs of each perceptron.
        num_cells: hidden units of each layer.
        activation_class: activation function between the layers.

    Raises:
        ValueError: a number is out of its range.

    Examples:
        >>> import torch
        >>> from torchrl_recall.modules.ensemble import EnsembleMLP
        >>> mlp = EnsembleMLP(5, in_features=3, out_features=2, num_cells=[8])
        >>> mlp(torch.zeros(7, 2), torch.zeros(7, 1)).shape
        torch.Size([7, 5, 2])
    """

    def __init__(
        self,
        num_models: int,
        *,
        in_features: int,
        out_features: int,
        num_cells: Sequence[int],
        activation_class: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        at_least(1, num_models=num_models)
        self.num_models = num_models
        sizes = [in_features, *num_cells, out_features]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [StackedLinear(num_models, before, after), activation_class()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, *inputs: Tensor) -> Tensor:
        """Evaluate all perceptrons.

        Args:
            inputs: tensors of shape ``[*batch, features]``, which are concatenated.

        Returns:
            Outputs of shape ``[*batch, num_models, out_features]``.
        """
        x = torch.cat(inputs, -1)
        rows = x.reshape(-1, x.shape[-1]).expand(self.num_models, -1, -1)
        return self.layers(rows).movedim(0, -2).reshape(*x.shape[:-1], self.num_models, -1)


class EnsembleDistribution(Distribution):
    r"""Uniform mixture of the distributions of an ensemble's members.

    .. math:: p(x) = \frac{1}{M} \sum_{m=1}^M p_m(x)

    Args:
        kind: distribution class of the members.
        parameters: parameters of that class, each of shape ``[*batch, num_models, features]``.

    Examples:
        >>> import torch
        >>> from torchrl.modules import IndependentNormal
        >>> from torchrl_recall.modules.ensemble import EnsembleDistribution
        >>> loc, scale = torch.zeros(4, 5, 2), torch.ones(4, 5, 2)
        >>> ensemble = EnsembleDistribution(IndependentNormal, loc=loc, scale=scale)
        >>> ensemble.sample().shape, ensemble.member_log_prob(torch.zeros(4, 2)).shape
        (torch.Size([4, 2]), torch.Size([4, 5]))
    """

    has_rsample = False

    def __init__(self, kind: Callable[..., Distribution], **parameters: Tensor) -> None:
        self.kind, self.parameters, self.members = kind, parameters, kind(**parameters)
        *batch, self.num_models = self.members.batch_shape
        super().__init__(torch.Size(batch), self.members.event_shape, validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # type: ignore[override]
        """Draw a sample from a random member, chosen for each row.

        Args:
            sample_shape: leading dimensions of the result.

        Returns:
            Samples of the members' kind, without a dimension of members.
        """
        shape = (*sample_shape, *self.batch_shape)
        device = next(iter(self.parameters.values())).device
        member = torch.randint(self.num_models, shape, device=device)
        chosen = {name: self._of(member, value) for name, value in self.parameters.items()}
        return self.kind(**chosen).sample()

    def _of(self, member: Tensor, parameter: Tensor) -> Tensor:
        """Select the parameters of one member for each row."""
        parameter = parameter.expand(*member.shape, *parameter.shape[-2:])
        index = member[..., None, None].expand(*member.shape, 1, parameter.shape[-1])
        return parameter.gather(-2, index).squeeze(-2)

    @property
    def mean(self) -> Tensor:
        """The mean over the members."""
        return self.members.mean.mean(len(self.batch_shape))

    @property
    def deterministic_sample(self) -> Tensor:
        """The mean over the members; of categories the likeliest under the mixture."""
        probs = getattr(self.members, "probs", None)
        if probs is None:
            return self.mean
        mixture = probs.mean(len(self.batch_shape))
        return self.kind(probs=mixture).mode

    mode = deterministic_sample

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-density of the mixture, in nats, shape ``[*batch]``.

        Args:
            value: values of the members' kind.

        Returns:
            Log-densities of shape ``[*batch]``.
        """
        return self.member_log_prob(value).logsumexp(-1) - math.log(self.num_models)

    def member_log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-density of each member, in nats, shape ``[*batch, num_models]``.

        Args:
            value: values of the members' kind.

        Returns:
            Log-densities of shape ``[*batch, num_models]``.
        """
        return self.members.log_prob(value.unsqueeze(len(self.batch_shape)))
