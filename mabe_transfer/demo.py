"""The main job: backward running, carried from ice to normal ground on half a cheetah.

D1 is forward running on normal ground, D2 an expert's backward running on ice; wanted is backward
running on normal ground (the paper's Figure 6 in small). MABE stands beside the two arms that it
must beat: the prior alone, and MOPO on D1 relabelled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mabe_transfer import catalogue, library, policies, report, runs, video
from mabe_transfer.acquire import acquire, of_recipe
from mabe_transfer.algorithms import ALGORITHMS
from mabe_transfer.composition import Algorithm, Imitation
from mabe_transfer.config import with_overrides
from mabe_transfer.errors import UserError
from mabe_transfer.parts.prior import Fit, Network
from mabe_transfer.progress import notice
from mabe_transfer.train import Result, Schedule, Trainer
from mabe_transfer.transfer import sources

D1, D2 = "halfcheetah-forward", "halfcheetah-backward-on-ice"
TARGET = "halfcheetah-backward"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of the main job is done.

    Attributes:
        forward: Transitions of D1.
        backward: Transitions of D2.
        prior_updates: Of the prior's fit, and of the prior alone.
        updates: Of each policy.
        epochs: Of the dynamics model, at the most.
        starts: Rollouts at a time.
        episodes: Of an evaluation, for each seed.
        prior_looks: Evaluations along the training of the prior alone. The last ten make its
            result, so that with many of them it is that of a prior that is all but fitted.
    """

    forward: int
    backward: int
    prior_updates: int
    updates: int
    epochs: int
    starts: int
    episodes: int
    prior_looks: int


FULL = Scale(
    forward=140_000,
    backward=100_000,
    prior_updates=6_000,
    updates=4_000,
    epochs=8,
    starts=2_000,
    episodes=3,
    prior_looks=100,
)
SMOKE = Scale(
    forward=4_000,
    backward=2_000,
    prior_updates=100,
    updates=100,
    epochs=1,
    starts=500,
    episodes=1,
    prior_looks=15,
)
BATCH = 128
LOOKS = 15  # evaluations along the training of a policy; the last ten make the result
FIRST_SEED = 100  # the settings were chosen on seeds 0 and 1


@dataclass(frozen=True, slots=True)
class Made:
    """What the main job left behind."""

    rows: list[dict[str, Any]]
    files: dict[str, Path]


def run(out: Path, *, seeds: int, scale: Scale) -> Made:
    """Collect, train the three arms, and write a table, a picture and a video.

    Every step that was done before is found and not repeated.

    Raises:
        Interrupted: The user asked to stop; the same command goes on.
    """
    suffix = "" if scale is FULL else "-smoke"
    one = _dataset(D1, scale.forward, suffix)
    other = _dataset(D2, scale.backward, suffix)
    results = [
        _arm(row, one, other, out / f"{row.name}{suffix}", seeds, scale) for row in arms(scale)
    ]
    rows = [
        {
            "arm": LABELS[result.row],
            "row": result.row,
            "return": result.summary["return"],
            "+- over seeds": result.summary["return_std"],
            "score": result.summary.get("score", float("nan")),
            "score +-": result.summary.get("score_std", float("nan")),
        }
        for result in results
    ]
    curves = {LABELS[result.row]: result.history for result in results}
    files = {
        "table": report.markdown(rows, out / f"table{suffix}.md"),
        "numbers": out / f"table{suffix}.json",
        "picture": report.curves(
            curves,
            out / f"curves{suffix}.png",
            title="Backward running on normal ground, half cheetah",
            flat=LABELS["mabe-no-rl"],
        ),
        "video": out / f"mabe{suffix}.mp4",
    }
    runs.write_json(files["numbers"], {"rows": rows, "provenance": runs.provenance()})
    _film(results[-1], files)
    return Made(rows, files)


LABELS = {
    "mabe-no-rl": "prior alone (D2)",
    "mopo": "task transfer alone: MOPO (D1 relabelled)",
    "mabe": "MABE (D1's dynamics, D2's prior)",
}


def arms(scale: Scale) -> list[Algorithm]:
    """The rows of the main job, the one that must win last."""
    model = {
        "dynamics.max_epochs": str(scale.epochs),
        "dynamics.members": "5",
        "rollouts.starts": str(scale.starts),
        "rollouts.horizon": "20",
        "rollouts.every": "500",
    }
    # Few updates: critics that learn fast, and do not look far.
    batch = {"batch": str(BATCH), "policy.critic_rate": "1e-3", "policy.polyak": "0.02"}
    batch |= {"policy.discount": "0.98"}
    table = ALGORITHMS
    behaviour = {
        "prior.fit.updates": str(scale.prior_updates),
        "prior.evaluation.hidden": "[64,64]",
        "rollouts.prior_start_share": "0.8",
    }
    mabe = with_overrides(table["mabe"], model | batch | behaviour)
    return [_prior_alone(mabe), with_overrides(table["mopo"], model | batch), mabe]


def _prior_alone(mabe: Algorithm) -> Algorithm:
    """The prior of a row as the policy, with the settings by which that row fits it."""
    assert mabe.prior is not None
    fit = mabe.prior.fit
    assert isinstance(fit, Fit)
    prior = replace(mabe.prior, fit=Network(rate=fit.rate, hidden=fit.hidden))
    return replace(ALGORITHMS["mabe-no-rl"], prior=prior, batch=fit.batch)


def _dataset(recipe: str, transitions: int, suffix: str) -> str:
    """Collect a recipe's dataset unless it is there; gives its name."""
    name = recipe + suffix
    if Path(library.location(name)).exists():
        notice(f"{name} is there already.")
    else:
        row = replace(catalogue.recipe(recipe), transitions=transitions)
        acquire(of_recipe(row, out=name))
    return name


def _arm(row: Algorithm, one: str, other: str, folder: Path, seeds: int, scale: Scale) -> Result:
    found = sources(row, one, other if row.prior is not None else None, TARGET)
    updates, looks = scale.updates, LOOKS
    if isinstance(row.policy, Imitation):
        updates, looks = scale.prior_updates, scale.prior_looks
    schedule = Schedule(
        updates=updates,
        evaluate_every=max(1, updates // looks),
        episodes=scale.episodes,
        log_every=max(1, updates // 100),
    )
    trainer = Trainer(
        row,
        found,
        schedule,
        seeds=tuple(range(FIRST_SEED, FIRST_SEED + seeds)),
        device=torch.device("cpu"),
        folder=folder,
    )
    return trainer.run()


def _film(result: Result, files: dict[str, Path]) -> None:
    """Film MABE's median seed, unless nothing can draw here."""
    found = policies.load(result.folder)
    median = result.seeds[int(np.argsort(result.per_seed)[len(result.seeds) // 2])]
    try:
        video.film(found.act_one(median), found.target, files["video"], steps=300, seed=0)
    except UserError as error:
        notice(f"No video: {error}")
        del files["video"]
