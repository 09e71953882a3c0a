"""Updates that are recorded once and replayed, so that no time goes by between their operations.

An update of small networks is a few hundred operations of microseconds, and a processor needs as
long to ask for one as to do it, or longer than a GPU does. What is the same at every update is
recorded once and replayed: on a GPU as a CUDA graph of a block of updates, on a CPU as a tape of
one. Nothing else changes: the recording is of the very code that runs without it, and takes the
same numbers from the same streams. What is recorded keeps to its tensors: state is loaded before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from mabe_transfer import beside, tape
from mabe_transfer.streams import generators

BLOCK = 10  # updates of a CUDA graph: a divisor of the usual distances between looks and rollouts
WARM = 3  # updates of a kind taken singly before its recording, so that optimisers have begun
FOREVER = 10**9


@dataclass(frozen=True, slots=True)
class Stretch:
    """How far the updates ahead are the same operations, on tensors at the same places.

    Attributes:
        length: How many they are; 0 where each must be taken by itself.
        key: What tells these operations from those of another stretch.
        turn: Updates until one that does more, which comes again after as many as ever.
    """

    length: int
    key: Hashable = None
    turn: int = FOREVER

    def within(self, length: int, key: Hashable = None) -> Stretch:
        """This stretch, as far as it lies in another one."""
        return Stretch(min(self.length, length), (self.key, key), self.turn)

    def kind(self, block: int) -> Hashable:
        """What tells its next updates, so many, from those that are recorded by themselves."""
        return self.key, min(self.turn, block + 1)


NEVER = Stretch(0)
"""Of updates that ask the device for something on their way."""


def turning(updates: int, every: int) -> Stretch:
    """The stretch of updates of which every so many-th does more; `updates` were taken."""
    return Stretch(FOREVER, turn=every - updates % every)


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


Record = Callable[[Callable[[], object]], Graph | None]
"""What does some work, and gives what does it again; none where it cannot be repeated."""


@dataclass(frozen=True, slots=True)
class Recorder:
    """How a kind of device records.

    Attributes:
        record: What does it.
        block: Updates of a graph.
        kept: Graphs kept, the newest ones; each holds on to the memory that its updates work in.
    """

    record: Record
    block: int
    kept: int


def recorder_for(device: torch.device) -> Recorder | None:
    """How a device records, if it does."""
    match device.type:
        case "cuda":
            return Recorder(partial(on_cuda, device), block=BLOCK, kept=4)
        case "cpu":
            return Recorder(tape.record, block=1, kept=2)
        case _:
            return None


class Stepper:
    """Takes updates, by replays where it can and one by one elsewhere.

    Args:
        steps: Whose updates.
        recorder: How they are recorded, if they are.
    """

    def __init__(self, steps: Steps, recorder: Recorder | None) -> None:
        self.steps, self._recorder = steps, recorder
        self._graphs: dict[Hashable, Graph] = {}
        self._taken: Counter[Hashable] = Counter()
        self._single: set[Hashable] = set()  # kinds that cannot be repeated

    def advance(self, most: int) -> int:
        """Take at least one update and at the most so many; gives how many."""
        steps, recorder = self.steps, self._recorder
        if recorder is None:
            steps.step()
            return 1
        steps.prepare()
        stretch = steps.stretch()
        kind, block = stretch.kind(recorder.block), recorder.block
        short = min(most, stretch.length) < block
        if short or self._taken[kind] < WARM or kind in self._single:
            steps.step()
            self._taken[kind] += 1
            return 1
        graph = self._graphs.pop(kind, None)
        if graph is None:
            while len(self._graphs) >= recorder.kept:  # the one that was not used for longest
                del self._graphs[next(iter(self._graphs))]
            graph = recorder.record(partial(self._block, block))
        else:
            steps.skip(block)
            graph.replay()
        if graph is None:
            self._single.add(kind)
        else:
            self._graphs[kind] = graph
        return block

    def _block(self, count: int) -> None:
        for _ in range(count):
            self.steps.step()


class Repeated:
    """Work on one tensor, time after time: replayed where its shape is that of the first.

    Args:
        work: It; it keeps its results where it finds them.
        recorder: How it is recorded, if it is.
    """

    def __init__(self, work: Callable[[Tensor], None], recorder: Recorder | None) -> None:
        self._work, self._recorder = work, recorder
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
        elif usual and self._recorder is not None and self._taken == WARM:
            self._given = kept = given.clone()
            self._graph = self._recorder.record(lambda: self._work(kept))
            self._taken += 1
        else:
            self._work(given)
            self._taken += usual


def on_cuda(device: torch.device, block: Callable[[], object]) -> Graph:
    """Record a block of updates, with every stream of random numbers that it may draw from."""
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        for generator in generators(device):
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=beside.stream(device, "recordings")):
            block()  # which counts its updates, and takes none
        graph.replay()
    return graph
