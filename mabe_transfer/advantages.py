"""What whole trajectories say of their actions, as pure functions of tensors.

Shape letters: S seed, H step, B trajectory, N step of any trajectory.
"""

from __future__ import annotations

import torch
from torch import Tensor


def generalised_advantage(
    reward: Tensor, discount: Tensor, value: Tensor, alive: Tensor, trace: float
) -> Tensor:
    """Advantages along trajectories (GAE, arXiv 1506.02438 Eq. 16).

    A_t = delta_t + discount_t trace A_(t+1),  delta_t = r_t + discount_t V(s_(t+1)) - V(s_t)

    A trajectory that ends has discount 0 there; one that is cut keeps its last V.

    Args:
        reward: [S, H, B].
        discount: gamma (1 - terminal), [S, H, B].
        value: V of the states before and after the steps, [S, H + 1, B].
        alive: Whether the step was taken, booleans, [S, H, B].
        trace: lambda in 0..1; 0 is the one-step error, 1 the whole sum.

    Returns:
        [S, H, B]; 0 where no step was taken.
    """
    assert reward.shape == discount.shape == alive.shape == value[:, 1:].shape
    error = reward + discount * value[:, 1:] - value[:, :-1]
    ahead = torch.zeros_like(reward[:, 0])
    found = torch.empty_like(reward)
    for step in reversed(range(reward.shape[1])):
        ahead = error[:, step] + trace * discount[:, step] * ahead
        ahead = torch.where(alive[:, step], ahead, 0.0)
        found[:, step] = ahead
    return found


def surrogate(ratio: Tensor, advantage: Tensor, alive: Tensor) -> Tensor:
    """What a trust-region step raises: the mean of ratio * advantage (arXiv 1502.05477 Eq. 14).

    Args:
        ratio: pi(a | s) / pi_old(a | s), [S, N].
        advantage: Of the old policy, [S, N].
        alive: Which of the N count, booleans, [S, N].

    Returns:
        [S].
    """
    assert ratio.shape == advantage.shape
    return masked_mean(ratio * advantage, alive)


def masked_mean(values: Tensor, alive: Tensor) -> Tensor:
    """Mean over those that count, [S, N] -> [S]."""
    assert values.shape == alive.shape
    return torch.where(alive, values, 0.0).sum(-1) / alive.sum(-1)
