"""Every loss and target against numbers worked by hand, and the divergence against two others."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mabe_transfer import losses
from mabe_transfer.squashed import SquashedNormal


def squashed(mean: list[float], log_std: list[float]) -> SquashedNormal:
    return SquashedNormal(torch.tensor(mean), torch.tensor(log_std))


# -- the divergence ------------------------------------------------------------------------------


def test_divergence_of_a_distribution_from_itself_is_zero() -> None:
    policy = squashed([0.3, -2.0], [-1.0, 0.5])
    assert float(losses.gaussian_kl(policy, policy)) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(
    ("policy", "prior", "expected"),
    [
        # log(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2
        (([1.0], [0.0]), ([0.0], [0.0]), 0.5),
        (([0.0], [0.0]), ([0.0], [math.log(2.0)]), math.log(2.0) + 1.0 / 8.0 - 0.5),
        (([0.0], [math.log(2.0)]), ([0.0], [0.0]), -math.log(2.0) + 2.0 - 0.5),
        (([3.0], [0.0]), ([1.0], [math.log(2.0)]), math.log(2.0) + 5.0 / 8.0 - 0.5),
        (([1.0, 3.0], [0.0, 0.0]), ([0.0, 3.0], [0.0, 0.0]), 0.5),
    ],
)
def test_divergence_is_its_formula(
    policy: tuple[list[float], list[float]], prior: tuple[list[float], list[float]], expected: float
) -> None:
    found = losses.gaussian_kl(squashed(*policy), squashed(*prior))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_divergence_is_the_mean_log_ratio_of_squashed_samples() -> None:
    policy = squashed([0.4, -0.3], [-1.0, -0.7])
    prior = squashed([0.1, 0.1], [-0.6, -0.9])
    noise = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
    sample = policy.sample(noise)
    ratio = sample.log_prob() - prior.log_prob(sample.action())
    error = float(ratio.std()) / math.sqrt(100_000)
    assert float(losses.gaussian_kl(policy, prior)) == pytest.approx(
        float(ratio.mean()), abs=4.0 * error
    )


def test_divergence_does_not_change_under_tanh() -> None:
    """By quadrature over actions, where the densities carry the squash, in one dimension."""
    policy, prior = squashed([0.2], [-1.0]), squashed([-0.1], [-0.5])
    action = torch.linspace(-0.999, 0.999, 100_001)[:, None]
    here, there = policy.log_prob(action), prior.log_prob(action)
    integral = torch.trapezoid(here.exp() * (here - there), action[:, 0])
    assert float(losses.gaussian_kl(policy, prior)) == pytest.approx(float(integral), abs=1e-3)


def test_divergence_is_of_the_policy_from_the_prior_and_not_the_reverse() -> None:
    narrow, wide = squashed([0.0], [-2.0]), squashed([0.0], [0.0])
    assert float(losses.gaussian_kl(narrow, wide)) < float(losses.gaussian_kl(wide, narrow))


# -- targets and steps ---------------------------------------------------------------------------


def test_soft_target_is_reward_plus_discounted_value_less_penalty() -> None:
    found = losses.soft_target(
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[0.5, 0.0]]),
        torch.tensor([[10.0, 10.0]]),
        torch.tensor([[4.0, 4.0]]),
    )
    assert found.tolist() == [[4.0, 2.0]]


def test_td_loss_is_half_the_mean_square_of_every_critic() -> None:
    value = torch.tensor([[[1.0, 3.0], [0.0, 0.0]], [[5.0, 5.0], [1.0, 2.0]]])  # [S, C, B]
    target = torch.tensor([[1.0, 1.0], [5.0, 2.0]])
    # seed 0: (0 + 4) / 4, (1 + 1) / 4; seed 1: (0 + 9) / 4, (16 + 0) / 4
    assert losses.td_loss(value, target).tolist() == [[1.0, 0.5], [2.25, 4.0]]


def test_actor_loss_is_the_mean_penalty_less_the_mean_value() -> None:
    value, penalty = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.5, 1.5]])
    assert losses.actor_loss(value, penalty).tolist() == [-1.0]


def test_dual_step_is_minus_the_weight_times_the_excess() -> None:
    log_weight = torch.tensor([math.log(2.0), 0.0])
    found = losses.dual_step(log_weight, torch.tensor([3.0, 0.5]), 1.0)
    assert found.tolist() == pytest.approx([-4.0, 0.5])


@pytest.mark.parametrize(("divergence", "direction"), [(3.0, 1.0), (0.2, -1.0)])
def test_descent_on_the_dual_step_raises_the_weight_of_a_broken_constraint(
    divergence: float, direction: float
) -> None:
    log_weight = torch.zeros(1, requires_grad=True)
    loss = losses.dual_step(log_weight, torch.tensor([divergence]), 1.0).sum()
    (gradient,) = torch.autograd.grad(loss, (log_weight,))
    assert float(-gradient * direction) > 0.0


# -- likelihoods ---------------------------------------------------------------------------------


def test_weighted_likelihood_normalises_the_weights_to_mean_one() -> None:
    log_prob = torch.tensor([[-1.0, -2.0], [-1.0, -2.0]])
    weight = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    # seed 0: weights 0.5 and 1.5: (0.5 + 3) / 2; seed 1: weights 1: 1.5
    assert losses.weighted_likelihood(log_prob, weight).tolist() == [1.75, 1.5]


def test_weighted_likelihood_does_not_change_with_the_scale_of_the_weights() -> None:
    log_prob = torch.tensor([[-1.0, -2.0, -4.0]])
    weight = torch.tensor([[1.0, 0.5, 3.0]])
    one = losses.weighted_likelihood(log_prob, weight)
    torch.testing.assert_close(losses.weighted_likelihood(log_prob, 1e6 * weight), one)


def test_gaussian_nll_is_half_the_scaled_error_plus_the_log_variance() -> None:
    mean = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]]])  # [M, B, D]
    log_variance = torch.tensor([[[0.0, math.log(4.0)]], [[0.0, 0.0]]])
    target = torch.tensor([[[2.0, 3.0]], [[1.0, 1.0]]])
    # member 0: (4 + 0, 4/4 + log 4) / 2, mean of the two
    expected = [0.5 * (4.0 + 1.0 + math.log(4.0)) / 2.0, 0.5]
    assert losses.gaussian_nll(mean, log_variance, target).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("shift", [-0.2, 0.2])
def test_gaussian_nll_is_least_at_the_true_mean_and_variance(shift: float) -> None:
    samples = 1.5 + 0.5 * torch.randn(1, 20_000, 1, generator=torch.Generator().manual_seed(0))
    mean, log_variance = samples.mean(), samples.var(correction=0).log()

    def loss(mean: Tensor, log_variance: Tensor) -> float:
        shape = samples.shape
        return float(losses.gaussian_nll(mean.expand(shape), log_variance.expand(shape), samples))

    least = loss(mean, log_variance)
    assert loss(mean + shift, log_variance) > least
    assert loss(mean, log_variance + shift) > least


def test_expectile_weighs_what_lies_above_by_the_expectile() -> None:
    error = torch.tensor([[2.0, -1.0]])  # target minus prediction
    # (0.9 * 4 + 0.1 * 1) / 2
    assert losses.expectile_loss(error, 0.9).tolist() == pytest.approx([1.85])


def test_expectile_of_one_half_is_half_the_square() -> None:
    assert losses.expectile_loss(torch.tensor([[2.0, -2.0]]), 0.5).tolist() == [2.0]


@pytest.mark.parametrize(("expectile", "expected"), [(0.5, 0.5), (0.8, 0.8)])
def test_expectile_of_a_coin_is_its_minimum(expectile: float, expected: float) -> None:
    """Of 0 and 1 with equal chances: t (1 - v) = (1 - t) v, so v = t."""
    value = torch.linspace(0.0, 1.0, 1001)[:, None]
    error = torch.cat((0.0 - value, 1.0 - value), dim=1)
    best = losses.expectile_loss(error, expectile).argmin()
    assert float(value[best]) == pytest.approx(expected, abs=1e-3)


# -- shapes --------------------------------------------------------------------------------------


def test_column_where_a_row_is_meant_is_refused() -> None:
    row, column = torch.zeros(2, 4), torch.zeros(2, 4, 1)
    with pytest.raises(AssertionError):
        losses.soft_target(row, row, column, row)
    with pytest.raises(AssertionError):
        losses.actor_loss(row, column)
    with pytest.raises(AssertionError):
        losses.td_loss(torch.zeros(2, 3, 4), torch.zeros(2, 3))
    with pytest.raises(AssertionError):
        losses.weighted_likelihood(row, column)


# -- returns of recorded episodes ----------------------------------------------------------------

REWARD = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0])
ENDS = torch.tensor([False, False, True, False, True])  # 3 steps that the clock ended, then 2
DISCOUNT = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.0])  # the second episode ends in a terminal state
AHEAD = torch.tensor([[4.0, 8.0, 16.0, 32.0, 64.0]])  # V(s')


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        (0.0, [1.0 + 2.0, 2.0 + 4.0, 3.0 + 8.0, 10.0 + 16.0, 20.0]),
        (1.0, [1.0 + 0.5 * 7.5, 2.0 + 0.5 * 11.0, 11.0, 10.0 + 0.5 * 20.0, 20.0]),
        # 11; 2 + 0.5 (4 + 5.5) = 6.75; 1 + 0.5 (2 + 3.375) = 3.6875; 10 + 0.5 (16 + 10) = 23
        (0.5, [3.6875, 6.75, 11.0, 23.0, 20.0]),
    ],
)
def test_lambda_returns_by_hand(mix: float, expected: list[float]) -> None:
    found = losses.lambda_returns(REWARD, DISCOUNT, AHEAD, ENDS, mix)
    assert found[0].tolist() == pytest.approx(expected)


def test_lambda_returns_are_those_of_the_recursion() -> None:
    generator = torch.Generator().manual_seed(0)
    reward, ahead = torch.randn(97, generator=generator), torch.randn(2, 97, generator=generator)
    ends = torch.rand(97, generator=generator) < 0.1
    ends[-1] = True
    discount = 0.99 * (torch.rand(97, generator=generator) < 0.95).float()
    found = losses.lambda_returns(reward, discount, ahead, ends, 0.9)
    after = torch.zeros(2)
    for row in reversed(range(97)):
        mixed = ahead[:, row] if ends[row] else 0.1 * ahead[:, row] + 0.9 * after
        after = reward[row] + discount[row] * mixed
        torch.testing.assert_close(found[:, row], after)


# -- MPO -----------------------------------------------------------------------------------------


def minimiser(value: Tensor, bound: float) -> float:
    """The temperature at which the dual is smallest, found on a fine grid of its logarithm."""
    grid = torch.linspace(-4.0, 4.0, 8001, dtype=torch.float64)
    duals = losses.temperature_dual(value.expand(len(grid), -1, -1), grid, bound)
    return float(grid[duals.argmin()].exp())


def test_temperature_dual_by_hand() -> None:
    value = torch.log(torch.tensor([[[1.0], [3.0]]]))
    found = losses.temperature_dual(value, torch.zeros(1), 0.25)
    assert float(found) == pytest.approx(0.25 + math.log(2.0))


def test_dual_is_smallest_where_the_weights_lie_the_bound_from_uniform() -> None:
    value = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    temperature = minimiser(value, 0.2)
    weight = torch.softmax(value / temperature, dim=1)
    divergence = (weight * torch.log(6 * weight)).sum(1).mean()
    assert float(divergence) == pytest.approx(0.2, abs=1e-3)


def test_best_temperature_of_normal_values_is_its_closed_form() -> None:
    """For Q ~ N(0, s^2) the dual is eta bound + s^2 / (2 eta), smallest at s / sqrt(2 bound)."""
    quantile = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    value = 2.0 * torch.special.ndtri(quantile)[None, :, None]
    assert minimiser(value, 0.1) == pytest.approx(2.0 / math.sqrt(0.2), rel=0.01)


def test_descent_of_the_dual_comes_to_the_numerical_minimiser() -> None:
    value = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    log_temperature = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([log_temperature], lr=2e-2)
    for _ in range(300):
        adam.zero_grad()
        torch.autograd.backward(losses.temperature_dual(value, log_temperature, 0.1).sum())
        adam.step()
    assert float(log_temperature.detach().exp()) == pytest.approx(minimiser(value, 0.1), rel=5e-3)


def test_sampled_likelihood_by_hand() -> None:
    log_prob = torch.tensor([[[-1.0, -2.0], [-3.0, -4.0]]])
    weight = torch.tensor([[[0.25, 1.0], [0.75, 0.0]]])
    assert losses.sampled_likelihood(log_prob, weight).tolist() == [0.5 * (0.25 + 2.25 + 2.0)]


# -- cloning -------------------------------------------------------------------------------------


def test_squared_distance_is_averaged_or_added_up() -> None:
    action, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    assert losses.squared_distance(action, other, averaged=True).tolist() == [0.625]
    assert losses.squared_distance(action, other, averaged=False).tolist() == [1.25]


def test_cloning_loss_by_hand_divides_by_the_mean_magnitude() -> None:
    value, distance = torch.tensor([[6.0, -2.0]]), torch.tensor([[0.5, 1.5]])
    found = losses.cloning_loss(value, distance, 2.5, 0.1)
    assert found.tolist() == pytest.approx([0.1 * 1.0 - 2.5 * 2.0 / 4.0])


def test_mean_magnitude_of_the_value_is_a_number_and_not_a_path_of_the_gradient() -> None:
    value = torch.tensor([[6.0, -2.0]], requires_grad=True)
    torch.autograd.backward(losses.cloning_loss(value, torch.zeros(1, 2), 1.0, 1.0).sum())
    assert value.grad is not None
    assert value.grad.tolist() == [[-0.125, -0.125]]


def test_batch_without_weight_gives_no_likelihood_and_no_nan() -> None:
    assert losses.weighted_likelihood(torch.ones(1, 3), torch.zeros(1, 3)).tolist() == [0.0]
