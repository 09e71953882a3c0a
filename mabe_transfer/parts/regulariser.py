"""Policy regularisers: the entropy bonus of SAC and the explicit KL to a prior of BRAC and MABE.

Both are one thing, weight * divergence with the weight fixed or dual: for the entropy the
divergence is log pi (to the uniform distribution, up to a constant), for the prior it is
KL(pi || p).

How far half a nat is depends on the prior: where its actions deviate by 0.04, a mean moves by some
0.02, where they deviate by 0.2, by 0.1, which can fell a robot. `ScaledKl` counts in actions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mabe_transfer import losses
from mabe_transfer.dual import DualWeight
from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from mabe_transfer.parts import Metrics, Prior
    from mabe_transfer.squashed import Sample, SquashedNormal
    from mabe_transfer.streams import Sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class Entropy:
    """SAC's maximum-entropy bonus (arXiv 1812.05905); target entropy -|A| unless given.

    Attributes:
        initial: The temperature at the start; the temperature itself unless `automatic`.
        target_entropy: In nats; -|A| where it is none.
        automatic: Whether the temperature moves towards the target entropy.
        learning_rate: Of Adam on log temperature.
        cap: Upper bound of the temperature; MOBILE's is 1.
    """

    initial: float = 1.0
    target_entropy: float | None = None
    automatic: bool = True
    learning_rate: float = 3e-4
    cap: float = math.inf

    def build(self, sizes: Sizes, prior: Prior | None) -> EntropyBonus:
        """Make the regulariser; a prior is not used."""
        del prior
        entropy = -float(sizes.action) if self.target_entropy is None else self.target_entropy
        return EntropyBonus(
            DualWeight(
                sizes,
                initial=self.initial,
                target=-entropy if self.automatic else None,
                learning_rate=self.learning_rate,
                cap=self.cap,
            )
        )


class EntropyBonus:
    """Pays the policy for entropy: divergence log pi."""

    def __init__(self, dual: DualWeight) -> None:
        self.dual = dual
        self.weight, self.state, self.load_state = dual.weight, dual.state, dual.load_state

    def divergence(self, sample: Sample, observation: Tensor) -> Tensor:
        """Give log pi(a | s), [S, B]."""
        del observation
        return sample.log_prob()

    def adapt(self, divergence: Tensor) -> Metrics:
        """Move the temperature towards the target entropy."""
        self.dual.adapt(divergence)
        return {"entropy": -divergence, "alpha": self.dual.weight()}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplicitKl:
    """Keep the policy near the prior by KL(pi || p) (MABE Alg. 1; BRAC, arXiv 1911.11361).

    Attributes:
        weight: Initial weight beta; the weight itself where `target` is none.
        target: Target divergence delta in nats, summed over action dimensions; none fixes beta.
        learning_rate: Of Adam on log beta.
        cap: Upper bound of beta; BRAC's is 500.
    """

    weight: float = 1.0
    target: float | None = None
    learning_rate: float = 1e-3
    cap: float = 500.0

    def build(self, sizes: Sizes, prior: Prior | None) -> KlPenalty:
        """Make the regulariser around a fitted prior.

        Raises:
            UserError: The row has no prior.
        """
        if prior is None:
            raise UserError("The regulariser ExplicitKl needs a prior, and this row has none.")
        dual = DualWeight(
            sizes,
            initial=self.weight,
            target=self.target,
            learning_rate=self.learning_rate,
            cap=self.cap,
        )
        return KlPenalty(dual, prior)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaledKl:
    """Keep the policy near the prior by KL(pi || p), counted in actions.

    The divergence times one variance of the prior, the geometric mean over the states that are
    asked of together, a batch's and those that follow: where only means differ, and the prior is as
    broad everywhere, half the squared distance of the means. An arithmetic mean would be that of
    the few states that the prior knows nothing of. Where the prior is broader than on average a
    mean may still move further, as by nats.

    Differs from print: line 12 of MABE's Alg. 1 has a target in nats, which it does not name.

    Attributes:
        shift: Root mean square by which the mean of each dimension may move, in actions before the
            squash; sets the target divergence A / 2 shift^2.
        stiffness: Initial weight beta, of half a squared unit of action.
        learning_rate: Of Adam on log beta.
        cap: Upper bound of beta.
    """

    shift: float = 0.02
    stiffness: float = 1_000.0
    learning_rate: float = 1e-3
    cap: float = 1e6

    def build(self, sizes: Sizes, prior: Prior | None) -> KlPenalty:
        """Make the regulariser around a fitted prior.

        Raises:
            UserError: The row has no prior.
        """
        if prior is None:
            raise UserError("The regulariser ScaledKl needs a prior, and this row has none.")
        dual = DualWeight(
            sizes,
            initial=self.stiffness,
            target=0.5 * sizes.action * self.shift**2,
            learning_rate=self.learning_rate,
            cap=self.cap,
        )
        return ScaledPenalty(dual, prior)


PriorKl = ExplicitKl | ScaledKl


class KlPenalty:
    """Charges the policy for leaving the prior: divergence KL(pi || p)."""

    def __init__(self, dual: DualWeight, prior: Prior) -> None:
        self.dual, self.prior = dual, prior
        self.weight, self.state, self.load_state = dual.weight, dual.state, dual.load_state

    def divergence(self, sample: Sample, observation: Tensor) -> Tensor:
        """Give KL(pi(. | s) || p(. | s)), [S, B]."""
        with torch.no_grad():
            prior = self.prior.distribution(observation)
        return self.counted(losses.gaussian_kl(sample.policy, prior), prior)

    def counted(self, divergence: Tensor, prior: SquashedNormal) -> Tensor:
        """The divergence [S, B] in the units that it is paid in: nats."""
        del prior
        return divergence

    def adapt(self, divergence: Tensor) -> Metrics:
        """Move beta towards the target divergence."""
        self.dual.adapt(divergence)
        return {"kl": divergence, "beta": self.dual.weight()}


class ScaledPenalty(KlPenalty):
    """Charges for KL(pi || p) times the prior's variance."""

    def counted(self, divergence: Tensor, prior: SquashedNormal) -> Tensor:
        """The divergence [S, B] times the prior's variance over the batch: squared actions."""
        return torch.exp(2.0 * prior.log_std.mean((-1, -2)))[:, None] * divergence
