"""Early stopping of many networks that are fitted together, each with the weights of its best."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from mabe_transfer.errors import Diverged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn


class Best:
    """The weights with which each of S x M networks did best, and for how long none of a seed has.

    Args:
        parameters: Of all networks, [S M, ...] each.
        seeds: S.
        members: M, networks of a seed.
        patience: Looks without improvement after which a seed is done.
        improvement: Relative gain that counts as one.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        seeds: int,
        members: int,
        *,
        patience: int,
        improvement: float,
    ) -> None:
        self._parameters, self._patience, self._improvement = parameters, patience, improvement
        device = parameters[0].device
        self.error = torch.full((seeds, members), math.inf, device=device)
        self._waited = torch.zeros(seeds, dtype=torch.int64, device=device)
        self._kept = [parameter.detach().clone() for parameter in parameters]

    @property
    def over(self) -> bool:
        """Whether every seed has waited long enough."""
        return bool((self._waited >= self._patience).all())

    def offer(self, error: Tensor) -> None:
        """Look at the networks as they are now, given their errors on held-out data, [S, M]."""
        gain = (self.error - error) / self.error.clamp_max(1e30)
        waiting = self._waited < self._patience
        first = self.error.isinf() & error.isfinite()
        better = (first | (gain > self._improvement)) & waiting[:, None]
        self.error = torch.where(better, error, self.error)
        chosen = better.reshape(-1)
        for saved, parameter in zip(self._kept, self._parameters, strict=True):
            saved[chosen] = parameter.detach()[chosen]
        self._waited = torch.where(better.any(1), 0, self._waited + 1)

    @torch.no_grad()
    def restore(self) -> None:
        """Give every network its best weights back.

        Raises:
            Diverged: There are networks whose error was never a number.
        """
        lost = int(self.error.isinf().sum())
        if lost:
            raise Diverged(
                f"The fit diverged: {lost} of {self.error.numel()} networks never had a finite "
                "held-out error; try a smaller rate."
            )
        for parameter, saved in zip(self._parameters, self._kept, strict=True):
            parameter.copy_(saved)

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on exactly."""
        kept = {f"kept/{index}": tensor for index, tensor in enumerate(self._kept)}
        return {**kept, "best": self.error, "waited": self._waited}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave; other entries are left."""
        device = self.error.device
        self.error, self._waited = state["best"].to(device), state["waited"].to(device)
        self._kept = [state[f"kept/{index}"].to(device) for index in range(len(self._kept))]
