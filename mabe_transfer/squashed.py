"""The distribution of every stochastic policy: a Gaussian squashed by tanh into [-1, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LOG_STD_BOUNDS = (-5.0, 2.0)
"""Bounds of log std of every squashed Gaussian. The policy and its prior share them, so that the
policy can reach the prior exactly and a divergence of zero exists."""
ACTION_LIMIT = 0.999
"""Logged actions are clipped to +-this before `atanh`, which is infinite at +-1."""


@dataclass(frozen=True, slots=True)
class SquashedNormal:
    """A diagonal Gaussian squashed by tanh, as its mean and log std before the squash."""

    mean: Tensor  # [..., A]
    log_std: Tensor  # [..., A]

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparametrised actions and their log densities.

        Args:
            noise: Standard normal numbers, [..., A].

        Returns:
            Actions in (-1, 1), [..., A]; log pi(a | s), [...].
        """
        raw = self.mean + self.log_std.exp() * noise
        density = -0.5 * noise.square() - self.log_std - 0.5 * math.log(2.0 * math.pi)
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), finite for every x
        squash = 2.0 * (math.log(2.0) - raw - nn.functional.softplus(-2.0 * raw))
        return torch.tanh(raw), (density - squash).sum(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log density of given actions, clipped to +-ACTION_LIMIT, [..., A] -> [...]."""
        raw = torch.atanh(action.clamp(-ACTION_LIMIT, ACTION_LIMIT))
        z = (raw - self.mean) * torch.exp(-self.log_std)
        density = -0.5 * z.square() - self.log_std - 0.5 * math.log(2.0 * math.pi)
        squash = 2.0 * (math.log(2.0) - raw - nn.functional.softplus(-2.0 * raw))
        return (density - squash).sum(-1)

    def mode(self) -> Tensor:
        """The squashed mean, [..., A]: the deterministic action."""
        return torch.tanh(self.mean)

    def raw_log_prob(self, raw: Tensor) -> Tensor:
        """Log density of actions before the squash, without the clip, [..., A] -> [...].

        It differs from that of the squashed actions by what no policy changes.
        """
        z = (raw - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std - 0.5 * math.log(2.0 * math.pi)).sum(-1)
