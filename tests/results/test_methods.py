"""Names of methods, and what each is compared with."""

from __future__ import annotations

import pytest
from results_fixtures import run

from torchrl_recall.results.folders import Run, align
from torchrl_recall.results.methods import (
    DuplicateError,
    baseline_of,
    curve,
    group_rows,
    group_runs,
)


def names(*runs: Run) -> list[tuple[str, str, list[int]]]:
    return [(m.task, m.name, list(m.runs)) for m in group_runs(runs)]


def test_seeds_of_the_same_settings_are_one_method():
    found = names(run("backtracking", 1), run("none", 1), run("none"), run("backtracking"))
    assert found == [("Hopper-v5", "none", [0, 1]), ("Hopper-v5", "backtracking", [0, 1])]


def test_settings_of_the_host_are_named_where_they_differ():
    found = names(run(sac__n_step=1), run("backtracking", sac__n_step=3))
    assert [name for _, name, _ in found] == ["none+sac.n_step=1", "backtracking+sac.n_step=3"]


def test_what_a_group_of_recall_sets_is_named_only_within_the_group():
    found = names(
        run(recall__trace_length=20), run("paper", recall__trace_length=5),
        run("backtracking", recall__trace_length=10), run("backtracking", recall__trace_length=40),
    )  # fmt: skip
    long = [f"backtracking+recall.trace_length={length}" for length in (10, 40)]
    assert [name for _, name, _ in found] == ["none", *long, "paper"]


def test_settings_of_traces_do_not_divide_the_host_alone():
    runs = [run(seed=seed, recall__trace_length=length) for seed, length in ((0, 5), (1, 9))]
    assert names(*runs) == [("Hopper-v5", "none", [0, 1])]


def test_a_setting_that_follows_from_another_is_not_named():
    found = names(*(run("imitation", optim__lr=lr, recall__lr=lr) for lr in (0.1, 0.2)))
    assert [name for _, name, _ in found] == ["imitation+optim.lr=0.1", "imitation+optim.lr=0.2"]


@pytest.mark.parametrize(
    "key", ["run_dir", "resume", "eval.interval", "checkpoint.keep", "logger.backend", "profile"]
)
def test_what_does_not_influence_a_run_is_not_named(key):
    assert names(*(run(seed=i, **{key.replace(".", "__"): i}) for i in range(2))) == [
        ("Hopper-v5", "none", [0, 1])
    ]


def test_a_key_of_another_version_tells_nothing():
    assert names(run(), run(seed=1, sac__n_step=1)) == [("Hopper-v5", "none", [0, 1])]


def test_settings_of_the_task_belong_to_its_name():
    found = names(run(env__delay=None), run(env__delay=20), run(task="Ant-v5", env__delay=20))
    assert [task for task, _, _ in found] == [
        "Ant-v5", "Hopper-v5+env.delay=20", "Hopper-v5+env.delay=null",
    ]  # fmt: skip


def test_tasks_have_settings_of_their_own():
    found = names(run(sac__gamma=0.99), run(task="Ant-v5", sac__gamma=0.98))
    assert [name for _, name, _ in found] == ["none", "none"]


def test_several_hosts_are_named():
    found = names(run(), run(host="ppo"), run("backtracking", host="ppo"))
    assert [name for _, name, _ in found] == ["ppo:none", "sac:none", "ppo:backtracking"]


def test_the_baseline_is_the_same_host_with_the_same_settings_and_without_recall():
    methods = group_runs(
        [run(r, sac__n_step=n) for r in ("none", "backtracking") for n in (1, 3)]
        + [run(r, host="ppo") for r in ("none", "backtracking")]
        + [run("backtracking", task="Ant-v5")]
    )
    bases = {
        (method.task, method.name): base.name if base else None
        for method in methods
        for base in [baseline_of(method, methods, None)]
        if method.recall == "backtracking"
    }
    assert bases == {
        ("Hopper-v5", "sac:backtracking+sac.n_step=1"): "sac:none+sac.n_step=1",
        ("Hopper-v5", "sac:backtracking+sac.n_step=3"): "sac:none+sac.n_step=3",
        ("Hopper-v5", "ppo:backtracking"): "ppo:none",
        ("Ant-v5", "sac:backtracking"): None,
    }
    ours = next(m for m in methods if m.name == "sac:backtracking+sac.n_step=1")
    named = baseline_of(ours, methods, "sac:none+sac.n_step=3")
    assert (named.task, named.name) == ("Hopper-v5", "sac:none+sac.n_step=3")


def test_a_group_of_recall_is_a_baseline_beside_the_same_host():
    methods = group_runs(
        [run(r, host=host) for r in ("none", "self_imitation", "paper") for host in ("ppo", "sac")]
    )
    for host in ("ppo", "sac"):
        ours = next(m for m in methods if m.name == f"{host}:paper")
        assert baseline_of(ours, methods, "self_imitation").name == f"{host}:self_imitation"
    assert baseline_of(ours, methods, "ppo:none").name == "ppo:none"


def test_names_of_rows_are_read_as_figures_write_them():
    row = {"task": "a", "seed": "1", "frames": "10", "metric": "m", "value": "2.0"}
    names = ("none", "ppo:paper+gae.lmbda=1+recall.trace_length=5", "ppo:none+gae.lmbda=1")
    none, paper, ppo = methods = group_rows([row | {"method": name} for name in names], "m")
    assert (paper.recall, paper.kind) == ("paper", ("ppo", "+gae.lmbda=1"))
    assert baseline_of(paper, methods, None) is ppo
    assert (none.kind, none.runs[1].evaluations) == (("", ""), {10: 2.0})


def test_a_colon_of_a_setting_is_no_host():
    row = {"task": "a", "seed": "1", "frames": "10", "metric": "m", "value": "2.0"}
    names = ("none+sac.n_step=3", "forward_dyna+sac.n_step=3+recall.reward=my.module:rule")
    none, dyna = methods = group_rows([row | {"method": name} for name in names], "m")
    assert (dyna.recall, dyna.kind) == ("forward_dyna", ("", "+sac.n_step=3"))
    assert baseline_of(dyna, methods, None) is none


def test_two_different_runs_of_one_seed_are_refused():
    ours, other = run(), run(values=(1.0, 3.0), run_dir="b")
    with pytest.raises(DuplicateError, match="seed 0 of none in Hopper-v5") as error:
        group_runs([ours, other])
    assert str(ours.folder) in str(error.value)
    assert str(other.folder) in str(error.value)
    assert names(ours, run(run_dir="copy")) == [("Hopper-v5", "none", [0])]


def test_runs_are_compared_where_all_were_evaluated():
    frames, values = align([run(values=(1, 2, 3)), run(values=(4, 5))])
    assert frames == [10, 20]
    assert values.tolist() == [[1, 2], [4, 5]]


def test_a_run_that_ended_at_its_target_keeps_its_last_value():
    short, long = run(values=(1, 2), holds=True), run("backtracking", values=(4, 5, 6, 7))
    assert align([short])[0] == [10, 20]
    frames, values = align([short, long])
    assert frames == [10, 20, 30, 40]
    assert values.tolist() == [[1, 2, 2, 2], [4, 5, 6, 7]]
    methods = group_runs([short, long])
    assert curve(methods[0], methods)[1].tolist() == [[1, 2, 2, 2]]


def test_the_cap_of_measured_lengths_tells_methods_apart():
    lengths = ((0, 2), (1, 50))
    auto = [
        run("backtracking", seed, recall__trace_length="auto", env__trace_length=length)
        for seed, length in lengths
    ]
    assert len(names(*auto)) == 2
    fixed = [run("backtracking", seed, env__trace_length=length) for seed, length in lengths]
    assert names(*fixed) == [("Hopper-v5", "backtracking", [0, 1])]


def test_the_length_of_a_run_tells_methods_of_dqn_apart():
    """Its exploration ends after a share of the run."""
    lengths = {"collector__total_frames": 1_000}, {"collector__total_frames": 8_000}
    dqn = [run(seed=i, host="dqn", dqn__annealed_fraction=0.5, **n) for i, n in enumerate(lengths)]
    assert len(names(*dqn)) == 2
    assert len(names(*(run(seed=i, **n) for i, n in enumerate(lengths)))) == 1
