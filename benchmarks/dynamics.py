"""How long a dynamics model takes to the same held-out error, and a training batch.

Everyone fits seven networks of four layers of 200 to the same rows; other rows, which no fit sees,
are predicted after every epoch, and looking does not count as time. The error is the mean square,
in standard deviations of the training targets, averaged over the five members that are best there.
OfflineRL-Kit fits until it stops by itself; the error it then has is what all must reach. Its time
is when it first got there (`until its stop` counts what its user waits for). Unifloral is compiled
before its clock starts.

This project fits as its row `mabe` does: larger steps and batches than the peers' defaults
(`--rate`, `--batch`), and a rate that falls, which is part of how it gets there sooner. Below the
table stand OfflineRL-Kit with that very rate and batch, and this project with the peers' settings,
so that a reader can tell method from settings.

    python benchmarks/dynamics.py [--data public_halfcheetah.npz] [--fits 1] [--rate 1e-2]
        [--batch 512] [--quick] [--json FILE]
        [--peer-offlinerlkit FOLDER] [--peer-unifloral FOLDER --python-unifloral PYTHON]
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
import rounds
import torch
import trials
from peers import Peer
from peers.serving import held_out_error, scale_of
from rounds import ORK, UNIFLORAL, Comparison

from mabe_transfer.algorithms import MABE

if TYPE_CHECKING:
    import argparse

    from trials import Trial

    from mabe_transfer.parts.dynamics import Ensemble, EnsembleModel

Curve = dict[str, Any]
HELD = 2_000  # rows that no fit sees
PEERS_BATCH = 256
PEERS: dict[str, Any] = {"rate": 1e-3, "cooldown": 0.0, "batch": PEERS_BATCH}
assert MABE.dynamics is not None
OURS = MABE.dynamics


def curve(
    config: Ensemble, train: Trial, held: Trial, *, enough: float = 0.0, seed: int = 0
) -> Curve:
    """Our held-out error after each epoch and when that was, until it is low enough."""
    rows, scale = held.arrays, scale_of(train.arrays)
    start, paused = time.perf_counter(), 0.0
    model = config.build(replace(train.sizes(1), seeds=(seed,)))
    fitting = model.fitting(train.packed)
    points: list[list[float]] = []
    while not fitting.finished:
        for _ in range(fitting.epoch):
            fitting.advance()
        now = time.perf_counter()
        points.append([now - start - paused, error(model, rows, scale)])
        paused += time.perf_counter() - now
        if points[-1][1] <= enough:
            break
    stop = time.perf_counter() - start - paused
    return {"points": points, "stop": stop, "final": points[-1][1]}


def error(model: EnsembleModel, rows: trials.Arrays, scale: np.ndarray[Any, Any]) -> float:
    """The held-out error of a model of ours."""
    mean, _ = model.predict(
        torch.from_numpy(rows["observations"])[None], torch.from_numpy(rows["actions"])[None]
    )
    return held_out_error(mean[0].numpy(), rows, scale)


def reached(found: Curve, enough: float) -> float | None:
    """When a curve first was at an error, in seconds."""
    at = [seconds for seconds, value in found["points"] if value <= enough]
    return at[0] if at else (found["stop"] if found["final"] <= enough else None)


class Fits:
    """One fit of each contestant a round, and the seconds that each took to the same error."""

    def __init__(self, given: argparse.Namespace, folder: Path, settings: dict[str, Any]) -> None:
        trial = data(given)
        order = np.random.default_rng(0).permutation(len(trial.arrays["rewards"]))
        cut = max(1, min(HELD, len(order) // 5))
        self.held, self.train = trial.rows(order[:cut]), trial.rows(order[cut:])
        self.files = self.train.save(folder / "train.npz"), self.held.save(folder / "held.npz")
        self.given, self.robot = given, trial.target.robot.name
        self.epochs = given.epochs or (2 if given.smoke else 200)
        settings["rows"] = len(order) - cut
        own = min(OURS.max_epochs, self.epochs)
        self.ours = replace(OURS, rate=given.rate, batch=given.batch, max_epochs=own)
        self.plain = replace(OURS, **PEERS, max_epochs=self.epochs)
        self.curves: dict[str, list[Curve]] = {}

    def keep(self, who: str, found: Curve) -> Curve:
        """Remember a contestant's curve."""
        self.curves.setdefault(who, []).append(found)
        return found

    def run(self) -> list[Comparison]:
        """Measure all rounds."""
        first = peers.built(peers.offlinerlkit(self.given), self.files[0], self.robot, starts=1)
        other = peers.built(peers.unifloral(self.given), self.files[0], self.robot, starts=1)
        absent = {n: p for n, p in ((ORK, first), (UNIFLORAL, other)) if isinstance(p, str)}
        for seed in range(self.given.fits):
            self.round(first, other, seed)
        for peer in (first, other):
            if isinstance(peer, Peer):
                peer.close()
        return self.rows(absent)

    def round(self, first: Peer | str, other: Peer | str, seed: int) -> None:
        """One seed of everyone; OfflineRL-Kit goes first, since it sets the mark."""
        files, held = str(self.files[0]), str(self.files[1])
        known: dict[str, Any] = {"data": files, "robot": self.robot, "starts": 1, "seed": seed}
        enough = 0.0
        if isinstance(first, Peer):
            first.ask("build", **known)
            call = {"held": held, "epochs": self.epochs}
            enough = self.keep(ORK, first.ask("curve", batch=PEERS_BATCH, **call))["final"]
            if not self.given.quick:
                first.ask("build", rate=self.given.rate, **known)
                same = first.ask("curve", batch=self.given.batch, **call)
                self.keep(f"{ORK} with our rate and batch", same)
        self.keep("ours", curve(self.ours, self.train, self.held, enough=enough, seed=seed))
        if isinstance(other, Peer):
            other.ask("build", **known)
            limit = {"held": held, "batch": PEERS_BATCH, "epochs": self.epochs, "enough": enough}
            self.keep(UNIFLORAL, other.ask("curve", **limit))
        if not self.given.quick:
            plain = curve(self.plain, self.train, self.held, enough=enough, seed=seed)
            self.keep("ours with the peers' rate and batch", plain)

    def rows(self, absent: dict[str, str]) -> list[Comparison]:
        """Seconds to OfflineRL-Kit's final error, of everyone."""
        if ORK not in self.curves:
            reason = absent.get(ORK, "nothing")
            none = [(ORK, reason), (UNIFLORAL, f"the mark is {ORK}'s: {reason}")]
            return [Comparison(key="dynamics", against=n, skipped=why) for n, why in none]
        marks = [found["final"] for found in self.curves[ORK]]

        def seconds(who: str) -> tuple[tuple[float, ...], str]:
            pairs = list(zip(self.curves[who], marks, strict=True))
            found = [reached(c, m) for c, m in pairs]
            missed = sum(value is None for value in found)
            note = f"; {who} stopped short {missed} of {len(found)} times" if missed else ""
            times = [c["stop"] if t is None else t for (c, _), t in zip(pairs, found, strict=True)]
            return tuple(times), note

        ours, short = seconds("ours")
        why = f"ours does not reach it{short}" if short else ""
        ours = () if short else ours
        rows = []
        for who in (n for n in (ORK, UNIFLORAL, *self.curves) if n != "ours"):
            if who in absent:
                rows.append(Comparison(key="dynamics", against=who, skipped=absent[who]))
                continue
            if any(row.against == who for row in rows):
                continue
            theirs, late = seconds(who)  # one that never gets there counts with its whole run
            rows.append(self.row(who, ours, theirs, why, late))
        stops = tuple(found["stop"] for found in self.curves[ORK])
        rows.append(self.row(f"{ORK} until its stop", ours, stops, why))
        return rows

    def row(
        self,
        who: str,
        ours: tuple[float, ...],
        theirs: tuple[float, ...],
        why: str,
        late: str = "",
    ) -> Comparison:
        """One comparison of seconds."""
        note = f"rate {self.given.rate:g} and batch {self.given.batch} of ours"
        return Comparison(
            key="dynamics",
            against=who,
            unit="s",
            ours=ours,
            theirs=theirs,
            less_is_better=True,
            skipped=why,
            note=f"{note}; median of {self.given.fits} fits{late}",
        )


def batches(given: argparse.Namespace, folder: Path) -> list[Comparison]:
    """Seconds a training batch of 256 on hopper's widths."""
    count = 3 if given.smoke else 50 if given.quick else 200
    trial = trials.simulated("hopper", max(2_000, count * PEERS_BATCH * 5 // 4))
    path = trial.save(folder / "hopper.npz")
    config = replace(OURS, batch=PEERS_BATCH)
    model = config.build(trial.sizes(1))
    rows = trial.packed[: count * PEERS_BATCH * 5 // 4]
    fitting = model.fitting(rows)

    def ours() -> float:
        start = time.perf_counter()
        for _ in range(fitting.epoch):
            fitting.advance()
        return (time.perf_counter() - start) / fitting.epoch

    players: dict[str, rounds.Play] = {"ours": ours}
    absent, running = {}, list[Peer]()
    for name, begin in ((ORK, peers.offlinerlkit), (UNIFLORAL, peers.unifloral)):
        peer = peers.built(begin(given), path, "hopper", starts=1)
        if isinstance(peer, str):
            absent[name] = peer
            continue
        players[name] = asked(peer, count)
        running.append(peer)
    found = rounds.alternate(players, given.rounds)
    for peer in running:
        peer.close()
    return [
        Comparison(
            key="training batch of the dynamics",
            against=name,
            unit="s",
            ours=found["ours"],
            theirs=found.get(name, ()),
            less_is_better=True,
            skipped=absent.get(name, ""),
        )
        for name in (ORK, UNIFLORAL)
    ]


def asked(peer: Peer, count: int) -> rounds.Play:
    """Seconds a batch of a peer."""
    return lambda: float(peer.ask("batches", count=count, size=PEERS_BATCH))


def data(given: argparse.Namespace) -> Trial:
    """The rows that everyone fits."""
    if given.data:
        return trials.stored(given.data)
    rows = 1_500 if given.smoke else 20_000 if given.quick else 100_000
    return trials.simulated("halfcheetah", rows)


def main() -> None:
    """Measure, print and perhaps write."""
    parser = rounds.options(__doc__)
    parser.add_argument("--data", help="a data set's name or path, or <any>_<robot>.npz")
    parser.add_argument("--fits", type=int, default=1, help="fits of each, seeds 0, 1, ...")
    parser.add_argument("--rate", type=float, default=OURS.rate, help="Adam's rate of ours")
    parser.add_argument("--batch", type=int, default=OURS.batch, help="transitions of ours")
    parser.add_argument("--epochs", type=int, help="at most; 200 unless given")
    given = rounds.parse(parser)
    torch.set_num_threads(given.threads)
    settings = {"data": given.data or "random half cheetah", "rate": given.rate}
    settings |= {"batch": given.batch, "fits": given.fits}
    with tempfile.TemporaryDirectory() as folder:
        fits = Fits(given, Path(folder), settings)
        rows = [*batches(given, Path(folder)), *fits.run()]
    rounds.finish("dynamics", given, rows, settings, curves=fits.curves)


if __name__ == "__main__":
    main()
