"""Rows of traces in the hosts' critics: losses by hand, and whom they reach."""

from __future__ import annotations

import copy

import pytest
import torch
from recipe_fixtures import configure, metrics, sha256, stopped_copy, tiny, train
from tensordict import TensorDict

from torchrl_recall import TraceTransitions, join_rows
from torchrl_recall.trainers.hosts.crossq import CrossQ
from torchrl_recall.trainers.hosts.delayed_policy import REDQ, TD3
from torchrl_recall.trainers.hosts.sac import SAC
from torchrl_recall.trainers.hosts.trace_rows import with_traces
from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.gym import make_env

CPU = torch.device("cpu")
HOSTS = {"sac": SAC, "td3": TD3, "redq": REDQ, "crossq": CrossQ}
SMALL = [
    "sac.num_cells=[8,8]", "td3.num_cells=[8,8]", "redq.num_cells=[8,8]",
    "redq.num_qvalue_nets=4", "redq.num_updates=2", "crossq.num_cells=[8,8]",
    "crossq.critic_num_cells=[16,16]", "crossq.warmup_steps=3",
]  # fmt: skip
EACH_HOST = pytest.mark.parametrize("host", HOSTS)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def build(host: str, *overrides: str):
    torch.manual_seed(0)
    env = make_env("Pendulum-v1", seed=0)
    made = HOSTS[host](env, configure([*tiny(), *SMALL, f"host={host}", *overrides]), CPU)
    torch.manual_seed(1)
    real = env.rollout(32, break_when_any_done=False)
    path = torch.randn(4, 7, 3)
    traces = TensorDict(
        {
            "observation": path[:, :-1],
            "action": 4 * torch.rand(4, 6, 1) - 2,
            "next": {"observation": path[:, 1:]},
        },
        [4, 6],
    )
    ends = TensorDict(
        {
            "observation": path[:, -1],
            "reward": torch.rand(4, 1),
            "terminated": torch.tensor([[True], [False]] * 2),
        },
        [4],
    )
    return made, real, TraceTransitions()(traces, ends)


def weights(host, name) -> list[torch.Tensor]:
    params = getattr(host.loss_module, f"{name}_network_params")
    return [value.detach().clone() for value in params.values(True, True) if value.requires_grad]


def test_the_sum_is_divided_by_the_number_of_real_rows():
    def losses(rows):
        return TensorDict({"loss_qvalue": rows["x"].mean()})

    real = TensorDict({"x": torch.tensor([1.0, 3.0])}, [2])
    traces = TensorDict({"x": torch.tensor([10.0, 20.0, 30.0])}, [3])
    both = with_traces(losses, ["x"])
    assert both(real)["loss_qvalue"] == 2.0
    assert both(real, traces)["loss_qvalue"] == (1 + 3 + 10 + 20 + 30) / 2


def critic_loss(host, loss, rows) -> torch.Tensor:
    """TorchRL's own loss of the critics, from the same random numbers each time."""
    torch.manual_seed(5)
    if host == "sac":
        return loss.qvalue_v2_loss(rows)[0].detach()
    if host == "td3":
        return loss.value_loss(rows)[0].detach()
    return (loss.qvalue_loss(rows)[0] if host == "crossq" else loss(rows)["loss_qvalue"]).detach()


@EACH_HOST
def test_the_critics_loss_is_torchrls_on_all_rows_over_the_number_of_real_ones(host):
    made, real, traces = build(host)
    twin = build(host)[0].loss_module
    joined = join_rows(real, traces, twin.in_keys)
    expected = critic_loss(host, twin, joined) * (len(real) + len(traces)) / len(real)
    torch.manual_seed(5)
    found = made.update(real.clone(), traces.clone())["loss_qvalue"]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("host", ["sac", "td3", "redq"])  # CrossQ normalises rows by each other
def test_the_critics_loss_is_the_sum_of_that_on_each_kind_of_rows(host):
    made, real, traces = build(host)
    ended = join_rows(real, traces, made.loss_module.in_keys)
    ended["next", "terminated"] = torch.ones_like(ended["next", "terminated"])  # nothing random
    one, other = ended[: len(real)], ended[len(real) :]
    found = made.update(one.clone(), other.clone())["loss_qvalue"]
    twin = build(host)[0].loss_module
    parts = [critic_loss(host, twin, rows) for rows in (one, other)]
    torch.testing.assert_close(found, parts[0] + parts[1] * len(other) / len(one))


def test_sac_learns_its_policy_and_entropy_from_real_rows_alone():
    made, real, traces = build("sac")
    other, _, _ = build("sac")
    changed = traces.clone()
    changed["next", "reward"] += 100.0
    for each, rows in ((made, traces), (other, changed)):
        torch.manual_seed(5)
        told = each.update(real.clone(), rows)
        assert set(told.keys()) == set(each.update(real.clone()).keys())  # none goes stale
    critics = zip(weights(made, "qvalue"), weights(other, "qvalue"), strict=True)
    assert any(not torch.equal(a, b) for a, b in critics)
    made, other = build("sac")[0], build("sac")[0]
    for each, rows in ((made, traces), (other, changed)):
        torch.manual_seed(5)
        each.update(real.clone(), rows)
    policies = zip(weights(made, "actor"), weights(other, "actor"), strict=True)
    assert all(torch.equal(a, b) for a, b in policies)
    assert torch.equal(made.loss_module.log_alpha, other.loss_module.log_alpha)


@pytest.mark.parametrize(
    "host", ["td3", *(pytest.param(host, marks=pytest.mark.slow) for host in ("redq", "crossq"))]
)
def test_delayed_policies_are_given_real_rows_alone(host):
    made, real, traces = build(
        host, "td3.policy_delay=1", "crossq.policy_delay=1", "redq.num_updates=1"
    )
    given, step = [], made._step_policy
    made._step_policy = lambda *rows: given.append(rows) or step(*rows)
    made.update(real, traces)
    ((rows,),) = given
    assert rows is real


@EACH_HOST
def test_a_step_without_traces_is_the_loss_modules_own(host):
    made, real, _ = build(host)
    twin, _, _ = build(host)
    torch.manual_seed(5)
    told = made.update(real.clone())
    own = critic_loss(host, twin.loss_module, real.clone())
    torch.testing.assert_close(told["loss_qvalue"], own)


@pytest.mark.parametrize("host", ["sac", "td3", "crossq"])
def test_a_rows_horizon_changes_its_target(host):
    found = []
    for steps in (1, 300):
        made, real, traces = build(host)
        real["steps_to_next_obs"] = torch.full((len(real),), steps)
        torch.manual_seed(5)
        found.append(made.update(real, traces)["loss_qvalue"].item())
    assert abs(found[0] - found[1]) > 1e-3 * abs(found[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("error:.*could not be compiled.*")
@EACH_HOST
def test_compiled_and_eager_steps_agree(host):
    """Steps are long here, so that a wrong weight of either kind of rows shows."""
    found = []
    for compile, rate in (("false", 1.0), ("true", 1.0), ("false", 0.9)):
        made, real, traces = build(host, f"compile={compile}", "optim.lr=0.01")
        traces["next", "reward"] *= rate  # the third differs by a tenth of the traces' rewards
        for rows in (None, traces, None, traces, traces, traces):
            torch.manual_seed(5)
            made.update(real.clone(), rows if rows is None else rows.clone())
        found.append(weights(made, "qvalue"))
    eager, compiled, other = found
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(eager, other, strict=True)
    )


def test_an_entry_that_traces_lack_is_named():
    real = TensorDict({"x": torch.zeros(2, 1), "goal": torch.zeros(2, 1)}, [2])
    with pytest.raises(KeyError, match="'goal', which the loss reads"):
        join_rows(real, real.select("x"), ["x", "goal"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (["host=redq", "redq.n_step=3"], "redq.n_step=1"),
        (["recall.use=both"], "backward_policy"),
        (["recall=imitation", "recall.actions=uniform"], "backward_policy"),
        (["recall.end_states=value"], "recall.end_states=return"),
        (["recall.advantage_gate=true"], "recall.use=both"),
    ],
)
def test_settings_that_would_be_silently_wrong_are_named(changes, match):
    with pytest.raises(ConfigError, match=match):
        configure([*tiny(), *changes])


def test_rows_that_do_not_fit_are_named():
    traces = TensorDict({"x": torch.zeros(2, 1)}, [2])
    prioritised = traces.clone().set("priority_weight", torch.ones(2))
    with pytest.raises(ValueError, match="no priority"):
        join_rows(prioritised, traces, ["x"])
    with pytest.raises(ValueError, match=r"real.reshape\(-1\)"):
        join_rows(traces.unsqueeze(0), traces, ["x"])


def test_horizons_mix_where_each_row_says_its_own():
    made, real, traces = build("sac")
    steps = torch.randint(1, 4, (len(real),))
    rows = join_rows(real.set("steps_to_next_obs", steps), traces, made.loss_module.in_keys)
    assert rows["steps_to_next_obs"].tolist() == [*steps.tolist(), *[1] * len(traces)]


SHORT = {"env__name": "Pendulum-v1", "env__trace_length": 5, "recall__reward": "sparse"}


@pytest.mark.parametrize(
    ("end_states", "reward"),
    [
        ("return", "learned"),
        ("reward", "sparse"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("return", "sparse"), ("reward", "learned"), ("uniform", "sparse"))
        ),
    ],
)
def test_runs_feed_the_critic_and_go_on_bitwise(end_states, reward, tmp_path):
    words = tiny(
        "backtracking",
        env__name="point_umaze",
        sac__n_step=3,
        recall__end_states=end_states,
        recall__reward=reward,
        collector__random_until_reward=True,
        collector__total_frames=480,
        eval__interval=240,
        checkpoint__interval=240,
    )
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert train(whole, words) == 0
    last = metrics(whole)[-1]
    assert "recall/loss_imitation" not in last
    assert ("reward_model/loss_reward" in last) == (reward == "learned")
    assert float(last["recall/ready"]) == 1
    stopped_copy(whole, again, 240)
    assert train(again, [*words, "resume=auto"]) == 0
    assert sha256(again) == sha256(whole)
    assert metrics(again) == metrics(whole)


@pytest.mark.parametrize("host", ["td3", "redq", "crossq"])
def test_other_hosts_feed_their_critics_too(host, tmp_path):
    words = [
        *tiny(
            "backtracking", env__name="Pendulum-v1", recall__use="both",
            recall__actions="backward_policy",
            collector__total_frames=420, eval__interval=420, backtracking__buffer_size=1_000,
        ),
        *SMALL, f"host={host}",
    ]  # fmt: skip
    assert train(tmp_path / host, words) == 0
    last = metrics(tmp_path / host)[-1]
    assert "recall/kept" in last
    assert "reward_model/loss_reward" in last
    plain = [w for w in words if not w.startswith("recall.use")] + ["recall.use=policy"]
    plain += ["recall.end_states=value", "recall.temperature=null"]
    assert train(tmp_path / "plain", plain) == 0
    assert sha256(tmp_path / "plain") != sha256(tmp_path / host)


def test_a_copy_of_the_state_holds_the_newest_traces(tmp_path):
    from recipe_fixtures import load

    words = tiny("backtracking", env__name="point_umaze", collector__total_frames=400)
    assert train(tmp_path / "run", words) == 0
    _, state = load(tmp_path / "run")
    rows = copy.deepcopy(state["recall"]["fresh"]["rows"])
    assert rows.shape == (4 * 5,)
    assert rows["next", "reward"].isfinite().all()


@pytest.mark.parametrize("alpha", [0.01, 50.0])
def test_the_entropy_coefficient_of_redq_is_not_bounded(alpha):
    """TorchRL's loss would keep it between 0.1 and 10."""
    made, *_ = build("redq", f"redq.alpha_init={alpha}")
    assert float(made.loss_module.alpha) == pytest.approx(alpha)
