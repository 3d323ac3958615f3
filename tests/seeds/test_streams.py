"""Random numbers of many seeds: each seed's are those of a run of its own."""

from __future__ import annotations

import pytest
import torch

from torchrl_recall.seeds import (
    SeededCategorical,
    SeedStreams,
)


def test_a_seed_gets_the_same_numbers_in_any_company():
    together, alone = SeedStreams([5, 7, 9]), SeedStreams([7])
    for shape in ((3, 4), (6, 2), (3,)):
        both = together.rand(shape).unflatten(0, (3, -1))
        own = alone.rand((shape[0] // 3, *shape[1:]))
        assert torch.equal(both[1], own)


def test_seeds_that_need_nothing_stay_where_they_are():
    streams, second = SeedStreams([0, 1]), SeedStreams([1])
    where = torch.tensor([[[True], [False]], [[False], [False]]])
    first = streams.rand((2, 2), where=where)
    assert first[0].all()
    assert not first[1].any()
    assert torch.equal(streams.rand((2, 2))[1], second.rand((1, 2))[0])


def test_streams_of_different_names_and_seeds_differ():
    draws = [
        SeedStreams([seed], stream=name).rand((1, 8)) for seed in (0, 1) for name in ("env", "act")
    ]
    for i, first in enumerate(draws):
        for second in draws[i + 1 :]:
            assert not torch.equal(first, second)


def test_streams_go_on_where_they_were():
    streams = SeedStreams([0, 1])
    streams.rand((2, 3))
    state = streams.state_dict()
    expected = streams.rand((2, 3))
    again = SeedStreams([0, 1])
    again.load_state_dict(state)
    assert torch.equal(again.rand((2, 3)), expected)


def test_a_shape_that_seeds_cannot_share_is_refused():
    with pytest.raises(ValueError, match="does not divide among 2 seeds"):
        SeedStreams([0, 1]).rand((3, 2))


def test_categories_come_as_often_as_they_should():
    torch.manual_seed(0)
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3])
    distribution = SeededCategorical(probabilities.log())
    draws = distribution.sample((20_000,))
    found = torch.bincount(draws, minlength=4) / 20_000
    torch.testing.assert_close(found, probabilities, atol=0.015, rtol=0)
    assert found[1] == 0


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-24])
def test_the_ends_of_the_draw_are_possible_categories(draw):
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    distribution = SeededCategorical(logits, lambda shape: torch.full(tuple(shape), draw))
    assert distribution.sample().item() == (2 if draw else 1)


def test_several_samples_of_a_seed_are_those_that_it_gets_alone():
    def draw(*seeds: int) -> torch.Tensor:
        logits = torch.zeros(len(seeds), 100)
        return SeededCategorical(logits, rand=SeedStreams(seeds).rand).sample((2, 3))

    together = draw(0, 1, 2)
    assert together.shape == (2, 3, 3)
    assert torch.equal(together[..., 1:2], draw(1))


def test_a_state_of_another_number_of_seeds_is_refused():
    with pytest.raises(ValueError, match="the state is of 1 seeds, and there are 2 here"):
        SeedStreams([0, 1]).load_state_dict(SeedStreams([0]).state_dict())
