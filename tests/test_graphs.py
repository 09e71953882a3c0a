"""Replayed updates: who takes how many, and that a replay is what it was recorded from."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mabe_transfer.algorithms import ALGORITHMS, MABE, ROWS
from mabe_transfer.config import has_field, with_overrides
from mabe_transfer.graphs import (
    BLOCK,
    FOREVER,
    NEVER,
    WARM,
    Recorder,
    Repeated,
    Stepper,
    Stretch,
    recorder_for,
    turning,
)
from mabe_transfer.learner import Learner, Parts
from mabe_transfer.means import Means
from mabe_transfer.parts.dynamics import Ensemble, _descend
from mabe_transfer.parts.mpo import Mpo
from mabe_transfer.parts.prior import Fit, PriorFit, Unweighted
from mabe_transfer.parts.rollouts import Rollouts
from mabe_transfer.parts.trajectories import WholeRollouts
from mabe_transfer.parts.trust_region import Npg, Trpo
from mabe_transfer.streams import Sizes

if TYPE_CHECKING:
    from collections.abc import Callable

    from mabe_transfer.composition import Algorithm
    from mabe_transfer.graphs import Graph
    from mabe_transfer.parts import Fitting

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DEVICES = [pytest.param(CPU, id="cpu"), pytest.param(CUDA, id="cuda", marks=pytest.mark.gpu)]
KEPT = 4


class Counted:
    """Updates that only count, with something due before every `every`-th of them."""

    def __init__(self, every: int = FOREVER, key: Callable[[int], object] | None = None) -> None:
        self.every, self.key = every, key or (lambda _: None)
        self.done, self.asked, self.prepared = 0, 0, list[int]()

    def prepare(self) -> None:
        if self.done % self.every == 0 and self.done not in self.prepared:
            self.prepared.append(self.done)

    def step(self) -> None:
        self.done += 1
        self.asked += 1

    def stretch(self) -> Stretch:
        return Stretch(FOREVER).within(self.every - self.done % self.every, self.key(self.done))

    def skip(self, count: int) -> None:
        self.done += count


class Recorded:
    """Records by doing, and counts what is recorded and played."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.recorded = self.played = 0
        self.refuses = refuses

    def record(self, block: Callable[[], object]) -> Recorded | None:
        self.recorded += 1
        block()
        return None if self.refuses else self

    def replay(self) -> None:
        self.played += 1

    def recorder(self, block: int = BLOCK) -> Recorder:
        return Recorder(self.record, block, KEPT)


def test_updates_are_taken_singly_without_a_recorder() -> None:
    steps = Counted()
    stepper = Stepper(steps, recorder_for(torch.device("mps")))
    assert [stepper.advance(1_000) for _ in range(100)] == [1] * 100
    assert steps.done == steps.asked == 100


def test_a_block_is_recorded_once_and_replayed() -> None:
    steps, tape = Counted(), Recorded()
    stepper = Stepper(steps, tape.recorder())
    taken = [stepper.advance(1_000) for _ in range(WARM + 4)]
    assert taken == [1] * WARM + [BLOCK] * 4
    assert steps.done == WARM + 4 * BLOCK
    assert steps.asked == WARM + BLOCK  # the recording takes a block
    assert (tape.recorded, tape.played) == (1, 3)


def test_what_cannot_be_repeated_is_asked_for_once_and_then_taken_singly() -> None:
    steps, tape = Counted(), Recorded(refuses=True)
    stepper = Stepper(steps, tape.recorder())
    assert [stepper.advance(1_000) for _ in range(WARM + 4)] == [1] * WARM + [BLOCK] + [1] * 3
    assert steps.done == steps.asked == WARM + BLOCK + 3
    assert (tape.recorded, tape.played) == (1, 0)


def test_no_block_goes_beyond_what_is_asked_for_or_due() -> None:
    steps, tape = Counted(every=120), Recorded()
    stepper = Stepper(steps, tape.recorder())
    limit, met = 150, set[int]()
    while steps.done < 10 * limit:
        stepper.advance(limit - steps.done % limit)
        met.add(steps.done)
    assert steps.prepared == list(range(0, 10 * limit, 120))
    assert set(range(limit, 10 * limit + 1, limit)) <= met
    assert tape.played > 10


def test_other_operations_are_another_graph_and_the_oldest_is_dropped() -> None:
    phase = [0]
    steps, tape = Counted(key=lambda _: phase[0]), Recorded()
    stepper = Stepper(steps, tape.recorder())
    for phase[0] in range(KEPT + 1):
        for _ in range(WARM + 2):
            stepper.advance(1_000)
    assert tape.recorded == KEPT + 1
    for phase[0] in (1, KEPT):  # still there
        assert stepper.advance(1_000) == BLOCK
    assert tape.recorded == KEPT + 1
    phase[0] = 0  # dropped, and not taken singly again
    assert stepper.advance(1_000) == BLOCK
    assert tape.recorded == KEPT + 2


def test_repeated_work_is_recorded_after_a_few_times_and_only_in_its_shape() -> None:
    done, tape = list[list[float]](), Recorded()
    work = Repeated(lambda given: done.append(given.tolist()), tape.recorder())
    for value in range(WARM + 1):
        work(torch.full((2,), float(value)))
    assert done == [[float(value)] * 2 for value in range(WARM + 1)]
    assert (tape.recorded, tape.played) == (1, 0)
    work(torch.full((2,), 9.0))
    work(torch.full((3,), 7.0))
    work(torch.full((2,), 8.0))
    assert done[WARM + 1 :] == [[7.0] * 3]
    assert tape.played == 2
    odd = Repeated(lambda given: done.append(given.tolist()), tape.recorder())
    for size in (2, 2, 3, 2, 2):  # a short last batch before there were enough of the usual ones
        odd(torch.zeros(size))
    odd(torch.zeros(3))
    assert tape.recorded == 2
    assert len(done[-1]) == 3
    for unrecorded in (None, Recorded(refuses=True).recorder()):
        alone = Repeated(lambda given: done.append(given.tolist()), unrecorded)
        for value in range(WARM + 3):
            alone(torch.full((1,), float(value)))
        assert done[-WARM - 3 :] == [[float(value)] for value in range(WARM + 3)]


def test_turns_need_few_graphs() -> None:
    def kind(updates: int, every: int, block: int = BLOCK) -> object:
        return turning(updates, every).kind(block)

    for every in (1, 2, 7, BLOCK, 50, 100, 1_000):
        for block in (1, BLOCK):
            kinds = {kind(updates, every, block) for updates in range(0, 100 * block, block)}
            assert len(kinds) <= max(2, min(every, block))
    assert kind(90, 100) == kind(90 + 100, 100) != kind(80, 100) == kind(0, 100)
    assert kind(95, 100) != kind(90, 100)  # its turn comes earlier in the block
    assert kind(95, 100, 1) == kind(0, 100, 1) != kind(99, 100, 1)
    assert turning(90, 100).within(5, "x").kind(BLOCK) != turning(80, 100).within(5, "x").kind(
        BLOCK
    )


def test_a_stretch_lies_within_another() -> None:
    assert Stretch(7, "a").within(5, "b") == Stretch(5, ("a", "b"))
    assert Stretch(3, "a").within(5, "b").length == 3
    assert NEVER.within(5).length == 0


def test_means_add_up_where_they_lie() -> None:
    means = Means()
    means.add({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.0, 4.0])})
    means.add({"a": torch.tensor([3.0, 2.0]), "b": torch.tensor([1.0, 4.0])})
    means.add({"a": torch.tensor([5.0, 8.0])})
    means.add({})
    (pair, alone) = means.state().values()
    assert means.take() == {"a": [3.0, 4.0], "b": [0.5, 4.0]}
    assert means.take() == {}
    means.add({"a": torch.tensor([7.0, 7.0])})
    assert [t.data_ptr() for t in means.state().values()] == [pair.data_ptr(), alone.data_ptr()]
    again = Means()
    again.load_state({name: t.clone() for name, t in means.state().items()}, CPU)
    assert again.take() == means.take() == {"a": [7.0, 7.0]}


# -- of learners and fits ------------------------------------------------------------------------


class Ring:
    """A task that ends beyond +-3 in the first dimension and clips at +-5."""

    def terminated(self, state: Tensor) -> Tensor:
        return state[..., 0].abs() > 3.0

    def clip(self, observation: Tensor) -> Tensor:
        return observation.clamp(-5.0, 5.0)


def learner(row: Algorithm, device: torch.device) -> Learner:
    """A row's learner of three seeds around parts that are not fitted."""
    sizes = Sizes(seeds=(0, 1, 7), observation=5, action=2, device=device)
    small = {
        "policy.hidden": "[16,16]",
        "prior.fit.hidden": "[16,16]",
        "dynamics.hidden": "[16,16]",
        "dynamics.members": "3",
        "dynamics.elites": "2",
    }
    if isinstance(row.policy, Mpo):  # whose target turns once a hundred updates
        small["policy.every"] = str(BLOCK + 3)
    row = with_overrides(
        replace(row, batch=16), {path: text for path, text in small.items() if has_field(row, path)}
    )
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(400, 14, generator=generator).to(device)
    real[:, 5:7].clamp_(-0.9, 0.9)
    real[:, -1] = 0.0
    if isinstance(row.rollouts, Rollouts):
        short = replace(row.rollouts, starts=50, every=2 * BLOCK + 10, kept=2, real_share=0.25)
        row = replace(row, rollouts=short)
    prior = None if row.prior is None else row.prior.build(sizes)
    model = None if row.dynamics is None else row.dynamics.build(sizes)
    shown, ends = None if prior is None else real, torch.arange(400, device=device) % 10 == 9
    return Learner(Parts(row, sizes, cast("Any", Ring()), real, shown, model, prior, ends))


class Replays:
    """Counts what a device's recorder refuses, and what of it is played."""

    def __init__(self, known: Recorder | None) -> None:
        assert known is not None
        self.known = known
        self.recorder = replace(known, record=self.record)
        self.played = self.refused = 0

    def record(self, block: Callable[[], object]) -> Graph | None:
        graph = self.known.record(block)
        self.refused += graph is None
        return None if graph is None else Played(graph, self)


class Played:
    """A graph whose replays are counted."""

    def __init__(self, graph: Graph, counts: Replays) -> None:
        self.graph, self.counts = graph, counts

    def replay(self) -> None:
        self.counts.played += 1
        self.graph.replay()


SETTINGS = {"policy.critics_first": str(BLOCK + 20), "policy.policy_polyak": "0.1"}
WAITING = with_overrides(MABE, SETTINGS)
HALVED = with_overrides(MABE, {"policy.bfloat16": "true"})
REPLAYED = [
    *(row for row in ALGORITHMS.values() if not isinstance(row.rollouts, WholeRollouts)),
    replace(WAITING, name="mabe, waiting"),
    replace(HALVED, name="mabe in bfloat16"),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("row", REPLAYED, ids=lambda row: row.name)
def test_replayed_updates_are_the_updates(row: Algorithm, device: torch.device) -> None:
    count = 45 if device == CPU else 10 * BLOCK + 20  # beyond a rollout and all turns
    plain, replayed = learner(row, device), learner(row, device)
    counted = Replays(recorder_for(device))
    stepper = Stepper(replayed, counted.recorder)
    for _ in range(count):
        plain.step()
    while replayed.updates < count:
        stepper.advance(count - replayed.updates)
    assert replayed.updates == count
    if plain.stretch() != NEVER:
        assert counted.refused == 0
        assert counted.played >= (20 if device == CPU else 2)
    expected, found = plain.state(), replayed.state()
    assert expected.keys() == found.keys()
    apart = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
    assert apart == []
    assert plain.means.take() == replayed.means.take()


@pytest.mark.parametrize("device", DEVICES)
def test_a_replayed_fit_of_a_prior_is_the_fit(device: torch.device) -> None:
    made = learner(next(row for row in ROWS if row.name == "bc"), device)
    found = []
    for replays in (False, True):
        prior = Unweighted(fit=Fit(updates=3 * BLOCK, hidden=(32,))).build(made.parts.sizes)
        fit = PriorFit(prior, made.parts.data)
        counted = Replays(recorder_for(device))
        fit.stepper = Stepper(fit.updates, counted.recorder if replays else None)
        while not fit.finished:
            fit.advance(1_000)
        assert (counted.played > 1) == replays
        found.append(fit.state())
    first, second = found
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("device", DEVICES)
def test_a_replayed_fit_of_the_dynamics_is_the_fit(device: torch.device) -> None:
    made = learner(next(row for row in ROWS if row.name == "mopo"), device)
    config = Ensemble(members=3, elites=2, hidden=(32, 32), batch=50, max_epochs=3, cooldown=0.5)
    found = []
    for replays in (False, True):
        fit = config.build(made.parts.sizes).fitting(made.parts.real)
        counted = Replays(recorder_for(device))
        step = partial(_descend, fit.model, fit.inputs, fit.targets, fit.adam)
        fit.descent = Repeated(step, counted.recorder if replays else None)
        while not fit.finished:
            fit.advance()
        assert (counted.played > 1) == replays
        found.append(fit.state())
    first, second = found
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


class Heard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operation and the shapes that it is given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, tuple[tuple[int, ...], ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        shapes = tuple(tuple(arg.shape) for arg in args if isinstance(arg, Tensor))
        self.calls.append((str(func), shapes))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("row", REPLAYED, ids=lambda row: row.name)
def test_blocks_of_one_key_are_the_same_operations_and_ask_the_device_for_nothing(
    row: Algorithm,
) -> None:
    """What a GPU needs, held on a CPU."""
    found = learner(row, CPU)
    heard: dict[object, list[tuple[str, tuple[tuple[int, ...], ...]]]] = {}
    again, seen = 0, set[object]()
    for _ in range(12):
        found.prepare()
        stretch = found.stretch()
        if stretch.length < BLOCK:
            found.step()
            continue
        kind = stretch.kind(BLOCK)
        warm = kind in seen
        seen.add(kind)
        with Heard() as mode:
            for _ in range(BLOCK):
                found.step()
        if not warm:  # optimisers begin
            continue
        asked = [name for name, _ in mode.calls if "local_scalar" in name or "nonzero" in name]
        assert asked == []
        if kind in heard:
            assert mode.calls == heard[kind]
            again += 1
        heard.setdefault(kind, mode.calls)
    assert again or found.stretch() == NEVER


def test_finished_fits_are_let_go() -> None:
    parts = learner(MABE, CPU).parts
    assert parts.model is not None
    assert parts.prior is not None
    fits: list[Fitting] = [parts.model.fitting(parts.real), PriorFit(parts.prior, parts.data)]
    gc.disable()
    try:
        while fits:
            fit = fits.pop()
            fit.advance(1)
            gone = weakref.ref(fit)
            del fit
            assert gone() is None
    finally:
        gc.enable()


def test_steps_that_look_ahead_are_never_replayed() -> None:
    for row in ROWS:
        if isinstance(row.policy, Trpo | Npg):
            assert learner(row, CPU).stretch() == NEVER
