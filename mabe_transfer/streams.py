"""Random numbers, from streams that are keyed by (seed, component).

So seed 3 alone and seed 3 among five start and draw alike, on one kind of device.
"""

from __future__ import annotations

import hashlib
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

_living: weakref.WeakSet[Streams] = weakref.WeakSet()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Seeds, observation and action sizes of a learner, and where its tensors live."""

    seeds: tuple[int, ...]
    observation: int
    action: int
    device: torch.device = torch.device("cpu")

    @property
    def stack(self) -> int:
        """Number of seeds, S."""
        return len(self.seeds)


class Streams:
    """Random numbers of one component: one generator a seed.

    Every draw is made when it is asked for, so that all steps are the same operations and can be
    replayed (see `graphs`).

    Args:
        sizes: Names the seeds and the device.
        component: The component's name; together with a seed it keys a stream.
    """

    def __init__(self, sizes: Sizes, component: str) -> None:
        self.device = sizes.device
        self.generators = [generator(seed, component, sizes.device) for seed in sizes.seeds]
        _living.add(self)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, [S, *shape]."""
        drawn = torch.empty(len(self.generators), *shape, device=self.device)
        for row, g in zip(drawn, self.generators, strict=True):
            row.normal_(generator=g)
        return drawn

    def integers(self, high: int | Sequence[int], *shape: int) -> Tensor:
        """Integers in [0, high), [S, *shape]; `high` may differ between seeds."""
        bounds = [high] * len(self.generators) if isinstance(high, int) else high
        drawn = torch.empty(len(bounds), *shape, dtype=torch.int64, device=self.device)
        for row, g, bound in zip(drawn, self.generators, bounds, strict=True):
            row.random_(0, bound, generator=g)
        return drawn

    def permutation(self, count: int) -> Tensor:
        """A permutation of `count` rows for each seed, [S, count]."""
        return torch.stack(
            [torch.randperm(count, generator=g, device=self.device) for g in self.generators]
        )

    def state(self) -> dict[str, Tensor]:
        """The streams' state as a tensor, enough to go on exactly."""
        return {"now": torch.stack([g.get_state() for g in self.generators])}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        for g, saved in zip(self.generators, state["now"], strict=True):
            g.set_state(saved.cpu().clone())  # torch crashes on a view into other numbers


def generators(device: torch.device) -> list[torch.Generator]:
    """The generators of all streams that live on a device; of its kind where it has no number."""
    alive = [one for streams in list(_living) for one in streams.generators]
    return [
        one
        for one in alive
        if one.device.type == device.type and device.index in (None, one.device.index)
    ]


def generator(seed: int, component: str, device: torch.device) -> torch.Generator:
    """A generator keyed by a seed and a component's name, not by the order of creation.

    The key is a hash of both in 32 bits: torch's generator on the CPU reads no more of its seed.
    """
    digest = hashlib.sha256(f"{seed}/{component}".encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:4], "big"))
