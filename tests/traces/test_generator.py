"""Generation of recall traces."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, OneHot, Unbounded
from torchrl.envs import ExplorationType, exploration_type, set_exploration_type

from torchrl_recall import BacktrackingModel, RecallTraceGenerator

STATES = {"vector": Unbounded((3,)), "one_hot": OneHot(4), "categorical": Categorical(4)}
ACTIONS = {"vector": Bounded(-1, 1, (2,)), "one_hot": OneHot(3), "categorical": Categorical(3)}
KINDS = list(itertools.product(STATES, ACTIONS))


def end_states_of(*shape: int) -> TensorDict:
    return TensorDict({"observation": torch.randn(*shape, 3)}, shape)


@pytest.mark.parametrize("how", ["forward", "rollout"])
@pytest.mark.parametrize(("state", "action"), KINDS)
def test_traces_chain_and_end_at_their_end_state(state, action, how, make_model):
    model = make_model(STATES[state], ACTIONS[action])
    generate = RecallTraceGenerator(model, trace_length=5, num_traces=3)
    end_states = TensorDict({"observation": STATES[state].rand((4,))}, [4])
    traces = getattr(generate, how)(end_states)
    assert traces.shape == (12, 5)
    assert torch.equal(traces["next", "observation"][:, :-1], traces["observation"][:, 1:])
    expected = end_states["observation"].repeat_interleave(3, 0)
    assert torch.equal(traces["next", "observation"][:, -1], expected)
    assert STATES[state].expand(12, 5, *STATES[state].shape).is_in(traces["observation"])
    assert ACTIONS[action].is_in(traces["action"])


@pytest.mark.parametrize(("state", "action"), KINDS)
def test_forward_is_the_rollout_to_the_bit(state, action, make_model):
    model = make_model(STATES[state], ACTIONS[action])
    generate = RecallTraceGenerator(model, trace_length=7, num_traces=2)
    end_states = TensorDict({"observation": STATES[state].rand((4,))}, [4])
    torch.manual_seed(5)
    fast = generate(end_states)
    torch.manual_seed(5)
    slow = generate.rollout(end_states)
    assert (slow.select(*fast.keys(True, True)) == fast).all()


@pytest.mark.parametrize(
    ("observation_key", "action_key"), [("state", "act"), (("agent", "state"), ("agent", "act"))]
)
@pytest.mark.parametrize("how", ["forward", "rollout"])
def test_renamed_and_nested_keys(observation_key, action_key, how, make_model):
    model = make_model(observation_key=observation_key, action_key=action_key)
    generate = RecallTraceGenerator(model, trace_length=3)
    end_states = TensorDict({}, batch_size=[4]).set(observation_key, torch.randn(4, 3))
    traces = getattr(generate, how)(end_states)
    assert torch.equal(traces[model.next_observation_key][:, -1], end_states[observation_key])
    assert traces[action_key].shape == (4, 3, 2)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 3)])
def test_any_batch_shape_of_end_states(shape, make_model):
    generate = RecallTraceGenerator(make_model(), trace_length=3, num_traces=2)
    end_states = end_states_of(*shape)
    traces = generate(end_states)
    assert traces.shape == (2 * math.prod(shape), 3)
    ends = traces["next", "observation"][::2, -1]
    assert torch.equal(ends, end_states["observation"].reshape(-1, 3))


def test_traces_to_one_end_state_are_contiguous_and_differ(make_model):
    traces = RecallTraceGenerator(make_model(), trace_length=2, num_traces=3)(end_states_of(2))
    ends = traces["next", "observation"][:, -1].unflatten(0, (2, 3))
    assert (ends == ends[:, :1]).all()
    assert not torch.equal(ends[0], ends[1])
    starts = traces["observation"][:, 0]
    assert len(starts.unique(dim=0)) == 6


def test_actions_lead_to_where_they_were_sampled_from():
    """With a nearly certain predictor s_t = s_{t+1} - 2 a_t, each pair fits its own successor."""
    model = BacktrackingModel.from_specs(Unbounded((1,)), Unbounded((1,)), num_cells=())
    actions = torch.randn(512, 1)
    following = torch.randn(512, 1)
    data = {"observation": following - 2 * actions, "action": actions}
    model.update_statistics(TensorDict({**data, "next": {"observation": following}}, [512]))
    linear = next(m for m in model.state_predictor.modules() if isinstance(m, torch.nn.Linear))
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, 0.0]]))
        linear.bias.copy_(torch.tensor([0.0, -20.0]))  # the smallest scale
    traces = RecallTraceGenerator(model, trace_length=10)(
        TensorDict({"observation": following}, 512)
    )
    error = traces["observation"] - (traces["next", "observation"] - 2 * traces["action"])
    assert error.abs().mean() < 0.1
    wrong = traces["observation"][:, :-1] - (
        traces["next", "observation"][:, :-1] - 2 * traces["action"][:, 1:]
    )
    assert wrong.abs().mean() > 1


@pytest.mark.parametrize("how", ["forward", "rollout"])
@pytest.mark.parametrize("kind", [ExplorationType.DETERMINISTIC, ExplorationType.MODE])
def test_exploration_outside_does_not_remove_noise(how, kind, make_model):
    generate = RecallTraceGenerator(make_model(), trace_length=4, num_traces=2)
    end_states = end_states_of(3)
    with set_exploration_type(kind):
        traces = getattr(generate, how)(end_states)
        assert exploration_type() == kind
    pairs = traces["observation"].unflatten(0, (3, 2))
    assert not torch.isclose(pairs[:, 0], pairs[:, 1]).all(-1).any()


@pytest.mark.parametrize("how", ["forward", "rollout"])
def test_exploration_type_does_not_leak(how, make_model):
    generate = RecallTraceGenerator(make_model(), trace_length=2)
    before = exploration_type()
    getattr(generate, how)(end_states_of(2))
    assert exploration_type() == before
    with pytest.raises(KeyError):
        getattr(generate, how)(end_states_of(2).exclude("observation"))
    assert exploration_type() == before


@pytest.mark.parametrize("how", ["forward", "rollout"])
def test_no_gradient(how, make_model):
    end_states = end_states_of(3)
    end_states["observation"].requires_grad_()
    traces = getattr(RecallTraceGenerator(make_model(), trace_length=3), how)(end_states)
    assert not any(value.requires_grad for value in traces.values(True, True))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("how", ["forward", "rollout"])
def test_terminal_end_states_with_extra_entries_are_kept(how, make_model):
    end_states = end_states_of(4)
    extra = end_states.clone()
    for key in ("done", "terminated", "truncated"):
        extra[key] = torch.ones(4, 1, dtype=torch.bool)
        extra["next", key] = torch.ones(4, 1, dtype=torch.bool)
    extra["reward"] = torch.ones(4, 1)
    extra["action"] = torch.full((4, 2), 9.0)
    extra["next", "observation"] = torch.full((4, 3), 9.0)
    copy = extra.clone()
    generate = RecallTraceGenerator(make_model(), trace_length=4)
    torch.manual_seed(1)
    plain = getattr(generate, how)(end_states)
    torch.manual_seed(1)
    traces = getattr(generate, how)(extra)
    assert torch.equal(traces["next", "observation"][:, -1], end_states["observation"])
    assert torch.equal(traces["observation"], plain["observation"])
    assert (extra == copy).all()
    assert how == "rollout" or set(traces.keys()) == {"observation", "action", "next"}


def test_device(device, make_model):
    generate = RecallTraceGenerator(make_model().to(device), trace_length=2)
    assert generate(end_states_of(3).to(device))["observation"].device.type == device.type


@pytest.mark.parametrize("name", ["trace_length", "num_traces"])
@pytest.mark.parametrize("value", [0, -1, 1.5, None, "2"])
def test_bad_numbers_are_refused(name, value, make_model):
    with pytest.raises(ValueError, match=name):
        RecallTraceGenerator(make_model(), **{name: value})


def bad(state: torch.Tensor, *shape: int, key: str = "observation") -> TensorDict:
    return TensorDict({key: state}, shape)


@pytest.mark.parametrize("how", ["forward", "rollout"])
@pytest.mark.parametrize(
    ("end_states", "error", "match"),
    [
        (bad(torch.randn(4, 5), 4), ValueError, r"shape \(4, 5\)"),
        (bad(torch.randn(4, 2, 3), 4), ValueError, r"shape \(4, 2, 3\)"),
        (bad(torch.randn(4), 4), ValueError, "shape"),
        (bad(torch.randn(4, 3).double(), 4), ValueError, "DoubleToFloat"),
        (bad(torch.zeros(4, 3, dtype=torch.long), 4), ValueError, "int64"),
        (bad(torch.full((4, 3), math.nan), 4), ValueError, "NaN"),
        (bad(torch.full((4, 3), -math.inf), 4), ValueError, "NaN or infinity"),
        (bad(torch.zeros(0, 3), 0), ValueError, "no end states"),
        (bad(torch.zeros(4, 3), 4, key="state"), KeyError, "observation_key"),
        (torch.zeros(4, 3), TypeError, r"not in a Tensor; give TensorDict\({'observation'"),
    ],
)
def test_bad_end_states_are_refused(end_states, error, match, how, make_model):
    with pytest.raises(error, match=match):
        getattr(RecallTraceGenerator(make_model(), trace_length=2), how)(end_states)


def test_one_nan_among_good_end_states_is_refused(make_model):
    end_states = end_states_of(4)
    end_states["observation"][2, 1] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        RecallTraceGenerator(make_model())(end_states)


@pytest.mark.parametrize("how", ["forward", "rollout"])
def test_without_statistics_the_cure_is_named(how):
    model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
    with pytest.raises(RuntimeError, match="update_statistics"):
        getattr(RecallTraceGenerator(model), how)(end_states_of(2))


def test_traces_own_their_memory(make_model):
    traces = RecallTraceGenerator(make_model(), trace_length=4)(end_states_of(2))
    following = traces["next", "observation"].clone()
    traces["observation"].zero_()
    assert torch.equal(traces["next", "observation"], following)


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
def test_compiled_agrees(make_model):
    model = make_model()
    eager = RecallTraceGenerator(model, trace_length=6, num_traces=2)
    compiled = RecallTraceGenerator(model, trace_length=6, num_traces=2, compile=True)
    for n in (4, 9):  # the second size must not need a warning or another answer
        end_states = end_states_of(n)
        torch.manual_seed(7)
        expected = eager(end_states)
        torch.manual_seed(7)
        traces = compiled(end_states)
        for key in expected.keys(True, True):
            torch.testing.assert_close(traces[key], expected[key], rtol=1e-4, atol=1e-4)


def test_compiled_without_statistics_names_the_cure():
    model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)), num_cells=(4,))
    with pytest.raises(RuntimeError, match="update_statistics"):
        RecallTraceGenerator(model, trace_length=2, compile=True)(end_states_of(4))


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
def test_any_number_of_end_states_takes_one_graph(make_model):
    model = make_model()
    generate = RecallTraceGenerator(model, trace_length=2, compile=True)
    counts = [1, *range(2, 14), 64, 128]
    traces = {}
    for n in counts:  # more sizes than dynamo compiles one by one
        torch.manual_seed(n)
        traces[n] = generate(end_states_of(n))
    fresh = RecallTraceGenerator(model, trace_length=2, compile=True)
    for n in reversed(counts):  # the bits do not depend on the sizes before
        torch.manual_seed(n)
        again = fresh(end_states_of(n))
        assert all(torch.equal(again[key], traces[n][key]) for key in again.keys(True, True))


def test_a_trace_that_would_never_end_is_refused(make_model):
    with pytest.raises(ValueError, match=r"at most 10,000, got 1,000,000,000"):
        RecallTraceGenerator(make_model(), trace_length=1_000_000_000)
