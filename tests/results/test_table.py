"""Cells of the table and rows of the file, by numbers that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

from results_fixtures import cells, run

from torchrl_recall.results.methods import group_rows, group_runs
from torchrl_recall.results.table import SCORES, rows, table


def seeds(recall: str, *values: tuple[float, ...], task: str = "Hopper-v5", **kwargs) -> list:
    return [run(recall, i, task=task, values=each, **kwargs) for i, each in enumerate(values)]


def test_a_row_has_last_values_means_and_comparisons():
    """Means over training are 2 and 4 beside 1 and 2: twice as large, better in 3.5 of 4 pairs."""
    methods = group_runs(
        seeds("none", (0.5, 1.5), (1.0, 3.0)) + seeds("backtracking", (1.0, 3.0), (2.0, 6.0))
    )
    text = table(methods, "eval_return")
    own = ["2", "20", "2.25 [1.50, 3.00]", "2.25 [1.50, 3.00]", "1.50 [1.00, 2.00]"]
    assert cells(text, "Hopper-v5", "none") == [*own, "", "baseline"]
    ours = ["2", "20", "4.50 [3.00, 6.00]", "4.50 [3.00, 6.00]", "3.00 [2.00, 4.00]"]
    compared = ["2.00 [2.00, 2.00]", "0.88 [0.75, 1.00]"]
    assert cells(text, "Hopper-v5", "backtracking") == [*ours, *compared]
    assert "last eval_return [95 %]" in text
    assert SCORES not in text  # of one task


def test_another_baseline_can_be_named():
    methods = group_runs(seeds("none", (1.0,)) + seeds("paper", (2.0,)))
    text = table(methods, "eval_return", "paper")
    assert cells(text, "Hopper-v5", "none")[-2:] == ["0.50 [0.50, 0.50]", "0.00 [0.00, 0.00]"]


def test_an_unfinished_run_compares_as_far_as_it_goes():
    methods = group_runs(
        seeds("none", (1.0, 9.0)) + seeds("backtracking", (3.0,), is_finished=False)
    )
    text = table(methods, "eval_return")
    assert cells(text, "Hopper-v5", "none")[1] == "20"
    assert cells(text, "Hopper-v5", "backtracking")[1] == "10"
    assert cells(text, "Hopper-v5", "backtracking")[-2] == "3.00 [3.00, 3.00]"  # of 1, not of 5


def test_there_is_no_ratio_of_negative_means():
    methods = group_runs(seeds("none", (-2.0,)) + seeds("backtracking", (-1.0,)))
    found = cells(table(methods, "eval_return"), "Hopper-v5", "backtracking")
    assert found[-2:] == ["", "1.00 [1.00, 1.00]"]


def test_frames_to_a_target_are_compared():
    """A run that ended without it counts as if it had it there; one that goes on does not count."""
    known = {"knows_target": True}
    methods = group_runs(
        [run("none", i, **known) for i in (0, 1)]
        + [run("none", 2, is_finished=False, **known)]
        + [run("backtracking", i, frames_to_target=(5, 20, 5)[i], **known) for i in range(3)]
    )
    text = table(methods, "eval_return")
    assert cells(text, "Hopper-v5", "none")[-3:] == ["0 of 2", "inf [inf, inf]", ""]
    found = cells(text, "Hopper-v5", "backtracking")[-3:]
    assert found == ["3 of 3", "5 [5, 20]", "2.00 [1.00, 4.00]"]


def test_tasks_are_summed_up_where_methods_were_run_in_all():
    """Scores are 0 and 1 in both tasks, whatever the scale of returns."""
    methods = group_runs(
        seeds("none", (100.0,), task="Ant-v5")
        + seeds("backtracking", (400.0,), task="Ant-v5")
        + seeds("none", (-3.0,))
        + seeds("backtracking", (-2.0,))
        + seeds("paper", (-2.5,))
    )
    text = table(methods, "eval_return")
    assert cells(text, "none", "2", "2") == ["0.00 [0.00, 0.00]", "", "", "baseline"]
    one = "1.00 [1.00, 1.00]"
    assert cells(text, "backtracking", "2", "2") == [one, one, "", one]
    assert text.count("| `paper` |") == 1


def test_methods_of_several_tasks_have_names_that_hold_in_all():
    """A setting that is varied in one task is the same method's in the other."""
    methods = group_runs(
        [run(task="a", sac__n_step=n) for n in (1, 3)] + [run(task="b", sac__n_step=3)]
    )
    text = table(methods, "m")
    assert cells(text, "b", "none")[0] == "1"
    assert cells(text, "none+sac.n_step=3", "2", "2")[-1] == "baseline"
    assert "| `none+sac.n_step=1` | 2 |" not in text


def test_ratios_over_tasks_are_geometric_means():
    methods = group_runs(
        [r for t, x in (("a", 2.0), ("b", 8.0)) for r in seeds("none", (1.0,), task=t)
         + seeds("backtracking", (x,), task=t)]
    )  # fmt: skip
    assert cells(table(methods, "m"), "backtracking", "2", "2")[2] == "4.00 [4.00, 4.00]"
    aimed = [
        run(recall, task=task, knows_target=True, frames_to_target=frames)
        for task, recall, frames in [
            ("a", "none", 20), ("a", "paper", 10), ("b", "none", 16), ("b", "paper", 2),
        ]
    ]  # fmt: skip
    text = table(group_runs(aimed), "m")
    assert cells(text, "paper", "2", "2")[-1] == "4.00 [4.00, 4.00]"


def test_seeds_without_a_common_evaluation_show_no_number():
    late = replace(run(seed=1), evaluations={15: 1.0})
    never = group_runs([run(values=(1.0,)), late])
    assert cells(table(never, "m"), "Hopper-v5", "none") == ["2", "0", "", "", "", "", "baseline"]


def test_rows_hold_every_evaluation_and_the_frames_to_the_target():
    methods = group_runs([run(values=(1.5, 2.5), knows_target=True, frames_to_target=20)])
    assert list(rows(methods, "eval_return", "mine")) == [
        ("mine", "Hopper-v5", "none", 0, 10, "eval_return", 1.5),
        ("mine", "Hopper-v5", "none", 0, 20, "eval_return", 2.5),
        ("mine", "Hopper-v5", "none", 0, 20, "frames_to_target", 20),
    ]


def test_a_pair_counts_up_to_where_one_of_it_ended():
    """One ended without the target after 20 frames, the other after 40: nothing is known."""
    told = {"knows_target": True, "is_finished": True}
    short = [replace(each, **told) for each in seeds("none", (1.0, 2.0))]
    long = [replace(each, **told) for each in seeds("backtracking", (1.0, 2.0, 2.0, 2.0))]
    found = cells(table(group_runs(short + long), "eval_return"), "Hopper-v5", "backtracking")
    assert found[-1] == "1.00 [1.00, 1.00]"
    reached = [replace(each, frames_to_target=40) for each in long]
    found = cells(table(group_runs(short + reached), "eval_return"), "Hopper-v5", "backtracking")
    assert found[-1] == "1.00 [1.00, 1.00]"  # it may be that none would have needed no more


def test_runs_of_other_targets_are_other_methods():
    low, high = (seeds("none", (1.0, 2.0), eval__target_return=x) for x in (0.5, 0.9))
    names = [method.name for method in group_runs(low + high)]
    assert names == ["none+eval.target_return=0.5", "none+eval.target_return=0.9"]


def test_several_baselines_each_have_their_columns():
    """Self-imitation beside the same host, by hand: 6 / 3."""
    runs = [
        r for task in ("a", "b") for host, x in (("ppo", 1.0), ("sac", 10.0))
        for r in seeds("none", (x,), task=task, host=host)
        + seeds("self_imitation", (3 * x,), task=task, host=host)
        + seeds("backtracking", (6 * x,), task=task, host=host)
    ]  # fmt: skip
    text = table(group_runs(runs), "m", None, "self_imitation")
    six, two, one = (f"{x}.00 [{x}.00, {x}.00]" for x in (6, 2, 1))
    assert cells(text, "a", "ppo:backtracking")[-4:] == [six, one, two, one]
    assert cells(text, "a", "ppo:self_imitation")[-2:] == ["", "baseline"]
    assert cells(text, "a", "ppo:none")[-4:-2] == ["", "baseline"]
    apart = cells(text, "ppo:backtracking", "2", "2")[4]
    assert apart == "0.05 [0.05, 0.05]"  # (6 - 3) / (60 - 1)


def test_rows_and_folders_give_the_same_table():
    methods = group_runs(
        [r for t in ("a", "b") for r in seeds("none", (1.0, 2.0), task=t)
         + seeds("backtracking", (2.0, 5.0), task=t)]
    )  # fmt: skip
    names = ("figure", "task", "method", "seed", "frames", "metric", "value")
    as_written = [dict(zip(names, map(str, row), strict=True)) for row in rows(methods, "m", "7")]
    assert table(group_rows(as_written, "m"), "m", host="sac") == table(methods, "m")
