"""Controls of recall: real pairs, a forward model, or nothing."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from experience import episode, episodes, make_replay_buffer, new_model, same, steps, weights
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.data import Bounded, LazyTensorStorage, ReplayBuffer, Unbounded
from torchrl.modules import ValueOperator

from torchrl_recall import (
    Agreement,
    BacktrackingModel,
    Cloning,
    ForwardDyna,
    ForwardModelImitation,
    ImitationLoss,
    NoRecall,
    Recall,
    SelfImitation,
    WithinSupport,
)
from torchrl_recall.imitation_updates import TrustRegionSteps

SMALL = {"interval": 10, "num_updates": 3, "batch_size": 8, "num_trajectories": 3}
SMALL_MODEL = {"num_model_updates": 2, "trace_length": 4, "state_batch_size": 16, "num_states": 4}


class First(nn.Module):
    def forward(self, observation):
        return observation[..., :1]


FIRST = ValueOperator(First(), in_keys=["observation"])
KINDS = pytest.mark.parametrize("kind", [SelfImitation, ForwardModelImitation])


@pytest.fixture
def make(make_actor):
    """A control and the policy it teaches."""

    def build(kind: type = SelfImitation, **kwargs):
        actor = make_actor()
        loss = ImitationLoss(actor)
        if kind is SelfImitation:
            return SelfImitation(loss, **SMALL | kwargs), actor
        options = SMALL | SMALL_MODEL | kwargs
        return ForwardModelImitation(new_model(), loss, FIRST, **options), actor

    return build


def test_none_is_a_subclass_of_another():
    kinds = (Recall, SelfImitation, ForwardModelImitation, ForwardDyna, NoRecall)
    assert not any(issubclass(a, b) for a, b in itertools.permutations(kinds, 2))


@pytest.mark.parametrize(
    "kind", [Recall, SelfImitation, ForwardModelImitation, ForwardDyna, NoRecall]
)
def test_all_have_what_a_loop_calls(kind):
    for name in (
        "transitions",
        "extend",
        "step",
        "drop_unfinished",
        "state_dict",
        "load_state_dict",
    ):
        assert callable(getattr(kind, name))


@KINDS
@pytest.mark.parametrize("values", [(), (1.0, 1.0, 1.0, 1.0), (0.0,) * 10])
def test_nothing_happens_before_a_useful_return(kind, values, make):
    control, actor = make(kind)
    policy = weights(actor)
    for value in values:
        control.extend(episode(value))
        assert control.step(make_replay_buffer()) in ({}, {"recall/ready": 0})
    assert not control.trajectories.ready
    assert same(weights(actor), policy)
    assert steps(control.imitate.steps.optimizer) == 0


@KINDS
def test_a_better_return_starts_it(kind, make):
    control, actor = make(kind)
    policy = weights(actor)
    control.extend(episodes(1.0, 2.0))
    assert control.trajectories.ready
    metrics = control.step(make_replay_buffer())
    assert not same(weights(actor), policy)
    expected = {"recall/kept", "recall/loss_imitation", "recall/ready"}
    if kind is ForwardModelImitation:
        expected |= {"backtracking/loss_backward_policy", "backtracking/loss_state_predictor"}
    assert set(metrics) == expected
    assert all(value.isfinite() and not value.requires_grad for value in metrics.values())
    assert metrics["recall/kept"] == 1


@KINDS
def test_rounds_missed_before_a_useful_return_are_not_made_up(kind, make):
    control, _ = make(kind)
    for _ in range(20):
        control.extend(episode(1.0))
        control.step(make_replay_buffer())
    control.extend(episode(2.0, length=10))
    control.step(make_replay_buffer())
    assert steps(control.imitate.steps.optimizer) == 3


@KINDS
def test_random_frames_leave_no_backlog_of_rounds(kind, make):
    data = episodes(1.0, 2.0)
    control, _ = make(kind, start_frames=10)
    control.extend(data)
    assert control.step(make_replay_buffer()) == {}
    control.extend(data)
    control.step(make_replay_buffer())
    assert steps(control.imitate.steps.optimizer) == 3


@KINDS
def test_annealing_reaches_zero(kind, make):
    control, actor = make(kind, anneal_frames=40, lr=1e-3)
    control.extend(episodes(1.0, 2.0))
    control.step(make_replay_buffer())
    assert control.imitate.steps.optimizer.param_groups[0]["lr"] == pytest.approx(0.75e-3)
    control.extend(episodes(1.0, 2.0, 3.0))
    control.step(make_replay_buffer())
    assert control.imitate.steps.optimizer.param_groups[0]["lr"] == pytest.approx(0.375e-3)
    policy, count = weights(actor), steps(control.imitate.steps.optimizer)
    for _ in range(3):
        control.extend(episodes(1.0, 9.0, 3.0))
        control.step(make_replay_buffer())
    assert control.schedule.share == 0
    assert steps(control.imitate.steps.optimizer) == count
    assert same(weights(actor), policy)


@KINDS
def test_no_imitation_updates(kind, make):
    control, actor = make(kind, num_updates=0)
    policy = weights(actor)
    control.extend(episodes(1.0, 2.0))
    control.step(make_replay_buffer())
    assert same(weights(actor), policy)


@KINDS
def test_unfinished_trajectories_are_dropped(kind, make):
    control, _ = make(kind)
    control.extend(episode(1.0)[:3])
    control.drop_unfinished()
    control.extend(episode(2.0))
    control.trajectories.flush()
    assert control.trajectories.filter.returns.tolist() == [2.0]


def advance(control, buffer, seed: int) -> None:
    torch.manual_seed(seed)
    for value in range(4):
        control.extend(episode(float(value), length=7))
        control.step(buffer)


@KINDS
def test_state_dict_continues_identically(kind, make):
    buffer = make_replay_buffer()
    control, actor = make(kind, anneal_frames=1000)
    advance(control, buffer, 1)
    last = episode(3.0)
    control.extend(last[:3])  # saved in mid-trajectory
    other, twin = make(kind, anneal_frames=1000)
    assert not same(weights(twin), weights(actor))
    other.load_state_dict(copy.deepcopy(control.state_dict()))
    twin.load_state_dict(actor.state_dict())
    for each in (control, other):
        each.extend(last[3:])
        advance(each, buffer, 2)
    assert same(weights(twin), weights(actor))
    assert steps(other.imitate.steps.optimizer) == steps(control.imitate.steps.optimizer) > 0
    assert other.schedule.state_dict() == control.schedule.state_dict()


@KINDS
def test_a_radius_takes_steps_within_a_trust_region(kind, make):
    control, actor = make(kind, max_kl=0.01)
    assert isinstance(control.imitate.steps, TrustRegionSteps)
    policy = weights(actor)
    data = episodes(1.0, 2.0)
    control.extend(data)
    # The divergence is measured on the newest experience, which is all of it here.
    newest = control.imitate.steps.state_dict()["newest"]["observation"]
    assert torch.equal(newest, data["observation"])
    told = control.step(make_replay_buffer())
    assert 0 < told["recall/kl"] <= 0.01 / 3**2
    assert not same(weights(actor), policy)


# Real pairs


def test_self_imitation_learns_the_actions_of_the_best_trajectories(make):
    control, actor = make(num_trajectories=1, lr=0.02, num_updates=100)
    best = episode(9.0, action=0.5)
    for data in (episode(1.0, action=-0.5), best, episode(2.0, action=-0.5)):
        control.extend(data)
        control.step()
    mode = actor.get_dist(best.select("observation")).deterministic_sample
    assert mode.mean().item() == pytest.approx(0.5, abs=0.1)


def test_self_imitation_looks_at_no_other_experience(make):
    results = []
    data = episodes(1.0, 2.0)
    control, actor = make()
    start, state = weights(actor), copy.deepcopy(control.state_dict())
    for buffer in (None, make_replay_buffer()):
        with torch.no_grad():
            for parameter, value in zip(actor.parameters(), start, strict=True):
                parameter.copy_(value)
        control.load_state_dict(copy.deepcopy(state))
        control.extend(data)
        torch.manual_seed(3)
        control.step(buffer)
        results.append(weights(actor))
    assert same(*results)
    assert not same(results[0], start)


def test_its_parts_can_be_given(make):
    control, actor = make()
    twin = SelfImitation.from_parts(
        schedule=control.schedule,
        trajectories=control.trajectories,
        imitate=control.imitate,
        draws=control.draws,
    )
    assert list(twin.state_dict()) == list(control.state_dict())
    policy = weights(actor)
    twin.extend(episodes(1.0, 2.0))
    assert twin.step()["recall/kept"] == 1
    assert not same(weights(actor), policy)


# A forward model


def test_the_forward_model_learns_where_an_action_leads(make):
    """s' = s + a in the first dimension: in forward time Δ = +a, not -a."""
    control, _ = make(
        ForwardModelImitation, num_model_updates=400, model_lr=0.01, num_updates=0, interval=200,
        num_trajectories=2,
    )  # fmt: skip
    rows = []
    for value in (1.0, 2.0):
        data = episode(value, length=100)
        walked = torch.cat([torch.zeros(1), data["action"][:, 0].cumsum(0)])
        data["observation"][:, 0], data["next", "observation"][:, 0] = walked[:-1], walked[1:]
        rows.append(data)
    data = torch.cat(rows)
    control.extend(data)
    control.step(make_replay_buffer(data))
    action = torch.tensor([[0.5, 0.0]]).expand(512, 2)
    state = torch.zeros(512, 3)
    after = control.model.sample_observation(action, state)
    assert after[:, 0].mean().item() == pytest.approx(0.5, abs=0.15)


def test_rollouts_that_end_best_are_imitated(make):
    """Each is imitated in forward time, and the best are chosen by where they end."""
    control, _ = make(ForwardModelImitation, num_states=3, state_batch_size=200, trace_length=4)
    control.extend(episodes(1.0, 2.0))
    made, imitated = [], []
    generate, imitate = control.generate, control.imitate
    control.generate = lambda starts: made.append(generate(starts)) or made[-1].clone()
    control.imitate = lambda pairs, share: imitated.append(pairs.clone()) or imitate(pairs, share)
    buffer = make_replay_buffer()
    control.step(buffer)
    (rollouts,), (pairs,) = made, imitated
    assert pairs.shape == (3, 4)
    # They begin in states of the buffer, and go on from each state to the next.
    starts = buffer[:]["observation"]
    assert all((starts == row["observation"][0]).all(1).any() for row in pairs)
    assert torch.equal(pairs["next", "observation"][:, :-1], pairs["observation"][:, 1:])
    # The model's time runs the other way, so they end where its traces begin.
    ends = rollouts["observation"][:, 0, 0].sort(descending=True).values
    found = pairs["next", "observation"][:, -1, 0].sort(descending=True).values
    torch.testing.assert_close(found, ends[:3])


@pytest.mark.parametrize(
    ("name", "value"), [("num_states", 0), ("state_batch_size", 0), ("trace_length", 0)]
)
def test_bad_numbers_of_the_forward_model_are_named(name, value, make):
    with pytest.raises(ValueError, match=name):
        make(ForwardModelImitation, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("buffer_size", 0),
        ("interval", 0),
        ("num_updates", -1),
        ("batch_size", 0),
        ("anneal_frames", 0),
        ("lr", 0.0),
        ("lr", math.nan),
        ("max_kl", 0.0),
        ("num_trajectories", 0),
    ],
)
@KINDS
def test_bad_arguments_are_named(kind, name, value, make):
    with pytest.raises(ValueError, match=name):
        make(kind, **{name: value})


# Nothing


def test_an_empty_batch_is_no_experience(make_actor):
    cloning = Cloning(ImitationLoss(make_actor()), interval=5, max_kl=0.01)
    cloning.demonstrate([episode(1.0)])
    cloning.extend(episode(1.0))
    cloning.extend(episode(1.0)[:0])
    assert cloning.imitation.schedule.frames == 5
    assert "recall/loss_imitation" in cloning.step()


@KINDS
def test_filters_that_nobody_would_train_are_refused(kind, make):
    with pytest.raises(ValueError, match=f"{kind.__name__} neither trains the model of Agreement"):
        make(kind, filters=[Agreement(new_model())])


def test_no_recall_does_nothing_and_draws_nothing():
    control, rng = NoRecall(), torch.get_rng_state()
    control.extend(None)
    assert control.step() == {}
    control.drop_unfinished()
    control.load_state_dict(control.state_dict())
    assert control.state_dict() == {}
    assert torch.equal(torch.get_rng_state(), rng)


def test_rollouts_are_cut_where_they_leave_the_data(make_actor):
    """A forward model that drifts: what is kept begins at the start, not at the far end."""
    specs = Unbounded((3,)), Bounded(-1, 1, (2,))
    model = BacktrackingModel.from_specs(*specs)
    critic = ValueOperator(torch.nn.Linear(3, 1), ["observation"])
    kept = []

    class Watch(TensorDictModuleBase):
        in_keys, out_keys = ["observation"], ["mask"]

        def forward(self, traces):
            kept.append(traces.clone())
            return traces

    def drift(action, next_observation):  # a unit a step, out of the data after five
        return next_observation + 1.0

    control = ForwardModelImitation(
        model,
        ImitationLoss(make_actor()),
        critic,
        interval=10,
        trace_length=12,
        num_states=4,
        num_model_updates=0,
        num_updates=1,
        filters=[WithinSupport(lambda state: state, max_deviation=5.0), Watch()],
    )
    model.sample_observation = drift
    control.extend(episodes(1.0, 2.0))
    buffer = ReplayBuffer(storage=LazyTensorStorage(40), batch_size=8)
    data = episodes(1.0, 2.0)
    data["observation"] = torch.zeros_like(data["observation"])
    buffer.extend(data.reshape(-1))
    assert control.step(buffer)["recall/kept"] == pytest.approx(5 / 12, abs=1 / 12)
    (rollouts,) = kept
    assert rollouts["mask"][:, 0].all()
    assert not rollouts["mask"][:, -1].any()
    assert (rollouts["next", "observation"][rollouts["mask"]].abs() <= 5).all()
