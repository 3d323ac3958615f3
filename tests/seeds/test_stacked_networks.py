"""Stacked networks: each seed's is the network of a run of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchrl_recall.seeds import (
    SeedStreams,
    StackedEmbedding,
    StackedLinear,
    StackedMLP,
    clip_grad_norm_per_seed_,
)


def layers(num_seeds, rand):
    yield StackedMLP(num_seeds, [4, 9], 8, 3, rand=rand), True
    yield StackedEmbedding(num_seeds, [4, 9], 8, rand=rand), True
    yield StackedLinear(num_seeds, 5, 3, rand=rand), False
    yield StackedLinear(num_seeds, 5, 1, rand=rand), False


@pytest.mark.parametrize("which", range(4))
def test_each_seed_has_the_layer_that_it_has_alone(which):
    stacked, is_table = list(layers(3, SeedStreams([2, 4, 6]).rand))[which]
    alone, _ = list(layers(1, SeedStreams([4]).rand))[which]
    # The layers above come one after another from the same streams.
    for name, parameter in stacked.named_parameters():
        assert torch.equal(parameter[1], dict(alone.named_parameters())[name][0])
    torch.manual_seed(0)
    if is_table:
        inputs = [torch.randint(4, (6, 10)), torch.randint(9, (6, 10))]
    else:
        inputs = [torch.randn(6, 10, 5)]
    both, own = stacked(*inputs), alone(*[x[2:4] for x in inputs])
    assert torch.equal(both[2:4], own)
    (both**2).sum().backward()
    (own**2).sum().backward()
    for name, parameter in stacked.named_parameters():
        assert torch.equal(parameter.grad[1], dict(alone.named_parameters())[name].grad[0])


def test_a_table_is_a_linear_layer_of_one_hot_vectors():
    torch.manual_seed(0)
    table = StackedEmbedding(1, [4, 9], 8)
    linear = nn.Linear(13, 8)
    linear.weight.data, linear.bias.data = table.weight[0].T.clone(), table.bias[0, 0].clone()
    a, b = torch.randint(4, (10,)), torch.randint(9, (10,))
    hot = torch.cat([nn.functional.one_hot(a, 4), nn.functional.one_hot(b, 9)], -1).float()
    torch.testing.assert_close(table(a.unsqueeze(0), b.unsqueeze(0))[0], linear(hot))


def test_an_unseen_category_has_no_effect():
    table = StackedEmbedding(2, [3, 5], 8, zero=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=1.0)
    two = torch.full((2, 6), 2)
    table(two, two).sum().backward()
    optimizer.step()
    first, unseen, seen = torch.zeros(2, 1, dtype=torch.long), two[:, :1] + 1, two[:, :1]
    torch.testing.assert_close(table(first, unseen), table.weight[:, :1] + table.bias)
    assert not torch.isclose(table(first, seen), table(first, unseen)).any()


def test_initial_weights_are_those_of_a_linear_layer():
    torch.manual_seed(0)
    layer = StackedLinear(4, 100, 50)
    bound = 1 / 10
    assert layer.weight.abs().max() <= bound
    assert float(layer.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert float(nn.Linear(100, 50).weight.detach().std()) == pytest.approx(
        bound / 3**0.5, rel=0.05
    )


def test_gradients_are_clipped_for_each_seed_alone():
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(3, 4, 5)), nn.Parameter(torch.randn(3, 1, 5))]
    scale = torch.tensor([0.01, 1.0, 10.0])
    expected = []
    for p in parameters:
        p.grad = torch.randn_like(p) * scale.reshape(3, 1, 1)
        expected.append(p.grad.clone())
    norms = clip_grad_norm_per_seed_(parameters, 0.5)
    for seed in range(3):
        own = [nn.Parameter(p[seed].detach().clone()) for p in parameters]
        for p, gradient in zip(own, expected, strict=True):
            p.grad = gradient[seed].clone()
        norm = nn.utils.clip_grad_norm_(own, 0.5)
        torch.testing.assert_close(norms[seed], norm)
        for p, stacked in zip(own, parameters, strict=True):
            torch.testing.assert_close(p.grad, stacked.grad[seed])


@pytest.mark.parametrize("index", [4, -1])
def test_an_index_beyond_the_categories_is_refused(index):
    layer = StackedEmbedding(2, [4, 9], 3)
    inside = torch.zeros(2, 1, dtype=torch.long)
    for seed in (0, 1):
        cells = inside.clone()
        cells[seed] = index
        with pytest.raises(IndexError):
            layer(cells, inside)


def test_parameters_without_gradients_are_refused():
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        clip_grad_norm_per_seed_([nn.Parameter(torch.zeros(2, 1))], 1.0)
