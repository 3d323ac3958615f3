"""Check which pairs of recall traces are worth imitating."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.data import Bounded, Categorical, OneHot, Unbounded
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss

from torchrl_recall import (
    AdvantageGate,
    ConfidentSteps,
    ImitationLoss,
    LoopErasure,
    NearVisited,
    RecallTraceGenerator,
    SACCritic,
    WithinSupport,
)
from torchrl_recall.envs import FourRoomsLayout, four_rooms_model


def traces_of(*paths: list[float], dim: int = 1) -> TensorDict:
    """Traces through the given states, end state last."""
    path = torch.tensor(paths).unsqueeze(-1).expand(-1, -1, dim)
    return TensorDict(
        {"observation": path[:, :-1], "next": {"observation": path[:, 1:]}},
        [len(paths), path.shape[1] - 1],
    )


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ([4.0, 3.0, 2.0, 1.0], [1, 1, 1]),  # no revisit
        ([1.0, 2.0, 3.0, 1.0], [0, 1, 1]),  # back at the end state
        ([2.0, 3.0, 2.0, 1.0], [0, 1, 1]),  # revisit: the backward-later one goes
        ([1.0, 1.0, 1.0, 1.0], [0, 0, 0]),  # never left
        ([3.0, 2.0, 1.0, 2.0], [1, 0, 1]),
    ],
)
def test_loops_by_hand(path, kept):
    assert LoopErasure()(traces_of(path))["mask"].int().tolist() == [kept]


@pytest.mark.parametrize(
    ("radius", "kept"),
    [
        (0.0, [1, 1, 1, 1]),
        (0.4, [1, 1, 1, 1]),
        (0.5, [1, 0, 1, 0]),
        (1.0, [0, 1, 0, 0]),
        (9.0, [0, 0, 0, 0]),
    ],
)
def test_radius_by_hand(radius, kept):
    # Walking back from the end state 0: 0.5, 1, 1.5, 2. Dropped states do not block later ones.
    path = [2.0, 1.5, 1.0, 0.5, 0.0]
    assert LoopErasure(radius)(traces_of(path))["mask"].int().tolist() == [kept]


def test_rows_do_not_see_each_other():
    mask = LoopErasure()(traces_of([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [5.0, 6.0, 5.0]))["mask"]
    assert mask.int().tolist() == [[1, 1], [1, 1], [0, 1]]


def test_scale_by_hand():
    # Dimension 0 moves by 10, dimension 1 by 0.1.
    path = torch.tensor([[[10.0, 0.1], [0.0, 0.1], [0.0, 0.0]]])
    traces = TensorDict({"observation": path[:, :-1], "next": {"observation": path[:, 1:]}}, [1, 2])
    assert LoopErasure(0.5)(traces.clone())["mask"].tolist() == [[True, False]]
    scaled = LoopErasure(0.5, scale=torch.tensor([10.0, 0.1]))(traces.clone())
    assert scaled["mask"].tolist() == [[True, True]]
    huge = LoopErasure(0.5, scale=torch.tensor([100.0, 100.0]))(traces.clone())
    assert huge["mask"].tolist() == [[False, False]]


def test_scale_may_be_asked_each_time(make_model, transitions):
    model = make_model()
    erase = LoopErasure(1.0, scale=model.observations.scale)
    path = torch.randn(1, 2, 3)
    traces = TensorDict({"observation": path[:, :1], "next": {"observation": path[:, 1:]}}, [1, 1])
    data = transitions(1000)
    data["next", "observation"] *= 1e3
    before = erase(traces.clone())["mask"]
    model.update_statistics(data)
    assert (before.item(), erase(traces.clone())["mask"].item()) == (True, False)


@pytest.mark.parametrize("radius", [-1.0, math.nan])
def test_bad_radius_is_refused(radius):
    with pytest.raises(ValueError, match="radius"):
        LoopErasure(radius)


@pytest.mark.parametrize("spec", [Categorical(3), OneHot(3)])
def test_loops_of_discrete_states(spec, make_model):
    states = torch.tensor([2, 1, 2, 0])
    if isinstance(spec, OneHot):
        states = nn.functional.one_hot(states, 3).bool()
    traces = TensorDict(
        {"observation": states[None, :-1], "next": {"observation": states[None, 1:]}}
    )
    traces.batch_size = [1, 3]
    assert LoopErasure()(traces)["mask"].tolist() == [[False, True, True]]


def test_kept_states_are_distinct_and_the_rest_are_near_one(make_model):
    generate = RecallTraceGenerator(make_model(), trace_length=30)
    traces = generate(TensorDict({"observation": torch.randn(8, 3)}, [8]))
    kept = LoopErasure(1.5)(traces)["mask"]
    assert 0 < kept.sum() < kept.numel()
    for row, mask in zip(traces, kept, strict=True):
        end_state = row["next", "observation"][-1:]
        states = torch.cat([row["observation"][mask], end_state])
        distances = torch.cdist(states, states) + 9 * torch.eye(len(states))
        assert (distances > 1.5).all()
        assert (torch.cdist(row["observation"][~mask], states).amin(1) <= 1.5 + 1e-5).all()


# support


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ([1.0, 1.0, 1.0, 0.0], [1, 1, 1]),
        ([1.0, 9.0, 1.0, 0.0], [0, 0, 1]),  # what came before the leave is cut although it is near
        ([1.0, 1.0, -9.0, 0.0], [0, 0, 0]),
        ([9.0, 1.0, 1.0, 0.0], [0, 1, 1]),
        ([1.0, 5.0, 1.0, 9.0], [1, 1, 1]),  # the bound itself counts as seen; the end state is free
        ([1.0, math.nan, 1.0, 0.0], [0, 0, 1]),
    ],
)
def test_support_by_hand(path, kept):
    keep = WithinSupport(lambda x: x, 5.0)
    assert keep(traces_of(path, dim=2))["mask"].int().tolist() == [kept]


def test_support_in_standard_deviations(make_model):
    model = make_model()
    far = model.observations.mean + 4 * model.observations.scale()
    traces = TensorDict({"observation": far.expand(1, 2, 3)}, [1, 2])
    assert WithinSupport(model.observations.normalize, 5.0)(traces.clone())["mask"].all()
    assert not WithinSupport(model.observations.normalize, 3.0)(traces.clone())["mask"].any()


def test_one_dimension_out_is_out():
    states = torch.zeros(1, 2, 3)
    states[0, 1, 2] = 6.0
    mask = WithinSupport(lambda x: x, 5.0)(TensorDict({"observation": states}, [1, 2]))["mask"]
    assert mask.tolist() == [[False, False]]


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan])
def test_bad_deviation_is_refused(deviation):
    with pytest.raises(ValueError, match="max_deviation"):
        WithinSupport(lambda x: x, deviation)


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ([3.0, 2.0, 1.0, 0.0], [1, 1, 1]),
        ([3.0, 2.0, 7.0, 0.0], [0, 0, 0]),  # through a hole, and what lies beyond it too
        ([7.0, 2.0, 1.0, 0.0], [0, 1, 1]),
        ([3.0, 2.0, 1.0, 7.0], [0, 0, 0]),  # the end state itself was never visited
        ([3.4, 2.4, 1.4, 0.4], [1, 1, 1]),
    ],
)
def test_near_visited_by_hand(path, kept):
    visited = torch.arange(4.0).unsqueeze(-1).expand(-1, 2)
    keep = NearVisited(lambda: visited, 0.6)
    assert keep(traces_of(path, dim=2))["mask"].int().tolist() == [kept]


def test_near_visited_compares_what_is_projected_and_narrows_the_mask():
    path = torch.tensor([[[3.0, 100.0], [2.0, 100.0], [1.0, 100.0], [0.0, 100.0]]])
    traces = TensorDict({"observation": path[:, :-1], "next": {"observation": path[:, 1:]}}, [1, 3])
    traces["mask"] = torch.tensor([[True, False, True]])
    visited = torch.zeros(1, 2)
    assert not NearVisited(lambda: visited, 3.0)(traces.clone())["mask"].any()
    keep = NearVisited(lambda: visited, 3.0, project=lambda states: states[..., :1])
    assert keep(traces)["mask"].tolist() == [[True, False, True]]


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan])
def test_bad_radius_of_visited_states_is_refused(radius):
    with pytest.raises(ValueError, match="radius must be positive"):
        NearVisited(lambda: torch.zeros(1, 1), radius)


# advantage


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1))

    def forward(self, observation):
        loc = self.loc.expand(*observation.shape[:-1], 1)
        return loc, torch.ones_like(loc)


class Q(nn.Module):
    """Q(s, a) = sign(s) a: on positive states, more is better."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, observation, action):
        return self.gain * observation[..., :1].sign() * action


@pytest.fixture
def critic() -> SACCritic:
    """V(s) = 0, for the policy's mode is 0."""
    actor = ProbabilisticActor(
        TensorDictModule(Policy(), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=Bounded(-1, 1, (1,)),
        distribution_class=TanhNormal,
    )
    loss = SACLoss(actor, ValueOperator(Q(), in_keys=["observation", "action"]))
    with torch.no_grad():
        loss.qvalue_network_params["module", "gain"].fill_(1.0)
    return SACCritic(loss)


def test_gate_by_hand(critic):
    traces = traces_of([1.0, 1.0, -1.0, -1.0, 1.0, 0.0])
    traces["action"] = torch.tensor([0.5, -0.5, 0.5, -0.5, 0.0]).reshape(1, 5, 1)
    out = AdvantageGate(critic)(traces)
    assert out["mask"].tolist() == [[True, False, False, True, False]]  # a tie is no advantage
    assert set(out.keys(True, True)) == {"observation", "action", ("next", "observation"), "mask"}


@pytest.mark.parametrize("shape", [(4,), (4, 6), (2, 3, 4)])
def test_gate_takes_any_batch_shape(shape, critic):
    data = TensorDict({"observation": torch.randn(*shape, 1)}, shape)
    data["action"] = torch.rand(*shape, 1)
    expected = data["observation"].squeeze(-1) > 0
    assert torch.equal(AdvantageGate(critic)(data)["mask"], expected)


# all of them


@pytest.mark.parametrize("container", [nn.Sequential, TensorDictSequential])
def test_filters_compose_in_any_order(container, critic):
    path = [1.0, 9.0, -2.0, 1.0, 3.0, 2.0, 1.0]
    data = traces_of(path)
    data["action"] = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5, 0.5]).reshape(1, 6, 1)
    filters = [LoopErasure(), AdvantageGate(critic), WithinSupport(lambda x: x, 5.0)]
    alone = [keep(data.clone())["mask"] for keep in filters]
    expected = alone[0] & alone[1] & alone[2]
    assert expected.int().tolist() == [[0, 0, 0, 0, 1, 1]]
    for order in itertools.permutations(filters):
        out = container(*order)(data.clone())
        assert torch.equal(out["mask"], expected)


@pytest.mark.parametrize("keep", [LoopErasure(), WithinSupport(lambda x: x, 5.0)])
def test_an_earlier_mask_is_only_narrowed(keep):
    data = traces_of([9.0, 3.0, 2.0, 1.0])
    data["mask"] = torch.tensor([[True, True, False]])
    before = data.clone()
    out = keep(data)
    assert not (out["mask"] & ~before["mask"]).any()
    assert (out.exclude("mask") == before.exclude("mask")).all()


@pytest.mark.parametrize("name", ["valid", ("recall", "mask")])
def test_keys_can_be_renamed(name, critic):
    path = torch.tensor([[[1.0], [9.0], [1.0], [0.0]]])
    data = TensorDict(
        {
            "agent": {"state": path[:, :-1]},
            "next": {"agent": {"state": path[:, 1:]}},
            "observation": path[:, :-1],
            "action": torch.ones(1, 3, 1),
        },
        [1, 3],
    )
    key = ("agent", "state")
    erased = LoopErasure(observation_key=key, mask_key=name)(data.clone())
    assert erased[name].tolist() == [[False, True, True]]
    cut = WithinSupport(lambda x: x, 5.0, observation_key=key, mask_key=name)(data.clone())
    assert cut[name].tolist() == [[False, False, True]]
    assert AdvantageGate(critic, mask_key=name)(data.clone())[name].all()


def test_mask_reaches_the_imitation_loss(make_actor):
    data = traces_of([1.0, 9.0, 1.0, 0.0], dim=3)
    data["action"] = torch.rand(1, 3, 2)
    loss = ImitationLoss(make_actor())
    expected = loss(data[:, 2:])["loss_imitation"]
    out = loss(WithinSupport(lambda x: x, 5.0)(data.clone()))["loss_imitation"]
    torch.testing.assert_close(out, expected)


def test_the_gate_evaluates_only_what_is_left_in_the_mask():
    seen = []

    class Critic(TensorDictModuleBase):
        in_keys, out_keys = ["observation", "action"], ["state_action_value", "state_value"]

        def forward(self, data):
            seen.append(len(data))
            data["state_action_value"], data["state_value"] = data["action"], data["observation"]
            return data

    pairs = TensorDict(
        {
            "observation": torch.zeros(2, 3, 1),
            "action": torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, 1.0]]).unsqueeze(-1),
            "mask": torch.tensor([[True, True, False], [False, False, True]]),
        },
        [2, 3],
    )
    gated = AdvantageGate(Critic())(pairs)["mask"]
    assert gated.tolist() == [[True, False, False], [False, False, True]]
    assert seen == [3]
    pairs["mask"] = torch.zeros(2, 3, dtype=torch.bool)
    assert not AdvantageGate(Critic())(pairs)["mask"].any()
    assert seen == [3]


def confident_traces():
    """Two traces of a grid, whose exact steps have one predecessor or two."""
    layout = FourRoomsLayout(7)
    model = four_rooms_model(layout, nn.Embedding(layout.num_cells, 4))
    goals = TensorDict({"observation": torch.full((64,), layout.goal)}, [64])
    torch.manual_seed(0)
    return model, RecallTraceGenerator(model, trace_length=12)(goals)


@pytest.mark.parametrize("min_probability", [0.4, 0.6])
def test_traces_are_cut_at_the_first_unsure_step(min_probability):
    model, traces = confident_traces()
    mask = ConfidentSteps(model, min_probability)(traces)["mask"]
    probability = model.state_predictor_log_prob(traces).exp()
    if min_probability < 0.5:
        assert mask.all()
        return
    assert 0 < mask.float().mean() < 1
    for row, kept in zip(probability.tolist(), mask.tolist(), strict=True):
        sure = True
        for p, keep in zip(reversed(row), reversed(kept), strict=True):
            sure = sure and p >= min_probability
            assert keep is sure


def test_a_confident_step_narrows_the_mask():
    model, traces = confident_traces()
    traces["mask"] = torch.zeros(traces.shape, dtype=torch.bool)
    assert not ConfidentSteps(model, 0.1)(traces)["mask"].any()


@pytest.mark.parametrize("min_probability", [0.0, 1.5, -1.0])
def test_a_bad_probability_is_refused(min_probability):
    model, _ = confident_traces()
    with pytest.raises(ValueError, match=r"min_probability must be in \(0, 1\]"):
        ConfidentSteps(model, min_probability)


def test_confidence_needs_categories(make_model):
    model = make_model(Unbounded((2,)), Bounded(-1, 1, (1,)))
    with pytest.raises(ValueError, match="needs a model of categorical states"):
        ConfidentSteps(model, 0.5)


@pytest.mark.parametrize("scale", [torch.ones(2), torch.tensor([1.0, 0.0, 1.0]), lambda: 1.0])
def test_a_scale_that_does_not_fit_names_the_models_own(scale, make_model):
    traces = TensorDict(
        {"observation": torch.zeros(2, 4, 3), "next": {"observation": torch.zeros(2, 4, 3)}}, [2, 4]
    )
    with pytest.raises(ValueError, match=r"scale=model.observations.scale"):
        LoopErasure(0.5, scale=scale)(traces)
    kept = LoopErasure(0.5, scale=make_model().observations.scale)(traces)["mask"]
    assert not kept.any()


def test_a_critic_without_state_action_values_is_named():
    critic = ValueOperator(torch.nn.Linear(3, 1), ["observation"])
    pairs = TensorDict({"observation": torch.zeros(2, 3)}, [2])
    with pytest.raises(KeyError, match="AdvantageGate reads 'state_action_value'"):
        AdvantageGate(critic)(pairs)


def test_distances_far_from_the_origin_keep_their_digits():
    path = 100 + torch.rand(1, 41, 2)
    traces = TensorDict(
        {"observation": path[:, :-1], "next": {"observation": path[:, 1:]}}, [1, 40]
    )
    assert NearVisited(lambda: path[0], radius=0.02)(traces)["mask"].all()
    far = traces_of([3000.3] * 31, dim=2)  # at a distance of 0.42
    assert not NearVisited(lambda: torch.full((30, 2), 3000.0), radius=0.25)(far)["mask"].any()


def gate(value_shape) -> AdvantageGate:
    """Q(s, a) = s + a and V(s) = s, of the given shape."""
    critic = TensorDictModule(
        lambda s, a: (s + a, value_shape(s)),
        in_keys=["observation", "action"],
        out_keys=["state_action_value", "state_value"],
    )
    return AdvantageGate(critic)


def test_values_of_any_shape_are_compared_pair_by_pair():
    pairs = TensorDict({
        "observation": torch.tensor([[0.0], [10.0], [-10.0]]),
        "action": torch.tensor([[-1.0], [1.0], [1.0]]),
    }, [3])  # fmt: skip
    assert gate(lambda s: s.squeeze(-1))(pairs)["mask"].tolist() == [False, True, True]
    with pytest.raises(ValueError, match="one value for each pair"):
        gate(lambda s: s.repeat(1, 2))(pairs.exclude("mask"))


def test_masks_with_a_last_dimension_of_one():
    traces = traces_of([1.0, 2.0, 3.0, 1.0], [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0])
    traces["mask"] = torch.ones(3, 3, 1, dtype=torch.bool)
    traces["mask"][1, 0] = False
    assert LoopErasure()(traces)["mask"].tolist() == [
        [False, True, True], [False, True, True], [True, True, True],
    ]  # fmt: skip


def test_the_gate_names_the_entry_that_is_missing():
    critic = TensorDictModule(
        lambda s, a: (s, s), ["observation", "action"], ["state_action_value", "state_value"]
    )
    with pytest.raises(KeyError, match="AdvantageGate reads 'observation'"):
        AdvantageGate(critic)(TensorDict({"action": torch.zeros(2, 1)}, [2]))
