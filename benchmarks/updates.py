"""How fast policies are updated: one seed, five seeds, and what a behaviour prior costs.

Batches of 256 (12 of the data, the others of the model), two hidden layers of 256, twin critics,
hopper's widths. The pool of model transitions has its usual size and is full of noise; batches are
drawn within the measurement. `mopo` against OfflineRL-Kit's MOPO and unifloral's (jitted, critics
and hidden layers brought to two), in turn; `mopo` with hidden layers in bfloat16 against the
same, whose precision is float32, where the processor has such products; and `mopo` replayed, as a
training does it, against itself one update after the other.

    python benchmarks/updates.py [--quick] [--device cuda] [--json FILE]
        [--peer-offlinerlkit FOLDER] [--peer-unifloral FOLDER --python-unifloral PYTHON]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peers
import rounds
import torch
import trials
from peers import Peer
from rounds import ORK, UNIFLORAL, Comparison

from mabe_transfer.algorithms import MABE, MOPO
from mabe_transfer.config import with_overrides
from mabe_transfer.doctor import multiplies_bfloat16

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

SEEDS = 5
ROBOT = "hopper"
HALF = with_overrides(MOPO, {"policy.bfloat16": "true"})
NO_HALF = "this processor has no products in bfloat16"


def rate(update: Callable[[int], float], count: int, seeds: int = 1) -> rounds.Play:
    """Seed-updates per second of `count` updates."""
    return lambda: seeds * count / update(count)


def asked(peer: Peer, count: int, seeds: int = 1) -> rounds.Play:
    """Seed-updates per second of a peer."""
    return lambda: seeds * count / float(peer.ask("update", count=count))


def together(processes: list[Peer], count: int) -> rounds.Play:
    """Updates per second of several processes that work at the same time."""

    def play() -> float:
        start = time.perf_counter()
        for process in processes:
            process.send("update", count=count)
        for process in processes:
            process.receive()
        return len(processes) * count / (time.perf_counter() - start)

    return play


def multiplying(play: rounds.Play, *, tf32: bool) -> rounds.Play:
    """Play with float32 products on a GPU in TF32 or not."""

    def inside() -> float:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        try:
            return play()
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False

    return inside


def single(given: argparse.Namespace, work: Work) -> list[Comparison]:
    """`mopo` of one seed against both peers, and `mabe` against `mopo`."""
    rows = {"update": MOPO, "update-half": HALF, "mabe-update": MABE}
    if not multiplies_bfloat16():
        del rows["update-half"]
    players = {
        key: rate(trials.updating(row, work.trial, starts=work.starts), work.count)
        for key, row in rows.items()
    }
    players["singly"] = rate(
        trials.updating(MOPO, work.trial, starts=work.starts, replays=False), work.count
    )
    absent = {}
    running: list[Peer] = []
    for name, start in ((ORK, peers.offlinerlkit), (UNIFLORAL, peers.unifloral)):
        peer = work.ready(start(given))
        if isinstance(peer, str):
            absent[name] = peer
            continue
        players[name] = asked(peer, work.count)
        running.append(peer)
    found = rounds.alternate(players, given.rounds)
    for peer in running:
        peer.close()
    beside = [
        Comparison(
            key=key,
            against=name,
            unit="updates/s",
            ours=found.get(key, ()),
            theirs=found.get(name, ()),
            skipped=absent.get(name, "") if key in found else NO_HALF,
        )
        for key in ("update", "update-half")
        for name in (ORK, UNIFLORAL)
    ]
    own = [
        Comparison(
            key=key,
            against=other,
            unit="updates/s",
            ours=found[mine],
            theirs=found[theirs],
        )
        for key, other, mine, theirs in (
            ("mabe-update", "our own `mopo`", "mabe-update", "update"),
            ("replayed update", "one by one", "update", "singly"),
        )
    ]
    return [*beside, *own]


def several(given: argparse.Namespace, work: Work) -> list[Comparison]:
    """Five seeds of `mopo` in one process against five processes, and against seed by seed."""
    players = {}
    rows = {"seeds": MOPO} | ({"seeds-half": HALF} if multiplies_bfloat16() else {})
    for key, row in rows.items():
        ours = trials.updating(row, work.trial, seeds=SEEDS, starts=work.starts)
        players[key] = rate(ours, work.count, SEEDS)
    names = (f"5 {ORK} processes", f"{UNIFLORAL}, seed by seed")
    absent, running = {}, list[Peer]()
    for _ in range(SEEDS):  # one thread each: five processes on few cores
        peer = work.ready(peers.offlinerlkit(given, threads=1))
        if isinstance(peer, str):
            absent[names[0]] = peer
            break
        running.append(peer)
    if not absent:
        players[names[0]] = together(list(running), work.count)
    peer = work.ready(peers.unifloral(given))
    if isinstance(peer, str):
        absent[names[1]] = peer
    else:
        players[names[1]] = asked(peer, work.count)
        running.append(peer)
    found = rounds.alternate(players, given.rounds)
    for process in running:
        process.close()
    return [
        Comparison(
            key=key,
            against=name,
            note="one thread a process" if "processes" in name else "",
            unit="seed-updates/s",
            ours=found.get(key, ()),
            theirs=found.get(name, ()),
            skipped=absent.get(name, "") if key in found else NO_HALF,
        )
        for key in ("seeds", "seeds-half")
        for name in names
    ]


def on_device(given: argparse.Namespace, work: Work) -> list[Comparison]:
    """Five seeds of `mabe` on a GPU against one of OfflineRL-Kit and five of unifloral.

    Ours and OfflineRL-Kit multiply in float32, torch's default, unifloral in TF32, jax's;
    so we do once more in TF32, beside unifloral alone.
    """
    players = {}
    for key, tf32 in (("gpu-updates", False), ("gpu-updates-tf32", True)):
        ours = trials.updating(
            MABE, work.trial, seeds=SEEDS, starts=work.starts, device=given.device
        )
        players[key] = multiplying(rate(ours, work.count, SEEDS), tf32=tf32)
    names = (f"{ORK}, one seed", f"{UNIFLORAL}, five vmapped")
    starts = (peers.offlinerlkit, peers.unifloral)
    absent, running = {}, list[Peer]()
    for name, start, seeds in zip(names, starts, (1, SEEDS), strict=True):
        peer = work.ready(start(given), device=given.device, seeds=seeds)
        if isinstance(peer, str):
            absent[name] = peer
            continue
        players[name] = asked(peer, work.count, seeds)
        running.append(peer)
    found = rounds.alternate(players, given.rounds)
    for process in running:
        process.close()
    return [
        Comparison(
            key=key,
            against=name,
            unit="seed-updates/s",
            ours=found[key],
            theirs=found.get(name, ()),
            skipped=absent.get(name, ""),
        )
        for key, against in (("gpu-updates", names), ("gpu-updates-tf32", names[1:]))
        for name in against
    ]


class Work:
    """How much, and on which data."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        rows = 2_000 if given.smoke else 20_000
        self.trial = trials.simulated(ROBOT, rows)
        self.starts = 100 if given.smoke else 10_000 if given.quick else 50_000
        self.count = 3 if given.smoke else 100 if given.quick else 500
        self.data = self.trial.save(folder / "data.npz")

    def ready(self, peer: Peer | str, *, device: str = "cpu", seeds: int = 1) -> Peer | str:
        """A peer that has built its learner, or why it has not."""
        settings: dict[str, Any] = {"starts": self.starts, "device": device}
        if seeds > 1:
            settings["seeds"] = seeds
        return peers.built(peer, self.data, ROBOT, **settings)


def main() -> None:
    """Measure, print and perhaps write."""
    parser = rounds.options(__doc__)
    parser.add_argument("--device", default="cpu", help="cuda measures the rows for a GPU instead")
    given = rounds.parse(parser)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(given, Path(folder))
        if given.device == "cpu":
            rows = [*single(given, work), *several(given, work)]
        else:
            rows = on_device(given, work)
        settings = {"robot": ROBOT, "updates_a_round": work.count, "pool_starts": work.starts}
    rounds.finish("updates", given, rows, settings)


if __name__ == "__main__":
    main()
