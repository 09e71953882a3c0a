"""The main job: backward running, carried from ice to normal ground on half a cheetah.

D1 is forward running on normal ground, D2 an expert's backward running on ice; wanted is backward
running on normal ground (the paper's Figure 6 in small). MABE stands beside what it must beat: the
policy behind D2 as it is, a clone of D2, the prior alone, and MOPO on D1 relabelled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mabe_transfer import (
    catalogue,
    domains,
    evaluate,
    ladders,
    locks,
    policies,
    references,
    report,
    runs,
    video,
)
from mabe_transfer import scale as scales
from mabe_transfer.arms import clone_alone, prior_alone, scaled
from mabe_transfer.errors import UserError
from mabe_transfer.progress import notice
from mabe_transfer.scale import Gathered, Scale
from mabe_transfer.train import Result, Trainer
from mabe_transfer.transfer import sources

if TYPE_CHECKING:
    from mabe_transfer.composition import Algorithm

D1, D2 = "halfcheetah-forward", "halfcheetah-backward-on-ice"
TARGET = "halfcheetah-backward"

FULL = replace(scales.MINUTES, name="full", forward=Gathered(quality="ladder", transitions=140_000))
"""Its settings were chosen on seed 0; results are of seeds from 100."""
SMOKE = replace(
    FULL,
    name="smoke",
    forward=replace(FULL.forward, transitions=4_000),
    backward=replace(FULL.backward, transitions=2_000),
    updates=100,
    prior_updates=100,
    episodes=1,
    epochs=1,
    starts=500,
    reference_episodes=2,
)
SCALES = {scale.name: scale for scale in (FULL, SMOKE)}


@dataclass(frozen=True, slots=True)
class Made:
    """What the main job left behind."""

    rows: list[dict[str, Any]]
    files: dict[str, Path]


def run(out: Path, *, seeds: int, scale: Scale) -> Made:
    """Collect, train the arms, and write a table, a picture and a video.

    Every step that was done before is found and not repeated.

    Raises:
        Interrupted: The user asked to stop; the same command goes on.
    """
    suffix = scale.suffix
    one = scale.gather(catalogue.recipe(D1), scale.forward)
    other = scale.gather(catalogue.recipe(D2), scale.backward)
    results = [
        _arm(row, one, other, out / f"{row.name}{suffix}", seeds, scale) for row in arms(scale)
    ]
    source = _unchanged(scale.reference_episodes)
    ones = [(UNCHANGED, "-", source), *((LABELS[r.row], r.row, r.summary) for r in results)]
    rows = [
        {
            "arm": label,
            "row": row,
            "return": summary["return"],
            "+-": summary["return_std"],
            "score": summary.get("score", float("nan")),
            "score +-": summary.get("score_std", float("nan")),
        }
        for label, row, summary in ones
    ]
    curves = {UNCHANGED: [(0, source["return"])]}
    curves |= {LABELS[result.row]: result.history for result in results}
    files = {
        "table": report.markdown(rows, out / f"table{suffix}.md"),
        "numbers": out / f"table{suffix}.json",
        "picture": report.curves(
            curves,
            out / f"curves{suffix}.png",
            title="Backward running on normal ground, half cheetah",
            flat=(UNCHANGED, LABELS["bc"], LABELS["mabe-no-rl"]),
        ),
        "video": out / f"mabe{suffix}.mp4",
    }
    runs.write_json(files["numbers"], {"rows": rows, "provenance": runs.provenance()})
    _film(results[-1], files)
    return Made(rows, files)


UNCHANGED = "D2's policy, unchanged (+- over episodes)"
LABELS = {
    "bc": "clone of D2",
    "mabe-no-rl": "prior alone (D2)",
    "mopo": "task transfer alone: MOPO (D1 relabelled)",
    "mabe": "MABE (D1's dynamics, D2's prior)",
}


def arms(scale: Scale) -> list[Algorithm]:
    """The rows of the main job, the one that must win last."""
    mopo, mabe = (scaled(name, scale) for name in ("mopo", "mabe"))
    return [clone_alone(mabe), prior_alone(mabe), mopo, mabe]


def _unchanged(episodes: int) -> dict[str, float]:
    """What the policy behind D2 earns in the target as it is: the ice expert, by its mode."""
    found = ladders.ladder(domains.domain(catalogue.recipe(D2).env))
    target = domains.domain(TARGET)
    returns = references.play(target, found.policy(found.expert), episodes=episodes, seed=0)
    return evaluate.summary(returns, target)


def _arm(row: Algorithm, one: str, other: str, folder: Path, seeds: int, scale: Scale) -> Result:
    with locks.sole(folder):
        return Trainer(
            row,
            sources(row, one, other if row.prior is not None else None, TARGET),
            scale.schedule(row),
            seeds=scale.seeds(seeds),
            device=torch.device("cpu"),
            folder=folder,
        ).run()


def _film(result: Result, files: dict[str, Path]) -> None:
    """Film MABE's median seed, unless nothing can draw here."""
    found = policies.load(result.folder)
    median = result.seeds[int(np.argsort(result.per_seed)[len(result.seeds) // 2])]
    try:
        video.film(found.act_one(median), found.target, files["video"], steps=300, seed=0)
    except UserError as error:
        notice(f"No video: {error}")
        del files["video"]
