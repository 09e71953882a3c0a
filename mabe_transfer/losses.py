"""Losses and targets as pure functions of tensors, one per equation.

Shape letters: S seed, B batch, A action, O observation, C critic, M ensemble member. A function
names the equation or algorithm line that it computes; "MABE" is arXiv 2106.09119.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mabe_transfer.networks import SquashedNormal


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
    return 0.5 * (value - target[:, None]).square().mean(-1)


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
