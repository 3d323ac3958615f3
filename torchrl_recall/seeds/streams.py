"""Random numbers of many seeds in one process: a stream for each seed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["SeedStreams", "SeededCategorical"]

Rand = Callable[[Sequence[int]], Tensor]


class SeedStreams:
    """Random generators, one for each seed.

    A seed gets the same random numbers in a run of several seeds as in a run of one.

    Args:
        seeds: the random seeds.

    Keyword Args:
        stream: name of the purpose. Streams of different names are independent: drawing from one
            does not change the numbers of another.

    Raises:
        ValueError: there is no seed.

    Examples:
        >>> from torchrl_recall.seeds import SeedStreams
        >>> both, single = SeedStreams([3, 4]), SeedStreams([4])
        >>> bool((both.rand((2, 5))[1] == single.rand((1, 5))[0]).all())
        True
    """

    def __init__(self, seeds: Sequence[int], *, stream: str = "") -> None:
        if not len(seeds):
            raise ValueError("there is no seed; give at least one.")
        self.generators = []
        for seed in seeds:
            number = zlib.crc32(f"{seed} {stream}".encode())  # torch's generator takes 32 bits
            self.generators.append(torch.Generator().manual_seed(number))

    def rand(self, shape: Sequence[int], *, where: Tensor | None = None) -> Tensor:
        """Draw numbers in [0, 1).

        Args:
            shape: shape of the result. Its first dimension is divided equally among seeds, in
                order.

        Keyword Args:
            where: booleans whose first dimensions are ``shape``. A seed without any True gets
                zeros, and its generator does not advance.

        Returns:
            Numbers in the given shape.

        Raises:
            ValueError: the first dimension is no multiple of the number of seeds.
        """
        num = len(self.generators)
        if shape[0] % num:
            raise ValueError(f"the shape {tuple(shape)} does not divide among {num} seeds.")
        each = (shape[0] // num, *shape[1:])
        if where is None:
            return torch.cat([torch.rand(each, generator=g) for g in self.generators])
        asked = where.reshape(num, -1).any(1).tolist()
        return torch.cat(
            [
                torch.rand(each, generator=g) if needed else torch.zeros(each)
                for g, needed in zip(self.generators, asked, strict=True)
            ]
        )

    def state_dict(self) -> dict:
        """Return the state of each generator."""
        return {"generators": torch.stack([g.get_state() for g in self.generators])}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        if (num := len(state["generators"])) != len(self.generators):
            raise ValueError(
                f"the state is of {num} seeds, and there are {len(self.generators)} here; give the "
                "state of as many."
            )
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved.clone())  # torch refuses a view of a larger tensor


class SeededCategorical(torch.distributions.Categorical):
    """Categorical distribution that samples by inversion from a given source of random numbers.

    Args:
        logits: unnormalised log-probabilities, shape ``[*batch, n]``.
        rand: function of a shape that draws numbers in [0, 1), such as :meth:`SeedStreams.rand`.

    Examples:
        >>> import torch
        >>> from torchrl_recall.seeds import SeededCategorical
        >>> SeededCategorical(torch.tensor([[-9.0, 9.0]])).sample()
        tensor([1])
    """

    def __init__(self, logits: Tensor, rand: Rand = torch.rand) -> None:
        super().__init__(logits=logits, validate_args=False)
        self.rand = rand

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw samples.

        Args:
            sample_shape: leading dimensions of the result.

        Returns:
            Indices of shape ``[*sample_shape, *batch]``.
        """
        cumulative = self.logits.exp().cumsum(-1)
        # The batch comes first, because random numbers are divided among seeds by their first
        # dimension. Scaled, so that rounding of the sum cannot give an index beyond the last one.
        draw = self.rand((*self.batch_shape, *sample_shape))
        draw = draw.permute(*range(len(self.batch_shape), draw.ndim), *range(len(self.batch_shape)))
        draw = draw.unsqueeze(-1) * cumulative[..., -1:]
        return (cumulative <= draw).sum(-1)

    @property
    def deterministic_sample(self) -> Tensor:
        """Return the most likely category."""
        return self.mode
