"""Conjugate gradients and divergences, by hand and on a network."""

from __future__ import annotations

import torch
from policies import gaussian
from tensordict import TensorDict
from torch.distributions import Normal

from torchrl_recall import TRPOLoss, TrustRegion
from torchrl_recall.optim.natural_gradient import conjugate_gradient, kl_divergence


def test_conjugate_gradient_solves():
    torch.manual_seed(0)
    root = torch.randn(20, 20).double()
    matrix, b = root @ root.T + torch.eye(20), torch.randn(20).double()
    x, residual = conjugate_gradient(matrix.mv, b, iterations=60)
    assert float((matrix @ x - b).norm() / b.norm()) < 1e-6
    assert float(residual) < 1e-6
    assert float(conjugate_gradient(matrix.mv, b, iterations=2)[1]) > 1e-3


def test_conjugate_gradient_of_nothing_is_nothing():
    x, residual = conjugate_gradient(lambda v: 2 * v, torch.zeros(3))
    assert torch.equal(x, torch.zeros(3))
    assert float(residual) == 0.0


def test_conjugate_gradient_solves_with_a_networks_fisher_matrix():
    region = TrustRegion(TRPOLoss(gaussian().double()), damping=0.01)
    states = TensorDict({"observation": torch.randn(64, 3).double()}, [64])
    product = region.fisher_vector_product(states)
    b = torch.randn(sum(p.numel() for p in region.parameters)).double()
    x, _ = conjugate_gradient(product, b, iterations=200)
    assert float((product(x) - b).norm() / b.norm()) < 1e-6


def test_a_distribution_without_event_dimensions_is_summed():
    zero, one = torch.zeros(4, 3), torch.ones(4, 3)
    torch.testing.assert_close(
        kl_divergence(Normal(zero, one), Normal(one, one)), torch.full((4,), 1.5)
    )
