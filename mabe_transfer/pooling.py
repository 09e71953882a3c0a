"""Two datasets made into one, as data of the target: the controls that a transfer must beat.

D1 and D2 are relabelled for the target's task and written one after the other. Where a correction
is asked for, D2's rewards are corrected for its physics first (DARA).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mabe_transfer import locks, runs
from mabe_transfer.config import Json, difference, to_json
from mabe_transfer.domains import Domain, to_facts
from mabe_transfer.errors import Interrupted, UserError
from mabe_transfer.library import Dataset, location, open_dataset
from mabe_transfer.parts.correction import Correction
from mabe_transfer.progress import Work, notice
from mabe_transfer.store import write_whole
from mabe_transfer.streams import Sizes
from mabe_transfer.transitions import Transitions, relabel

Floats = np.ndarray[Any, np.dtype[np.float32]]
CORRECTION = "correction"
"""The term of the reward that a correction adds, in nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """A dataset to make of two.

    Attributes:
        dynamics: Name of D1, data of the target's world.
        prior: Name of D2, data of another world.
        target: Domain whose task rewards both, and whose data the pool counts as.
        out: Name of the result.
        correction: How D2's rewards are corrected, if they are.
        seed: Of the correction's classifiers.
    """

    dynamics: str
    prior: str
    target: Domain
    out: str
    correction: Correction | None = None
    seed: int = 0


def pool(request: Pool) -> str:
    """Make a pool unless it is there or being made; gives its name.

    A fit of classifiers is short, and starts anew where it was stopped.

    Raises:
        UserError: Data are missing, are of another robot, or the name holds something else.
        Interrupted: The user asked to stop.
    """
    ones = [open_dataset(name) for name in (request.dynamics, request.prior)]
    for dataset in ones:
        if dataset.domain.robot.name != request.target.robot.name:
            raise UserError(
                f"{dataset.name} is of {dataset.domain.robot.name}; it cannot be pooled for "
                f"{request.target.name}."
            )
    recipe, place = _recipe(request, ones), location(request.out)
    if locks.once(
        lambda: _make(request, recipe, ones),
        lambda: isinstance(place, Path) and place.exists(),
    ):
        other = difference(open_dataset(request.out).store.attributes["recipe"], recipe)
        if other:
            raise UserError(f"{place} is a pool with another {other}; move it away.")
        notice(f"{request.out} is there already.")
    return request.out


def _make(request: Pool, recipe: Json, ones: list[Dataset]) -> None:
    target, source = (_relabelled(dataset, request.target) for dataset in ones)
    terms = dict(request.target.weights)
    if request.correction is not None:
        ratio = _ratio(request, request.correction, target, source)
        source = corrected(source, ratio, request.correction.weight)
        target = corrected(target, np.zeros(len(target), np.float32), request.correction.weight)
        terms[CORRECTION] = request.correction.weight
    target.timeouts[-1] |= not target.terminals[-1]  # an open last episode ends there
    _write(request, recipe, terms, Transitions.concatenate([target, source]))


def corrected(rows: Transitions, ratio: Floats, weight: float) -> Transitions:
    """The same rows with the reward r + weight log ratio, the ratio kept as a term of it.

    Args:
        rows: Rewarded for the target's task, [N].
        ratio: log p_target(s' | s, a) - log p_source(s' | s, a), [N].
        weight: Eta.
    """
    rewards = (rows.rewards + np.float32(weight) * ratio).astype(np.float32)
    return replace(rows, rewards=rewards, reward_terms={**rows.reward_terms, CORRECTION: ratio})


def _recipe(request: Pool, ones: list[Dataset]) -> Json:
    return {
        "pool": [dataset.content for dataset in ones],
        "target": request.target.name,
        "correction": request.correction or {},
        "seed": request.seed,
    }


def _relabelled(dataset: Dataset, target: Domain) -> Transitions:
    """A dataset's rows with the target's rewards and its terms alone, without simulator states."""
    rows = relabel(dataset.store.load(states=False), target.weights)
    return replace(rows, reward_terms={name: rows.reward_terms[name] for name in target.weights})


def _ratio(
    request: Pool, correction: Correction, target: Transitions, source: Transitions
) -> Floats:
    """Fit the classifiers and judge every row of D2, [N]."""
    width, action = target.observations.shape[1], target.actions.shape[1]
    part = correction.build(Sizes(seeds=(request.seed,), observation=width, action=action))
    rows = [torch.from_numpy(one.packed()) for one in (target, source)]
    fit = part.fitting(*rows)
    with (
        runs.interruptible() as stop,
        Work("Telling the worlds apart", correction.updates, "updates") as work,
    ):
        while not fit.finished:
            fit.step()
            work.advance(1, fit.note() if fit.done % 100 == 0 else "")
            if stop.asked:
                raise Interrupted("Stopped; the same command tells the worlds apart anew.")
    found: Floats = part.log_ratio(rows[1])[0].numpy()
    return found


def _write(request: Pool, recipe: Json, terms: dict[str, float], rows: Transitions) -> None:
    attributes = {
        "domain": request.target.name,
        "quality": "pool",
        "terms": terms,
        "seed": request.seed,
        "versions": runs.versions(),
        "recipe": to_json(recipe),
        "behaviour": {
            "policy": "of two datasets",
            "domain": to_facts(request.target),
            "shares": [request.dynamics, request.prior],
        },
    }
    write_whole(location(request.out), rows, attributes)
