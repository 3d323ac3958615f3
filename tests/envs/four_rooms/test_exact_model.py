import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.envs import set_exploration_type
from torchrl.envs.utils import ExplorationType

from torchrl_recall import BacktrackingLoss, RecallTraceGenerator
from torchrl_recall.envs import (
    DisplacementPredictor,
    ExactPredecessors,
    FourRoomsEnv,
    FourRoomsLayout,
    four_rooms_model,
)
from torchrl_recall.envs.four_rooms.exact_model import PossibleActions, PredecessorDistribution
from torchrl_recall.seeds import SeedStreams, StackedMLP


@pytest.mark.parametrize("slip", [0.0, 0.2])
@pytest.mark.parametrize("size", [5, 11])
def test_predecessors_invert_the_dynamics(size, slip):
    layout = FourRoomsLayout(size, slip=slip)
    exact = ExactPredecessors(layout)
    into: dict = {}
    for s, a, following, p in zip(*[x.tolist() for x in layout.transitions()], strict=True):
        into.setdefault((following, a), {})[s] = p
    for cell in layout.free.tolist():
        for action in range(4):
            weights = into.get((cell, action), {})
            total = sum(weights.values())
            expected = {s: p / total for s, p in weights.items()}
            assert exact.of(cell, action=action) == pytest.approx(expected)


def test_bumping_into_a_wall_leads_back_to_the_same_cell():
    layout = FourRoomsLayout(7)
    exact = ExactPredecessors(layout)
    corner = layout.index((1, 1))
    assert exact.of(corner, action=0) == {corner: 0.5, layout.index((2, 1)): 0.5}  # up
    assert exact.of(corner, action=1) == {}  # nothing is left of it


def test_nothing_comes_from_the_goal():
    layout = FourRoomsLayout(7)
    exact = ExactPredecessors(layout)
    for cell in layout.free.tolist():
        for action in range(4):
            assert layout.goal not in exact.of(cell, action=action)


@pytest.mark.parametrize(
    ("cell", "action", "words"),
    [
        (0, 0, r"cell \(0, 0\) is a wall: nothing leads into it"),
        (49, 0, "outside the 49 cells"),
        (-1, 0, "outside the 49 cells"),
        (8, 4, "action must be 0, 1, 2 or 3, got 4"),
        (8, -1, "action must be 0, 1, 2 or 3, got -1"),
    ],
)
def test_what_has_no_predecessors_is_refused(cell, action, words):
    with pytest.raises(ValueError, match=words):
        ExactPredecessors(FourRoomsLayout(7)).of(cell, action=action)


def test_impossible_actions_are_masked():
    layout = FourRoomsLayout(5)
    exact = ExactPredecessors(layout)
    policy = PossibleActions(nn.Embedding(25, 4), exact.possible())
    probabilities = policy(layout.free).softmax(-1)
    for cell, row in zip(layout.free.tolist(), probabilities, strict=True):
        for action in range(4):
            assert (row[action] > 0) == bool(exact.of(cell, action=action))


def test_stacked_networks_have_tables_of_their_own():
    possible = torch.zeros(2, 5, 4, dtype=torch.bool)
    possible[0, 3, 1] = possible[1, 3, 2] = True
    policy = PossibleActions(nn.Embedding(5, 4), possible)
    logits = policy(torch.tensor([[3, 4], [3, 4]]))
    assert logits[0, 0].isfinite().tolist() == [False, True, False, False]
    assert logits[1, 0].isfinite().tolist() == [False, False, True, False]
    assert logits[:, 1].isfinite().all()  # where nothing is allowed, nothing is forbidden
    possible[0, 3, 0] = True  # the owner learned something
    assert policy(torch.tensor([3, 3]))[0].isfinite().tolist() == [True, True, False, False]


def make_exact(layout, seed=0):
    streams = SeedStreams([seed], stream="trace")
    return four_rooms_model(
        layout, StackedMLP(1, [layout.num_cells], 16, 4, rand=streams.rand), rand=streams.rand
    )


@pytest.mark.parametrize("size", [5, 11])
def test_replayed_traces_end_in_the_goal(size):
    """Every step of a trace, taken in the environment, leads to the next."""
    layout = FourRoomsLayout(size, start="uniform")
    goals = TensorDict({"observation": torch.full((256,), layout.goal)}, [256])
    traces = RecallTraceGenerator(make_exact(layout), trace_length=30)(goals)
    assert traces.shape == (256, 30)
    assert (traces["next", "observation"][:, -1] == layout.goal).all()
    assert (traces["observation"] != layout.goal).all()
    env = FourRoomsEnv(size, start="uniform", batch_size=list(traces.shape))
    state = env.reset().set("observation", traces["observation"])
    after = env.step(state.set("action", traces["action"]))["next", "observation"]
    assert torch.equal(after, traces["next", "observation"])


def test_the_model_of_a_task_is_a_backtracking_model_like_any_other():
    layout = FourRoomsLayout(7, start="uniform")
    env = FourRoomsEnv(7, start="uniform", batch_size=[32])
    data = env.rollout(50, break_when_any_done=False).reshape(-1)
    model = make_exact(layout)
    losses = BacktrackingLoss(model)(data)
    assert losses["loss_backward_policy"].requires_grad
    assert losses["loss_state_predictor"].isfinite()
    log_prob = model.state_predictor_log_prob(data)
    exact = ExactPredecessors(layout)
    for row, found in zip(data[:200], log_prob[:200], strict=True):
        before = exact.of(int(row["next", "observation"]), action=int(row["action"]))
        assert before[int(row["observation"])] == pytest.approx(float(found.exp()))


def test_traces_are_the_same_from_the_same_seed():
    layout = FourRoomsLayout(7)
    goals = TensorDict({"observation": torch.full((8,), layout.goal)}, [8])
    first, second, other = (
        RecallTraceGenerator(make_exact(layout, seed), trace_length=20)(goals) for seed in (3, 3, 4)
    )
    assert (first == second).all()
    assert not (first == other).all()


def test_the_short_list_of_cells_is_a_distribution():
    torch.manual_seed(0)
    cells = torch.tensor([[3, 8], [5, 0]])
    logits = torch.tensor([[0.25, 0.75], [1.0, 0.0]]).log()
    distribution = PredecessorDistribution(cells, logits)
    draws = distribution.sample((4_000,))
    assert draws.shape == (4_000, 2)
    assert (draws[:, 1] == 5).all()
    assert float((draws[:, 0] == 8).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert distribution.mode.tolist() == distribution.deterministic_sample.tolist() == [8, 5]
    found = distribution.log_prob(torch.tensor([3, 0])).exp()
    torch.testing.assert_close(found, torch.tensor([0.25, 0.0]))
    assert distribution.log_prob(torch.tensor([9, 5])).tolist() == [-torch.inf, 0.0]


def test_the_likeliest_trace():
    layout = FourRoomsLayout(7)
    goals = TensorDict({"observation": torch.full((4,), layout.goal)}, [4])
    with set_exploration_type(ExplorationType.DETERMINISTIC):  # which a generator does not heed
        traces = RecallTraceGenerator(make_exact(layout), trace_length=20)(goals)
    assert not (traces[0] == traces[1]).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_smoothing_mixes_in_a_uniform_draw(smoothing):
    layout = FourRoomsLayout(5)
    possible = ExactPredecessors(layout).possible()
    network = nn.Embedding(25, 4)
    probabilities = PossibleActions(network, possible, smoothing=smoothing)(layout.free).softmax(-1)
    allowed = possible[layout.free]
    plain = torch.where(allowed, network.weight[layout.free], -torch.inf).softmax(-1)
    uniform = allowed / allowed.sum(-1, keepdim=True)
    expected = (1 - smoothing) * plain + smoothing * uniform
    torch.testing.assert_close(probabilities, expected)
    log_prob = PossibleActions(network, possible, smoothing=smoothing)(layout.free).log_softmax(-1)
    log_prob[allowed].sum().backward()
    assert network.weight.grad.isfinite().all()


def test_displacements_are_relative_to_where_the_step_ended():
    torch.manual_seed(0)
    table = nn.Embedding(4, 9)  # displacements of an action, wherever it leads to
    predict = DisplacementPredictor(lambda action, cell: table(action), 9)
    actions, cells = torch.arange(4).repeat(9), torch.arange(9).repeat_interleave(4)
    logits = predict(actions, cells)
    for action, cell, row in zip(actions.tolist(), cells.tolist(), logits, strict=True):
        for previous in range(9):
            assert row[previous] == table.weight[action, (previous - cell) % 9]


def test_what_an_action_does_here_it_does_elsewhere():
    """A predictor that saw one action lead into half of the cells knows the other half."""
    torch.manual_seed(0)
    layout = FourRoomsLayout(15)
    network = StackedMLP(1, [4, 225], 64, 225, zero=True)
    predict = DisplacementPredictor(network, 225)
    source, action, following, _ = layout.transitions()
    right = (action == 1) & (following != source)
    source, action, following = source[right], action[right], following[right]
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    seen = torch.arange(len(source)) % 2 == 0
    for _ in range(50):
        loss = nn.functional.cross_entropy(predict(action[seen][None], following[seen][None])[0],
                                           source[seen])  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = predict(action[~seen][None], following[~seen][None])[0].softmax(-1)
    assert (found.argmax(-1) == source[~seen]).all()
    assert found.amax(-1).min() > 0.5


def test_cells_without_a_predecessor_are_refused():
    layout = FourRoomsLayout(11)
    model = make_exact(layout)
    goals = TensorDict({"observation": torch.full((64,), layout.goal)}, [64])
    cells = RecallTraceGenerator(model, trace_length=10)(goals)["observation"]
    assert not layout.walls.flatten()[cells].any()
    with pytest.raises(ValueError, match="have no predecessor by the given action"):
        RecallTraceGenerator(model, trace_length=10, actions="uniform")(goals)
    walls = TensorDict({"observation": torch.zeros(3, dtype=torch.long)}, [3])
    with pytest.raises(ValueError, match="3 of 3 cells have no predecessor"):
        RecallTraceGenerator(model, trace_length=3)(walls)
