"""Lines 5 and 8 to 13 of Algorithm 1."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from experience import (
    episode,
    episodes,
    make_replay_buffer,
    new_model,
    padded,
    same,
    steps,
    weights,
)
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import (
    Bounded,
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    TensorDictReplayBuffer,
    Unbounded,
)
from torchrl.envs import Compose, DoubleToFloat, GymEnv, StepCounter, TransformedEnv
from torchrl.modules import MLP, Delta, ProbabilisticActor, ValueOperator
from torchrl.objectives import SACLoss

from torchrl_recall import (
    AdvantageGate,
    BacktrackingLoss,
    BacktrackingModel,
    CriticStates,
    GoalStates,
    ImitationLoss,
    LoopErasure,
    Recall,
    RecallTraceGenerator,
    ReturnStates,
    RewardModel,
    RewardStates,
    SACCritic,
    UniformStates,
    WithinSupport,
)
from torchrl_recall.envs import FourRoomsEnv, four_rooms_model
from torchrl_recall.imitation_updates import AdamSteps, ImitationUpdates
from torchrl_recall.model_updates import ModelUpdates
from torchrl_recall.optim.adam import make_adam
from torchrl_recall.schedule import Schedule
from torchrl_recall.seeds import SeededCategorical, SeedStreams, StackedMLP
from torchrl_recall.seeds.draws import SeededDraws
from torchrl_recall.seeds.end_states import SuccessStates
from torchrl_recall.seeds.recent_successes import RecentSuccesses

SMALL = {"interval": 10, "num_updates": 3, "batch_size": 8, "num_trajectories": 3}
SMALL_RECALL = SMALL | {"num_model_updates": 2, "trace_length": 4, "state_batch_size": 16}


@pytest.fixture
def make(make_actor):
    """A recall object and the policy it teaches."""

    def build(**kwargs):
        actor = make_actor()
        states = kwargs.pop("high_value_states", RewardStates(4))
        return Recall(new_model(), ImitationLoss(actor), states, **SMALL_RECALL | kwargs), actor

    return build


@pytest.mark.parametrize("values", [(), (1.0, 1.0, 1.0, 1.0), (0.0,) * 10])
def test_nothing_happens_before_a_useful_return(values, make):
    recall, actor = make()
    policy = weights(actor)
    model = weights(recall.model)
    for value in values:
        recall.extend(episode(value))
        told = recall.step(make_replay_buffer())
        assert told in ({}, {"recall/ready": 0})
    assert not recall.trajectories.ready
    assert same(weights(actor), policy)
    assert steps(recall.imitate.steps.optimizer) == 0
    assert same(weights(recall.model), model)
    assert steps(recall.train_model.optimizer) == 0


def test_a_better_return_starts_it(make):
    recall, actor = make(filters=[])
    policy = weights(actor)
    recall.extend(episodes(1.0, 2.0))
    assert recall.trajectories.ready
    metrics = recall.step(make_replay_buffer())
    assert not same(weights(actor), policy)
    assert set(metrics) == {
        "recall/kept",
        "recall/loss_imitation",
        "recall/ready",
        "backtracking/loss_backward_policy",
        "backtracking/loss_state_predictor",
    }
    assert all(value.isfinite() and not value.requires_grad for value in metrics.values())
    assert metrics["recall/kept"] == metrics["recall/ready"] == 1


@pytest.mark.parametrize(
    ("length", "interval", "rounds"),
    [
        (10, 10, [1, 2, 3, 4]),
        (5, 10, [0, 1, 1, 2]),
        (25, 10, [2, 5, 7, 10]),
        (10, 25, [0, 0, 1, 1]),
    ],
)
def test_schedule_by_hand(length, interval, rounds, make):
    recall, _ = make(interval=interval)
    recall.trajectories.extend(episodes(1.0, 2.0))  # makes it active without counting frames
    recall.trajectories.flush()
    for expected in rounds:
        recall.extend(episode(1.0, length=length))
        recall.step(make_replay_buffer())
        assert steps(recall.imitate.steps.optimizer) == 3 * expected
        assert steps(recall.train_model.optimizer) == 2 * expected
    assert recall.schedule.frames == 4 * length


def test_rounds_missed_before_a_useful_return_are_not_made_up(make):
    recall, _ = make()
    for _ in range(20):
        recall.extend(episode(1.0))
        recall.step(make_replay_buffer())
    recall.extend(episode(2.0, length=10))
    recall.step(make_replay_buffer())
    assert steps(recall.imitate.steps.optimizer) == 3


def test_frames_of_a_batch_count_each(make):
    recall, _ = make()
    recall.extend(torch.stack([episode(1.0), episode(2.0)]))
    assert recall.schedule.frames == 10


def test_padding_is_not_experience(make):
    recall, _ = make()
    short, long = episode(2.0, length=3), episode(1.0, length=5)
    data = padded(short, long)
    recall.extend(data)
    recall.trajectories.flush()
    assert recall.schedule.frames == 8
    assert recall.model.observations.count.item() == 8
    expected = torch.cat([short, long])["next", "observation"].mean(0)
    torch.testing.assert_close(recall.model.observations.mean, expected)


def test_annealing_reaches_zero(make):
    recall, actor = make(anneal_frames=40, lr=1e-3)
    recall.extend(episodes(1.0, 2.0))
    assert recall.schedule.share == pytest.approx(0.75)
    recall.step(make_replay_buffer())
    assert recall.imitate.steps.optimizer.param_groups[0]["lr"] == pytest.approx(0.75e-3)
    recall.extend(episodes(1.0, 2.0, 3.0))
    recall.step(make_replay_buffer())
    assert recall.imitate.steps.optimizer.param_groups[0]["lr"] == pytest.approx(0.375e-3)
    policy, count = weights(actor), steps(recall.imitate.steps.optimizer)
    for _ in range(3):
        recall.extend(episodes(1.0, 9.0, 3.0))
        recall.step(make_replay_buffer())
    assert recall.schedule.share == 0
    assert steps(recall.imitate.steps.optimizer) == count
    assert same(weights(actor), policy)


def test_without_annealing_the_weight_is_one(make):
    recall, _ = make()
    for _ in range(5):
        recall.extend(episodes(1.0, 2.0))
    assert recall.schedule.share == 1


def test_no_imitation_updates(make):
    recall, actor = make(num_updates=0)
    policy = weights(actor)
    recall.extend(episodes(1.0, 2.0))
    recall.step(make_replay_buffer())
    assert same(weights(actor), policy)


def test_no_model_updates_leave_the_model_untrained(make):
    recall, actor = make(num_model_updates=0)
    model, policy = weights(recall.model), weights(actor)
    recall.extend(episodes(1.0, 2.0))
    metrics = recall.step(make_replay_buffer())
    assert same(weights(recall.model), model)
    assert not same(weights(actor), policy)
    assert not any(key.startswith("backtracking") for key in metrics)


def test_a_filter_that_drops_everything(make):
    nothing = WithinSupport(lambda x: x, 1e-12)
    recall, actor = make(filters=[nothing])
    policy = weights(actor)
    recall.extend(episodes(1.0, 2.0))
    metrics = recall.step(make_replay_buffer())
    assert metrics["recall/kept"] == 0
    assert same(weights(actor), policy)
    assert steps(recall.train_model.optimizer) == 2


def test_filters_narrow_what_is_imitated(make):
    recall, _ = make(filters=[LoopErasure(2.0), LoopErasure(1.0)], trace_length=20)
    recall.extend(episodes(1.0, 2.0))
    kept = recall.step(make_replay_buffer())["recall/kept"]
    assert 0 < kept < 1


def test_no_seeds_no_imitation(make):
    recall, actor = make(high_value_states=RewardStates(4, threshold=100.0))
    policy = weights(actor)
    recall.extend(episodes(1.0, 2.0))
    metrics = recall.step(make_replay_buffer())
    assert same(weights(actor), policy)
    assert "recall/loss_imitation" not in metrics
    assert steps(recall.train_model.optimizer) == 2


def test_backward_policy_learns_from_the_best_trajectories_only(make):
    recall, _ = make(
        num_trajectories=1, num_model_updates=200, model_lr=0.01, num_updates=0, interval=100
    )
    bad, best = episode(1.0, length=50, action=-0.5), episode(9.0, length=50, action=0.5)
    bad["action"] += 0.01 * torch.randn(50, 2)
    recall.extend(torch.cat([bad, best]))
    recall.step(make_replay_buffer(bad, best))
    loc = recall.model.backward_policy.get_dist(
        TensorDict({"next": {"observation": torch.zeros(1, 3)}}, [1])
    ).mean
    assert (recall.model.actions.decode(loc) > 0.3).all()


@pytest.mark.parametrize(("data", "equal"), [("top", True), ("all", False)])
def test_state_predictor_data(data, equal, make):
    results = []
    start = episodes(1.0, 2.0)
    for buffer in (make_replay_buffer(episodes(0.0)), make_replay_buffer(episodes(0.0))):
        torch.manual_seed(1)
        recall, _ = make(state_predictor_data=data, num_updates=0)
        recall.extend(start.clone())
        recall.step(buffer)
        results.append(weights(recall.model.state_predictor))
    assert same(*results) == equal


class First(nn.Module):
    def forward(self, observation):
        return observation[..., :1]


def test_state_fraction_takes_the_most_valuable(make):
    critic = ValueOperator(First(), in_keys=["observation"])
    recall, _ = make(state_fraction=0.25, critic=critic, state_batch_size=200)
    data = episodes(1.0, 2.0, 3.0, 4.0)
    recall.extend(data)
    top = recall.train_model.most_valuable(recall.trajectories)
    kept = recall.trajectories.buffer[:]["observation"][:, 0]
    assert len(top) == round(len(kept) / 4)  # 200 draws reach every one of them
    assert len(top["observation"].unique(dim=0)) == len(top)
    assert top["observation"][:, 0].min() >= kept.median()
    recall.step(make_replay_buffer())
    assert steps(recall.train_model.optimizer) == 2 * 2


def test_each_optimizer_holds_its_own_parameters(make):
    recall, actor = make()
    held = [
        [p for group in optimizer.param_groups for p in group["params"]]
        for optimizer in (recall.imitate.steps.optimizer, recall.train_model.optimizer)
    ]
    assert {id(p) for p in held[0]} == {id(p) for p in actor.parameters()}
    assert {id(p) for p in held[1]} == {id(p) for p in recall.model.parameters()}
    assert all(len({id(p) for p in params}) == len(params) for params in held)


def test_statistics_come_from_all_experience(make):
    recall, _ = make(num_trajectories=1)
    for value in (5.0, 1.0, 2.0):
        recall.extend(episode(value))
    assert len(recall.trajectories.buffer) == 5
    recall.trajectories.flush()
    assert recall.model.observations.count.item() == 15


# state


def advance(recall, buffer, seed: int, rounds: int = 4) -> None:
    torch.manual_seed(seed)
    for value in range(rounds):
        recall.extend(episode(float(value), length=7))
        recall.step(buffer)


def test_experience_is_taken_in_an_interval_at_a_time(make):
    recall, _ = make()
    data = episodes(1.0, 2.0, 3.0)  # 15 frames, and the interval is 10
    for frame in data[:9].split(1):
        recall.extend(frame)
    assert recall.schedule.frames == 9
    assert not len(recall.trajectories.buffer)
    recall.extend(data[9:10])
    assert len(recall.trajectories.buffer) == 10
    assert recall.model.observations.count.item() == 10
    for frame in data[10:].split(1):
        recall.extend(frame)
    recall.trajectories.flush()
    assert recall.trajectories.filter.returns.tolist() == [1.0, 2.0, 3.0]
    assert torch.equal(recall.trajectories.buffer[:]["observation"], data["observation"])


def test_rows_of_several_environments_are_joined_in_time(make):
    recall, _ = make()
    rows = torch.stack([episode(1.0, length=6), episode(2.0, length=6)])
    for part in rows.split(2, dim=1):
        recall.extend(part)
    recall.trajectories.flush()
    assert recall.trajectories.filter.returns.tolist() == [1.0, 2.0]


def test_what_was_offered_is_a_copy(make):
    recall, _ = make()
    data = episode(1.0)
    expected = data["observation"].clone()
    recall.extend(data)
    data["observation"].zero_()
    recall.trajectories.flush()
    assert torch.equal(recall.trajectories.buffer[:]["observation"], expected)


def test_unfinished_trajectories_are_dropped_with_what_was_offered(make):
    recall, _ = make()
    recall.extend(episode(1.0)[:3])
    recall.drop_unfinished()
    recall.extend(episode(2.0))
    recall.trajectories.flush()
    assert recall.trajectories.filter.returns.tolist() == [2.0]


def test_state_dict_continues_identically(make):
    buffer = make_replay_buffer()
    recall, actor = make(anneal_frames=1000)
    advance(recall, buffer, 1)
    last = episode(3.0)
    recall.extend(last[:3])  # saved in mid-trajectory
    file = io.BytesIO()
    torch.save(recall.state_dict(), file)
    other, copy = make(anneal_frames=1000)
    assert not same(weights(copy), weights(actor))
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=False))
    copy.load_state_dict(actor.state_dict())
    assert (other.schedule.frames, other.schedule.share) == (
        recall.schedule.frames,
        recall.schedule.share,
    )

    for both in (recall, other):
        both.extend(last[3:])
        advance(both, buffer, 2)
    assert same(weights(copy), weights(actor))
    assert steps(other.imitate.steps.optimizer) == steps(recall.imitate.steps.optimizer) > 0
    assert torch.equal(
        other.trajectories.buffer[:]["observation"], recall.trajectories.buffer[:]["observation"]
    )
    assert same(weights(other.model), weights(recall.model))
    assert torch.equal(other.model.deltas.mean, recall.model.deltas.mean)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("buffer_size", 0),
        ("interval", 0),
        ("interval", 1.5),
        ("num_updates", -1),
        ("batch_size", 0),
        ("anneal_frames", 0),
        ("lr", 0.0),
        ("lr", -1.0),
        ("lr", math.nan),
        ("num_trajectories", 0),
        ("num_model_updates", -1),
        ("num_model_updates", 1.5),
        ("model_lr", 0.0),
        ("state_predictor_data", "some"),
        ("state_batch_size", 0),
        ("state_fraction", 0.0),
        ("state_fraction", 1.5),
        ("state_fraction", 0.5),
        ("trace_length", 0),
        ("num_traces", 0),
    ],
)
def test_bad_arguments_are_named(name, value, make):
    with pytest.raises(ValueError, match=name):
        make(**{name: value})


def test_a_policy_is_no_loss_and_a_number_chooses_no_states(make_actor):
    model, actor = new_model(), make_actor()
    with pytest.raises(TypeError, match=r"got a ProbabilisticActor; give ImitationLoss\(policy\)"):
        Recall(model, actor, RewardStates(4))
    with pytest.raises(TypeError, match=r"got 4; give RewardStates\(num_states\)"):
        Recall(model, ImitationLoss(actor), 4)


def test_a_mask_that_nothing_reads_is_refused(make):
    far = WithinSupport(lambda states: states, 0.5, mask_key="keep")
    with pytest.raises(ValueError, match="WithinSupport writes the mask 'keep'"):
        make(filters=[far])
    with pytest.raises(ValueError, match="WithinSupport writes the mask 'keep'"):
        Recall(new_model(), None, RewardStates(4), use="critic", transition_filters=[far])


def test_what_is_no_sequence_of_filters_is_refused(make):
    with pytest.raises(TypeError, match=r"got LoopErasure; give \[filter\]"):
        make(filters=LoopErasure())
    with pytest.raises(TypeError, match="AdvantageGate is a class"):
        make(filters=[AdvantageGate])


def test_steps_of_several_are_refused_where_they_come_in(make):
    recall, _ = make()
    data = episodes(0.0, 1.0).set("steps_to_next_obs", torch.full((10,), 3))
    with pytest.raises(ValueError, match=r"experience holds transitions of several .* postproc="):
        recall.extend(data)
    assert recall.model.observations.count == 0


def test_a_step_without_a_buffer_is_refused(make):
    recall, _ = make()
    recall.extend(episodes(0.0, 1.0))
    with pytest.raises(TypeError, match="replay buffer of all experience; got None"):
        recall.step(None)


def test_a_policy_of_other_keys_is_told_which(make_actor):
    actor = ProbabilisticActor(
        TensorDictModule(nn.Linear(3, 2), ["obs"], ["loc"]),
        {"param": "loc"},
        distribution_class=Delta,
    )
    recall = Recall(new_model(), ImitationLoss(actor), UniformStates(4), **SMALL_RECALL)
    recall.extend(data := episodes(0.0, 1.0))
    with pytest.raises(KeyError, match=r"a loss reads .*obs.*observation_key="):
        recall.step(make_replay_buffer(data))


def test_demonstrations_in_one_tensordict_are_refused(make):
    recall, _ = make()
    with pytest.raises(TypeError, match="whole_trajectories"):
        recall.demonstrate(episodes(0.0, 1.0))


def test_a_reward_of_another_name_reaches_the_critic_by_its_name():
    data = episodes(0.0, 1.0, 2.0)
    data["next", "score"] = data["next"].pop("reward")
    recall = Recall(
        new_model(), None, RewardStates(4, reward_key="score"), use="critic", reward_key="score",
        **{k: v for k, v in SMALL_RECALL.items() if k not in ("num_updates", "batch_size")},
    )  # fmt: skip
    recall.extend(data)
    recall.step(make_replay_buffer(data))
    assert recall.transitions(8)["next", "score"].shape == (8, 1)


def test_padding_in_the_replay_buffer_is_refused(make):
    data = padded(episode(2.0, length=3), episode(1.0, length=5))
    recall, _ = make(interval=8, high_value_states=UniformStates(4))
    recall.extend(data)
    with pytest.raises(ValueError, match=r"padding .*Extend it with data\[data\['collector'"):
        recall.step(make_replay_buffer(data.reshape(-1)))
    recall.extend(data)
    assert recall.step(make_replay_buffer(data[data["collector", "mask"]]))


def test_a_reward_of_another_name_is_refused_where_one_is_learned():
    specs = Unbounded((3,)), Bounded(-1, 1, (2,))
    with pytest.raises(ValueError, match=r"RewardModel learns .*reward_key='score'"):
        Recall(
            new_model(), None, RewardStates(4), use="critic", reward=RewardModel(*specs),
            reward_key="score",
        )  # fmt: skip


def test_refused_data_leave_all_statistics_as_they_were():
    reward = RewardModel(Unbounded((3,)), Bounded(-1, 1, (2,)))
    recall = Recall(new_model(), None, RewardStates(4), use="critic", reward=reward, interval=10)
    bad = episodes(1.0, 2.0)
    bad["next", "reward"][3] = torch.nan
    with pytest.raises(ValueError, match="statistics were left as they were"):
        recall.extend(bad)
    assert recall.model.observations.count == reward.observations.count == 0


def test_rows_of_a_list_are_read_too():
    specs = Unbounded((3,)), Bounded(-1, 1, (2,))
    settings = {"use": "critic", "interval": 10, "num_model_updates": 2, "trace_length": 4}
    recall = Recall(new_model(), None, RewardStates(4), reward=RewardModel(*specs), **settings)
    data = episodes(0.0, 1.0, 2.0)
    buffer = ReplayBuffer(storage=ListStorage(100), collate_fn=torch.stack, batch_size=4)
    buffer.extend(data)
    recall.extend(data)
    assert "reward_model/loss_reward" in recall.step(buffer)


# beside a real host


def test_beside_sac_on_pendulum(make_actor):
    env = TransformedEnv(GymEnv("Pendulum-v1"), Compose(DoubleToFloat(), StepCounter(20)))
    spec = env.action_spec_unbatched
    actor = make_actor(3, spec)
    qvalue = ValueOperator(
        MLP(in_features=4, out_features=1, num_cells=[8]), in_keys=["observation", "action"]
    )
    sac = SACLoss(actor, qvalue, action_spec=spec)
    critic = SACCritic(sac)
    model = BacktrackingModel.from_specs(env.observation_spec, spec, num_cells=(8, 8))
    recall = Recall(
        model,
        ImitationLoss(actor),
        CriticStates(critic, 4, temperature=1.0),
        **SMALL_RECALL | {"interval": 20},
        filters=[LoopErasure(), WithinSupport(model.observations.normalize), AdvantageGate(critic)],
    )
    collector = Collector(env, actor, frames_per_batch=30, total_frames=240)
    collector.set_seed(0)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000), batch_size=16)
    policy, critics = weights(actor), sac.qvalue_network_params.data.clone()
    for data in collector:
        buffer.extend(data)
        recall.extend(data)
        metrics = recall.step(buffer)
    collector.shutdown()
    assert recall.trajectories.ready
    assert len(recall.trajectories.buffer) == 3 * 20
    assert metrics["backtracking/loss_state_predictor"].isfinite()
    assert not same(weights(actor), policy)  # recall teaches the host's own policy,
    assert (sac.qvalue_network_params.data == critics).all()  # and leaves its critic alone
    assert all(p.isfinite().all() for p in actor.parameters())


def test_random_frames_leave_no_backlog_of_rounds(make):
    data = episodes(1.0, 2.0)
    recall, _ = make(start_frames=data.numel())
    recall.extend(data)
    assert recall.step(make_replay_buffer()) == {}
    recall.extend(data)
    recall.step(make_replay_buffer())
    assert steps(recall.imitate.steps.optimizer) == 3 * (data.numel() // 10)


# the parts


def test_a_round_goes_through_its_parts_in_the_order_of_algorithm_1(make):
    recall, _ = make()
    called = []

    def named(name, part):
        def call(*args):
            called.append(name)
            return part(*args)

        return call

    for name in ("train_model", "high_value_states", "generate", "imitate"):
        setattr(recall, name, named(name, getattr(recall, name)))
    recall.extend(torch.cat([episodes(1.0, 2.0), episodes(1.0, 2.0)]))  # two rounds
    recall.step(make_replay_buffer())
    assert called == 2 * ["train_model", "high_value_states", "generate", "imitate"]


def test_the_parts_compose_what_the_options_build(make):
    """``Recall.from_parts`` with the parts of an object does bitwise what that object does."""
    recall, actor = make()
    other, twin = make()
    other.load_state_dict(copy.deepcopy(recall.state_dict()))
    twin.load_state_dict(actor.state_dict())
    composed = Recall.from_parts(
        other.model,
        schedule=other.schedule,
        trajectories=other.trajectories,
        train_model=other.train_model,
        high_value_states=other.high_value_states,
        generate=other.generate,
        imitate=other.imitate,
        state_batch_size=16,
    )
    buffer = make_replay_buffer()
    for each in (recall, composed):
        advance(each, buffer, 1)
    assert same(weights(actor), weights(twin))
    assert same(weights(recall.model), weights(other.model))


def of_seeds(seeds: list[int]):
    """Recall in a grid of 5 x 5 for these seeds, each with numbers of its own, and its policy."""
    num, layout = len(seeds), FourRoomsEnv(5).layout
    streams, init = SeedStreams(seeds, stream="recall"), SeedStreams(seeds, stream="init")
    policy = StackedMLP(num, [layout.num_cells], 8, 4, rand=init.rand)
    loss = ImitationLoss(
        ProbabilisticActor(
            TensorDictModule(policy, ["observation"], ["logits"]),
            in_keys=["logits"],
            distribution_class=SeededCategorical,
        ),
        reduction="none",
    )
    successes = RecentSuccesses(num, 3, 20, 10, num_states=layout.num_cells, streams=streams)
    draws = SeededDraws(streams, successes)
    model = four_rooms_model(
        layout,
        StackedMLP(num, [layout.num_cells], 8, 4, rand=init.rand),
        smoothing=0.2,
        rand=streams.rand,
    )
    model_loss = BacktrackingLoss(model, reduction="none")
    recall = Recall.from_parts(
        model,
        schedule=Schedule(60),
        trajectories=successes,
        train_model=ModelUpdates(
            model_loss,
            num_updates=2,
            batch_size=16,
            optimizer=make_adam(model_loss, 1e-2, foreach=True),
            draws=draws,
        ),
        high_value_states=SuccessStates(successes),
        generate=RecallTraceGenerator(model, trace_length=6, num_traces=4),
        imitate=ImitationUpdates(
            loss,
            AdamSteps(loss, lr=1e-2, optimizer=make_adam(loss, 1e-2, foreach=True), draws=draws),
            num_updates=3,
            batch_size=16,
            transforms=[LoopErasure()],
            draws=draws,
        ),
        draws=draws,
    )
    env = FourRoomsEnv(5, batch_size=[num, 3], streams=SeedStreams(seeds, stream="env"))
    return recall, policy, env


def random_walk(env, streams: SeedStreams):
    def act(tensordict):
        return tensordict.set("action", (streams.rand(tensordict.shape) * 4).long())

    return env.rollout(20, act, break_when_any_done=False)


def test_one_seed_of_many_gets_bitwise_what_it_gets_alone():
    together, policies, envs = of_seeds([3, 4, 5])
    alone, policy, env = of_seeds([4])
    acts, act = (SeedStreams(seeds, stream="act") for seeds in ([3, 4, 5], [4]))
    replay_buffer = ReplayBuffer(storage=LazyTensorStorage(10))  # exact dynamics do not read it
    before = weights(policy)
    for _ in range(6):
        data, own = random_walk(envs, acts), random_walk(env, act)
        assert (data[1] == own[0]).all()
        for recall, experience in ((together, data), (alone, own)):
            recall.extend(experience)
            assert recall.step(replay_buffer)["recall/loss_imitation"].isfinite()
    assert alone.trajectories.seen.all()
    assert not same(weights(policy), before)
    for both, single in ((policies, policy), (together.model, alone.model)):
        for many, one in zip(both.parameters(), single.parameters(), strict=True):
            assert torch.equal(many[1], one[0])
    count = (recall.trajectories.count for recall in (together, alone))
    assert next(count)[1] == next(count)[0] > 0


class TestForACritic:
    """Traces that a critic learns from."""

    @staticmethod
    def make(**kwargs) -> Recall:
        critic = ValueOperator(MLP(in_features=3, out_features=1, num_cells=[8]), ["observation"])
        states = kwargs.pop("high_value_states", ReturnStates(critic, 4))
        loss = kwargs.pop("imitation_loss", None)
        use = kwargs.pop("use", "critic")
        return Recall(new_model(), loss, states, use=use, **SMALL_RECALL | kwargs)

    def test_transitions_of_the_newest_round(self):
        recall = self.make()
        assert recall.transitions(5) is None
        recall.extend(episodes(1.0, 2.0))
        metrics = recall.step(make_replay_buffer())
        assert "recall/loss_imitation" not in metrics
        rows = recall.transitions(7)
        assert rows is not None
        assert rows.shape == (7,)
        assert rows["next", "reward"].isfinite().all()
        assert len(recall.fresh.rows) == 4 * 4  # states times steps
        before = recall.fresh.rows.clone()
        recall.extend(episodes(1.0, 2.0))
        recall.step(make_replay_buffer())
        assert not torch.equal(before["observation"], recall.fresh.rows["observation"])

    def test_both_imitate_and_feed(self, make_actor):
        actor = make_actor()
        policy = weights(actor)
        recall = self.make(
            use="both", imitation_loss=ImitationLoss(actor), filters=[], transition_filters=[]
        )
        recall.extend(episodes(1.0, 2.0))
        assert "recall/loss_imitation" in recall.step(make_replay_buffer())
        assert not same(weights(actor), policy)
        assert recall.transitions(3) is not None

    def test_filters_cut_what_is_imitated_alone(self, make_actor):
        class Nothing(nn.Module):
            in_keys, out_keys = ("observation",), ("mask",)

            def forward(self, pairs):
                return pairs.set("mask", torch.zeros(pairs.shape, dtype=torch.bool))

        loss = ImitationLoss(make_actor())
        recall = self.make(
            use="both", imitation_loss=loss, filters=[Nothing()], transition_filters=[]
        )
        recall.extend(episodes(1.0, 2.0))
        assert recall.step(make_replay_buffer())["recall/kept"] == 0
        assert len(recall.fresh.rows) == 4 * 4

    def test_transitions_beyond_the_data_are_cut(self):
        farthest = []
        for filters in (None, []):
            recall = self.make(trace_length=200, num_model_updates=0, transition_filters=filters)
            recall.extend(episodes(1.0, 2.0))
            metrics = recall.step(make_replay_buffer())
            assert ("recall/kept_transitions" in metrics) == (filters is None)
            states = recall.model.observations.normalize(recall.fresh.rows["observation"])
            farthest.append(states.abs().max())
        assert farthest[0] <= 5 < farthest[1]

    def test_what_is_cut_weighs_nothing(self):
        recall = self.make(trace_length=200, num_model_updates=0)
        recall.extend(episodes(1.0, 2.0))
        kept = float(recall.step(make_replay_buffer())["recall/kept_transitions"])
        assert 0 < kept < 0.5
        other = self.make(trace_length=200, num_model_updates=0)
        drawn = [recall.transitions(2) is not None for _ in range(100)]
        assert sum(drawn) == int(100 * kept)
        other.load_state_dict(recall.state_dict())
        again = [each.transitions(2) is None for each in (recall, other) for _ in range(100)]
        assert again[:100] == again[100:]

    def test_nothing_that_is_kept_teaches_nothing(self):
        class Nothing(nn.Module):
            in_keys, out_keys = ("observation",), ("mask",)

            def forward(self, traces):
                return traces.set("mask", torch.zeros(traces.shape, dtype=torch.bool))

        recall = self.make()
        recall.extend(episodes(1.0, 2.0))
        recall.step(make_replay_buffer())
        recall.transition_filters = [Nothing()]
        recall.extend(episodes(1.0, 2.0))
        assert recall.step(make_replay_buffer())["recall/kept_transitions"] == 0
        assert all(recall.transitions(2) is None for _ in range(50))

    def test_imitation_alone_makes_no_transitions(self, make):
        recall, _ = make()
        recall.extend(episodes(1.0, 2.0))
        recall.step(make_replay_buffer())
        assert recall.transitions(3) is None

    def test_a_reward_model_is_trained_and_restored(self):
        def build() -> Recall:
            torch.manual_seed(0)
            model = new_model()
            specs = model.observation_spec, model.action_spec
            return self.make(reward=RewardModel(*specs, num_cells=(8,)))

        recall, other = build(), build()
        recall.extend(episodes(1.0, 2.0))
        metrics = recall.step(make_replay_buffer())
        assert metrics["reward_model/loss_reward"].isfinite()
        other.load_state_dict(copy.deepcopy(recall.state_dict()))
        for each in (recall, other):
            torch.manual_seed(3)
            each.extend(episodes(1.0, 2.0))
            torch.manual_seed(4)
            each.step(make_replay_buffer())
        assert (recall.fresh.rows == other.fresh.rows).all()
        assert same(weights(recall.train_reward.model), weights(other.train_reward.model))

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"use": "actor"}, "'policy', 'critic' or 'both'"),
            ({"use": "both"}, "needs imitation_loss"),
            ({"high_value_states": CriticStates(nn.Identity(), 2)}, "ReturnStates"),
            ({"high_value_states": GoalStates(torch.zeros(1, 3))}, "GoalStates do not"),
            ({"actions": "random"}, "'backward_policy' or 'uniform'"),
            ({"actions": "uniform", "use": "policy"}, "needs imitation_loss"),
        ],
    )
    def test_what_is_missing_is_named(self, change, match):
        with pytest.raises(ValueError, match=match):
            self.make(**change)

    def test_uniform_actions_are_not_imitated(self, make):
        with pytest.raises(ValueError, match="uniform actions are not worth"):
            make(actions="uniform")

    def test_the_model_learns_before_anything_is_good(self):
        recall = self.make(actions="uniform")
        recall.extend(episodes(1.0, 1.0))
        metrics = recall.step(make_replay_buffer())
        assert set(metrics) == {"backtracking/loss_state_predictor", "recall/ready"}
        assert recall.transitions(3) is None

    def test_a_critic_goes_on_after_annealing(self, make_actor):
        actor = make_actor()
        recall = self.make(
            use="both", imitation_loss=ImitationLoss(actor), filters=[], anneal_frames=20
        )
        recall.extend(episodes(1.0, 2.0))
        recall.step(make_replay_buffer())
        policy, rows = weights(actor), recall.fresh.rows.clone()
        recall.extend(episodes(1.0, 2.0))
        recall.step(make_replay_buffer())
        assert same(weights(actor), policy)
        assert not torch.equal(rows["observation"], recall.fresh.rows["observation"])

    def test_a_reward_model_needs_flags(self):
        model = new_model()
        recall = self.make(
            reward=RewardModel(model.observation_spec, model.action_spec),
            high_value_states=UniformStates(4),
        )
        buffer = ReplayBuffer(storage=LazyTensorStorage(100))
        buffer.extend(make_replay_buffer()[:].exclude(("next", "terminated")))
        recall.extend(episodes(1.0, 2.0))
        with pytest.raises(KeyError, match="Keep them in it"):
            recall.step(buffer)

    def test_a_reward_for_imitation_is_refused(self, make):
        with pytest.raises(ValueError, match="imitation needs none"):
            make(reward=lambda rows: rows)

    def test_filters_of_transitions_for_imitation_are_refused(self, make):
        with pytest.raises(ValueError, match="transition_filters= is for a critic"):
            make(transition_filters=[LoopErasure(0.1)])

    def test_what_only_imitation_uses_is_refused(self, make_actor):
        with pytest.raises(ValueError, match=r"so imitation_loss would .* use='both'"):
            self.make(imitation_loss=ImitationLoss(make_actor()))
        with pytest.raises(ValueError, match=r"so filters would .* transition_filters="):
            self.make(filters=[LoopErasure(0.1)])
