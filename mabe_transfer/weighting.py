"""How much an action of the data counts: weights from Q(s, a) and V(s), one type a paper.

Each takes q and value [S, B], the discount, and the scale of the data's rewards, and gives weights
[S, B]; what a weighting does not need it leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalisedQ:
    """The paper's weight, exp(omega / eta) with omega = Q(s, a) (1 - gamma) / r_max.

    Differs from print: where the largest reward is not positive, r_max is the largest magnitude, so
    that a better action never weighs less. omega differs more between states than between the
    actions of one; `NormalisedAdvantage` compares actions alone.

    Attributes:
        temperature: Eta; the smaller, the fewer transitions count.
    """

    temperature: float = 0.2

    def weigh(self, q: Tensor, value: Tensor, discount: float, scale: float) -> Tensor:
        """Weights from Q(s, a) and V(s), [S, B] -> [S, B]."""
        del value
        omega = q * (1.0 - discount) / scale
        return torch.exp((omega - omega.amax(-1, keepdim=True)) / self.temperature)


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalisedAdvantage:
    """MABE Eq. 5 with its normaliser: exp((Q(s, a) - V(s)) (1 - gamma) / (r_max eta)).

    Differs from print: Eq. 5 is a distribution over the actions of a state, so a weight is divided
    by the state's own normaliser, exp(V(s) (1 - gamma) / (r_max eta)) here; without it the weights
    compare states, and the prior does not imitate where the return is still to come.

    Attributes:
        temperature: Eta; the smaller, the fewer transitions count.
        clip: The largest weight.
    """

    temperature: float = 0.2
    clip: float = 20.0

    def weigh(self, q: Tensor, value: Tensor, discount: float, scale: float) -> Tensor:
        """Weights from Q(s, a) and V(s), [S, B] -> [S, B]."""
        advantage = (q - value) * (1.0 - discount) / scale
        return torch.exp(advantage / self.temperature).clamp_max(self.clip)


@dataclass(frozen=True, kw_only=True, slots=True)
class Advantage:
    """exp(A / eta), A = Q - V standardised in the batch, clipped (AWR, arXiv 1910.00177).

    Attributes:
        temperature: Eta; the smaller, the fewer transitions count.
        clip: The largest weight.
    """

    temperature: float = 1.0
    clip: float = 20.0

    def weigh(self, q: Tensor, value: Tensor, discount: float, scale: float) -> Tensor:
        """Weights from Q(s, a) and V(s), [S, B] -> [S, B]."""
        del discount, scale
        advantage = q - value
        centred = advantage - advantage.mean(-1, keepdim=True)
        scores = centred / advantage.std(-1, keepdim=True).clamp_min(1e-6)
        return torch.exp(scores / self.temperature).clamp_max(self.clip)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exponential:
    """exp(beta A), A = Q - V as it is, clipped (IQL, arXiv 2110.06169 Eq. 7).

    The advantage is not standardised, so beta is tied to the scale of the rewards.

    Attributes:
        inverse_temperature: Beta; at 0 every transition weighs the same.
        clip: The largest weight.
    """

    inverse_temperature: float = 3.0
    clip: float = 100.0

    def weigh(self, q: Tensor, value: Tensor, discount: float, scale: float) -> Tensor:
        """Weights from Q(s, a) and V(s), [S, B] -> [S, B]."""
        del discount, scale
        return torch.exp(self.inverse_temperature * (q - value)).clamp_max(self.clip)


@dataclass(frozen=True, kw_only=True, slots=True)
class Indicator:
    """1 where the action is no worse than the state's value, else 0 (ABM, arXiv 2002.08396)."""

    def weigh(self, q: Tensor, value: Tensor, discount: float, scale: float) -> Tensor:
        """Weights from Q(s, a) and V(s), [S, B] -> [S, B]."""
        del discount, scale
        return (q >= value).to(q.dtype)


def effective_share(weight: Tensor) -> Tensor:
    """The share of a batch that would count as much if all of it weighed the same, [S, B] -> [S].

    Kish's effective sample size over the size: 1 where all weights are equal.
    """
    return weight.mean(-1).square() / weight.square().mean(-1).clamp_min(1e-12)


Weighting = NormalisedQ | NormalisedAdvantage | Advantage | Exponential | Indicator
