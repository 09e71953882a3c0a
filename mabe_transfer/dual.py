"""A penalty's weight: fixed, or moved by dual ascent until what it penalises meets a target."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mabe_transfer import losses, weights
from mabe_transfer.descent import fused

if TYPE_CHECKING:
    from mabe_transfer.streams import Sizes


class DualWeight:
    """A penalty's weight for each seed: fixed, or moved towards a target divergence.

    Args:
        sizes: Number of seeds and device.
        initial: The weight at the start, > 0 unless fixed.
        target: The divergence to hold, in its own units; `None` keeps the weight fixed.
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
        self.adam = fused([self.log_weight], learning_rate)

    def weight(self) -> Tensor:
        """The weight now, [S], without gradient."""
        if self.target is None:
            return torch.full_like(self.log_weight, self._fixed)
        return self.log_weight.detach().exp()

    def adapt(self, divergence: Tensor) -> None:
        """Take one dual step, given the mean divergence [S]."""
        if self.target is None:
            return
        with torch.no_grad():  # the loss is an exponential of log weight: its own gradient
            self.log_weight.grad = losses.dual_step(self.log_weight, divergence, self.target)
            self.adam.step()
            if self.cap < math.inf:
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
