"""Running means of metrics, kept on the device at fixed places, so that a replay adds to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from mabe_transfer.batches import Metrics


class Means:
    """Sums of named metrics [S] since they were last taken.

    Metrics that come together are added up together; a last row counts how often they came.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}  # of n names, [n + 1, S]
        self._one: Tensor | None = None

    def add(self, metrics: Metrics) -> None:
        """Add the metrics of a step."""
        if not metrics:
            return
        names, values = tuple(metrics), list(metrics.values())
        if self._one is None:
            self._one = torch.ones_like(values[0])
        found = torch.stack([*values, self._one])
        if names in self._sums:
            self._sums[names] += found
        else:
            self._sums[names] = found

    def take(self) -> dict[str, list[float]]:
        """Mean of every metric over the steps that had it, one a seed; begins anew."""
        totals: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        for names, sums in self._sums.items():
            *values, count = sums.cpu()
            for name, total in zip(names, values, strict=True):
                totals[name] = totals[name] + total if name in totals else total
                counts[name] = counts[name] + count if name in counts else count
        known = [name for name in sorted(totals) if float(counts[name].max()) > 0.0]
        means = {name: (totals[name] / counts[name]).tolist() for name in known}
        for sums in self._sums.values():
            sums.zero_()  # where they are, for a graph that adds to them
        return means

    def state(self) -> dict[str, Tensor]:
        """The sums since they were last taken, by their names with commas between."""
        return {",".join(names): sums for names, sums in self._sums.items()}

    def load_state(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Go on from what `state` gave."""
        self._sums = {
            tuple(names.split(",")): sums.to(device, copy=True) for names, sums in state.items()
        }
