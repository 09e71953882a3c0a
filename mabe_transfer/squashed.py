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

    def sample(self, noise: Tensor) -> Sample:
        """Draw actions by standard normal numbers [..., A], with gradient (reparametrised)."""
        return Sample(self, noise, torch.addcmul(self.mean, self.log_std.exp(), noise))

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


@dataclass(frozen=True, slots=True)
class Sample:
    """What was drawn from a squashed Gaussian, before the squash."""

    policy: SquashedNormal
    noise: Tensor  # standard normal numbers, [..., A]
    raw: Tensor  # [..., A]

    def action(self) -> Tensor:
        """The actions, in (-1, 1), [..., A]."""
        return torch.tanh(self.raw)

    def log_prob(self) -> Tensor:
        """Their log density log pi(a | s), [...]."""
        # -log(1 - tanh(x)^2) = 2 (x + softplus(-2 x) - log 2), finite for every x
        stretch = self.raw + nn.functional.softplus(-2.0 * self.raw)
        density = 2.0 * stretch - self.policy.log_std
        constant = self.raw.shape[-1] * (0.5 * math.log(2.0 * math.pi) + 2.0 * math.log(2.0))
        return density.addcmul(self.noise, self.noise, value=-0.5).sum(-1) - constant
