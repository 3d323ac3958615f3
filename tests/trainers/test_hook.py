"""Recall inside TorchRL's trainers: learning, logging, saving and restoring."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.checkpoint import Checkpoint
from torchrl.collectors import Collector
from torchrl.data import (
    LazyTensorStorage,
    ReplayBuffer,
    SamplerWithoutReplacement,
    TensorDictReplayBuffer,
)
from torchrl.envs import GymEnv, RenameTransform, RewardSum, SerialEnv, TransformedEnv
from torchrl.modules import (
    MLP,
    Actor,
    DistributionalQValueActor,
    EGreedyModule,
    ProbabilisticActor,
    QValueActor,
    TanhNormal,
    ValueOperator,
)
from torchrl.objectives import (
    ClipPPOLoss,
    DDPGLoss,
    DistributionalDQNLoss,
    DQNLoss,
    SACLoss,
    SoftUpdate,
    TD3Loss,
)
from torchrl.trainers import ReplayBufferTrainer, RewardNormalizer, Trainer
from torchrl.trainers.algorithms import DQNTrainer, PPOTrainer, SACTrainer
from torchrl.trainers.algorithms.td3 import TD3OptimizationStepper, TD3Trainer

import torchrl_recall.trainers.hook_config  # noqa: F401
from torchrl_recall import RecallHook, SelfImitation, TrustRegion, make_recall

pytestmark = pytest.mark.filterwarnings("ignore")
OPTIONS = {
    "interval": 100,
    "num_model_updates": 2,
    "model_batch_size": 16,
    "num_updates": 2,
    "batch_size": 16,
    "trace_length": 3,
    "num_states": 4,
}
recall_of = partial(make_recall, **OPTIONS)


def pendulum() -> GymEnv:
    return GymEnv("Pendulum-v1", max_episode_steps=25)


def cart_pole() -> GymEnv:
    return GymEnv("CartPole-v1")


def replay_buffer(**kwargs) -> TensorDictReplayBuffer:
    return TensorDictReplayBuffer(storage=LazyTensorStorage(2_000), batch_size=32, **kwargs)


def common(env, policy, loss, *, frames: int, file, checkpoint, **collecting) -> dict:
    return {
        "collector": Collector(
            env,
            policy,
            frames_per_batch=100,
            total_frames=frames,
            auto_register_policy_transforms=False,
            **collecting,
        ),
        "total_frames": frames,
        "frame_skip": 1,
        "loss_module": loss,
        "progress_bar": False,
        "enable_logging": False,
        "save_trainer_file": file,
        "save_trainer_interval": 10**9,
        "checkpoint": Checkpoint() if checkpoint else None,
    }


def gaussian(env) -> ProbabilisticActor:
    net = nn.Sequential(nn.Linear(3, 2), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(net, ["observation"], ["loc", "scale"]),
        ["loc", "scale"],
        spec=env.action_spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -2, "high": 2},
        return_log_prob=True,
    )


def of_pairs() -> ValueOperator:
    return ValueOperator(
        MLP(in_features=4, out_features=1, num_cells=[8]), ["observation", "action"]
    )


def sac(**options) -> Trainer:
    env = pendulum()
    actor = gaussian(env)
    loss = SACLoss(actor, of_pairs(), action_spec=env.action_spec)
    loss.make_value_estimator(gamma=0.99)  # or its state could not be loaded into a new one
    options = common(env, actor, loss, init_random_frames=options.pop("random", 0), **options)
    return SACTrainer(
        **options,
        optim_steps_per_batch=2,
        optimizer=torch.optim.Adam(loss.parameters(), 1e-3),
        replay_buffer=replay_buffer(),
        target_net_updater=SoftUpdate(loss, tau=0.005),
    )


def td3(**options) -> Trainer:
    env = pendulum()
    actor = Actor(nn.Sequential(nn.Linear(3, 1), nn.Tanh()), ["observation"], spec=env.action_spec)
    loss = TD3Loss(actor, of_pairs(), action_spec=env.action_spec)
    loss.make_value_estimator(gamma=0.99)
    critic = torch.optim.Adam(loss.qvalue_network_params.values(True, True), 1e-3)
    policy = torch.optim.Adam(loss.actor_network_params.values(True, True), 1e-3)
    stepper = TD3OptimizationStepper(policy, critic)
    options = common(env, actor, loss, init_random_frames=options.pop("random", 0), **options)
    return TD3Trainer(
        **options,
        optim_steps_per_batch=2,
        optimization_stepper=stepper,
        replay_buffer=replay_buffer(),
        target_net_updater=SoftUpdate(loss, tau=0.005),
    )


def dqn(**options) -> Trainer:
    env = cart_pole()
    actor = QValueActor(nn.Linear(4, 2), spec=env.action_spec, in_keys=["observation"])
    loss = DQNLoss(actor, action_space=env.action_spec, delay_value=True)
    loss.make_value_estimator(gamma=0.99)
    greedy = EGreedyModule(spec=env.action_spec, annealing_num_steps=100)
    explore = TensorDictSequential(actor, greedy)
    options = common(env, explore, loss, init_random_frames=options.pop("random", 0), **options)
    return DQNTrainer(
        **options,
        optim_steps_per_batch=2,
        optimizer=torch.optim.Adam(loss.parameters(), 1e-3),
        replay_buffer=replay_buffer(),
        target_net_updater=SoftUpdate(loss, tau=0.005),
        greedy_module=greedy,
    )


def ppo(**options) -> Trainer:
    env = pendulum()
    actor = gaussian(env)
    loss = ClipPPOLoss(actor, ValueOperator(nn.Linear(3, 1), ["observation"]))
    options.pop("random", 0)
    options = common(env, actor, loss, **options)
    return PPOTrainer(
        **options,
        optim_steps_per_batch=2,
        optimizer=torch.optim.Adam(loss.parameters(), 1e-3),
        replay_buffer=ReplayBuffer(
            storage=LazyTensorStorage(100), sampler=SamplerWithoutReplacement(), batch_size=50
        ),
    )


def plain(env, policy, loss, *, frames: int, **collecting) -> Trainer:
    options = common(env, policy, loss, frames=frames, file=None, checkpoint=False, **collecting)
    del options["enable_logging"]
    return Trainer(
        **options,
        optim_steps_per_batch=1,
        optimizer=torch.optim.Adam(loss.parameters(), 1e-3),
    )


TRAINERS = {"SACTrainer": sac, "TD3Trainer": td3, "DQNTrainer": dqn, "PPOTrainer": ppo}


@pytest.fixture
def build(tmp_path):
    def make(name, *, frames=400, checkpoint=False, recall=recall_of, **options):
        torch.manual_seed(0)
        trainer = TRAINERS[name](
            frames=frames, file=tmp_path / "trainer", checkpoint=checkpoint, **options
        )
        hook = RecallHook(recall)
        hook.register(trainer)
        return trainer, hook

    return make


def policy_of(trainer: Trainer) -> dict:
    loss = trainer.loss_module
    name = "actor_network" if hasattr(loss, "actor_network_params") else "value_network"
    params = getattr(loss, f"{name}_params")
    return {key: value.clone() for key, value in params.data.flatten_keys().items()}


@pytest.mark.parametrize("name", TRAINERS)
def test_rounds_run_after_updates_and_are_logged(name, build):
    trainer, hook = build(name)
    moved = []
    step = hook.recall.step

    def watched(buffer):
        before = policy_of(trainer)
        told = step(buffer)
        after = policy_of(trainer)
        moved.append(any(not torch.equal(before[key], after[key]) for key in before))
        return told

    hook.recall.step = watched
    trainer.train()
    assert hook.recall.schedule.frames == 400
    assert len(hook.replay_buffer) == 400  # also on-policy: a buffer of recall's own
    assert any(moved)
    assert trainer._log_dict["recall/ready"][-1] == 1.0
    assert trainer._log_dict["recall/loss_imitation"]


@pytest.mark.parametrize("name", ["SACTrainer", "TD3Trainer", "DQNTrainer"])
def test_frames_of_the_random_warm_up_are_experience_too(name, build):
    trainer, hook = build(name, random=300)
    trainer.train()
    assert hook.recall.schedule.frames == 400
    assert len(trainer.replay_buffer) == 400
    states = trainer.replay_buffer[:]["observation"]
    assert len(states.unique(dim=0)) > 380  # each batch once


@pytest.mark.parametrize("checkpoint", [False, True], ids=["legacy", "torchrl.checkpoint"])
@pytest.mark.parametrize("name", TRAINERS)
def test_it_is_saved_and_restored_in_mid_run(name, checkpoint, build, tmp_path):
    trainer, hook = build(name, checkpoint=checkpoint)
    trainer.train()  # saves at its end
    other, again = build(name, frames=800, checkpoint=checkpoint)
    assert again.recall.schedule.frames == 0
    other.load_from_file(tmp_path / "trainer")
    ours, theirs = hook.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert ours["document"] == theirs["document"]
    for key in ours.keys() - {"document"}:
        assert torch.equal(ours[key], theirs[key]), key

    # The next round is bit for bit the same one.
    buffer = hook.replay_buffer
    other.loss_module.load_state_dict(trainer.loss_module.state_dict())
    torch.manual_seed(1)
    env = cart_pole() if name == "DQNTrainer" else pendulum()
    collector = Collector(env, None, frames_per_batch=100, total_frames=100)
    batch = next(iter(collector)).clone()
    for one in (hook, again):
        one.recall.extend(batch.clone())
        torch.manual_seed(2)
        one.recall.step(buffer)
    ours, theirs = policy_of(trainer), policy_of(other)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    other.train()
    assert other.collected_frames == 800


def test_a_control_and_a_bound_fit_too(build):
    def control(trainer):
        from torchrl_recall import ImitationLoss

        loss = ImitationLoss(trainer.loss_module.actor_network)
        return SelfImitation(loss, interval=100, num_updates=2, max_kl=0.01)

    trainer, hook = build("SACTrainer", recall=control)
    assert isinstance(hook.recall.imitate.steps.region, TrustRegion)
    trainer.train()
    assert trainer._log_dict["recall/ready"][-1] == 1.0


def test_batches_are_taken_before_other_hooks_cut_them(build):
    torch.manual_seed(0)
    trainer = TRAINERS["SACTrainer"](frames=200, file=None, checkpoint=False)
    trainer.register_op("batch_process", lambda batch: batch[..., :10])
    hook = RecallHook(recall_of)
    hook.register(trainer)
    trainer.train()
    assert hook.recall.schedule.frames == 200


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("known", [False, True], ids=["collector's", "trainer's"])
def test_a_collector_that_writes_to_the_buffer_itself_is_read(known, given):
    env = pendulum()
    actor = gaussian(env)
    loss = SACLoss(actor, of_pairs(), action_spec=env.action_spec)
    buffer, other = replay_buffer(), replay_buffer()
    trainer = plain(env, actor, loss, frames=300, replay_buffer=buffer)
    trainer.replay_buffer = buffer if known else None
    trainer.register_op("process_optim_batch", lambda batch: buffer.sample())
    hook = RecallHook(recall_of, replay_buffer=other if given else None)
    hook.register(trainer)
    trainer.train()
    assert hook.recall.schedule.frames == 300
    assert len(buffer) == len(hook.replay_buffer) == 300
    assert hook.replay_buffer is (other if given else buffer)
    assert hook.fills == given


def q_learning(env, key="observation", **options) -> Trainer:
    actor = QValueActor(nn.Linear(4, 2), spec=env.action_spec, in_keys=[key])
    loss = DQNLoss(actor, action_space=env.action_spec, delay_value=False)
    return plain(env, actor, loss, **options)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("order", [1, -1], ids=["buffer first", "hook first"])
def test_frames_of_a_replay_buffer_trainer_are_stored_once(order, given):
    trainer, buffer = q_learning(cart_pole(), frames=400, init_random_frames=200), replay_buffer()
    hook = RecallHook(recall_of, replay_buffer=buffer if given else None)
    for each in (ReplayBufferTrainer(buffer, flatten_tensordicts=True), hook)[::order]:
        each.register(trainer)
    trainer.train()
    assert hook.replay_buffer is buffer
    assert len(buffer) == 400
    assert "replay_buffer" not in json.loads(hook.state_dict()["document"])


def test_trajectories_in_rows_are_not_what_recall_draws_from():
    env = SerialEnv(2, cart_pole)
    actor = QValueActor(nn.Linear(4, 2), spec=env.action_spec_unbatched, in_keys=["observation"])
    loss = DQNLoss(actor, action_space="one_hot", delay_value=False)
    trainer, buffer = plain(env, actor, loss, frames=200), replay_buffer()
    ReplayBufferTrainer(buffer).register(trainer)
    hook = RecallHook(recall_of)
    hook.register(trainer)
    trainer.train()
    assert buffer[:].shape == (4, 50)
    assert len(hook.replay_buffer) == 200


@pytest.mark.parametrize("use", ["policy", "critic"])
def test_states_under_another_key(use):
    env = TransformedEnv(cart_pole(), RenameTransform(["observation"], ["state"]))
    trainer = q_learning(env, "state", frames=300)
    ReplayBufferTrainer(replay_buffer(), flatten_tensordicts=True).register(trainer)
    hook = RecallHook(partial(recall_of, observation_key="state", use=use))
    hook.register(trainer)
    trainer.train()
    assert trainer._log_dict["recall/ready"][-1] == 1.0


def test_actions_and_rewards_are_those_of_the_loss():
    renaming = RenameTransform(["reward"], ["gain"], ["action"], ["act"])
    env = TransformedEnv(pendulum(), renaming)
    actor = Actor(nn.Linear(3, 1), ["observation"], ["act"], spec=env.action_spec)
    net = MLP(in_features=4, out_features=1, num_cells=[8])
    qvalue = ValueOperator(net, ["observation", "act"], ["state_action_value"])
    loss = DDPGLoss(actor, qvalue)
    loss.set_keys(reward="gain")
    trainer = plain(env, actor, loss, frames=200)
    ReplayBufferTrainer(replay_buffer(), flatten_tensordicts=True).register(trainer)
    with pytest.raises(ValueError, match=r"the loss reads \['gain'\].*RenameTransform"):
        make_recall(trainer, **OPTIONS, use="critic")
    hook = RecallHook(recall_of)
    hook.register(trainer)
    trainer.train()
    assert trainer._log_dict["recall/loss_imitation"]


@pytest.mark.parametrize("change", [{"learner_backend": "ray"}, {"async_collection": True}])
def test_what_runs_elsewhere_is_refused(change, build):
    torch.manual_seed(0)
    trainer = TRAINERS["SACTrainer"](frames=200, file=None, checkpoint=False)
    for key, value in change.items():
        setattr(trainer, key, value)
    with pytest.raises(ValueError, match=r"in this process; use learner_backend='local'"):
        RecallHook(recall_of).register(trainer)


def test_default_logging_of_torchrls_sac_trainer_needs_a_key():
    """``RewardSum()`` writes ``episode_reward``, the trainer logs ``reward_sum``: docs/hosts.md."""

    def train(**keys):
        torch.manual_seed(0)
        env = TransformedEnv(pendulum(), RewardSum())
        actor = gaussian(env)
        loss = SACLoss(actor, of_pairs(), action_spec=env.action_spec)
        options = common(env, actor, loss, frames=200, file=None, checkpoint=False)
        trainer = SACTrainer(
            **options | {"enable_logging": True} | keys,
            optim_steps_per_batch=1,
            optimizer=torch.optim.Adam(loss.parameters()),
            replay_buffer=replay_buffer(),
            target_net_updater=SoftUpdate(loss, tau=0.005),
        )
        hook = RecallHook(recall_of)
        hook.register(trainer)
        trainer.train()
        return hook.recall.schedule.frames

    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'max'"):
        train()
    assert train(episode_reward_key="episode_reward") == 200


def test_states_are_plain(build):
    trainer, hook = build("SACTrainer")
    trainer.train()
    state = hook.state_dict()
    assert isinstance(state.pop("document"), str)
    assert all(type(value) is torch.Tensor for value in state.values())
    assert not any(isinstance(value, TensorDict) for value in state.values())


def test_a_node_of_torchrls_hydra_store(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    with initialize_config_dir(config_dir=str(tmp_path), version_base="1.3"):
        config = compose("config")
    torch.manual_seed(0)
    trainer = instantiate(config.trainer)
    trainer.train()
    assert trainer._modules["recall"].recall.schedule.frames == 300
    assert trainer._log_dict["recall/ready"][-1] == 1.0


CONFIG = """
defaults:
  - hook@recall: recall
  - _self_
recall:
  recall:
    interval: 100
    num_states: 4
    num_model_updates: 2
    num_updates: 2
    trace_length: 3
trainer:
  _target_: hydra_trainer.make
  hooks: ["${recall}"]
"""


fed = partial(make_recall, **OPTIONS, use="critic", actions="uniform")


@pytest.mark.parametrize("name", ["SACTrainer", "TD3Trainer", "DQNTrainer"])
def test_batches_get_rows_of_traces_where_a_critic_learns(name, build):
    trainer, _ = build(name, recall=fed)
    seen = []
    process = trainer._process_optim_batch_hook

    def watched(batch):
        processed = process(batch)
        seen.append(len(processed))
        return processed

    trainer._process_optim_batch_hook = watched
    trainer.train()
    real = seen[0]  # before the first round
    assert set(seen) == {real, 2 * real}
    assert seen[-1] == 2 * real
    assert "recall/loss_imitation" not in trainer._log_dict


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 0, 1)])
def test_rows_of_traces_are_added_directly_behind_sampling(order):
    trainer, seen = q_learning(cart_pole(), frames=400), []
    sampler = ReplayBufferTrainer(replay_buffer(), flatten_tensordicts=True)
    hooks = sampler, RewardNormalizer(), RecallHook(fed)
    for index in order:
        hooks[index].register(trainer)
    trainer.register_op("process_optim_batch", lambda batch: seen.append(batch["next", "reward"]))
    trainer.train()
    assert (len(seen[0]), len(seen[-1])) == (32, 64)
    # Real rewards are one, so their deviation is tiny; those of imagined steps are zero.
    assert seen[-1].max() < 0.5
    assert seen[-1].min() < -100


def test_traces_for_a_distribution_over_returns():
    class Atoms(nn.Linear):
        def forward(self, states):
            return super().forward(states).unflatten(-1, (5, 2)).log_softmax(-2)

    env = cart_pole()
    actor = DistributionalQValueActor(
        Atoms(4, 10), spec=env.action_spec, in_keys=["observation"], support=torch.arange(5.0)
    )
    loss = DistributionalDQNLoss(actor, gamma=0.9, delay_value=True)
    trainer, seen = plain(env, actor, loss, frames=400), []
    ReplayBufferTrainer(replay_buffer(), flatten_tensordicts=True).register(trainer)
    hook = RecallHook(fed)
    hook.register(trainer)
    trainer.register_op("process_optim_batch", lambda batch: seen.append(len(batch)))
    trainer.train()
    assert (seen[0], seen[-1]) == (32, 64)
    assert hook.recall.high_value_states.gamma == pytest.approx(0.9)


def test_rows_of_traces_are_refused_where_they_do_not_belong(build):
    def of_pendulum(trainer):
        from torchrl_recall import BacktrackingModel, Recall, UniformStates

        specs = pendulum().observation_spec, pendulum().action_spec
        return Recall(BacktrackingModel.from_specs(*specs), None, UniformStates(4), use="critic")

    with pytest.raises(ValueError, match="on-policy trainer"):
        build("PPOTrainer", recall=of_pendulum)
    from torchrl.data import TensorDictPrioritizedReplayBuffer

    prioritised = TensorDictPrioritizedReplayBuffer(
        alpha=0.6, beta=0.4, storage=LazyTensorStorage(100), batch_size=8
    )
    trainer = sac(frames=100, file=None, checkpoint=False)
    with pytest.raises(ValueError, match="no priority"):
        RecallHook(fed, replay_buffer=prioritised).register(trainer)
    trainer = q_learning(cart_pole(), frames=100)
    RecallHook(fed).register(trainer)
    ReplayBufferTrainer(prioritised).register(trainer)
    with pytest.raises(ValueError, match="no priority"):
        trainer.train()
