"""Statistics behind claims, by numbers that can be checked by hand."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from torchrl_recall.results.statistics import (
    Interval,
    frames_to_target,
    interquartile_mean,
    interval,
    paired_ratio,
    probability_of_improvement,
    quartiles,
    stratified_difference,
    stratified_interval,
)


def test_ratios_are_paired_geometric_means():
    found = paired_ratio({0: 100, 1: 800}, {0: 50, 1: 100}, limit=1000)
    assert found.value == pytest.approx(math.sqrt(2 * 8))
    assert (found.low, found.high) == pytest.approx((2, 8))  # too few to resample


def test_a_constant_ratio_has_no_spread():
    found = paired_ratio(dict.fromkeys(range(9), 300), dict.fromkeys(range(9), 100), limit=1000)
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))


def test_only_seeds_of_both_count():
    assert paired_ratio({0: 100, 1: 7}, {0: 50, 2: 9}, limit=1000).value == pytest.approx(2)
    with pytest.raises(ValueError, match="no seed is in both"):
        paired_ratio({0: 100}, {1: 50}, limit=1000)


def test_a_seed_that_failed_counts_as_the_limit():
    assert paired_ratio({0: None}, {0: 100}, limit=1000).value == pytest.approx(10)
    assert paired_ratio({0: 100}, {0: None}, limit=1000).value == pytest.approx(0.1)
    assert paired_ratio({0: None}, {0: None}, limit=1000).value == pytest.approx(1)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        found = interval(list(rng.normal(3.0, 1.0, size=40)))
        assert found.low < found.value < found.high
        inside += found.low <= 3.0 <= found.high
    assert 0.89 < inside / 200 < 0.99


def test_intervals_are_the_same_each_time():
    values = list(np.random.default_rng(1).normal(size=20))
    assert interval(values) == interval(values)


def test_intervals_read_well():
    assert str(Interval(3.14159, 2.5, 4.0)) == "3.14 [2.50, 4.00]"
    assert str(Interval(3141.59, 2500, 4000)) == "3142 [2500, 4000]"


def test_quartiles_know_failures():
    assert quartiles([1, 2, 3, 4, 5]) == (2, 3, 4)
    assert quartiles([1, 2, 3, None, None]) == (2, 3, math.inf)
    assert quartiles([1, None, None, None, None]) == (math.inf, math.inf, math.inf)


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    assert interquartile_mean([100, 3, -50, 5]) == 4
    assert interquartile_mean([1, 2, 9]) == 4  # too few to leave any out, as in rliable
    assert interquartile_mean(range(8)) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert list(interquartile_mean([[0, 2, 4, 99], [1, 1, 1, 1]])) == [3, 1]


def test_an_interval_is_of_the_statistic_that_is_asked_for():
    values = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1_000.0]
    assert interval(values).value == 125
    found = interval(values, interquartile_mean)
    assert (found.value, found.low) == (0, 0)
    assert found.high < interval(values).high


def test_few_seeds_give_their_range():
    assert interval([1.0, 4.0]) == Interval(2.5, 1.0, 4.0)
    assert interval([2.0]) == Interval(2.0, 2.0, 2.0)


@pytest.mark.parametrize("seeds", [2, 5])
def test_constant_data_have_no_spread(seeds):
    same = [7.0] * seeds
    assert interval(same) == interval(same, interquartile_mean) == Interval(7.0, 7.0, 7.0)
    assert stratified_interval([same, same]) == Interval(7.0, 7.0, 7.0)
    assert probability_of_improvement([same], [same]) == Interval(0.5, 0.5, 0.5)
    assert probability_of_improvement([[8.0] * seeds], [same]) == Interval(1.0, 1.0, 1.0)


def test_the_probability_of_improvement_counts_pairs():
    """Two of the pairs (1, 2), (1, 3), (4, 2), (4, 3) are better; equal ones count half."""
    assert probability_of_improvement([[1, 4]], [[2, 3]]) == Interval(0.5, 0.0, 1.0)
    assert probability_of_improvement([[5, 4, 2]], [[4, 3]]).value == pytest.approx(3.5 / 6)
    found = probability_of_improvement([[1, 2, 3, 4]], [[0, 2, 3, 9]])
    assert found.value == pytest.approx((1 + 1.5 + 2.5 + 3) / 16)
    assert 0 <= found.low < found.value < found.high <= 1


def test_the_probability_of_improvement_is_a_mean_over_tasks():
    """Large tasks do not count more than small ones."""
    ours, theirs = [[2] * 9, [1, 1, 1]], [[1] * 9, [2, 2, 2]]
    assert probability_of_improvement(ours, theirs) == Interval(0.5, 0.5, 0.5)


def test_seeds_are_drawn_task_by_task():
    """Two tasks that differ much, each without spread: the mean over both is certain."""
    strata = [[0.0] * 5, [10.0] * 5]
    assert stratified_interval(strata, np.mean) == Interval(5.0, 5.0, 5.0)
    found = interval([0.0] * 5 + [10.0] * 5)  # of all together it is not
    assert found.low < 4 < 6 < found.high


def test_few_seeds_of_several_tasks_give_their_range():
    found = stratified_interval([[0.0, 1.0], [2.0, 5.0], [3.0, 3.0]], np.mean)
    assert found == Interval(14 / 6, pytest.approx(5 / 3), pytest.approx(3))


def test_a_target_is_reached_where_two_evaluations_in_a_row_are_there():
    frames = [10, 20, 30, 40, 50]
    assert frames_to_target(frames, [0.9, 0.1, 0.9, 0.95, 0.1], 0.9) == 30
    assert frames_to_target(frames, [0.1, 0.9, 0.1, 0.1, 0.9], 0.9) is None


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ModuleNotFoundError, match=r"torchrl-recall\[plots\]"):
        interval([1.0, 2.0, 3.0])


def test_a_difference_of_two_methods_by_hand():
    """Compare the middle halves by hand: 2 and 3 of 1 to 4, 1 and 2 of 0 to 3."""
    found = stratified_difference([[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [2.0, 3.0]])
    assert found.value == pytest.approx(1.0)
    same = stratified_difference([[1.0] * 4, [5.0] * 4], [[1.0] * 4, [5.0] * 4])
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    rng = np.random.default_rng(0)
    above, below = rng.normal(1.0, 0.1, (2, 8)), rng.normal(0.0, 0.1, (2, 8))
    apart = stratified_difference(list(above), list(below))
    assert 0.8 < apart.low < apart.value < apart.high < 1.2
    assert stratified_difference(list(below), list(above)).value == pytest.approx(-apart.value)
