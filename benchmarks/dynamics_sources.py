"""How far a dynamics model carries: trained on one person's trajectories, tested on another's.

For every robot and every source of the public trajectories, fit the ensemble to most of the
source's episodes and measure its one-step error on the source's other episodes and on every other
source. An error is the root mean square over observation and reward of the elites' mean
prediction, in standard deviations of the training targets: 1 is no better than a constant.

    python benchmarks/dynamics_sources.py FOLDER [--out results/dynamics-sources.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mabe_transfer import runs
from mabe_transfer.parts.dynamics import Ensemble, EnsembleModel
from mabe_transfer.streams import Sizes
from mabe_transfer.transitions import Transitions

ROBOTS = ("hopper", "halfcheetah", "walker2d")
ROWS = 10_000  # of a source, at the most
HELD = 0.2  # of the episodes
TESTED = 2_000  # transitions of a test
CONFIG = Ensemble(max_epochs=10)


def main() -> None:
    """Fit, test and print one table a robot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="Where public_<robot>.npz lie.")
    parser.add_argument("--out", type=Path, help="A JSON file for the errors.")
    parser.add_argument("--threads", type=int, default=0)
    words = parser.parse_args()
    if words.threads:
        torch.set_num_threads(words.threads)
    errors = {robot: table(words.folder / f"public_{robot}.npz") for robot in ROBOTS}
    for robot, rows in errors.items():
        names = list(next(iter(rows.values())))
        print(f"\n{robot}: trained on (down), tested on (across)")
        print(" " * 18 + "".join(f"{name:>18}" for name in names))
        for name, row in rows.items():
            print(f"{name:18}" + "".join(f"{row[other]:18.3f}" for other in names))
    if words.out:
        facts = {"rows": ROWS, "tested": TESTED, "epochs_at_most": CONFIG.max_epochs}
        record = {"errors": errors, **facts, "provenance": runs.provenance()}
        words.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def table(path: Path) -> dict[str, dict[str, float]]:
    """Errors of one robot: trained on, then tested on."""
    with np.load(path) as file:
        data = {name: file[name] for name in file.files}
    names = [str(name) for name in data["source_names"]]
    parts = {name: split(data, index) for index, name in enumerate(names)}
    found = {}
    for name, (train, _) in parts.items():
        if not len(train):  # a single episode, which is for testing
            continue
        model = CONFIG.build(
            Sizes(
                seeds=(0,),
                observation=data["observations"].shape[1],
                action=data["actions"].shape[1],
            )
        )
        model.fit(train)
        found[name] = {other: error(model, held) for other, (_, held) in parts.items()}
        print(f"{path.stem}, {name}: {len(train):,} transitions fitted", flush=True)
    return found


def split(data: dict[str, Any], source: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed transitions of a source, by whole episodes: to train on, and to test on."""
    mine = np.flatnonzero(data["source"] == source)[:ROWS]
    episodes = np.unique(data["episode"][mine])
    held = np.random.default_rng(0).permutation(episodes)[: max(1, int(HELD * len(episodes)))]
    tested = np.isin(data["episode"][mine], held)
    return packed(data, mine[~tested]), packed(data, mine[tested][:TESTED])


def packed(data: dict[str, Any], rows: np.ndarray[Any, Any]) -> torch.Tensor:
    """The training fields of some rows, [N, O + A + 1 + O + 1]."""
    found = Transitions(
        observations=data["observations"][rows].astype(np.float32),
        actions=np.clip(data["actions"][rows], -1.0, 1.0).astype(np.float32),
        rewards=data["rewards"][rows].astype(np.float32),
        next_observations=data["next_observations"][rows].astype(np.float32),
        terminals=data["terminals"][rows].astype(np.bool_),
        timeouts=np.zeros(len(rows), np.bool_),
    )
    return torch.from_numpy(found.packed())


def error(model: EnsembleModel, rows: torch.Tensor) -> float:
    """Root mean square error of the elites' mean, in deviations of the training targets."""
    width, action = model.sizes.observation, model.sizes.action
    mean, _ = model.predict(rows[None, :, :width], rows[None, :, width : width + action])
    elite = mean[0, model.elites[0]].mean(0)
    change = rows[:, width + action + 1 : -1] - rows[:, :width]
    truth = torch.cat((change, rows[:, width + action, None]), 1)
    return float(((elite - truth) / model.target_std).square().mean().sqrt())


if __name__ == "__main__":
    main()
