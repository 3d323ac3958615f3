"""Seeds side by side: each learns what it learns alone, in the recipe's own steps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from recipe_fixtures import process_state_kept
from tensordict import TensorDict
from torch.distributions import Normal

ROOT = Path(__file__).parents[2]
SMALL = ["crossq.critic_num_cells=[32,32]", "crossq.num_cells=[16]", "crossq.warmup_steps=3"]
SMALL += ["collector.init_random_frames=20", "replay_buffer.batch_size=8"]


@pytest.fixture
def figure(monkeypatch):
    """The modules of the figure, and its configurations in small."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks/figures")
    import crossq

    from runs import lockstep

    yield crossq, lockstep
    for name in [name for name in sys.modules if name == "crossq" or name.split(".")[0] == "runs"]:
        del sys.modules[name]


def configs(crossq, seeds: int = 2, **more):
    options = {**crossq.DEFAULTS, "seeds": seeds, "frames": 40, "settings": SMALL, **more}
    return crossq.configs_of("Pendulum-v1", OmegaConf.create(options))


def make_hosts(lockstep, settings):
    hosts = []
    for config in settings:
        torch.manual_seed(config.seed)
        env = lockstep.make_env("Pendulum-v1", torch.device("cpu"))
        hosts.append(lockstep.CrossQ(env, config, torch.device("cpu")))
    return hosts


def batches(transitions, seeds: int, number: int, size: int = 8) -> list[TensorDict]:
    made = []
    for _ in range(number):
        data = transitions(seeds, size)
        data["action"] = data["action"][..., :1]
        data["next", "reward"] = torch.randn(seeds, size, 1)
        data["next", "terminated"] = torch.rand(seeds, size, 1) < 0.3
        data["next", "done"] = data["next", "terminated"]
        made.append(data)
    return made


def test_every_seed_takes_the_steps_of_the_recipes_host(figure, transitions, monkeypatch):
    """Weights and running statistics of both seeds, after steps of critics and policy in turn."""
    crossq, lockstep = figure
    # Without noise the two may draw in different orders.
    for name in ("sample", "rsample"):
        monkeypatch.setattr(Normal, name, lambda self, shape=(): self.loc + 0 * self.scale)
    settings = configs(crossq, settings=[*SMALL, "replay_buffer.batch_size=64"])
    hosts, stacked = make_hosts(lockstep, settings), make_hosts(lockstep, settings)
    stacked = lockstep.StackedCrossQ(stacked)
    data = batches(transitions, 2, 8, size=64)
    begun = [leaf.clone() for leaf in stacked.trained]
    stacked.initialize(data[0].to_dict())
    for batch in data:
        stacked.step_critics(batch.to_dict())
        stacked.step_policy(batch.to_dict())
        for seed, host in enumerate(hosts):
            host.step_critics(batch[seed].clone())
            host.step_policy(batch[seed].clone())

    for seed, host in enumerate(hosts):
        own = lockstep.FunctionalLoss(host.loss_module, host.losses[0])
        for (path, leaf), ours, was in zip(own.trained, stacked.trained, begun, strict=True):
            assert not torch.equal(ours[seed], was[seed]), path
            torch.testing.assert_close(ours[seed], leaf.detach(), rtol=1e-5, atol=1e-5)
        assert len(own.fixed) > 8
        for (_, leaf), ours in zip(own.fixed, stacked.fixed, strict=True):
            torch.testing.assert_close(ours[seed], leaf, rtol=1e-5, atol=1e-6)
        for mine, theirs in zip(stacked.optimizers, host.optimizers, strict=True):
            for group, other in zip(mine.param_groups, theirs.param_groups, strict=True):
                assert (group["lr"], group["betas"]) == (other["lr"], other["betas"])
    state = torch.randn(2, 5, 3)
    for seed, host in enumerate(hosts):
        mode = host.actor(TensorDict({"observation": state[seed]}, [5]))["loc"].tanh() * 2
        action = stacked.act(state, explore=False)[seed]
        torch.testing.assert_close(action, mode, rtol=1e-5, atol=1e-5)


def test_seeds_do_not_touch_each_other(figure, transitions):
    """Other rows and weights of the second seed leave the first one as it is, bit for bit."""
    crossq, lockstep = figure
    data = batches(transitions, 2, 4)
    results = []
    for other in (False, True):
        hosts = make_hosts(lockstep, configs(crossq, first_seed=3))
        if other:
            hosts[1] = make_hosts(lockstep, configs(crossq, seeds=1, first_seed=9))[0]
        stacked = lockstep.StackedCrossQ(hosts)
        torch.manual_seed(0)
        stacked.initialize(data[0].to_dict())
        for batch in data:
            rows = batch.clone()
            if other:
                rows["next", "reward"][1] += 1
            stacked.step_critics(rows.to_dict())
            stacked.step_policy(rows.to_dict())
        results.append(stacked.trained)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one[0], two[0])
        assert not torch.equal(one[1], two[1])


def test_rows_of_the_buffer_are_the_tasks_own(figure):
    """Rows hold what the task did, and a new episode begins after the last step of another."""
    crossq, lockstep = figure
    settings = [*SMALL, "collector.init_random_frames=198"]
    (config,) = configs(crossq, seeds=1, frames=250, settings=settings)
    lane = lockstep.Lockstep("Pendulum-v1", [config], torch.device("cpu"))
    for frame in range(1, 203):
        lane.step()
        assert lane.updates == max(0, frame - 197)  # the first follows the last random action
    state, action, following, reward, terminated = lane.buffer[0, :202].split([3, 1, 3, 1, 1], -1)
    assert not terminated.any()
    continues = (state[1:] == following[:-1]).all(-1)
    assert continues.nonzero().numel() == 200
    assert not continues[199]  # the episode's last step
    angle = torch.atan2(state[:, 1], state[:, 0])
    cost = angle**2 + 0.1 * state[:, 2] ** 2 + 0.001 * action[:, 0].clamp(-2, 2) ** 2
    assert reward.std() > 1
    torch.testing.assert_close(reward[:, 0], -cost, rtol=1e-4, atol=1e-4)


def test_the_command_writes_rows_and_takes_up_what_is_missing(figure, monkeypatch, tmp_path):
    """Each seed has a return for each evaluation; complete ones stay, and are not run again."""
    crossq, _ = figure

    def run(*words: str) -> list[tuple[str, str]]:
        given = [f"out={tmp_path}", "tasks=[Pendulum-v1]", "frames=40", "eval_interval=20"]
        given += ["device=cpu", f"settings={[*SMALL, 'eval.num_episodes=1']}", *words]
        monkeypatch.setattr(sys, "argv", ["crossq.py", *given])
        with process_state_kept():
            crossq.main()
        rows = crossq.read_rows(tmp_path / "results.csv")
        assert all(-2000 < float(row["value"]) < 0 for row in rows)
        return [(row["seed"], row["frames"]) for row in rows]

    first = [("0", "20"), ("1", "20"), ("0", "40"), ("1", "40")]
    assert run("seeds=2") == first
    assert run("seeds=1", "first_seed=5") == [*first, ("5", "20"), ("5", "40")]
    monkeypatch.setattr(crossq, "Lockstep", None)  # nothing is left to run
    assert len(run("seeds=2")) == 6
    with pytest.raises(SystemExit, match=r"'crossq.n_step=3'.* not read here"):
        run("seeds=3", "settings=[crossq.n_step=3]")
