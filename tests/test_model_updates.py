"""Training of the backtracking model: which data each factor learns from, and how often."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from experience import episodes, make_replay_buffer, new_model, same, steps, weights
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import nn
from torchrl.data import Bounded, Unbounded
from torchrl.modules import IndependentNormal, ValueOperator

from torchrl_recall import BacktrackingLoss, BacktrackingModel, JointModel
from torchrl_recall.data.top_trajectories import TopTrajectories
from torchrl_recall.envs import FourRoomsLayout, four_rooms_model
from torchrl_recall.model_updates import ModelUpdates, make_model_loss


class First(nn.Module):
    def forward(self, observation):
        return observation[..., :1]


FIRST = ValueOperator(First(), in_keys=["observation"])


def build(**kwargs):
    """A model that is to be trained, and good trajectories that it has the statistics of."""
    model = new_model()
    data = episodes(1.0, 2.0, 3.0)
    model.update_statistics(data)
    trajectories = TopTrajectories(2)
    trajectories.extend(data)
    return model, ModelUpdates(BacktrackingLoss(model), **kwargs), trajectories


def test_the_means_are_those_of_the_losses_by_hand():
    """One step on a batch whose rows are all the same is a step on that row."""
    row = episodes(1.0, 2.0)[:1]
    model = new_model()
    model.update_statistics(episodes(1.0, 2.0))
    loss = BacktrackingLoss(model)
    expected = {key: float(value.detach()) for key, value in loss(row).items()}
    trajectories = TopTrajectories(1)
    trajectories.buffer.storage.set(range(1), row)
    train_model = ModelUpdates(loss, num_updates=1, batch_size=4)
    told = train_model(trajectories, make_replay_buffer(row))
    assert {f"backtracking/{key}": value for key, value in expected.items()} == pytest.approx(
        {key: float(value) for key, value in told.items()}, rel=1e-5
    )
    assert not any(value.requires_grad for value in told.values())


def test_the_first_step_of_adam_by_hand():
    """It is lr long in every weight whose gradient is not almost zero."""
    model, train_model, trajectories = build(num_updates=1, lr=0.01)
    before = weights(model)
    train_model(trajectories, make_replay_buffer())
    moved = torch.cat(
        [(a - b).abs().flatten() for a, b in zip(weights(model), before, strict=True)]
    )
    assert float(moved.max()) == pytest.approx(0.01, rel=1e-3)
    assert float(moved.median()) == pytest.approx(0.01, rel=1e-2)


@pytest.mark.parametrize("num_updates", [1, 3])
def test_updates_are_counted(num_updates):
    _, train_model, trajectories = build(num_updates=num_updates)
    for rounds in (1, 2):
        train_model(trajectories, make_replay_buffer())
        assert steps(train_model.optimizer) == rounds * num_updates


def test_without_updates_nothing_happens():
    model, train_model, trajectories = build(num_updates=0)
    buffer = make_replay_buffer()
    before, rng = weights(model), torch.get_rng_state()
    assert train_model(trajectories, buffer) == {}
    assert same(weights(model), before)
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize(("data", "equal"), [("top", True), ("all", False)])
def test_what_the_state_predictor_learns_from(data, equal):
    model, train_model, trajectories = build(num_updates=2, state_predictor_data=data)
    start, optimizer = copy.deepcopy(model.state_dict()), copy.deepcopy(train_model.state_dict())
    results = []
    for buffer in (make_replay_buffer(episodes(0.0)), make_replay_buffer(episodes(0.0))):
        model.load_state_dict(start)
        train_model.load_state_dict(copy.deepcopy(optimizer))
        torch.manual_seed(1)
        train_model(trajectories, buffer)
        results.append((weights(model.backward_policy), weights(model.state_predictor)))
    assert same(results[0][0], results[1][0])  # the backward policy, from the top ones
    assert same(results[0][1], results[1][1]) == equal


def test_sizes_of_both_batches():
    _, train_model, trajectories = build(num_updates=3, batch_size=7, all_batch_size=11)
    seen = []
    update = train_model._update
    train_model._update = lambda *batches: (
        seen.append([len(b) for b in batches]) or update(*batches)
    )
    train_model(trajectories, make_replay_buffer())
    assert seen == [[7, 11]] * 3


def test_known_dynamics_are_not_trained():
    """The exact predecessors of a grid have no parameters, so all experience is not read."""
    layout = FourRoomsLayout(5)
    model = four_rooms_model(layout, nn.Embedding(layout.num_cells, 4))
    train_model = ModelUpdates(BacktrackingLoss(model), num_updates=1)
    assert not train_model.learns_dynamics
    assert build()[1].learns_dynamics
    trajectories = TopTrajectories(1)
    cells = torch.tensor([layout.index((1, 1)), layout.index((1, 2))])
    row = episodes(1.0)[:1].exclude("observation", "action", ("next", "observation"))
    row["observation"], row["next", "observation"] = cells[:1], cells[1:]
    row["action"] = torch.tensor([1])  # right
    trajectories.buffer.storage.set(range(1), row)
    assert list(train_model(trajectories, replay_buffer=None)) == [
        "backtracking/loss_backward_policy"
    ]


class Stays(nn.Module):
    """Predecessors that are known: the state itself, nearly."""

    def forward(self, action, following):
        return torch.zeros_like(following), torch.full_like(following, 1e-3)


def test_known_continuous_dynamics_are_not_trained():
    predictor = ProbabilisticTensorDictSequential(
        TensorDictModule(Stays(), ["action", ("next", "observation")], ["loc", "scale"]),
        ProbabilisticTensorDictModule(
            ["loc", "scale"], ["observation_delta"], distribution_class=IndependentNormal
        ),
    )
    specs = Unbounded((3,)), Bounded(-1, 1, (2,))
    policy = BacktrackingModel.from_specs(*specs).backward_policy
    model = BacktrackingModel(policy, predictor, observation_spec=specs[0], action_spec=specs[1])
    assert not ModelUpdates(BacktrackingLoss(model), num_updates=1).learns_dynamics


def test_members_of_a_joint_model_are_refused():
    model = JointModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
    with pytest.raises(ValueError, match="member of an ensemble"):
        make_model_loss(model, bootstrap=True)


def test_state_fraction_takes_the_most_valuable():
    _, train_model, trajectories = build(state_fraction=0.4, critic=FIRST, state_batch_size=200)
    top = train_model.most_valuable(trajectories)
    kept = trajectories.transitions()["observation"][:, 0]
    assert len(kept) == 10
    expected = kept.sort(descending=True).values[:4]  # 200 draws reach every one of ten states
    assert torch.equal(top["observation"][:, 0].sort(descending=True).values, expected)


def test_all_of_the_top_trajectories_by_default():
    _, train_model, trajectories = build(critic=FIRST)
    assert len(train_model.most_valuable(trajectories)) == 10


def test_batches_are_prepared_first():
    _, train_model, trajectories = build(num_updates=2, prepare=lambda data: data.set(
        "action", torch.zeros_like(data["action"])
    ))  # fmt: skip
    _, plain, _ = build(num_updates=2)
    seen = []
    for updates in (train_model, plain):
        policy_loss = updates.loss.backward_policy_loss
        updates.loss.backward_policy_loss = lambda data, call=policy_loss: (
            seen.append(bool(data["action"].any())) or call(data)
        )
        updates(trajectories, make_replay_buffer())
    assert seen == [False, False, True, True]


def test_state_goes_on_bitwise():
    model, train_model, trajectories = build(num_updates=2)
    other, again, _ = build(num_updates=2)
    buffer = make_replay_buffer()
    train_model(trajectories, buffer)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    again.load_state_dict(copy.deepcopy(train_model.state_dict()))
    for updates in (train_model, again):
        torch.manual_seed(3)
        updates(trajectories, buffer)
    assert same(weights(model), weights(other))


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("num_updates", -1, "num_model_updates"),
        ("num_updates", 1.5, "num_model_updates"),
        ("batch_size", 0, "model_batch_size"),
        ("all_batch_size", 0, "all_batch_size"),
        ("lr", 0.0, "model_lr"),
        ("lr", math.nan, "model_lr"),
        ("state_predictor_data", "some", "state_predictor_data"),
        ("state_fraction", 0.0, "state_fraction"),
        ("state_fraction", 1.5, "state_fraction"),
        ("state_fraction", 0.5, "needs a critic"),
        ("state_batch_size", 0, "state_batch_size"),
    ],
)
def test_bad_arguments_are_named(option, value, word):
    with pytest.raises(ValueError, match=word):
        build(**{option: value})
