"""Policy regularisers: the entropy bonus of SAC and the explicit KL to a prior of BRAC and MABE.

Both are one thing, weight * divergence with the weight fixed or dual: for the entropy the
divergence is log pi (to the uniform distribution, up to a constant), for the prior it is
KL(pi || p).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mabe_transfer import losses, weights
from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from mabe_transfer.networks import Sizes, SquashedNormal
    from mabe_transfer.parts import Metrics, Prior


class DualWeight:
    """A penalty's weight for each seed: fixed, or moved towards a target divergence.

    Args:
        sizes: Number of seeds and device.
        initial: The weight at the start, > 0 unless fixed.
        target: The divergence to hold, in nats; `None` keeps the weight fixed.
        learning_rate: Of Adam on the log weight.
        cap: The weight's upper bound.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        initial: float,
        target: float | None,
        learning_rate: float,
        cap: float,
    ) -> None:
        self.target, self.cap, self._fixed = target, cap, initial
        start = math.log(max(initial, 1e-8))
        self.log_weight = torch.full((sizes.stack,), start, device=sizes.device, requires_grad=True)
        self.adam = torch.optim.Adam([self.log_weight], lr=learning_rate)

    def weight(self) -> Tensor:
        """The weight now, [S], without gradient."""
        if self.target is None:
            return torch.full_like(self.log_weight, self._fixed)
        return self.log_weight.detach().exp()

    def adapt(self, divergence: Tensor) -> None:
        """Take one dual step, given the mean divergence [S]."""
        if self.target is None:
            return
        loss = losses.dual_step(self.log_weight, divergence, self.target).sum()
        (self.log_weight.grad,) = torch.autograd.grad(loss, (self.log_weight,))
        self.adam.step()
        with torch.no_grad():
            self.log_weight.clamp_(max=math.log(self.cap))

    def state(self) -> dict[str, Tensor]:
        """The weight and its optimiser."""
        adam = weights.nested("adam", weights.optimiser_state(self.adam))
        return {"log_weight": self.log_weight.detach(), **adam}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        with torch.no_grad():
            self.log_weight.copy_(state["log_weight"])
        weights.load_optimiser(self.adam, weights.under("adam", state))


@dataclass(frozen=True, kw_only=True, slots=True)
class Entropy:
    """SAC's maximum-entropy bonus (arXiv 1812.05905); target entropy -|A| unless given."""

    initial: float = 1.0
    target_entropy: float | None = None
    automatic: bool = True
    learning_rate: float = 3e-4

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
                cap=math.inf,
            )
        )


class EntropyBonus:
    """Pays the policy for entropy: divergence log pi."""

    def __init__(self, dual: DualWeight) -> None:
        self.dual = dual
        self.weight, self.state, self.load_state = dual.weight, dual.state, dual.load_state

    def divergence(self, policy: SquashedNormal, log_prob: Tensor, observation: Tensor) -> Tensor:
        """Give log pi(a | s), [S, B]."""
        del policy, observation
        return log_prob

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


class KlPenalty:
    """Charges the policy for leaving the prior: divergence KL(pi || p)."""

    def __init__(self, dual: DualWeight, prior: Prior) -> None:
        self.dual, self.prior = dual, prior
        self.weight, self.state, self.load_state = dual.weight, dual.state, dual.load_state

    def divergence(self, policy: SquashedNormal, log_prob: Tensor, observation: Tensor) -> Tensor:
        """Give KL(pi(. | s) || p(. | s)), [S, B]."""
        del log_prob
        with torch.no_grad():
            prior = self.prior.distribution(observation)
        return losses.gaussian_kl(policy, prior)

    def adapt(self, divergence: Tensor) -> Metrics:
        """Move beta towards the target divergence."""
        self.dual.adapt(divergence)
        return {"kl": divergence, "beta": self.dual.weight()}
