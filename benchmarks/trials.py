"""The data that speed scripts play with, and this project's side of each measurement."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mabe_transfer.algorithms import algorithm
from mabe_transfer.batched import BatchedEnv
from mabe_transfer.domains import Domain, domain
from mabe_transfer.graphs import Stepper, recorder_for
from mabe_transfer.learner import Learner, Parts
from mabe_transfer.library import open_dataset
from mabe_transfer.parts.rollouts import RolloutPool, Rollouts
from mabe_transfer.parts.sac import Sac
from mabe_transfer.streams import Sizes

if TYPE_CHECKING:
    from collections.abc import Callable

    from mabe_transfer.composition import Algorithm
    from mabe_transfer.parts.dynamics import Ensemble, EnsembleModel

Arrays = dict[str, NDArray[Any]]
FIELDS = ("observations", "actions", "rewards", "next_observations", "terminals")
NEVER = 10**9


@dataclass(frozen=True, slots=True)
class Trial:
    """Transitions that all contestants share."""

    target: Domain
    arrays: Arrays

    @property
    def packed(self) -> torch.Tensor:
        """As this project trains on them, [N, O + A + 1 + O + 1]."""
        a = self.arrays
        columns = (
            a["observations"],
            a["actions"],
            a["rewards"][:, None],
            a["next_observations"],
            a["terminals"][:, None].astype(np.float32),
        )
        return torch.from_numpy(np.concatenate(columns, axis=1, dtype=np.float32))

    def sizes(self, seeds: int, device: str = "cpu") -> Sizes:
        """The widths, for so many seeds."""
        return Sizes(
            seeds=tuple(range(seeds)),
            observation=self.arrays["observations"].shape[1],
            action=self.arrays["actions"].shape[1],
            device=torch.device(device),
        )

    def save(self, path: Path) -> Path:
        """Write the arrays where a peer reads them."""
        np.savez(path, **self.arrays)  # type: ignore[arg-type]
        return path

    def rows(self, which: slice | NDArray[Any]) -> Trial:
        """Some of the transitions."""
        return Trial(self.target, {name: array[which] for name, array in self.arrays.items()})


def simulated(robot: str, rows: int, seed: int = 0) -> Trial:
    """Transitions of a robot with uniformly random actions."""
    env = BatchedEnv(robot, 64, threads=1)
    before, _ = env.reset(seed=seed)
    draws = np.random.default_rng(seed)
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in FIELDS}
    count = 0
    simulation = env.simulation
    while count < rows:
        action = draws.uniform(-1.0, 1.0, (64, simulation.action_size)).astype(np.float32)
        step = simulation.step(action)
        parts["observations"].append(step.observation.astype(np.float32))
        parts["actions"].append(action)
        parts["rewards"].append(step.reward.astype(np.float32))
        parts["next_observations"].append(step.next_observation.astype(np.float32))
        parts["terminals"].append(step.terminated.copy())
        simulation.reset(np.flatnonzero(step.terminated | step.truncated))
        count += 64
    del before
    return Trial(domain(robot), {k: np.concatenate(v)[:rows] for k, v in parts.items()})


def stored(name: str) -> Trial:
    """A data set by name or path, or a NumPy file of arrays whose name begins with its robot."""
    path = Path(name)
    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = {key: np.asarray(file[key]) for key in FIELDS}
        arrays = {k: a if k == "terminals" else a.astype(np.float32) for k, a in arrays.items()}
        arrays["actions"] = np.clip(arrays["actions"], -1.0, 1.0)
        return Trial(domain(path.stem.split("_")[-1]), arrays)
    found = open_dataset(name)
    rows = found.store.load(states=False, terms=False)
    return Trial(found.domain, {key: getattr(rows, key) for key in FIELDS})


def learner(
    row: Algorithm,
    trial: Trial,
    *,
    seeds: int = 1,
    model: EnsembleModel | None = None,
    device: str = "cpu",
) -> Learner:
    """A row's learner whose prior is not fitted, which costs as much as a fitted one."""
    sizes = trial.sizes(seeds, device)
    real = trial.packed.to(sizes.device)
    if isinstance(row.policy, Sac):  # an update of all there is to update, from the first one
        row = replace(row, policy=replace(row.policy, critics_first=0))
    fitted = model
    if fitted is None and row.dynamics is not None:
        fitted = row.dynamics.build(sizes)
    prior = None if row.prior is None else row.prior.build(sizes)
    shown = None if prior is None else real
    return Learner(Parts(row, sizes, trial.target, real, shown, fitted, prior))


def updating(
    row: Algorithm,
    trial: Trial,
    *,
    seeds: int = 1,
    starts: int = 50_000,
    device: str = "cpu",
    replays: bool = True,
) -> Callable[[int], float]:
    """What takes policy updates of a row, without rollouts, from a pool that is full of noise.

    Args:
        row: The row.
        trial: The data.
        seeds: How many policies.
        starts: Rollouts a time that the pool has room for.
        device: Where.
        replays: Whether they are replayed, as they are in a training, or taken one by one.

    Returns:
        A function from a number of updates to the seconds they took.
    """
    if isinstance(row.rollouts, Rollouts):
        row = replace(row, rollouts=replace(row.rollouts, every=NEVER, starts=starts))
    mine = learner(row, trial, seeds=seeds, device=device)
    if mine.pool is not None:
        mine.pool.rows.normal_()
        mine.pool.rows[..., -1] = 0.0  # no ends
        mine.pool.filled.fill_(mine.pool.capacity)
        mine.updates = 1  # past the rollout of the first update
    take = taking(mine, replays=replays)

    def update(count: int) -> float:
        start = time.perf_counter()
        take(count)
        synchronise(device)
        return time.perf_counter() - start

    return update


def taking(mine: Learner, *, replays: bool = True) -> Callable[[int], None]:
    """What takes so many updates of a learner, as a training does."""
    stepper = Stepper(mine, recorder_for(mine.parts.sizes.device) if replays else None)

    def take(count: int) -> None:
        taken = 0
        while taken < count:
            taken += stepper.advance(count - taken)

    return take


def rolling(name: str, trial: Trial, model: EnsembleModel, starts: int) -> Callable[[], float]:
    """What rolls a row's policy out and gives kept transitions per second."""
    row = algorithm(name)
    assert isinstance(row.rollouts, Rollouts)
    config = replace(row.rollouts, starts=starts, kept=1)
    mine = learner(replace(row, rollouts=config), trial, model=model)

    def roll() -> float:
        elites = model.elites.shape[1]
        mine.pool = RolloutPool(config, mine.parts.sizes, trial.target, elites)
        mine.updates = 0
        start = time.perf_counter()
        mine._roll_out()
        seconds = time.perf_counter() - start
        return int(mine.pool.filled.sum()) / seconds

    return roll


def epochs(
    name: str, trial: Trial, model: EnsembleModel, starts: int, updates: int
) -> Callable[[], float]:
    """What takes an epoch of a row, a rollout and so many updates, and gives its seconds."""
    row = algorithm(name)
    assert isinstance(row.rollouts, Rollouts)
    config = replace(row.rollouts, starts=starts, every=updates)
    mine = learner(replace(row, rollouts=config), trial, model=model)
    take = taking(mine)

    def epoch() -> float:
        start = time.perf_counter()
        take(updates)
        return time.perf_counter() - start

    return epoch


def fitted(config: Ensemble, trial: Trial, epochs_: int) -> EnsembleModel:
    """A model after a few epochs on the data."""
    model = replace(config, max_epochs=epochs_).build(trial.sizes(1))
    model.fit(trial.packed)
    return model


def synchronise(device: str) -> None:
    """Wait until the device has done its work."""
    if device != "cpu":
        torch.cuda.synchronize()
