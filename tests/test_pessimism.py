"""What pessimistic critics pay, against numbers worked by hand and the slow way of saying it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mabe_transfer import pessimism


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- the conservative gap ------------------------------------------------------------------------


def test_conservative_gap_is_the_log_of_the_weighed_mean_less_the_logged_value() -> None:
    # [S, C, N, B]; critic 0: exp Q / mu is 2 and 4 in state 0, 1 and 1 in state 1; critic 1: Q = 0
    sampled = torch.tensor([[[[2.0, 1.0], [12.0, 3.0]], [[1.0, 1.0], [1.0, 1.0]]]]).log()
    log_density = torch.tensor([[[1.0, 1.0], [3.0, 3.0]]]).log()
    logged = torch.tensor([[[1.0, 3.0, 5.0], [0.0, 0.0, 0.0]]])
    # critic 0: (log 3 + log 1) / 2 - 3; critic 1: log of (1 + 1/3) / 2
    expected = [0.5 * math.log(3.0) - 3.0, math.log(2.0 / 3.0)]
    found = pessimism.conservative_gap(sampled, log_density, logged)
    assert found[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("samples", [1, 7])
def test_conservative_gap_of_equal_values_is_the_log_volume_of_the_actions(samples: int) -> None:
    """Three actions of +-1, drawn uniformly: log 2^3, however many are drawn."""
    sampled, logged = torch.full((1, 2, samples, 4), 5.0), torch.full((1, 2, 3), 5.0)
    log_density = torch.full((1, samples, 4), -3.0 * math.log(2.0))
    found = pessimism.conservative_gap(sampled, log_density, logged)
    assert found[0].tolist() == pytest.approx([3.0 * math.log(2.0)] * 2)


def test_conservative_gap_does_not_overflow() -> None:
    sampled, logged = torch.full((1, 1, 2, 1), 1e4), torch.zeros(1, 1, 1)
    found = pessimism.conservative_gap(sampled, torch.zeros(1, 2, 1), logged)
    assert found.tolist() == [[1e4]]


def test_conservative_gap_of_densities_of_another_shape_is_refused() -> None:
    with pytest.raises(AssertionError):
        pessimism.conservative_gap(
            torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 1), torch.zeros(1, 2, 4)
        )


# -- the similarity of slopes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slopes", "expected"),
    [
        ([[1.0, 0.0], [5.0, 0.0], [0.1, 0.0]], 3.0),  # alike: 6 pairs of 1, halved
        ([[1.0, 0.0], [-7.0, 0.0]], -2.0),  # opposed
        ([[1.0, 0.0], [0.0, 2.0]], 0.0),  # across
        ([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], 1.0),  # one pair alike, counted twice, halved
        ([[0.0, 0.0], [1.0, 0.0]], 0.0),  # a flat critic is like nobody
    ],
)
def test_similarity_of_slopes_counts_every_pair(slopes: list[list[float]], expected: float) -> None:
    slope = torch.tensor(slopes)[None, :, None]  # [S, C, B, A]
    assert pessimism.slope_similarity(slope).tolist() == pytest.approx([expected], abs=1e-6)


def test_similarity_of_slopes_is_the_mean_over_the_batch_of_the_sum_over_pairs() -> None:
    slope = normal(0, 2, 5, 7, 3)
    cosine = torch.nn.functional.cosine_similarity(slope[:, :, None], slope[:, None], dim=-1)
    others = cosine.sum((1, 2)) - torch.diagonal(cosine, dim1=1, dim2=2).sum(-1)
    torch.testing.assert_close(pessimism.slope_similarity(slope), others.mean(-1) / 4.0)


def test_similarity_of_a_flat_critic_has_a_finite_gradient() -> None:
    slope = torch.zeros(1, 2, 3, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(pessimism.slope_similarity(slope).sum(), (slope,))
    assert bool(gradient.isfinite().all())


# -- the Bellman inconsistency -------------------------------------------------------------------


def test_inconsistency_is_the_deviation_over_members_of_the_mean_over_samples() -> None:
    # [S, N, M, B]: member means 2 and 6 in the first transition, 1 and 1 in the second
    value = torch.tensor([[[[1.0, 0.0], [5.0, 2.0]], [[3.0, 2.0], [7.0, 0.0]]]])
    found = pessimism.bellman_inconsistency(value)
    assert found[0].tolist() == pytest.approx([math.sqrt(8.0), 0.0])


def test_inconsistency_of_one_member_is_refused() -> None:
    with pytest.raises(AssertionError):
        pessimism.bellman_inconsistency(torch.zeros(1, 2, 1, 3))
