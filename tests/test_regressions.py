"""Faults of an earlier implementation, and of ours while it was built: one named test each."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import (
    Bounded,
    LazyTensorStorage,
    OneHot,
    TensorDictReplayBuffer,
    Unbounded,
)
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    GymEnv,
    Reward2GoTransform,
    StepCounter,
    TransformedEnv,
)
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss

from torchrl_recall import (
    BacktrackingEnv,
    BacktrackingLoss,
    BacktrackingModel,
    ImitationLoss,
    Recall,
    RecallTraceGenerator,
    RewardStates,
    TopKTrajectories,
)

# Faults of the earlier implementation


def far_from_standard(n: int = 4096) -> TensorDict:
    """States around 100 ± 5, actions around 50 ± 10, changes of state around -2 ± 0.5."""
    following = 100 + 5 * torch.randn(n, 1)
    action = 50 + 10 * torch.randn(n, 1)
    delta = -2 + 0.5 * torch.randn(n, 1)
    return TensorDict(
        {"observation": following + delta, "action": action, "next": {"observation": following}},
        [n],
    )


@pytest.fixture
def standard_normal() -> BacktrackingModel:
    """Networks that say N(0, 1) in standardised units."""
    model = BacktrackingModel.from_specs(Unbounded((1,)), Unbounded((1,)), num_cells=(4,))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    model.update_statistics(far_from_standard())
    return model


def test_each_variable_is_brought_back_with_its_own_mean(standard_normal):
    seeds = TensorDict({"next": {"observation": torch.full((8192, 1), 100.0)}}, [8192])
    out = standard_normal(seeds)
    assert out["observation"].mean().item() == pytest.approx(98, abs=0.1)  # not 100 + 100
    assert out["observation_delta"].mean().item() == pytest.approx(-2, abs=0.1)
    assert out["observation_delta"].std().item() == pytest.approx(0.5, abs=0.05)


def test_actions_are_brought_back_to_environment_units(standard_normal):
    traces = RecallTraceGenerator(standard_normal, trace_length=4)(
        TensorDict({"observation": torch.full((2048, 1), 100.0)}, [2048])
    )
    assert traces["action"].mean().item() == pytest.approx(50, abs=1)
    assert traces["action"].std().item() == pytest.approx(10, abs=0.5)


def test_predictor_is_conditioned_on_the_standardised_action(standard_normal):
    linear = [m for m in standard_normal.state_predictor.modules() if isinstance(m, nn.Linear)]
    seen = []
    linear[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    standard_normal.sample_observation(torch.full((1, 1), 60.0), torch.full((1, 1), 105.0))
    assert seen[0].flatten().tolist() == pytest.approx([1.0, 1.0], abs=0.1)


def test_state_variance_is_learned_in_each_dimension():
    """s_t = s_{t+1} - f(a), exact in dimension 0 and noisy in dimension 1."""
    following, action = torch.randn(2048, 2), torch.randn(2048, 1)
    noise = torch.tensor([0.02, 1.0]) * torch.randn(2048, 2)
    data = TensorDict({"observation": following - action + noise, "action": action}, [2048]).set(
        "next", TensorDict({"observation": following}, [2048])
    )
    model = BacktrackingModel.from_specs(Unbounded((2,)), Unbounded((1,)), num_cells=())
    model.update_statistics(data)
    loss = BacktrackingLoss(model)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.03)
    for _ in range(400):
        optimizer.zero_grad()
        loss.state_predictor_loss(data[torch.randint(2048, (256,))]).backward()
        optimizer.step()
    state = model.sample_observation(torch.zeros(4096, 1), torch.zeros(4096, 2))
    spread = state.std(0)
    assert spread[0] < 0.1
    assert spread[1].item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("term", ["backward_policy", "state_predictor"])
def test_training_raises_the_likelihood(term, make_model, transitions):
    model, data = make_model(action_scale="learned"), transitions(64)
    loss = BacktrackingLoss(model)
    score = getattr(model, f"{term}_log_prob")
    before = score(data).mean().item()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        loss(data)[f"loss_{term}"].backward()
        optimizer.step()
    assert score(data).mean().item() > before + 0.1


def test_imitation_raises_the_likelihood(make_actor):
    actor = make_actor()
    data = TensorDict({"observation": torch.randn(64, 3), "action": torch.full((64, 2), 0.7)}, [64])
    loss = ImitationLoss(actor)

    def score() -> float:
        return actor.get_dist(data.select("observation")).log_prob(data["action"]).mean().item()

    before = score()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        loss(data)["loss_imitation"].backward()
        optimizer.step()
    assert score() > before + 0.1


def test_a_terminal_transition_keeps_its_own_next_observation():
    """Hopper ends where it is unhealthy and is reset where it is healthy."""
    env = TransformedEnv(GymEnv("Hopper-v5"), DoubleToFloat())
    collector = Collector(env, None, frames_per_batch=50, total_frames=500)
    collector.set_seed(0)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000), batch_size=8)
    buffer.append_transform(TopKTrajectories(3, replay_buffer=buffer))
    for data in collector:
        buffer.extend(data)
    collector.shutdown()
    rows = buffer[:]
    ends = rows[rows["next", "terminated"].squeeze(-1)]["next", "observation"]
    assert len(ends) == 3

    def unhealthy(state):
        return (state[:, 0] < 0.7) | (state[:, 1].abs() > 0.2)

    assert unhealthy(ends).all()
    assert not unhealthy(rows["observation"]).any()
    inside = ~rows["next", "done"].squeeze(-1)
    assert torch.equal(rows["next", "observation"][inside], rows["observation"].roll(-1, 0)[inside])
    rows["next", "reward"][rows["next", "terminated"]] = 100.0
    seeds = RewardStates(3)(rows)  # seeds are the terminal states, not the reset ones
    assert unhealthy(seeds["observation"]).all()


def test_every_trace_is_imitated(make_actor, make_model):
    """Each pair of each trace has an equal share of the gradient."""
    traces = RecallTraceGenerator(make_model(), trace_length=3, num_traces=2)(
        TensorDict({"observation": torch.randn(4, 3)}, [4])
    )
    actor = make_actor()
    loss = ImitationLoss(actor, reduction="none")(traces)["loss_imitation"]
    assert loss.shape == (8, 3)
    total = ImitationLoss(actor)(traces)["loss_imitation"]
    torch.testing.assert_close(total, loss.mean())
    assert len(loss.detach().unique()) == 24


def test_recall_offers_every_trace_of_every_seed(make_actor):
    model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)), num_cells=(8,))
    recall = Recall(
        model, ImitationLoss(make_actor()), RewardStates(4), trace_length=5, num_traces=3
    )
    n = 16
    data = TensorDict({"observation": torch.randn(n, 3), "action": torch.rand(n, 2)}, [n])
    data["next"] = TensorDict(
        {
            "observation": torch.randn(n, 3),
            "reward": torch.randn(n, 1),
            "done": torch.ones(n, 1, dtype=torch.bool),
        },
        [n],
    )
    recall.extend(data)
    recall.trajectories.flush()
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
    buffer.extend(data)
    pairs = recall.generate(recall.high_value_states(buffer[:]))
    assert pairs.shape == (12, 5)
    assert len(pairs["action"].flatten(0, 1).unique(dim=0)) > 30


# The model


def test_joint_log_prob_is_of_the_action_that_was_taken(make_model, transitions):
    """A single sequential over both factors would score an action that it drew itself."""
    model, data = make_model(), transitions(16)
    extreme = data.clone().set("action", torch.full((16, 2), 40.0))
    with torch.no_grad():
        scores = torch.stack([model.log_prob(extreme) for _ in range(3)])
    assert (scores == scores[0]).all()
    assert (model.backward_policy_log_prob(extreme) < -100).all()


def test_one_hot_samples_have_the_dtype_of_the_spec(make_model):
    for dtype in (torch.bool, torch.int64):
        spec = OneHot(3, dtype=dtype)
        model = make_model(spec, spec)
        out = model(TensorDict({"next": {"observation": spec.rand((8,))}}, [8]))
        assert out["action"].dtype == out["observation"].dtype == dtype
        assert model.log_prob(out).isfinite().all()


def test_recalled_one_hot_actions_can_be_imitated(make_model):
    spec = OneHot(3)  # of booleans by default, on which OneHotCategorical.log_prob raises
    actor = ProbabilisticActor(
        TensorDictModule(
            MLP(in_features=3, out_features=3, num_cells=[4]), ["observation"], ["logits"]
        ),
        in_keys=["logits"],
        spec=spec,
        distribution_class=OneHotCategorical,
    )
    traces = RecallTraceGenerator(make_model(action=spec), trace_length=3)(
        TensorDict({"observation": torch.randn(4, 3)}, [4])
    )
    assert ImitationLoss(actor)(traces)["loss_imitation"].isfinite()


def test_nearly_constant_dimension_is_not_amplified():
    data = far_from_standard(64)
    data["action"] = 50 + 1e-6 * torch.randn(64, 1)
    model = BacktrackingModel.from_specs(Unbounded((1,)), Unbounded((1,)), num_cells=(4,))
    model.update_statistics(data)
    assert model.actions.scale().item() == 1.0


# The reversed environment


def test_reversed_environment_is_never_done(make_model):
    env = BacktrackingEnv(make_model())
    done = TensorDict({key: torch.ones(4, 1, dtype=torch.bool) for key in env.done_keys}, [4])
    assert env.any_done(done) is False
    assert env.maybe_reset(done) is done


def test_nested_action_does_not_leak_into_next(make_model):
    model = make_model(observation_key=("agent", "state"), action_key=("agent", "action"))
    env = BacktrackingEnv(model)
    rollout = env.rollout(3, env.backward_policy)
    assert set(rollout["next", "agent"].keys()) == {"state"}


def test_traces_inside_a_loss_keep_their_noise(make_model, make_actor):
    """Every loss's forward sets the deterministic exploration type."""
    generate = RecallTraceGenerator(make_model(), trace_length=2, num_traces=2)
    seeds = TensorDict({"observation": torch.randn(1, 3)}, [1])
    made = []

    class Generating(ImitationLoss):
        def forward(self, tensordict):
            made.append(generate(seeds))
            return super().forward(tensordict)

    loss = Generating(make_actor())
    loss(TensorDict({"observation": torch.randn(2, 3), "action": torch.rand(2, 2)}, [2]))
    assert not torch.equal(made[0]["observation"][0], made[0]["observation"][1])
    assert not torch.equal(made[0]["action"][0], made[0]["action"][1])


# The filter


def episode(value: float) -> TensorDict:
    reward, done = torch.full((1, 2, 1), value / 2), torch.tensor([[[False], [True]]])
    return TensorDict(
        {"tag": torch.full((1, 2), value), "next": {"reward": reward, "done": done}}, [1, 2]
    )


def test_the_filter_stands_first_and_sees_what_later_transforms_wrote():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
    keep = TopKTrajectories(2, replay_buffer=buffer)
    buffer.append_transform(Compose(keep, Reward2GoTransform(gamma=1.0, out_keys=["reward_to_go"])))
    for value in (1.0, 5.0, 3.0, 0.5):
        buffer.extend(episode(value))
    assert sorted(buffer[:]["tag"].tolist()) == [3.0, 3.0, 5.0, 5.0]
    assert sorted(buffer[:]["reward_to_go"].flatten().tolist()) == [1.5, 2.5, 3.0, 5.0]


def test_a_rejected_write_leaves_the_buffer_as_it_was():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
    buffer.append_transform(TopKTrajectories(1, replay_buffer=buffer))
    buffer.extend(episode(5.0))
    for _ in range(5):
        buffer.extend(episode(1.0))
        assert buffer[:]["tag"].tolist() == [5.0, 5.0]
        assert (buffer.sample()["tag"] == 5.0).all()


def test_top_trajectories_hold_a_whole_episode_of_every_environment():
    env = TransformedEnv(GymEnv("Pendulum-v1"), Compose(DoubleToFloat(), StepCounter(10)))
    collector = Collector(env, None, frames_per_batch=7, total_frames=70)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
    buffer.append_transform(TopKTrajectories(2, replay_buffer=buffer))
    for data in collector:
        buffer.extend(data)
    collector.shutdown()
    assert buffer[:]["step_count"].flatten().tolist() == [*range(10), *range(10)]
    assert len(buffer[:]["collector", "traj_ids"].unique()) == 2


# The losses


class Counting(nn.Linear):
    """A linear layer that counts its calls."""

    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return super().forward(x).chunk(2, -1)[0], torch.ones(*x.shape[:-1], 2)


@pytest.mark.parametrize("keys", [("observation", "action"), (("agent", "s"), ("agent", "a"))])
def test_imitation_runs_the_policy_once_and_is_a_likelihood(keys):
    observation_key, action_key = keys
    actor = ProbabilisticActor(
        TensorDictModule(Counting(3, 4), [observation_key], ["mean", "std"]),
        in_keys={"loc": "mean", "scale": "std"},  # renamed parameters
        out_keys=[action_key],
        spec=Bounded(-1, 1, (2,)),
        distribution_class=TanhNormal,
    )
    data = TensorDict({}, [6]).set(observation_key, torch.randn(6, 3))
    data.set(action_key, torch.rand(6, 2) * 0.9)
    expected = -actor.get_dist(data.select(observation_key)).log_prob(data[action_key])
    Counting.calls = 0
    out = ImitationLoss(actor, reduction="none")(data)["loss_imitation"]
    assert Counting.calls == 1
    torch.testing.assert_close(out, expected)


def test_imitation_takes_a_plain_probabilistic_sequential(make_model):
    policy = make_model().backward_policy
    assert isinstance(policy, ProbabilisticTensorDictSequential)
    data = TensorDict({"next": {"observation": torch.randn(4, 3)}, "action": torch.rand(4, 2)}, [4])
    assert ImitationLoss(policy)(data)["loss_imitation"].isfinite()
    with pytest.raises(TypeError, match="ProbabilisticActor"):
        ImitationLoss(TensorDictSequential(TensorDictModule(nn.Linear(3, 2), ["a"], ["b"])))


def test_host_and_imitation_share_the_policy(make_actor):
    actor = make_actor()
    qvalue = ValueOperator(
        MLP(in_features=5, out_features=1, num_cells=[8]), in_keys=["observation", "action"]
    )
    sac, imitation = SACLoss(actor, qvalue), ImitationLoss(actor)
    shared = {id(p) for p in sac.actor_network_params.parameters()}
    assert shared == {id(p) for p in imitation.parameters()} == {id(p) for p in actor.parameters()}
    optimizer = torch.optim.Adam(imitation.parameters(), lr=0.1)
    data = TensorDict({"observation": torch.randn(8, 3), "action": torch.rand(8, 2)}, [8])
    before = actor.get_dist(data.select("observation")).deterministic_sample.clone()
    imitation(data)["loss_imitation"].backward()
    optimizer.step()
    with sac.actor_network_params.to_module(sac.actor_network):
        after = sac.actor_network.get_dist(data.select("observation")).deterministic_sample
    assert not torch.allclose(before, after)


def test_edge_actions_do_not_blow_up_the_gradient(make_actor):
    """At 0.999999 an unclamped tanh-normal policy's loss is 34 with a gradient of norm 78."""
    actor = make_actor()
    data = TensorDict({"observation": torch.randn(16, 3)}, [16])
    data["action"] = torch.full((16, 2), 0.999999)
    norms = []
    for margin in (0.01, 0.0):
        actor.zero_grad()
        ImitationLoss(actor, action_margin=margin)(data)["loss_imitation"].backward()
        norms.append(torch.cat([p.grad.flatten() for p in actor.parameters()]).norm())
    assert norms[0] < norms[1] / 2
