"""The oracle against enumeration of all trajectories of a tiny grid."""

import itertools
import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Categorical
from torchrl.modules import ProbabilisticActor

from torchrl_recall import ImitationLoss, RecallTraceGenerator
from torchrl_recall.envs import FourRoomsEnv, FourRoomsLayout, Oracle, four_rooms_model

GAMMA, STEPS = 0.9, 6
CELLS = 25


def random_policy(seed: int, *batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*batch, CELLS, 4, generator=generator, dtype=torch.float64).softmax(-1)


def table_of(layout):
    """p(s' | s, a) as nested dicts."""
    out: dict = {}
    for s, a, following, p in zip(*[x.tolist() for x in layout.transitions()], strict=True):
        out.setdefault((s, a), {})[following] = p
    return out


def enumerate_trajectories(layout, policy, steps):
    """Every trajectory that reaches the goal within so many steps, with its probability."""
    table, found = table_of(layout), []

    def extend(cell, path, probability):
        if cell == layout.goal:
            found.append((path, probability))
            return
        if len(path) == steps:
            return
        for action in range(4):
            for following, p in table[cell, action].items():
                step = (cell, action, following)
                extend(following, [*path, step], probability * float(policy[cell, action]) * p)

    for start in layout.starts.tolist():
        extend(start, [], 1 / len(layout.starts))
    return found


# Slipping makes so many trajectories that only short ones can be enumerated.
@pytest.fixture(params=[("uniform", 0.0, STEPS), ("opposite", 0.0, STEPS), ("uniform", 0.3, 4)])
def grid(request):
    start, slip, max_steps = request.param
    layout = FourRoomsLayout(5, start=start, slip=slip)
    return layout, Oracle(layout, max_steps=max_steps, gamma=GAMMA)


def test_values_and_success(grid):
    layout, oracle = grid
    policy = random_policy(0)
    found = enumerate_trajectories(layout, policy, oracle.max_steps)
    value = sum(p * GAMMA ** (len(path) - 1) for path, p in found)
    assert float(oracle.expected_return(policy)) == pytest.approx(value, abs=1e-12)
    assert float(oracle.success(policy)) == pytest.approx(sum(p for _, p in found), abs=1e-12)
    short = sum(p for path, p in found if len(path) <= 3)
    assert float(oracle.success(policy, 3)) == pytest.approx(short, abs=1e-12)


def test_values_are_those_of_the_environment():
    torch.manual_seed(0)
    env = FourRoomsEnv(5, start="uniform", max_steps=STEPS, slip=0.2, batch_size=[20_000])
    policy = random_policy(1)
    oracle = Oracle(env.layout, max_steps=STEPS, gamma=GAMMA)
    actor = TensorDictModule(
        lambda cell: torch.multinomial(policy[cell], 1).squeeze(-1), ["observation"], ["action"]
    )
    rollout = env.rollout(STEPS, actor, break_when_any_done=False)
    first = rollout["elapsed_steps"] == torch.arange(STEPS)  # of the first episode
    reward = (rollout["next", "reward"].squeeze(-1) * first).double()
    returns = (reward * GAMMA ** torch.arange(STEPS)).sum(1)
    error = float(returns.std()) / math.sqrt(len(returns))
    assert abs(float(returns.mean() - oracle.expected_return(policy))) < 5 * error


def test_the_optimum_is_that_of_shortest_paths(grid):
    layout, oracle = grid
    if layout.slip:
        assert 0 < oracle.optimum < Oracle(FourRoomsLayout(5, start="uniform")).optimum
        return
    distance = layout.distances()[layout.starts]
    assert oracle.optimum == pytest.approx(float((GAMMA ** (distance - 1)).mean()))
    assert float(oracle.expected_return(random_policy(0))) < oracle.optimum


@pytest.mark.parametrize("steps", range(1, STEPS + 1))
def test_thresholds_are_numbers_of_steps(steps):
    oracle = Oracle(FourRoomsLayout(5), max_steps=STEPS, gamma=GAMMA)
    reached = GAMMA ** (steps - 1)
    assert oracle.horizon(reached * 0.999) == steps
    assert oracle.horizon(reached) == steps - 1 if steps > 1 else True
    assert oracle.horizon(0.0) == STEPS


def test_a_threshold_out_of_range_is_refused(grid):
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\)"):
        grid[1].horizon(1.0)


@pytest.mark.parametrize("threshold", [0.0, GAMMA**3 * 0.99])
def test_the_posterior(grid, threshold):
    layout, oracle = grid
    policy, steps = random_policy(2), oracle.horizon(threshold)
    found = enumerate_trajectories(layout, policy, steps)
    total = sum(p for _, p in found)
    posterior = oracle.posterior(policy, threshold)
    assert float(posterior.log_evidence) == pytest.approx(math.log(total))
    assert float(oracle.probability_above(policy, threshold)) == pytest.approx(total)
    index = {
        step: i
        for i, step in enumerate(zip(*[x.tolist() for x in layout.transitions()[:3]], strict=True))
    }
    counts = torch.zeros(len(index), dtype=torch.float64)
    lengths = torch.zeros(steps + 1, dtype=torch.float64)
    starts = torch.zeros(CELLS, dtype=torch.float64)
    for path, p in found:
        lengths[len(path)] += p / total
        starts[path[0][0]] += p / total
        for step in path:
            counts[index[step]] += p / total
    torch.testing.assert_close(posterior.counts, counts)
    torch.testing.assert_close(posterior.starts, starts)
    torch.testing.assert_close(posterior.lengths, lengths)
    pairs = torch.zeros(CELLS, 4, dtype=torch.float64)
    for (_, a, following), i in index.items():
        pairs[following, a] += counts[i]
    expected = pairs / pairs.sum(-1, keepdim=True).clamp_min(1e-300)
    torch.testing.assert_close(oracle.posterior_policy(posterior), expected)


class Table(nn.Module):
    """A table as a network."""

    def __init__(self, seed: int, outputs: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.logits = nn.Parameter(torch.randn(CELLS, outputs, generator=generator).double())

    def forward(self, cell):
        return self.logits[cell]


def test_both_divergences_and_the_bound(grid):
    layout, oracle = grid
    policy = random_policy(3)
    log_q = oracle.log_prob_of(four_rooms_model(layout, Table(4, 4)))
    posterior = oracle.posterior(policy)
    total = float(posterior.log_evidence.exp())
    index = {
        step: i
        for i, step in enumerate(zip(*[x.tolist() for x in layout.transitions()[:3]], strict=True))
    }
    forward = reverse = q_total = 0.0
    for path, p in enumerate_trajectories(layout, policy, oracle.max_steps):
        log_trace = math.log(float(posterior.lengths[len(path)])) + sum(
            float(log_q[index[step]]) for step in path
        )
        gap = math.log(p / total) - log_trace
        forward += p / total * gap
        reverse -= math.exp(log_trace) * gap
        q_total += math.exp(log_trace)
    assert float(oracle.forward_kl(policy, posterior, log_q)) == pytest.approx(forward)
    bound = oracle.elbo(policy, log_q, posterior.lengths)
    gap = oracle.reverse_kl(policy, log_q, posterior.lengths)
    if layout.start == "uniform":  # where every trace of q may be a trajectory
        assert q_total == pytest.approx(1.0)
        assert float(gap) == pytest.approx(reverse)
        assert float(bound) == pytest.approx(math.log(total) - reverse)  # Eq. 4
    else:
        assert q_total < 1
        assert float(bound) == -math.inf
        assert float(gap) == math.inf


def test_the_bound_is_tight_at_the_posterior():
    """With one length and a policy of one way, q can be the posterior itself."""
    layout = FourRoomsLayout(5, start=(1, 1))
    oracle = Oracle(layout, max_steps=4, gamma=GAMMA)
    policy = torch.full((CELLS, 4), 1e-12, dtype=torch.float64)
    for cell, action in (((1, 1), 1), ((1, 2), 1), ((1, 3), 2), ((2, 3), 2)):
        policy[layout.index(cell), action] = 1
    policy /= policy.sum(-1, keepdim=True)
    posterior = oracle.posterior(policy)
    log_q = oracle.posterior_policy(posterior)[oracle.following, oracle.action].log()
    # The only predecessor that such a trajectory comes from.
    log_q = log_q + torch.where(posterior.counts > 0.5, 0.0, -60.0)
    assert float(oracle.forward_kl(policy, posterior, log_q)) == pytest.approx(0, abs=1e-6)
    assert float(posterior.log_evidence) == pytest.approx(0, abs=1e-6)


def test_the_posterior_policy_is_the_best_backward_policy(grid):
    layout, oracle = grid
    policy = random_policy(5)
    posterior = oracle.posterior(policy)
    table = Table(6, 4)
    model = four_rooms_model(layout, table)
    kl = oracle.forward_kl(policy, posterior, oracle.log_prob_of(model))
    of_policy = oracle.backward_policy_kl(posterior, masked(layout, table))
    assert of_policy > 0.01
    best = oracle.posterior_policy(posterior)
    table.logits.data = best.clamp_min(1e-30).log()
    least = oracle.forward_kl(policy, posterior, oracle.log_prob_of(model))
    assert float(kl - least) == pytest.approx(float(of_policy * posterior.counts.sum()))
    for seed in range(5):
        noise = torch.randn(CELLS, 4, generator=torch.Generator().manual_seed(seed)) / 10
        table.logits.data = best.clamp_min(1e-30).log() + noise
        assert oracle.forward_kl(policy, posterior, oracle.log_prob_of(model)) > least


def masked(layout, table):
    from torchrl_recall.envs import ExactPredecessors

    possible = ExactPredecessors(layout).possible()
    return torch.where(possible, table.logits.detach(), -torch.inf).softmax(-1).nan_to_num()


def enumerate_traces(layout, backward_policy, length):
    """Every recall trace from the goal, in forward time, with its probability."""
    from torchrl_recall.envs import ExactPredecessors

    exact, found = ExactPredecessors(layout), []

    def extend(cell, path, probability):
        if len(path) == length:
            found.append((path[::-1], probability))
            return
        for action in range(4):
            for previous, p in exact.of(cell, action=action).items():
                chance = probability * float(backward_policy[cell, action]) * p
                if chance:
                    extend(previous, [*path, (previous, action)], chance)

    extend(layout.goal, [], 1.0)
    return found


def test_imitation_ascends_the_bound(grid):
    """The gradient of Eq. 3 on all traces is that of the policy's term of Eq. 5."""
    layout, oracle = grid
    table, length = Table(7, 4), oracle.max_steps - 2
    found = enumerate_traces(layout, masked(layout, table), length)
    assert sum(p for _, p in found) == pytest.approx(1.0)
    actor_table = Table(8, 4)
    actor = ProbabilisticActor(
        TensorDictModule(actor_table, ["observation"], ["logits"]),
        in_keys=["logits"],
        spec=Categorical(4),
        distribution_class=torch.distributions.Categorical,
    )
    pairs = torch.tensor([path for path, _ in found])
    traces = TensorDict({"observation": pairs[..., 0], "action": pairs[..., 1]}, pairs.shape[:2])
    loss = ImitationLoss(actor, reduction="none")(traces)["loss_imitation"]
    weight = torch.tensor([p for _, p in found], dtype=torch.float64).unsqueeze(1)
    (loss.double() * weight).sum().backward()
    imitation = actor_table.logits.grad.clone()

    policy = actor_table.logits.detach().double().softmax(-1)
    logits = policy.log().requires_grad_()
    log_q = oracle.log_prob_of(four_rooms_model(layout, table))
    lengths = torch.nn.functional.one_hot(torch.tensor(length), oracle.max_steps + 1).double()
    if layout.start == "uniform":
        oracle.elbo(logits.softmax(-1), log_q, lengths).backward()
        torch.testing.assert_close(-imitation.double(), logits.grad, atol=1e-6, rtol=1e-5)
    counts, _ = oracle.trace_counts(log_q, lengths)  # finite whatever the starts are
    visits = torch.zeros(CELLS * 4, dtype=torch.float64).index_add(
        0, oracle.source * 4 + oracle.action, counts
    )
    other = policy.log().requires_grad_()
    (visits.reshape(CELLS, 4) * other.log_softmax(-1)).sum().backward()
    torch.testing.assert_close(-imitation.double(), other.grad, atol=1e-6, rtol=1e-5)


def test_a_trace_longer_than_the_threshold_allows_has_no_bound():
    oracle = Oracle(FourRoomsLayout(5, start="uniform"), max_steps=STEPS, gamma=GAMMA)
    log_q = oracle.log_prob_of(four_rooms_model(oracle.layout, Table(4, 4)))
    lengths = torch.nn.functional.one_hot(torch.tensor(5), STEPS + 1).double()
    threshold = GAMMA**4 * 0.99  # at most five steps
    assert oracle.elbo(random_policy(0), log_q, lengths, threshold) > -math.inf
    assert oracle.elbo(random_policy(0), log_q, lengths, GAMMA**3 * 0.99) == -math.inf


def test_traces_are_what_the_oracle_expects(grid):
    torch.manual_seed(0)
    layout, oracle = grid
    model = four_rooms_model(layout, Table(9, 4))
    goals = TensorDict({"observation": torch.full((40_000,), layout.goal)}, [40_000])
    length = oracle.max_steps - 1
    traces = RecallTraceGenerator(model, trace_length=length)(goals)
    triple = (traces["observation"] * 4 + traces["action"]) * CELLS
    triple = triple + traces["next", "observation"]
    seen = torch.bincount(triple.flatten(), minlength=CELLS * 4 * CELLS).double() / 40_000
    lengths = torch.nn.functional.one_hot(torch.tensor(length), length + 1).double()
    counts, starts = oracle.trace_counts(oracle.log_prob_of(model), lengths)
    index = (oracle.source * 4 + oracle.action) * CELLS + oracle.following
    assert float(seen[index].sum()) == pytest.approx(float(length))
    torch.testing.assert_close(seen[index], counts, atol=0.03, rtol=0)
    first = torch.bincount(traces["observation"][:, 0], minlength=CELLS).double() / 40_000
    torch.testing.assert_close(first, starts, atol=0.02, rtol=0)


def test_batches_of_policies(grid):
    _, oracle = grid
    policies = random_policy(0, 3)
    for function in (oracle.expected_return, oracle.success):
        each = torch.stack([function(policy) for policy in policies])
        torch.testing.assert_close(function(policies), each)
    batched = oracle.posterior(policies)
    for i, policy in enumerate(policies):
        torch.testing.assert_close(batched.counts[i], oracle.posterior(policy).counts)


def test_every_pair_of_cells_and_actions_is_covered():
    layout = FourRoomsLayout(5)
    oracle = Oracle(layout)
    triples = set(
        zip(oracle.source.tolist(), oracle.action.tolist(), oracle.following.tolist(), strict=True)
    )
    free = [cell for cell in layout.free.tolist() if cell != layout.goal]
    assert triples == {
        (s, a, int(layout.next_cell[s, a])) for s, a in itertools.product(free, range(4))
    }


def test_rows_of_a_batch_have_bounds_of_their_own():
    layout = FourRoomsLayout(5, start=(1, 1))
    oracle = Oracle(layout, max_steps=STEPS, gamma=GAMMA)
    policy = random_policy(0)
    log_q = oracle.log_prob_of(four_rooms_model(layout, nn.Embedding(CELLS, 4)))
    good = torch.zeros(STEPS + 3, dtype=torch.float64)
    good[4] = 1
    long = torch.zeros_like(good)
    long[-1] = 1
    alone = oracle.elbo(policy, log_q, good)
    both = oracle.elbo(policy, log_q.expand(2, -1), torch.stack([good, long]))
    assert both.tolist() == [float(alone), -math.inf]


class Anywhere(nn.Module):
    """A state predictor that knows nothing."""

    def forward(self, action, following):
        return torch.zeros(*following.shape, CELLS)


def test_a_model_that_leaves_the_grid_has_no_bound():
    layout = FourRoomsLayout(5)
    oracle = Oracle(layout, max_steps=STEPS, gamma=GAMMA)
    model = four_rooms_model(layout, nn.Embedding(CELLS, 4), Anywhere())
    log_q, policy = oracle.log_prob_of(model), random_policy(0)
    one_step = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert float(oracle.elbo(policy, log_q, one_step)) == -math.inf
    assert float(oracle.reverse_kl(policy, log_q, one_step)) == math.inf


def test_discounts_and_thresholds_that_nothing_reaches_are_refused():
    layout = FourRoomsLayout(5, start=(1, 1))
    assert Oracle(layout, max_steps=STEPS, gamma=1.0).horizon(0.5) == STEPS
    for gamma in (0.0, 1.5):
        with pytest.raises(ValueError, match="gamma must be in"):
            Oracle(layout, gamma=gamma)
    oracle = Oracle(layout, max_steps=STEPS, gamma=GAMMA)
    with pytest.raises(ValueError, match="no trajectory of the policy has a return above"):
        oracle.posterior(random_policy(0), oracle.optimum + 0.01)


def test_smoothing_needs_actions_to_draw_from():
    layout = FourRoomsLayout(5)
    with pytest.raises(ValueError, match="give possible="):
        four_rooms_model(layout, nn.Embedding(CELLS, 4), Anywhere(), smoothing=0.5)
    with pytest.raises(ValueError, match="must be a probability"):
        four_rooms_model(layout, nn.Embedding(CELLS, 4), smoothing=1.5)


def test_the_gradient_of_the_divergence_is_that_of_differences():
    layout = FourRoomsLayout(5, start="uniform")
    oracle = Oracle(layout, max_steps=10, gamma=0.9)
    log_q = oracle.log_prob_of(four_rooms_model(layout, nn.Embedding(25, 4)))

    def divergence(logits):
        policy = logits.softmax(-1)
        return oracle.forward_kl(policy, oracle.posterior(policy), log_q)

    torch.manual_seed(0)
    logits = torch.randn(25, 4, dtype=torch.float64, requires_grad=True)
    divergence(logits).backward()
    step = torch.zeros_like(logits)
    step[6, 1] = 1e-6
    slope = (divergence(logits + step) - divergence(logits - step)) / 2e-6
    assert logits.grad[6, 1].item() == pytest.approx(slope.item(), rel=1e-4)
    lengths = torch.tensor([0, 0.5, 0.5], dtype=torch.float64, requires_grad=True)
    oracle.elbo(torch.full((25, 4), 0.25), log_q, lengths).backward()
    assert lengths.grad.isfinite().all()
