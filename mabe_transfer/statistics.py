"""What can be said from a few seeds: robust means, intervals, and how often one row beats another.

A *stratum* is a task (a dataset, a robot, a shift) with one score a seed. Seeds are drawn again
within their task, never across tasks, so that an interval speaks of new seeds on the same tasks
(Agarwal et al. 2021, arXiv 2108.13264, section 4). Every draw is from a seeded generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mabe_transfer.errors import UserError

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Strata = Sequence[Floats]
"""Scores of each task, one a seed: K arrays [n_k], which may differ in length."""

RESAMPLES = 10_000
CONFIDENCE = 0.95
TRIMMED = 0.25


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Floats) -> Floats:
    """Mean of the middle half: the lowest and the highest quarter are left out (section 4.3).

    Of n scores, floor(n / 4) are left out at either end; fewer than four are all kept.

    Args:
        scores: [..., n].

    Returns:
        [...].
    """
    ordered = np.sort(scores, axis=-1)
    out = int(TRIMMED * ordered.shape[-1])
    middle: Floats = ordered[..., out : ordered.shape[-1] - out].mean(-1)
    return middle


def interquartile_interval(strata: Strata, *, seed: int = 0) -> Estimate:
    """Interquartile mean over all tasks and seeds, with its stratified bootstrap interval.

    Args:
        strata: Scores of each task, K arrays [n_k].
        seed: Of the resampling.

    Raises:
        UserError: There is no task, a task has no score, or a score is no number.
    """
    given = _checked(strata)
    drawn = np.concatenate(_resampled(given, np.random.default_rng(seed)), axis=-1)
    return _estimate(float(interquartile_mean(np.concatenate(given))), interquartile_mean(drawn))


def mean_interval(scores: Floats, *, seed: int = 0) -> Estimate:
    """Mean over seeds with its plain bootstrap interval.

    Args:
        scores: One a seed, [n].
        seed: Of the resampling.

    Raises:
        UserError: There is no score, or one is no number.
    """
    given = _checked([scores])
    (drawn,) = _resampled(given, np.random.default_rng(seed))
    return _estimate(float(given[0].mean()), drawn.mean(-1))


def superiority(one: Floats, other: Floats) -> Floats:
    """Share of pairs in which `one` is larger, a tie counted half (Mann and Whitney's U / nm).

    Args:
        one: [..., n].
        other: [..., m].

    Returns:
        P(one > other), [...].
    """
    left, right = one[..., :, None], other[..., None, :]
    share: Floats = ((left > right) + 0.5 * (left == right)).mean((-2, -1))
    return share


def probability_of_improvement(ones: Strata, others: Strata, *, seed: int = 0) -> Estimate:
    """Probability that X earns more than Y on a task drawn at random (section 4.3).

    The mean over tasks of `superiority`; seeds of X and of Y are drawn again apart from each other.

    Args:
        ones: Scores of X on each task, K arrays [n_k].
        others: Scores of Y on the same tasks in the same order, K arrays [m_k].
        seed: Of the resampling.

    Raises:
        UserError: There is no task, a task has no score, a score is no number, or X and Y have
            other numbers of tasks.
    """
    left, right = _checked(ones), _checked(others)
    if len(left) != len(right):
        raise UserError(f"To compare, both need the same tasks: {len(left)} and {len(right)}.")
    generator = np.random.default_rng(seed)
    drawn = zip(_resampled(left, generator), _resampled(right, generator), strict=True)
    return _estimate(
        float(np.mean([superiority(x, y) for x, y in zip(left, right, strict=True)])),
        np.mean([superiority(x, y) for x, y in drawn], axis=0),
    )


def rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation, ties sharing their mean rank.

    Args:
        one: [n].
        other: [n].

    Returns:
        In [-1, 1]; NaN where one side is constant, since it orders nothing.

    Raises:
        UserError: There are fewer than two pairs, or a value is no number.
    """
    left, right = _checked([one, other])
    if left.shape != right.shape or len(left) < 2:
        raise UserError(f"A rank correlation needs pairs, not {len(left)} and {len(right)} values.")
    x, y = (ranks - ranks.mean() for ranks in (_ranks(left), _ranks(right)))
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0.0 else float("nan")


def _ranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs, [n]."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: Floats = (last - (count - 1) / 2.0)[group]
    return ranks


def _checked(strata: Strata) -> list[Floats]:
    given: list[Floats] = [np.asarray(scores, dtype=np.float64) for scores in strata]
    if not given or any(scores.ndim != 1 or scores.size == 0 for scores in given):
        raise UserError("Statistics need at least one task, and one score or more of each.")
    if not all(np.isfinite(scores).all() for scores in given):
        raise UserError("Statistics need finite scores; a diverged run has none.")
    return given


def _resampled(strata: Sequence[Floats], generator: np.random.Generator) -> list[Floats]:
    """Draw every task's seeds again with replacement, K arrays [RESAMPLES, n_k]."""
    return [
        scores[generator.integers(len(scores), size=(RESAMPLES, len(scores)))] for scores in strata
    ]


def _estimate(value: float, drawn: Floats) -> Estimate:
    """Percentile interval of resampled statistics, [RESAMPLES]."""
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(drawn, (tail, 1.0 - tail))
    return Estimate(value, float(low), float(high))
