"""Many updates as one CUDA graph, so that a GPU does not wait for each of their small operations.

An update of small networks is a few hundred operations of microseconds, and a processor needs
longer to ask for one than a GPU to do it. What is the same at every update is recorded once, a
block of updates at a time, and replayed. Nothing else changes: the recording is of the very code
that runs without it, and takes the same numbers from the same streams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from mabe_transfer import beside
from mabe_transfer.streams import generators

BLOCK = 10  # updates of a graph: a divisor of the usual distances between looks and rollouts
WARM = 3  # updates of a kind taken singly before its recording, so that optimisers have begun
KEPT = 4  # graphs kept, the newest ones; each holds on to the memory that its updates work in
FOREVER = 10**9


@dataclass(frozen=True, slots=True)
class Stretch:
    """How far the updates ahead are the same operations, on tensors at the same places.

    Attributes:
        length: How many they are; 0 where each must be taken by itself.
        key: What tells these operations from those of another stretch.
    """

    length: int
    key: Hashable = None

    def within(self, length: int, key: Hashable = None) -> Stretch:
        """This stretch, as far as it lies in another one."""
        return Stretch(min(self.length, length), (self.key, key))


NEVER = Stretch(0)
"""Of updates that ask the device for something on their way."""


def turning(updates: int, every: int) -> Stretch:
    """The stretch of updates of which every so many-th does more; `updates` were taken."""
    return Stretch(FOREVER, min(every - updates % every, BLOCK + 1))


class Steps(Protocol):
    """What takes update after update."""

    def prepare(self) -> None:
        """Do what is due before the next update and is not part of it; once for each."""

    def step(self) -> object:
        """Take one update, and prepare for it where that was not done."""

    def stretch(self) -> Stretch:
        """How far the updates ahead are the same."""

    def skip(self, count: int) -> None:
        """Count updates that a replay has taken."""


class Graph(Protocol):
    """Recorded work."""

    def replay(self) -> None:
        """Do it again."""


Record = Callable[[Callable[[], object]], Graph]
"""What turns work into a graph without doing it."""


class Stepper:
    """Takes updates, by replays where a GPU can and one by one elsewhere.

    Args:
        steps: Whose updates.
        device: Where they are taken.
        record: What records a block of updates; the device's own if none.
    """

    def __init__(self, steps: Steps, device: torch.device, record: Record | None = None) -> None:
        self._steps = steps
        self._record = record or _recorder(device)
        self._graphs: dict[Hashable, Graph] = {}
        self._taken: Counter[Hashable] = Counter()

    def advance(self, most: int) -> int:
        """Take at least one update and at the most so many; gives how many."""
        steps = self._steps
        if self._record is None:
            steps.step()
            return 1
        steps.prepare()
        stretch = steps.stretch()
        if min(most, stretch.length) < BLOCK or self._taken[stretch.key] < WARM:
            steps.step()
            self._taken[stretch.key] += 1
            return 1
        graph = self._graphs.pop(stretch.key, None)
        if graph is None:
            while len(self._graphs) >= KEPT:  # the one that was not used for longest
                del self._graphs[next(iter(self._graphs))]
            graph = self._record(self._block)  # which counts its updates, and takes none
        else:
            steps.skip(BLOCK)
        self._graphs[stretch.key] = graph
        graph.replay()
        return BLOCK

    def _block(self) -> None:
        for _ in range(BLOCK):
            self._steps.step()


class Repeated:
    """Work on one tensor, time after time: replayed on a GPU where its shape is that of the first.

    Args:
        work: It; it keeps its results where it finds them.
        device: Where.
        record: What records it; the device's own if none.
    """

    def __init__(
        self, work: Callable[[Tensor], None], device: torch.device, record: Record | None = None
    ) -> None:
        self._work = work
        self._record = record or _recorder(device)
        self._shape: torch.Size | None = None
        self._given: Tensor | None = None
        self._graph: Graph | None = None
        self._taken = 0

    def __call__(self, given: Tensor) -> None:
        """Do it with another tensor."""
        self._shape = self._shape or given.shape
        usual = given.shape == self._shape
        if usual and self._graph is not None and self._given is not None:
            self._given.copy_(given)
            self._graph.replay()
            return
        self._work(given)
        self._taken += usual
        if usual and self._record is not None and self._taken == WARM:
            self._given = kept = given.clone()
            self._graph = self._record(lambda: self._work(kept))


def _recorder(device: torch.device) -> Record | None:
    """What records on a device, if anything does."""
    return partial(on_cuda, device) if device.type == "cuda" else None


def on_cuda(device: torch.device, block: Callable[[], object]) -> Graph:
    """Record a block of updates, with every stream of random numbers that it may draw from."""
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        for generator in generators(device):
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=beside.stream(device, "recordings")):
            block()
    return graph
