"""Recall in the latent space of a user's encoder: only the host's own loss trains the encoder."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from test_pipelines import run
from torchrl.collectors import Collector
from torchrl.data import TensorDictReplayBuffer
from torchrl.objectives import DQNLoss

from torchrl_recall import BacktrackingLoss, CriticStates, StateValues

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def page():
    return SimpleNamespace(**run("pixels"))


def snapshot(module):
    """Weights, running statistics, modes and gradients."""
    gradients = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    state = {key: value.clone() for key, value in module.state_dict().items()}
    return state, gradients, [part.training for part in module.modules()]


def same(first, second):
    """Say for each entry of two snapshots' states whether it is bitwise the same."""
    return {key: torch.equal(value, second[0][key]) for key, value in first[0].items()}


def test_the_page_runs(page):
    assert page.metrics["recall/ready"] == 1
    assert page.metrics["recall/loss_imitation"].isfinite()
    assert page.net.layers[1].num_batches_tracked > 0


def test_a_round_leaves_the_encoder_as_it_was(page):
    (data,) = Collector(page.env, page.policy, frames_per_batch=200, total_frames=200)
    before, head, model = (snapshot(part) for part in (page.net, page.head, page.model))
    page.replay_buffer.extend(data)
    page.recall.extend(page.encode(data))
    metrics = page.recall.step(page.latent_view)

    assert "recall/loss_imitation" in metrics
    after = snapshot(page.net)
    assert all(same(before, after).values())
    assert all(
        new is None if old is None else torch.equal(old, new)
        for old, new in zip(before[1], after[1], strict=True)
    )
    assert before[2] == after[2]
    assert not any(same(head, snapshot(page.head)).values())
    assert not all(same(model, snapshot(page.model)).values())


def test_the_hosts_own_update_trains_the_encoder(page):
    before = snapshot(page.net)
    page.policy(page.env.reset())
    assert all(same(before, snapshot(page.net)).values())  # acting moves no statistics
    page.qvalue.train()
    page.update(page.replay_buffer.sample())
    page.qvalue.eval()
    moved = {
        key.rpartition(".")[2] for key, kept in same(before, snapshot(page.net)).items() if not kept
    }
    assert {"weight", "running_mean", "running_var", "num_batches_tracked"} <= moved
    assert not torch.equal(before[0]["layers.0.weight"], page.net.layers[0].weight)


@pytest.mark.parametrize("through_the_view", [True, False])
def test_the_gradient_of_eq_2_reaches_the_model_only(page, through_the_view):
    """Without ``no_grad`` it would reach the encoder: it is the view that cuts it."""
    loss = BacktrackingLoss(page.model)
    rows = (
        page.latent_view[:64] if through_the_view else page.encode.module(page.replay_buffer[:64])
    )
    for part in (page.model, page.net, page.head):
        part.zero_grad()
    sum(loss(rows).values()).backward()
    assert all(p.grad is not None for p in page.model.parameters())
    assert all(p.grad is None for p in page.head.parameters())
    assert all((p.grad is None) == through_the_view for p in page.net.parameters())


def test_the_view_encodes_with_the_encoder_of_the_moment(page):
    first = page.latent_view[:64]
    page.qvalue.train()
    page.update(page.replay_buffer.sample())
    page.qvalue.eval()
    second = page.latent_view[:64]
    assert torch.equal(first["pixels"], second["pixels"])
    with torch.no_grad():
        for place in ((), ("next",)):
            pixels, latent = (*place, "pixels"), (*place, "latent")
            assert not torch.equal(first[latent], second[latent])
            assert torch.equal(second[latent], page.net(second[pixels]))


def test_a_buffer_puts_the_encoder_into_evaluation_mode(page):
    page.qvalue.train()
    TensorDictReplayBuffer(storage=page.replay_buffer.storage, transform=page.encode)
    assert not any(part.training for part in page.net.modules())
    page.qvalue.eval()


def test_a_critic_reads_the_head(page):
    critic = StateValues(DQNLoss(page.head, action_space=page.spec))
    rows = page.latent_view[:200]
    states = CriticStates(critic, 16, **page.of_latent)(rows)
    with torch.no_grad():
        values = page.head(rows.select("latent"))["action_value"].amax(-1)
    torch.testing.assert_close(states["latent"], rows["latent"][values.topk(16).indices])
