"""Where data lies, and which points lie there as well: nearest neighbours, calibrated on the data.

A point is covered if its nearest neighbour in the data is no farther than that of most points of
other episodes of the same data. So the radius is the data's own, whatever their number, density and
dimension; a share of 95 % is what the data say of themselves. Nearest neighbours and not a density:
the states of a gait lie on curved, thin sheets with several branches, which a Gaussian fills and a
kernel's one width blurs, and a density in 23 dimensions has no scale that could be read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mabe_transfer.errors import UserError

QUANTILE = 0.95
CHUNK = 1_024  # points whose distances to all data are in memory at a time


class Support:
    """Where data lies, in the data's own standard deviations.

    Args:
        known: The data, [N, D].
        held: Points of the same kind from other episodes, [n, D].
        quantile: Share of the held points that the data cover.

    Raises:
        UserError: Either is empty.
    """

    def __init__(self, known: Tensor, held: Tensor, quantile: float = QUANTILE) -> None:
        if not len(known) or not len(held):
            raise UserError("Coverage needs two episodes of data at the least, to know its radius.")
        self.mean, self.std = known.mean(0), known.std(0, correction=0).clamp_min(1e-6)
        self.known = (known - self.mean) / self.std
        self.radius = float(self.distance(held).quantile(quantile))

    def distance(self, points: Tensor) -> Tensor:
        """Distance of each point to its nearest neighbour in the data, [n, D] -> [n]."""
        scaled = (points - self.mean) / self.std
        return torch.cat(
            [torch.cdist(part, self.known).amin(1) for part in torch.split(scaled, CHUNK)]
        )

    def covers(self, points: Tensor) -> Tensor:
        """Whether each point lies where the data lie, [n, D] -> booleans [n]."""
        return self.distance(points) <= self.radius

    def share(self, points: Tensor) -> float:
        """Share of the points that are covered, [n, D]."""
        return float(self.covers(points).double().mean())


def apart(ends: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Choose whole episodes to hold out: rows of one episode are all but copies of each other.

    Where there is one episode only, its last part is held out.

    Args:
        ends: True on the last row of each episode, booleans [N].
        share: Of the episodes that are held out; one at the least.
        generator: Chooses them.

    Returns:
        True on rows that are held out, booleans [N].
    """
    episode = torch.cat((ends.new_zeros(1), ends[:-1])).cumsum(0)
    count = int(episode[-1]) + 1
    if count == 1:
        return torch.arange(len(ends)) >= round((1.0 - share) * len(ends))
    held = torch.zeros(count, dtype=torch.bool)
    held[torch.randperm(count, generator=generator)[: max(1, round(share * count))]] = True
    return held[episode]


def spaced(rows: Tensor, most: int) -> Tensor:
    """At most so many of the rows, evenly spaced, [N, W] -> [n, W]."""
    return rows if len(rows) <= most else rows[torch.linspace(0, len(rows) - 1, most).long()]
