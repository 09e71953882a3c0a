"""How cost grows: seeds, batch, rows of data, members of the ensemble, size of the observation.

Only this project is measured. Each quantity is varied with the others at their defaults; the cost
of an update of `mopo` (of a training batch, where members vary) is the median of the rounds, taken
in turn. Rows are varied with `sac`, whose batches come from the data alone, in memory, and as a
store that is streamed into memory. A curve bends where cost grows faster than it should: than in
proportion, and for rows than not at all. Then a training on 2 M rows runs in a process of its own
and says how much memory it took beyond the data.

    python benchmarks/growth.py [--quick] [--updates 20000] [--out results/growth] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rounds
import torch
import trials
from rounds import Comparison
from trials import Trial

from mabe_transfer import runs
from mabe_transfer.algorithms import MABE, MOPO, SAC
from mabe_transfer.domains import domain
from mabe_transfer.store import Layout, StoreWriter, open_store
from mabe_transfer.streams import Sizes
from mabe_transfer.transitions import Transitions

if TYPE_CHECKING:
    from mabe_transfer.composition import Algorithm

MARGIN = 0.15  # by which a slope in the double logarithm may exceed what it should be
STARTS = 2_000  # the pool's, small enough for sixteen seeds
LIMIT_MIB = 4 * 1024
WIDTHS = (11, 3)  # hopper's

Play = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Axis:
    """One quantity that grows."""

    name: str
    unit: str
    values: tuple[int, ...]
    proportional: bool  # whether cost may grow in proportion, or not at all
    make: Callable[[int], Play]


def synthetic(rows: int, observation: int = WIDTHS[0], action: int = WIDTHS[1]) -> Trial:
    """Noise of any size, in the form of transitions."""
    draws = np.random.default_rng(0)

    def noise(*shape: int) -> Any:
        return draws.standard_normal(shape, dtype=np.float32)

    arrays = {
        "observations": noise(rows, observation),
        "actions": np.tanh(noise(rows, action)),
        "rewards": noise(rows),
        "next_observations": noise(rows, observation),
        "terminals": np.zeros(rows, np.bool_),
    }
    return Trial(domain("hopper"), arrays)


def updating(row: Algorithm, trial: Trial, count: int, seeds: int = 1) -> Play:
    """Seconds an update of a row."""
    update = trials.updating(row, trial, seeds=seeds, starts=STARTS)
    return lambda: update(count) / count


def training(members: int, count: int) -> Play:
    """Seconds a training batch of an ensemble."""
    assert MABE.dynamics is not None
    config = replace(MABE.dynamics, members=members, elites=min(5, members))
    trial = synthetic(count * config.batch * 5 // 4)
    model = config.build(trial.sizes(1))
    fitting = model.fitting(trial.packed)

    def play() -> float:
        start = time.perf_counter()
        for _ in range(fitting.epoch):
            fitting.advance()
        return (time.perf_counter() - start) / fitting.epoch

    return play


def streaming(rows: int, folder: Path) -> Play:
    """Seconds to stream a store of so many rows into one packed array."""
    path = folder / f"{rows}.zarr"
    piece = Transitions.of_arrays(
        {
            **synthetic(min(rows, 1_000_000)).arrays,
            "timeouts": np.arange(min(rows, 1_000_000)) % 1000 == 999,
        }
    )
    facts: dict[str, Any] = {"domain": "hopper", "quality": "noise", "seed": 0}
    facts |= {name: {} for name in ("terms", "behaviour", "recipe", "versions")}
    episodes = len(piece.episodes())
    with StoreWriter.open(path, Layout.of(piece), facts) as writer:
        for start in range(0, rows, len(piece)):
            first = start // 1000
            writer.append(piece, np.arange(first, first + episodes, dtype=np.int64))
        writer.finish()

    def play() -> float:
        start = time.perf_counter()
        store = open_store(path)
        packed = torch.empty(store.rows, 2 * WIDTHS[0] + WIDTHS[1] + 2)
        done = 0
        for block in store.stream(states=False, terms=False):
            packed[done : done + len(block)] = torch.from_numpy(block.packed())
            done += len(block)
        return time.perf_counter() - start

    return play


def axes(given: argparse.Namespace, folder: Path) -> tuple[Axis, ...]:
    """What grows, and how far."""
    count = 2 if given.smoke else 20 if given.quick else 100
    trial = synthetic(2_000 if given.smoke else 100_000)
    seeds: tuple[int, ...] = (1, 2, 4, 8, 16)
    batch: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    rows: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    members: tuple[int, ...] = (1, 3, 5, 7, 10, 15)
    sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    if given.quick:
        rows = (100_000, 300_000, 1_000_000, 3_000_000)
    if given.smoke:
        seeds, batch, rows, members, sizes = (1, 2), (256, 512), (1_000, 2_000), (1, 2), (8, 16)

    def observed(width: int) -> Play:
        return updating(MOPO, synthetic(10_000, width), count)

    return (
        Axis("seeds", "s/update", seeds, True, lambda n: updating(MOPO, trial, count, n)),
        Axis(
            "batch",
            "s/update",
            batch,
            True,
            lambda n: updating(replace(MOPO, batch=n), trial, count),
        ),
        Axis(
            "rows in memory", "s/update", rows, False, lambda n: updating(SAC, synthetic(n), count)
        ),
        Axis("rows streamed", "s", rows, True, lambda n: streaming(n, folder)),
        Axis("members", "s/batch", members, True, lambda n: training(n, max(2, count // 2))),
        Axis("observation", "s/update", sizes, True, observed),
    )


def curve(axis: Axis, turns: int) -> dict[str, Any]:
    """Medians along an axis; slopes in the double logarithm, and where they are too steep."""
    players = {str(value): axis.make(value) for value in axis.values}
    found = rounds.alternate(players, turns)
    costs = [statistics.median(found[str(value)]) for value in axis.values]
    slopes = [
        math.log(later / sooner) / math.log(after / before)
        for sooner, later, before, after in zip(
            costs, costs[1:], axis.values, axis.values[1:], strict=False
        )
    ]
    allowed = (1.0 if axis.proportional else 0.0) + MARGIN
    bends = [i for i, slope in enumerate(slopes) if slope > allowed]
    return {
        "unit": axis.unit,
        "values": list(axis.values),
        "costs": costs,
        "all": {str(value): found[str(value)] for value in axis.values},
        "slopes": slopes,
        "proportional": axis.proportional,
        "bends_at": axis.values[bends[0] + 1] if bends else None,
        "factor_at_bend": axis.values[bends[0] + 1] / axis.values[0] if bends else None,
    }


def verdict(curves: dict[str, Any]) -> str:
    """What bends first, counted from the smallest value upwards, in a sentence."""
    bent = {name: c for name, c in curves.items() if c["bends_at"] is not None}
    if not bent:
        steepest = max(curves, key=lambda name: max(curves[name]["slopes"]))
        power = max(curves[steepest]["slopes"])
        return f"Nothing bends; {steepest} grows fastest, with the power {power:.2f}."
    first = min(bent, key=lambda name: float(bent[name]["factor_at_bend"]))
    found = bent[first]
    power = found["slopes"][found["values"].index(found["bends_at"]) - 1]
    return (
        f"What bends first: {first}, at {found['bends_at']:,} ({found['factor_at_bend']:g} times "
        f"the smallest), where cost grows with the power {power:.2f}."
    )


def memory(rows: int, updates: int, threads: int) -> dict[str, float]:
    """Peak memory in MiB of a training on so many rows, measured in a process of its own."""
    words = [sys.executable, __file__, "--memory", str(rows), "--updates", str(updates)]
    words += ["--threads", str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def watched(rows: int, updates: int) -> dict[str, float]:
    """Train `mabe` on noise; peak and growth of this process's memory beyond the data, in MiB."""
    noise = np.random.default_rng(0)
    width = 2 * WIDTHS[0] + WIDTHS[1] + 2
    packed = torch.empty(rows, width)
    for start in range(0, rows, 100_000):
        part = packed[start : start + 100_000]
        part[:] = torch.from_numpy(noise.standard_normal(part.shape, dtype=np.float32))
    packed[:, -1] = 0.0
    data = packed.numel() * 4 / 2**20
    trial = Packed(domain("hopper"), {"observations": packed[:1, :11].numpy()}, packed)
    before = resident()
    mine = trials.learner(MABE, trial)
    model = mine.parts.model
    assert model is not None
    fitting = model.fitting(packed)
    fitting.advance()  # an epoch has its order at once, and one batch at a time: one is enough
    del fitting
    marks, take = [], trials.taking(mine)
    for step in range(updates):
        take(1)
        if step in (updates // 2, updates - 1):
            marks.append(resident())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": rows,
        "updates": updates,
        "data_mib": data,
        "peak_mib": peak,
        "beyond_data_mib": peak - data,
        "libraries_mib": before - data,
        "growth_mib": marks[-1] - marks[0],
    }


@dataclass(frozen=True, slots=True)
class Packed(Trial):
    """A trial whose transitions are packed already, so that they are there only once."""

    whole: torch.Tensor

    @property
    def packed(self) -> torch.Tensor:
        """The transitions."""
        return self.whole

    def sizes(self, seeds: int, device: str = "cpu") -> Sizes:
        """Hopper's widths."""
        return Sizes(
            seeds=tuple(range(seeds)),
            observation=WIDTHS[0],
            action=WIDTHS[1],
            device=torch.device(device),
        )


def resident() -> float:
    """Memory of this process now, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def picture(curves: dict[str, Any], path: Path) -> None:
    """Draw every curve, with the line of proportion."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, plots = plt.subplots(2, 3, figsize=(12, 7), layout="constrained")
    for plot, (name, found) in zip(plots.flat, curves.items(), strict=False):
        values, costs = found["values"], found["costs"]
        ideal = [costs[0] * (v / values[0] if found["proportional"] else 1.0) for v in values]
        plot.loglog(values, costs, "o-", label="measured")
        plot.loglog(values, ideal, "--", color="grey", label="what it may grow to")
        plot.set_xticks(values, [f"{value:,}" for value in values], fontsize=7)
        plot.set_xticks([], minor=True)
        if found["bends_at"] is not None:
            plot.axvline(found["bends_at"], color="tab:red", linewidth=0.8, label="bends")
        low, high = min(*costs, *ideal), max(*costs, *ideal)
        # A decade at least, lest noise looks like growth.
        plot.set_ylim(low / 1.5, max(1.5 * high, 10.0 * low))
        plot.set(title=name, xlabel=name, ylabel=found["unit"])
        plot.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Measure, print, draw and write."""
    parser = rounds.options(__doc__)
    parser.add_argument("--out", type=Path, help="a folder for growth.json and growth.png")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--updates", type=int, help="of the training whose memory is watched")
    given = rounds.parse(parser)
    torch.set_num_threads(given.threads)
    if given.memory:
        print(json.dumps(watched(given.memory, given.updates)))
        return
    with tempfile.TemporaryDirectory() as folder:
        curves = {}
        for axis in axes(given, Path(folder)):
            curves[axis.name] = found = curve(axis, given.rounds)
            points = zip(found["values"], found["costs"], strict=True)
            print(f"{axis.name}: " + ", ".join(f"{v:,} {c:.4g} {axis.unit}" for v, c in points))
    rows = 20_000 if given.smoke else 2_000_000
    usual = 2 if given.smoke else 2_000 if given.quick else 20_000
    used = memory(rows, given.updates or usual, given.threads)
    says = verdict(curves)
    print(says)
    beyond = used["beyond_data_mib"]
    print(
        f"Peak memory on {rows:,} rows: {beyond:,.0f} MiB beyond {used['data_mib']:,.0f} of data."
    )
    row = Comparison(
        key="peak memory on 2 M rows beyond the data",
        against="4 GiB",
        unit="MiB",
        ours=(beyond,),
        theirs=(LIMIT_MIB,),
        less_is_better=True,
        note=f"{used['updates']:,.0f} updates of `mabe`",
    )
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        facts = {**rounds.machine(), "threads": given.threads, "rounds": given.rounds}
        facts |= {"curves": curves, "verdict": says, "memory": used}
        runs.write_json(given.out / "growth.json", facts)
        picture(curves, given.out / "growth.png")
    rounds.finish("growth", given, [row], {"updates": used["updates"]}, verdict=says, memory=used)


if __name__ == "__main__":
    main()
