"""What pessimistic critics pay, as pure functions of tensors, one per equation.

Shape letters: S seed, B batch, A action, C critic, M ensemble member, N action or successor sample.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def conservative_gap(sampled: Tensor, log_density: Tensor, logged: Tensor) -> Tensor:
    """By how much the critics favour actions at large over the logged ones (CQL(H), CQL Eq. 4).

    E_s[ log integral exp Q(s, a) da ] - E_data[ Q(s, a) ]

    The integral is estimated from N actions of known density mu by importance sampling:
    1/N sum_n exp Q(s, a_n) / mu(a_n | s) (CQL, arXiv 2006.04779, appendix F).

    Differs from the published code, which leaves 1/N out: log N is a constant and moves no critic,
    but with it the gap is the integral's, whatever N is.

    Args:
        sampled: Q(s, a_n), [S, C, N, B].
        log_density: log mu(a_n | s), without gradient, [S, N, B].
        logged: Q at logged states and actions, [S, C, R].

    Returns:
        The gap of every critic, [S, C].
    """
    seeds, critics, samples, batch = sampled.shape
    assert log_density.shape == (seeds, samples, batch)
    assert logged.shape[:2] == (seeds, critics)
    integral = (sampled - log_density[:, None]).logsumexp(2) - math.log(samples)
    return integral.mean(-1) - logged.mean(-1)


def slope_similarity(slope: Tensor) -> Tensor:
    """How alike the critics rise around the logged actions (EDAC, arXiv 2110.01548 section 4).

    mean_b 1 / (C - 1) sum_{i != j} < g_i / |g_i| , g_j / |g_j| >,  g_i = dQ_i/da

    It lies between -C / (C - 1), where the unit slopes sum to zero, and C, where all are one. The
    pairs are summed as |sum_i u_i|^2 - sum_i |u_i|^2 of the unit slopes u, which costs C products
    and not C^2.

    Args:
        slope: dQ/da of every critic, [S, C, B, A], C >= 2.

    Returns:
        [S].
    """
    critics = slope.shape[1]
    assert critics > 1
    unit = slope / (slope.norm(dim=-1, keepdim=True) + 1e-10)
    pairs: Tensor = unit.sum(1).square().sum(-1) - unit.square().sum((1, -1))
    return pairs.mean(-1) / (critics - 1)


def bellman_inconsistency(value: Tensor) -> Tensor:
    """Spread of a model's members in the value of what comes next (MOBILE, ICML 2023).

    Std_m[ 1/N sum_n Q(s'_mn, a'_mn) ], with the sample variance's M - 1, as in the published code.

    Args:
        value: Q at N successors by each member, [S, N, M, B], M >= 2.

    Returns:
        [S, B].
    """
    members = value.shape[2]
    assert members > 1
    mean = value.mean(1)
    variance = (mean - mean.mean(1, keepdim=True)).square().sum(1) / (members - 1)
    return variance.sqrt()
