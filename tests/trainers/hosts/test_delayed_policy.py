"""TD3, REDQ and CrossQ: steps, targets, exploration, state, and whole runs."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from recipe_fixtures import configure, metrics, sha256, tiny, train
from tensordict import TensorDict
from torchrl.data import Bounded
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.objectives import CrossQLoss, REDQLoss, TD3Loss

from torchrl_recall.trainers.hosts.crossq import CrossQ
from torchrl_recall.trainers.hosts.delayed_policy import REDQ, TD3
from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.gym import make_env

CPU = torch.device("cpu")
SMALL = ["td3.num_cells=[8,8]", "redq.num_cells=[8,8]", "redq.num_qvalue_nets=4"]
SMALL += ["redq.num_updates=3", "td3.policy_delay=3"]
SMALL += ["crossq.num_cells=[8,8]", "crossq.critic_num_cells=[16,16]", "crossq.warmup_steps=3"]
HOSTS = pytest.mark.parametrize(
    ("kind", "loss"), [(TD3, TD3Loss), (REDQ, REDQLoss), (CrossQ, CrossQLoss)]
)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def build(kind, *overrides, name="Hopper-v5"):
    torch.manual_seed(0)
    env = make_env(name, seed=0)
    return env, kind(env, configure([*tiny(), *SMALL, *overrides]), CPU)


def transitions(env, n=32):
    torch.manual_seed(1)
    return env.rollout(n, break_when_any_done=False)


def weights(host, name) -> list[torch.Tensor]:
    params = getattr(host.loss_module, f"{name}_network_params")
    return [value.detach().clone() for value in params.values(True, True) if value.requires_grad]


def moved(before, after) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@HOSTS
def test_critics_step_on_each_batch_and_the_policy_on_every_third(kind, loss):
    env, host = build(kind)
    assert isinstance(host.loss_module, loss)
    data, seen = transitions(env), []
    for _ in range(6):
        critics, policy = weights(host, "qvalue"), weights(host, "actor")
        losses = host.update(data.clone())
        assert all(value.isfinite() and not value.requires_grad for value in losses.values())
        seen.append(
            (moved(critics, weights(host, "qvalue")), moved(policy, weights(host, "actor")))
        )
    assert seen == [(True, False), (True, False), (True, True)] * 2


def test_targets_of_td3_move_with_the_policy_by_tau():
    env, host = build(TD3, "td3.target_update_tau=0.25", "td3.policy_delay=2")
    loss, data = host.loss_module, transitions(env)
    for moves in (False, True):
        before = {k: v.clone() for k, v in loss.target_qvalue_network_params.items(True, True)}
        host.update(data.clone())
        for key, value in loss.target_qvalue_network_params.items(True, True):
            source = loss.qvalue_network_params.get(key).detach()
            expected = 0.25 * source + 0.75 * before[key] if moves else before[key]
            torch.testing.assert_close(value, expected)


def test_targets_of_redq_move_with_the_critics():
    env, host = build(REDQ, "redq.target_update_tau=0.25")
    loss = host.loss_module
    before = {k: v.clone() for k, v in loss.target_qvalue_network_params.items(True, True)}
    host.update(transitions(env))
    for key, value in loss.target_qvalue_network_params.items(True, True):
        source = loss.qvalue_network_params.get(key).detach()
        torch.testing.assert_close(value, 0.25 * source + 0.75 * before[key])


def test_settings_reach_the_losses():
    _, td3 = build(TD3, "td3.gamma=0.9", "td3.policy_noise=0.3", "optim.lr=0.01")
    assert float(td3.loss_module.value_estimator.gamma) == pytest.approx(0.9)
    assert td3.loss_module.policy_noise.tolist() == pytest.approx([0.3] * 3)
    assert all(o.param_groups[0]["lr"] == 0.01 for o in td3.optimizers)
    _, redq = build(REDQ, "redq.sub_sample_len=3")
    assert (redq.loss_module.num_qvalue_nets, redq.loss_module.sub_sample_len) == (4, 3)
    assert (redq.num_updates, redq.policy_delay) == (3, 3)
    _, crossq = build(CrossQ, "crossq.gamma=0.9", "optim.lr=0.01", "crossq.adam_beta1=0.25")
    assert float(crossq.loss_module.value_estimator.gamma) == pytest.approx(0.9)
    critic, policy = ([g["betas"] for g in o.param_groups] for o in crossq.optimizers)
    assert critic == [(0.25, 0.999)]
    assert policy == [(0.25, 0.999), (0.9, 0.999)]  # the entropy coefficient's is Adam's own
    assert crossq.optimizers[1].param_groups[1]["params"] == [crossq.loss_module.log_alpha]
    with pytest.raises(ConfigError, match=r"batch_size=1 has no variance.*host=crossq"):
        configure([*tiny(), *SMALL, "host=crossq", "replay_buffer.batch_size=1"])
    assert [w.shape[1] for w in weights(crossq, "qvalue") if w.ndim == 3] == [16, 16, 1]
    with pytest.raises(ConfigError, match=r"sub_sample_len=4 must be below .*num_qvalue_nets=4"):
        configure([*tiny(), *SMALL, "redq.sub_sample_len=4"])


def test_published_settings_follow_the_host_unless_they_are_given():
    found = {}
    for host in ("sac", "crossq", "redq", "td3"):
        words = [word for word in tiny() if "init_random_frames" not in word]
        config = configure([*words, f"host={host}", "collector.total_frames=9000"])
        found[host] = config.optim.lr, config.collector.init_random_frames
    assert found == {
        "sac": (3e-4, 1_000), "crossq": (1e-3, 5_000), "redq": (3e-4, 5_000), "td3": (3e-4, 1_000)
    }  # fmt: skip
    assert configure([*tiny(), "host=crossq", "optim.lr=0.5"]).optim.lr == 0.5


@HOSTS
def test_every_trainable_parameter_is_optimised_once(kind, loss):
    _, host = build(kind)
    ours = [id(p) for o in host.optimizers for g in o.param_groups for p in g["params"]]
    wanted = {id(p) for p in host.loss_module.parameters() if p.requires_grad}
    assert len(ours) == len(set(ours))
    assert set(ours) == wanted


@pytest.mark.parametrize("name", ["Hopper-v5", "Humanoid-v5", "Pendulum-v1"])
def test_td3_explores_around_its_action_within_the_bounds(name):
    env, host = build(TD3, name=name)
    space = env.action_spec.space
    states = torch.zeros(4_000, *env.observation_spec["observation"].shape)
    data = TensorDict({"observation": states}, [4_000])
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        noisy = host.explorer(data.clone())["action"]
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        still = host.explorer(data.clone())["action"]
    assert torch.equal(still, host.actor(data.clone())["action"])
    assert (noisy >= space.low).all()
    assert (noisy <= space.high).all()
    half = (space.high - space.low) / 2
    torch.testing.assert_close(
        (noisy - still).std(0) / half, torch.full_like(half, 0.1), rtol=0.1, atol=0
    )


@HOSTS
def test_state_goes_on_bitwise(kind, loss):
    env, host = build(kind)
    data = transitions(env)
    for _ in range(2):
        host.update(data.clone())
    _, other = build(kind)
    torch.manual_seed(9)
    other.update(data.clone())
    other.load_state_dict(copy.deepcopy(host.state_dict()))
    for this in (host, other):
        torch.manual_seed(2)
        for _ in range(4):
            this.update(data.clone())
    for name in ("actor", "qvalue"):
        assert not moved(weights(host, name), weights(other, name))


@pytest.mark.filterwarnings("error:.*could not be compiled.*")
@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        (TD3, TD3Loss),
        pytest.param(REDQ, REDQLoss, marks=pytest.mark.slow),
        pytest.param(CrossQ, CrossQLoss, marks=pytest.mark.slow),
    ],
)
def test_compiled_and_eager_agree(kind, loss):
    """Steps and targets are long here, so that a wrong factor in either shows."""
    found, data = [], transitions(make_env("Hopper-v5", seed=1))
    long = ["optim.lr=0.01", "td3.target_update_tau=0.25", "redq.target_update_tau=0.25"]
    for compile in (False, True):
        _, host = build(kind, f"compile={compile}", *long)
        torch.manual_seed(3)
        losses = [dict(host.update(data.clone()).items()) for _ in range(6)]
        found.append((losses, host.loss_module.state_dict()))
    (eager, weights_of_eager), (compiled, weights_of_compiled) = found
    for ours, theirs in zip(eager, compiled, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights_of_eager, weights_of_compiled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("host", ["td3", "redq", "crossq"])
@pytest.mark.parametrize("recall", ["none", "backtracking"])
def test_a_run_resumes_bitwise(host, recall, tmp_path):
    words = tiny(recall, host=host, collector__total_frames=100) + SMALL
    words = [word for word in words if not word.startswith("eval.interval")] + ["eval.interval=50"]
    longer = [word for word in words if "total_frames" not in word] + ["collector.total_frames=160"]
    train(tmp_path / "whole", longer)
    train(tmp_path / "again", words)
    train(tmp_path / "again", [*longer, "resume=auto"])
    assert sha256(tmp_path / "again") == sha256(tmp_path / "whole")
    if recall == "backtracking":
        last = metrics(tmp_path / "whole")[-1]
        assert float(last["recall/ready"]) == 1
        assert float(last["reward_model/loss_reward"]) >= 0


def test_noise_of_the_target_is_scaled_to_each_dimension(monkeypatch):
    """As the configuration says: in halves of the action's range."""
    env = make_env("Hopper-v5", seed=0)
    spec = Bounded(torch.tensor([-1.0, -10.0]), torch.tensor([1.0, 10.0]))
    stub = SimpleNamespace(
        action_spec_unbatched=spec, observation_spec_unbatched=env.observation_spec_unbatched
    )
    config = configure([*tiny(), *SMALL, "td3.policy_noise=0.2", "td3.noise_clip=0.5"])
    loss = TD3(stub, config, CPU).loss_module
    assert loss.policy_noise.tolist() == pytest.approx([0.2, 2.0])
    assert loss.noise_clip.tolist() == pytest.approx([0.5, 5.0])
