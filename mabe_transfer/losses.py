"""Losses and targets as pure functions of tensors, one per equation.

Shape letters: S seed, B batch, A action, O observation, C critic, M ensemble member. A function
names the equation or algorithm line that it computes; "MABE" is arXiv 2106.09119.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mabe_transfer.squashed import SquashedNormal


def gaussian_kl(policy: SquashedNormal, prior: SquashedNormal) -> Tensor:
    """Divergence KL(policy || prior) of two squashed Gaussians (MABE Alg. 1 l. 9-10).

    Both are squashed by the same tanh, under which a KL divergence does not change, so it is the
    closed form of the Gaussians before the squash: exact, without samples.

    sum_A [ log(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2 ],  q policy, p prior

    Returns:
        The divergence in nats, >= 0, [..., A] -> [...].
    """
    assert policy.mean.shape == prior.mean.shape
    gap = (policy.mean - prior.mean) * torch.exp(-prior.log_std)
    ratio = policy.log_std - prior.log_std
    return (0.5 * (torch.exp(2.0 * ratio) + gap.square() - 1.0) - ratio).sum(-1)


def soft_target(reward: Tensor, discount: Tensor, value: Tensor, penalty: Tensor) -> Tensor:
    """Target of a regularised backup (MABE Alg. 1 l. 9; SAC with penalty = alpha log pi).

    reward + discount * (value - penalty)

    Differs from print: `discount` is gamma (1 - terminal); line 9 omits the terminal mask.

    Args:
        reward: [S, B], penalised by the model's uncertainty where the row has one.
        discount: gamma (1 - terminal), [S, B].
        value: min over critics of the target network at the next state, [S, B].
        penalty: beta KL, or alpha log pi, at the next state, [S, B].
    """
    assert reward.shape == discount.shape == value.shape == penalty.shape
    return reward + discount * (value - penalty)


def td_loss(value: Tensor, target: Tensor) -> Tensor:
    """Squared temporal-difference error of every critic (MABE Alg. 1 l. 11).

    Args:
        value: Q(s, a), [S, C, B].
        target: Without gradient, [S, B].

    Returns:
        Mean over the batch, halved, for each critic, [S, C].
    """
    assert value.shape[::2] == target.shape
    whole = target[:, None].expand_as(value)
    return 0.5 * nn.functional.mse_loss(value, whole, reduction="none").mean(-1)


def actor_loss(value: Tensor, penalty: Tensor) -> Tensor:
    """Loss of the policy (MABE Alg. 1 l. 10): mean of penalty - value.

    Differs from print: line 10 descends Q - beta KL, which is to be maximised.

    Args:
        value: Q(s, pi(s)), [S, B].
        penalty: beta KL, or alpha log pi, at s, [S, B].

    Returns:
        [S].
    """
    assert value.shape == penalty.shape
    return (penalty - value).mean(-1)


def dual_step(log_weight: Tensor, divergence: Tensor, target: float) -> Tensor:
    """Loss whose descent is dual ascent on a penalty's weight (MABE Alg. 1 l. 12).

    -weight (divergence - target), so the weight grows while the divergence exceeds its target.

    Differs from print: line 12 subtracts, which would lower the weight of a broken constraint;
    the step is taken on log weight, which keeps it positive.

    SAC's temperature is the same step with divergence = log pi and target = -(target entropy)
    (arXiv 1812.05905 Eq. 18).

    Args:
        log_weight: [S], with gradient.
        divergence: Mean divergence, [S], without gradient.
        target: Its target, delta.

    Returns:
        [S].
    """
    assert log_weight.shape == divergence.shape
    return -log_weight.exp() * (divergence - target)


def weighted_likelihood(log_prob: Tensor, weight: Tensor) -> Tensor:
    """Weighted maximum likelihood that fits a behaviour prior (MABE Eq. 3 and Eq. 5).

    -mean_b weight_b log_prob_b, the weights normalised to mean 1 in the batch.

    Differs from print: Eq. 5 drops the normaliser Z(s) of its closed form, so exp(w / eta) has no
    scale; normalising in the batch keeps the step size the same for every eta.

    Args:
        log_prob: log p(a | s) of the data's own actions, [S, B].
        weight: exp(w / eta) without gradient, or ones for Eq. 3, [S, B].

    Returns:
        [S].
    """
    assert log_prob.shape == weight.shape
    scale = weight.mean(-1, keepdim=True).clamp_min(1e-8)  # a batch may hold nothing worth copying
    return -(weight / scale * log_prob).mean(-1)


def gaussian_nll(mean: Tensor, log_variance: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of independent Gaussians, without its constant (MABE Eq. 2).

    Args:
        mean: [M, B, D].
        log_variance: [M, B, D].
        target: [M, B, D].

    Returns:
        Mean over batch and dimensions, [M].
    """
    assert mean.shape == log_variance.shape == target.shape
    error = (mean - target).square() * torch.exp(-log_variance)
    return 0.5 * (error + log_variance).mean((-1, -2))


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """Asymmetric squared error that regresses an expectile (IQL, arXiv 2110.06169 Eq. 5).

    mean_b |expectile - 1[error < 0]| error^2

    Args:
        error: Target minus prediction, [S, B].
        expectile: In (0, 1); 0.5 is half the squared error.

    Returns:
        [S].
    """
    side = torch.where(error < 0.0, 1.0 - expectile, expectile)
    return (side * error.square()).mean(-1)


def lambda_returns(
    reward: Tensor, discount: Tensor, value: Tensor, ends: Tensor, mix: float
) -> Tensor:
    """TD(lambda) returns of recorded episodes (AWR, arXiv 1910.00177 Sec. 3; GAE's returns).

    G_t = r_t + discount_t [(1 - mix) V(s_t+1) + mix G_t+1], and r_t + discount_t V(s_t+1) where an
    episode ends. All rows at once: pieces of 1, 2, 4, ... steps are joined until no episode is
    longer.

    Args:
        reward: In the order of recording, [N].
        discount: gamma (1 - terminal), [N].
        value: V at the next state, [S, N].
        ends: True on the last row of each episode, also where only the clock ended it, [N].
        mix: Lambda; 0 gives one-step targets, 1 the discounted sum of the episode's rewards.

    Returns:
        [S, N].
    """
    assert reward.shape == discount.shape == ends.shape == value.shape[1:]
    follow = torch.where(ends, 0.0, mix)
    total = reward + discount * (1.0 - follow) * value
    factor, reach = discount * follow, 1
    while reach < len(reward) and bool(factor.any()):
        total = total + factor * _later(total, reach)
        factor = factor * _later(factor, reach)
        reach *= 2
    return total


def _later(values: Tensor, steps: int) -> Tensor:
    """Each row's value some rows later, and 0 beyond the last one, [..., N] -> [..., N]."""
    return torch.nn.functional.pad(values[..., steps:], (0, steps))


def temperature_dual(value: Tensor, log_temperature: Tensor, bound: float) -> Tensor:
    """Dual of the E-step's KL constraint (MPO, arXiv 1806.06920; ABM, arXiv 2002.08396).

    eta bound + eta mean_b log mean_n exp(Q_nb / eta), whose minimiser is the temperature at which
    the reweighted distribution lies `bound` nats from the one that was sampled.

    Args:
        value: Q(s_b, a_nb) of N sampled actions, without gradient, [S, N, B].
        log_temperature: log eta, [S].
        bound: Epsilon, in nats.

    Returns:
        [S].
    """
    _, samples, _ = value.shape
    temperature = log_temperature.exp()
    scaled = torch.logsumexp(value / temperature[:, None, None], dim=1) - math.log(samples)
    return temperature * (bound + scaled.mean(-1))


def sampled_likelihood(log_prob: Tensor, weight: Tensor) -> Tensor:
    """Weighted maximum likelihood of sampled actions (MPO's M-step, arXiv 1806.06920).

    -mean_b sum_n weight_nb log pi(a_nb | s_b)

    Args:
        log_prob: [S, N, B].
        weight: Of the samples of a state, adding up to 1 over n, without gradient, [S, N, B].

    Returns:
        [S].
    """
    assert log_prob.shape == weight.shape
    return -(weight * log_prob).sum(1).mean(-1)


def squared_distance(action: Tensor, other: Tensor, *, averaged: bool) -> Tensor:
    """Squared distance of actions (TD3+BC, arXiv 2106.06860 Eq. 3; ReBRAC, arXiv 2305.09836).

    Args:
        action: [..., A].
        other: [..., A].
        averaged: Whether over the action's dimensions (TD3+BC) or added up (ReBRAC).

    Returns:
        [...].
    """
    assert action.shape == other.shape
    square = (action - other).square()
    return square.mean(-1) if averaged else square.sum(-1)


def cloning_loss(
    value: Tensor, distance: Tensor, value_weight: float, distance_weight: float
) -> Tensor:
    """Policy loss that stays near the data's actions (TD3+BC Eq. 3 and 5; ReBRAC).

    distance_weight mean_b distance - value_weight mean_b Q / mean_b |Q|, the last one as a number.

    Args:
        value: Q(s, pi(s)), [S, B].
        distance: Of pi(s) from the data's action, [S, B].
        value_weight: TD3+BC's alpha; 1 in ReBRAC.
        distance_weight: ReBRAC's beta_1; 1 in TD3+BC.

    Returns:
        [S].
    """
    assert value.shape == distance.shape
    scale = value.detach().abs().mean(-1).clamp_min(1e-8)
    return distance_weight * distance.mean(-1) - value_weight * value.mean(-1) / scale
