"""Wall clock until a policy is as good as the one that OfflineRL-Kit's MOPO ends with.

OfflineRL-Kit trains its MOPO by its own trainer, one process a seed, all at once, for `--steps`
updates; the mean of its last evaluations over all seeds is the mark. This project trains the same
seeds in one process on the same data, and stops when the mean of as many evaluations is there.
Everything counts on both sides, from reading the data to the evaluations, of which both make one
every thousand updates (ten episodes a seed). Model, horizon and penalty have the same settings;
`--set` changes ours. `first there` is when OfflineRL-Kit itself was at its mark for the first time.

    python benchmarks/to_score.py --data hopper-medium --data halfcheetah-medium [--row mopo]
        [--seeds 3] [--steps 100000] [--fit-epochs N] [--set dynamics.rate=3e-3] [--json FILE]
        --peer-offlinerlkit FOLDER
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
import rounds
import torch
import trials
from peers import Peer, PeerError
from rounds import ORK, Comparison

from mabe_transfer import transfer
from mabe_transfer.algorithms import algorithm
from mabe_transfer.config import with_overrides
from mabe_transfer.library import open_dataset
from mabe_transfer.parts.rollouts import Rollouts
from mabe_transfer.parts.uncertainty import StdPenalty
from mabe_transfer.store import Layout, StoreWriter
from mabe_transfer.train import Schedule, Trainer
from mabe_transfer.transitions import Transitions

if TYPE_CHECKING:
    import argparse

    from mabe_transfer.composition import Algorithm
    from mabe_transfer.evaluate import Act

LAST = 5  # evaluations whose mean is a score
Points = list[tuple[float, float]]  # seconds, mean return over seeds


class Reached(Exception):
    """The mark is reached."""


class Timed(Trainer):
    """A run that notes when each evaluation was there, and ends at the mark."""

    def prepare(self, mark: float, started: float) -> None:
        """Say what is to be reached, and when the clock started."""
        self.mark, self.started = mark, started
        self.points: Points = []

    def _evaluate(self, act: Act, update: int) -> float:
        value = super()._evaluate(act, update)
        self.points.append((time.perf_counter() - self.started, value))
        if len(self.points) >= LAST and score(self.points) >= self.mark:
            raise Reached
        return value


def score(points: Points) -> float:
    """Mean of the last evaluations."""
    return float(np.mean([value for _, value in points[-LAST:]]))


def first_there(points: Points, mark: float) -> float | None:
    """Seconds until the mean of as many evaluations was at the mark."""
    for count in range(min(LAST, len(points)), len(points) + 1):
        if score(points[:count]) >= mark:
            return points[count - 1][0]
    return None


def theirs(
    given: argparse.Namespace, name: str, row: Algorithm, folder: Path
) -> tuple[Points, float] | str:
    """OfflineRL-Kit's evaluations averaged over its seeds, and the seconds it took."""
    trial = trials.stored(name)
    data = trial.save(folder / "data.npz")
    assert isinstance(row.rollouts, Rollouts)
    penalty = row.uncertainty.weight if isinstance(row.uncertainty, StdPenalty) else 0.0
    running: list[Peer] = []
    try:
        for _ in range(given.seeds):
            peer = peers.offlinerlkit(given, threads=1)
            if isinstance(peer, str):
                return peer
            running.append(peer)
        start = time.perf_counter()
        for seed, peer in enumerate(running):
            peer.send(
                "build",
                data=str(data),
                robot=trial.target.robot.name,
                seed=seed,
                starts=row.rollouts.starts,
                horizon=row.rollouts.horizon,
                penalty=penalty,
            )
        for peer in running:
            peer.receive()
        for peer in running:
            peer.send(
                "train",
                domain=trial.target.name,
                epochs=max(1, given.steps // 1000),
                fit_epochs=given.fit_epochs,
            )
        runs = [peer.receive()["points"] for peer in running]
        seconds = time.perf_counter() - start
    except PeerError as error:
        return str(error)
    finally:
        for peer in running:
            peer.close()
    stacked = np.array(runs)  # [S, evaluations, 2]
    points = [(float(s), float(v)) for s, v in stacked.mean(0)]
    return points, seconds


def ours(
    given: argparse.Namespace, name: str, row: Algorithm, mark: float, folder: Path
) -> tuple[Points, float]:
    """Our evaluations until the mark, and the seconds they took."""
    path = str(Path(open_dataset(name).store.location).resolve())
    kept = os.environ.get("MABE_TRANSFER_DATA")
    os.environ["MABE_TRANSFER_DATA"] = str(folder)  # where nothing is fitted yet
    start = time.perf_counter()
    try:
        prior = path if row.prior is not None else None
        found = transfer.sources(row, path, prior, None)
        every = min(1000, given.steps)
        trainer = Timed(
            row,
            found,
            Schedule(updates=given.steps, evaluate_every=every, episodes=given.episodes),
            seeds=tuple(range(given.seeds)),
            device=torch.device("cpu"),
            folder=folder / "run",
        )
        trainer.prepare(mark, start)
        with contextlib.suppress(Reached):
            trainer.run()
    finally:
        if kept is None:
            del os.environ["MABE_TRANSFER_DATA"]
        else:
            os.environ["MABE_TRANSFER_DATA"] = kept
    return trainer.points, time.perf_counter() - start


def measured(
    given: argparse.Namespace, name: str, row: Algorithm, folder: Path
) -> tuple[list[Comparison], dict[str, Any]]:
    """One data set: the time of both sides, and their curves."""
    other = theirs(given, name, row, folder)
    mark = score(other[0]) if not isinstance(other, str) else float("inf")
    points, seconds = ours(given, name, row, mark, folder)
    curves: dict[str, Any] = {"ours": points}
    if isinstance(other, str):
        alone = Comparison(
            key="score", against=ORK, unit="s", ours=(seconds,), skipped=other, case=name
        )
        return [alone], curves
    curves |= {ORK: other[0], "mark": mark}
    there = first_there(points, mark)
    missed = "" if there is not None else f"{given.steps:,} steps of ours end below its {mark:,.0f}"
    sides = ((ORK, other[1]), (f"{ORK}, first there", first_there(other[0], mark)))
    rows = [
        Comparison(
            key="score",
            against=who,
            unit="s",
            ours=() if there is None else (there,),
            theirs=() if value is None else (value,),
            less_is_better=True,
            skipped=missed,
            case=name,
            note=f"{given.seeds} seeds, return {mark:,.0f}, one run of each",
        )
        for who, value in sides
    ]
    return rows, curves


def tiny(folder: Path) -> str:
    """A small data set, so that the script runs where none is."""
    trial = trials.simulated("hopper", 1_500)
    flags = np.zeros(1_500, np.bool_)
    data = Transitions.of_arrays({**trial.arrays, "timeouts": flags})
    path = folder / "tiny.zarr"
    facts: dict[str, Any] = {"domain": "hopper", "quality": "random", "seed": 0}
    facts |= {name: {} for name in ("terms", "behaviour", "recipe", "versions")}
    with StoreWriter.open(path, Layout.of(data), facts) as writer:
        writer.append(data, np.arange(len(data.episodes()), dtype=np.int64))
        writer.finish()
    return str(path)


def main() -> None:
    """Measure, print and perhaps write."""
    parser = rounds.options(__doc__)
    parser.add_argument("--data", action="append", default=[], help="a data set, once or more")
    parser.add_argument("--row", default="mopo")
    parser.add_argument("--set", action="append", default=[], help="<part>.<field>=<value> of ours")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100_000, help="updates of each side, at most")
    parser.add_argument("--fit-epochs", type=int, help="of the peer's model; its own rule if none")
    given = rounds.parse(parser)
    torch.set_num_threads(given.threads)
    given.episodes = 10
    changes = dict(one.split("=", 1) for one in given.set)
    if given.smoke:
        given.steps, given.seeds, given.episodes, given.fit_epochs = 4, 1, 1, 1
        changes |= {"dynamics.max_epochs": "1", "rollouts.starts": "50"}
    row = with_overrides(algorithm(given.row), changes)
    rows: list[Comparison] = []
    curves: dict[str, Any] = {}
    settings = {"row": given.row, "set": changes}
    settings |= {name: getattr(given, name) for name in ("steps", "seeds", "fit_epochs")}
    with tempfile.TemporaryDirectory() as folder:
        names = given.data or ([tiny(Path(folder))] if given.smoke else [])
        if not names:
            why = "no --data, and it takes hours"
            rows.append(Comparison(key="score", against=ORK, skipped=why))
            rounds.finish("to_score", given, rows, settings)
        for index, name in enumerate(names):
            place = Path(folder) / str(index)
            place.mkdir()
            found, curve = measured(given, name, row, place)
            rows += found
            curves[name] = curve  # written now: the next data set takes as long again
            rounds.finish("to_score", given, rows, settings, curves=curves)


if __name__ == "__main__":
    main()
