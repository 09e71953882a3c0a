"""Statistics against numbers worked by hand, closed forms, and a distribution that is known."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from mabe_transfer.errors import UserError
from mabe_transfer.statistics import (
    Estimate,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
    probability_of_improvement,
    rank_correlation,
    superiority,
)


def array(*values: float) -> Any:
    return np.array(values, dtype=np.float64)


# -- the interquartile mean ----------------------------------------------------------------------


def test_interquartile_mean_leaves_a_quarter_out_at_either_end() -> None:
    # of 0, 1, 2, 3, 4, 5, 100, 1000 stay 2, 3, 4, 5
    assert interquartile_mean(array(1000, 4, 1, 3, 0, 100, 2, 5)) == 3.5


def test_interquartile_mean_of_27_leaves_6_out_at_either_end() -> None:
    # floor(27 / 4) = 6: 6 .. 20 stay, whose mean is 13; one cube makes that no matter of symmetry
    values = np.arange(27.0) ** 3
    assert interquartile_mean(values) == pytest.approx(sum(n**3 for n in range(6, 21)) / 15)


def test_interquartile_mean_of_three_is_their_mean() -> None:
    assert interquartile_mean(array(1, 2, 9)) == 4.0


def test_interquartile_mean_is_taken_along_the_last_axis() -> None:
    values = np.stack((array(0, 1, 2, 100), array(8, 2, 4, -9)))
    np.testing.assert_array_equal(interquartile_mean(values), [1.5, 3.0])


# -- intervals -----------------------------------------------------------------------------------


def test_interval_of_two_scores_is_that_of_their_four_resamples() -> None:
    # means of (0,0), (0,1), (1,0), (1,1): 0 with 1/4, 1/2 with 1/2, 1 with 1/4, far above 2.5 %
    assert mean_interval(array(0, 1)) == Estimate(0.5, 0.0, 1.0)


def test_interval_of_equal_scores_is_a_point() -> None:
    assert mean_interval(array(3, 3, 3)) == Estimate(3.0, 3.0, 3.0)


def test_interval_of_a_mean_has_the_width_of_its_standard_error() -> None:
    # the bootstrap's standard error is the population deviation over the root of n
    scores = np.random.default_rng(1).standard_normal(400)
    found = mean_interval(scores)
    assert found.high - found.low == pytest.approx(2 * 1.96 * scores.std() / 20, rel=0.05)


def test_seeds_are_drawn_again_within_their_task_only() -> None:
    # tasks whose seeds agree: whatever is drawn, the same scores come out
    tasks = [array(0, 0, 0), array(10, 10, 10), array(80, 80, 80)]
    assert interquartile_interval(tasks) == Estimate(22.0, 22.0, 22.0)  # of 0, 10, 10, 10, 80
    pooled = mean_interval(np.concatenate(tasks))
    assert pooled.low < 15
    assert pooled.high > 45


def test_tasks_may_have_other_numbers_of_seeds() -> None:
    found = interquartile_interval([array(1), array(2, 2), array(3)])
    assert found == Estimate(2.0, 2.0, 2.0)  # of 1, 2, 2, 3 stay 2, 2


def test_interval_is_the_same_each_time_and_follows_its_seed() -> None:
    tasks = [np.random.default_rng(0).standard_normal(5) for _ in range(3)]
    assert interquartile_interval(tasks) == interquartile_interval(tasks)
    assert interquartile_interval(tasks) != interquartile_interval(tasks, seed=1)


def test_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    covered, trials = 0, 60
    for _ in range(trials):
        found = mean_interval(generator.exponential(2.0, size=40))
        covered += found.low <= 2.0 <= found.high
    assert 0.86 <= covered / trials <= 0.99  # 0.92 is usual of a percentile interval at n = 40


def test_interval_of_an_interquartile_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    covered, trials = 0, 60
    for _ in range(trials):  # two tasks that share a symmetric distribution around 5
        found = interquartile_interval([generator.normal(5.0, 1.0, size=15) for _ in range(2)])
        covered += found.low <= 5.0 <= found.high
    assert 0.86 <= covered / trials <= 0.99


# -- the probability of improvement --------------------------------------------------------------


def test_superiority_counts_pairs_and_ties_half() -> None:
    # 1 loses to 2, ties with 1, beats 0: 1.5; 3 beats all: 3; of 6 pairs
    assert superiority(array(1, 3), array(2, 1, 0)) == 4.5 / 6


def test_superiority_of_a_row_over_itself_is_a_half() -> None:
    assert superiority(array(5, 1, 9), array(5, 1, 9)) == 0.5


def test_superiority_agrees_with_counting_pairs() -> None:
    generator = np.random.default_rng(2)
    one, other = generator.integers(0, 4, 6) * 1.0, generator.integers(0, 4, 5) * 1.0
    pairs = list(itertools.product(one, other))
    wins = sum(x > y for x, y in pairs) + 0.5 * sum(x == y for x, y in pairs)
    assert superiority(one, other) == pytest.approx(wins / len(pairs))


def test_probability_of_improvement_is_the_mean_over_tasks() -> None:
    ones = [array(1, 2, 3), array(0, 0)]
    others = [array(0, 0, 0), array(0, 1)]
    found = probability_of_improvement(ones, others)
    assert found.value == (1.0 + 0.25) / 2
    # the first task always gives 1; the second between 0 (1 drawn twice) and a half (0 twice)
    assert (found.low, found.high) == (0.5, 0.75)


def test_improvement_and_its_reverse_add_up_to_one() -> None:
    generator = np.random.default_rng(5)
    ones = [generator.normal(0.5, 1.0, 4) for _ in range(3)]
    others = [generator.normal(0.0, 1.0, 3) for _ in range(3)]
    there = probability_of_improvement(ones, others)
    back = probability_of_improvement(others, ones)
    assert there.value + back.value == pytest.approx(1.0)
    assert there.low + back.high == pytest.approx(1.0, abs=0.05)


def test_probability_of_improvement_nears_the_normal_closed_form() -> None:
    # P(X > Y) of N(1, 1) and N(0, 1) is Phi(1 / sqrt 2)
    generator = np.random.default_rng(11)
    one, other = generator.normal(1.0, 1.0, 3000), generator.normal(0.0, 1.0, 3000)
    expected = 0.5 * (1.0 + math.erf(1.0 / 2.0))
    assert float(superiority(one, other)) == pytest.approx(expected, abs=0.02)


# -- rank correlation ----------------------------------------------------------------------------


def test_rank_correlation_of_an_order_and_its_reverse_is_one_and_minus_one() -> None:
    assert rank_correlation(array(1, 2, 5), array(10, 100, 1000)) == pytest.approx(1.0)
    assert rank_correlation(array(1, 2, 5), array(3, 2, -8)) == pytest.approx(-1.0)


def test_rank_correlation_without_ties_is_spearman_s_formula() -> None:
    # ranks 1 2 3 4 5 and 2 1 4 3 5: d^2 sums to 4, 1 - 6 * 4 / (5 * 24) = 0.8
    assert rank_correlation(array(1, 2, 3, 4, 5), array(20, 10, 40, 30, 50)) == pytest.approx(0.8)


def test_tied_values_share_their_mean_rank() -> None:
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)
    found = rank_correlation(array(0, 7, 7, 9), array(1, 2, 3, 4))
    assert found == pytest.approx(4.5 / math.sqrt(4.5 * 5.0))


def test_constant_values_order_nothing() -> None:
    assert math.isnan(rank_correlation(array(1, 1, 1), array(1, 2, 3)))


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("scores", [array(), array(1, math.nan), array(math.inf)])
def test_scores_that_are_none_are_refused(scores: Any) -> None:
    with pytest.raises(UserError, match="Statistics need"):
        mean_interval(scores)
    with pytest.raises(UserError, match="Statistics need"):
        interquartile_interval([array(1), scores])
    with pytest.raises(UserError, match="Statistics need"):
        probability_of_improvement([scores], [array(1)])


def test_rows_of_other_numbers_of_tasks_are_not_compared() -> None:
    with pytest.raises(UserError, match="the same tasks: 2 and 1"):
        probability_of_improvement([array(1), array(2)], [array(1)])


def test_values_without_partners_have_no_rank_correlation() -> None:
    with pytest.raises(UserError, match="needs pairs, not 2 and 3 values"):
        rank_correlation(array(1, 2), array(1, 2, 3))
    with pytest.raises(UserError, match="needs pairs, not 1 and 1 values"):
        rank_correlation(array(1), array(1))
