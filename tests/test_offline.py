import warnings

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, LazyTensorStorage, ReplayBuffer, Unbounded

from torchrl_recall import (
    Agreement,
    BacktrackingModel,
    GoalStates,
    MeasuredLength,
    OfflineRecall,
    RewardModel,
    UniformStates,
)
from torchrl_recall.trainers.tasks.data_set import check_losses
from torchrl_recall.trainers.tasks.gym import DivergenceError

SPECS = Unbounded((2,)), Bounded(-1, 1, (2,))
NUM = 2_000


@pytest.fixture
def data_set():
    """A point that moves by a tenth of its action, and is rewarded by where it gets on one axis."""
    states, actions = torch.rand(NUM, 2) * 2 - 1, torch.rand(NUM, 2) * 2 - 1
    following, flag = states + 0.1 * actions, torch.zeros(NUM, 1, dtype=torch.bool)
    data = TensorDict({
        "observation": states, "action": actions,
        "next": {
            "observation": following, "reward": following[:, :1], "terminated": flag, "done": flag,
        },
    }, [NUM])  # fmt: skip
    buffer = ReplayBuffer(storage=LazyTensorStorage(NUM))
    buffer.extend(data)
    return buffer


def make(num_updates: int = 400, **kwargs) -> OfflineRecall:
    model = BacktrackingModel.from_specs(*SPECS, num_cells=(32,), action_scale="learned")
    reward = RewardModel(*SPECS, num_cells=(32,))
    settings = {"num_reward_updates": 400, "lr": 3e-3, "trace_length": 3, "interval": 10}
    return OfflineRecall(
        model, reward, UniformStates(200), num_model_updates=num_updates, **settings | kwargs
    )


def landing_error(rows: TensorDict) -> torch.Tensor:
    landed = rows["observation"] + 0.1 * rows["action"]
    return (landed - rows["next", "observation"]).norm(dim=-1).median()


def test_traces_obey_the_dynamics_and_end_in_real_states(data_set):
    recall = make()
    metrics = recall.step(data_set)
    rows = recall.buffer[:]
    assert len(rows) == 600
    assert metrics["recall/kept_transitions"] == 1
    assert landing_error(rows) < 0.03
    untrained = make(0)
    untrained.step(data_set)
    assert landing_error(untrained.buffer[:]) > 0.06
    error = (rows["next", "reward"] - rows["next", "observation"][:, :1]).abs().median()
    assert error < 0.1
    ends = rows.reshape(200, 3)[:, -1]["next", "observation"]
    real = data_set[:]["next", "observation"]
    assert (ends.unsqueeze(1) == real).all(-1).any(1).all()


def test_models_learn_once_and_traces_are_rolled_out_when_due(data_set):
    recall = make(1)
    assert "backtracking/loss_state_predictor" in recall.step(data_set)
    assert recall.step(data_set) == {}
    recall.extend(TensorDict({}, [10]))
    assert list(recall.step(data_set)) == ["recall/kept_transitions"]
    assert len(recall.buffer) == 1_200


def test_agreement_is_measured_on_what_no_model_learned_from(data_set, monkeypatch):
    forward = BacktrackingModel.from_specs(*SPECS, num_cells=(32,))
    agreement = Agreement(forward, quantile=0.9, window=100)
    recall = make(filters=[agreement])
    observe, held_out, drawn = agreement.observe, [], []
    monkeypatch.setattr(agreement, "observe", lambda rows: (held_out.append(rows), observe(rows)))
    for each in (recall.train_model, recall.train_reward, recall.train_filters.train_forward.steps):
        draws, batches = each.draws, each.draws.batches
        monkeypatch.setattr(
            draws,
            "batches",
            lambda data, *args, of=batches: (drawn.append(data), of(data, *args))[1],
        )
    metrics = recall.step(data_set)
    assert len(drawn) == 4  # of policy, state predictor, reward and forward model
    (judged,) = held_out
    everything = torch.arange(NUM - 100)
    for data in drawn:
        same = (judged["observation"].unsqueeze(1) == data[everything]["observation"]).all(-1)
        assert not same.any()
        assert len(data) == NUM - 100
    assert int(agreement.count) == 100
    assert int(recall.model.observations.count) == NUM - 100
    assert 0.05 < metrics["recall/kept_transitions"] < 0.95
    assert landing_error(recall.buffer[:]) < 0.03


def test_two_forward_models_are_refused():
    judges = [Agreement(BacktrackingModel.from_specs(*SPECS)) for _ in range(2)]
    with pytest.raises(ValueError, match="two Agreement filters"):
        make(filters=judges)


def test_a_model_that_diverges_stops_the_run(data_set):
    metrics = make(5, num_reward_updates=5, lr=1e30).step(data_set)
    with pytest.raises(DivergenceError, match=r"backtracking\.lr"):
        check_losses(metrics, 0)


def test_rollouts_that_keep_nothing_are_said_once(data_set):
    recall = make(1, num_reward_updates=1, filters=[_Nothing()])
    with pytest.warns(UserWarning, match="kept no transition"):
        recall.step(data_set)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recall.roll_out(data_set)


class _Nothing(torch.nn.Module):
    """A filter that leaves no step."""

    def forward(self, traces):
        return traces.set("mask", torch.zeros(traces.shape, dtype=torch.bool))


def test_a_data_set_in_two_dimensions_is_one_of_steps(data_set):
    streams = ReplayBuffer(storage=LazyTensorStorage(NUM, ndim=2))
    streams.extend(data_set[:].reshape(4, -1))
    recall = make(2, num_reward_updates=2)
    recall.step(streams)
    assert len(recall.buffer) > 0
    assert int(recall.model.observations.count) == NUM


def test_bad_input_is_named(data_set):
    measured = MeasuredLength(BacktrackingModel.from_specs(*SPECS))
    with pytest.raises(TypeError, match="got a MeasuredLength"):
        make(trace_length=measured)
    with pytest.raises(RuntimeError, match="the data set is empty"):
        make(1).step(ReplayBuffer(storage=LazyTensorStorage(10)))
    recall = make(1)
    with pytest.raises(ValueError, match="given the model that generates them"):
        OfflineRecall(
            recall.model,
            recall.train_reward.model,
            UniformStates(4),
            filters=[Agreement(recall.model)],
        )


def test_end_states_without_rewards_are_refused_before_any_training():
    with pytest.raises(ValueError, match="OfflineRecall needs end states that carry their reward"):
        OfflineRecall(
            BacktrackingModel.from_specs(*SPECS), RewardModel(*SPECS), GoalStates(torch.zeros(1, 2))
        )


def test_the_kept_share_is_that_of_filters_alone(data_set):
    rows = data_set[:].clone()
    rows["next", "terminated"] = torch.rand(NUM, 1) < 0.8
    data_set.empty()
    data_set.extend(rows)
    recall = make(20)
    assert recall.step(data_set)["recall/kept_transitions"] == 1


def test_one_row_cannot_be_learned_from_and_held_out(data_set):
    model, forward = BacktrackingModel.from_specs(*SPECS), BacktrackingModel.from_specs(*SPECS)
    recall = OfflineRecall(
        model, RewardModel(*SPECS), UniformStates(4), filters=[Agreement(forward)],
        num_model_updates=1, num_reward_updates=1,
    )  # fmt: skip
    rows = data_set[:1].clone()
    data_set.empty()
    data_set.extend(rows)
    with pytest.raises(RuntimeError, match="the data set has one row"):
        recall.step(data_set)
