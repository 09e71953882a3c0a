"""How long a whole training takes: five seeds, a million updates each, and everything around them.

Fitting the prior and the dynamics, rollouts, updates, evaluations in D4RL's physics and what is
written down, from an empty folder to the result. On a GPU it is held against a quarter of an hour;
`--updates` makes it shorter, and then it is held against nothing.

    python benchmarks/whole_run.py --data hopper-d4rl-medium --device cuda [--row mabe] [--seeds 5]
        [--updates 1000000] [--set policy.bfloat16=true] [--json FILE]
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import rounds
import torch
from rounds import Comparison
from to_score import tiny

from mabe_transfer import transfer
from mabe_transfer.algorithms import algorithm
from mabe_transfer.config import with_overrides
from mabe_transfer.library import open_dataset
from mabe_transfer.train import Schedule, Trainer

if TYPE_CHECKING:
    import argparse

    from mabe_transfer.composition import Algorithm

SEEDS, WHOLE = 5, 1_000_000
LIMIT_S = 15 * 60.0
LOOKS = 100


def seconds(given: argparse.Namespace, row: Algorithm, name: str, folder: Path) -> float:
    """Wall clock of one training from nothing."""
    path = str(Path(open_dataset(name).store.location).resolve())
    with mock.patch.dict(os.environ, MABE_TRANSFER_DATA=str(folder)):  # nothing is fitted there
        start = time.perf_counter()
        Trainer(
            row,
            transfer.sources(row, path, path if row.prior is not None else None, None),
            Schedule(
                updates=given.updates,
                evaluate_every=max(1, given.updates // LOOKS),
                episodes=1 if given.smoke else 10,
            ),
            seeds=tuple(range(given.seeds)),
            device=torch.device(given.device),
            folder=folder / "run",
        ).run()
        return time.perf_counter() - start


def main() -> None:
    """Train, print and perhaps write."""
    parser = rounds.options(__doc__)
    parser.add_argument("--data", default="", help="a data set")
    parser.add_argument("--row", default="mabe")
    parser.add_argument("--set", action="append", default=[], help="<part>.<field>=<value>")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--updates", type=int, default=WHOLE)
    parser.add_argument("--device", default="cuda")
    given = rounds.parse(parser)
    torch.set_num_threads(given.threads)
    changes = dict(one.split("=", 1) for one in given.set)
    if given.smoke:
        given.updates, given.seeds, given.device = 4, 1, "cpu"
        small = {"dynamics.max_epochs": "1", "rollouts.starts": "50", "prior.fit.updates": "2"}
        changes |= small
    row = with_overrides(algorithm(given.row), changes)
    with tempfile.TemporaryDirectory() as folder:
        name = given.data or (tiny(Path(folder)) if given.smoke else "")
        if not name:
            parser.error("--data is needed: the name of a data set")
        took = seconds(given, row, name, Path(folder) / "work")
    asked = (given.seeds, given.updates, given.device.split(":")[0])
    whole = asked == (SEEDS, WHOLE, "cuda")
    what = f"{given.seeds} seeds x {given.updates:,} updates of {row.name} on {given.device}"
    found = Comparison(
        key="gpu-hour" if whole else what,
        against="15 minutes" if whole else "nothing",
        unit="s",
        ours=(took,),
        theirs=(LIMIT_S,) if whole else (),
        less_is_better=True,
        skipped="" if whole else f"took {took:,.0f} s",
        case=name,
        note=what,
    )
    rounds.finish("whole_run", given, [found], {"device": given.device, "updates": given.updates})


if __name__ == "__main__":
    main()
