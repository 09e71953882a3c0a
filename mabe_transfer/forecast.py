"""Whether a behaviour can be carried, foretold in a minute or two from the data alone.

A small ensemble is fitted to D1 and a clone to D2. Then: how much of D2 lies where D1 does, how the
members disagree there, what a step of D2 is predicted at, and where the clone drifts in D1's model.
Neither world is simulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mabe_transfer.algorithms import ALGORITHMS
from mabe_transfer.batches import Batch, unpack
from mabe_transfer.coverage import Support, apart, spaced
from mabe_transfer.errors import UserError
from mabe_transfer.imagination import imagine
from mabe_transfer.parts.dynamics import Ensemble
from mabe_transfer.parts.prior import Fit, Unweighted
from mabe_transfer.progress import Work
from mabe_transfer.streams import Sizes, Streams, generator
from mabe_transfer.transfer import sources
from mabe_transfer.verdict import Coverage, Drift, Pair, Verdict, judge

if TYPE_CHECKING:
    from mabe_transfer.domains import Domain
    from mabe_transfer.parts import Fitting
    from mabe_transfer.parts.dynamics import EnsembleModel
    from mabe_transfer.parts.prior import BehaviourPrior

POSITIONS = ("m", "rad")
"""Units of what the worlds share to first order in the time step: x' = x + v dt, whatever pushes.
Velocities answer to forces at once, which is where the worlds may rightly differ."""
HELD = 0.2  # of D1's episodes
FEWEST = 20  # transitions that a model can be fitted to


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much a forecast takes.

    Attributes:
        rows: Of D1, at the most, evenly spaced.
        asked: Of D2 and of D1's held-out episodes, at the most, likewise.
        model: The small ensemble.
        clone: How D2's behaviour is cloned.
        horizon: Steps of a free rollout.
        rollouts: How many, from D2's states.
        seed: Of all of it.
    """

    rows: int = 20_000
    asked: int = 4_000
    model: Ensemble = Ensemble(
        members=5, elites=5, hidden=(128, 128), batch=512, max_epochs=15, weight_decay=(2.5e-5,)
    )
    clone: Fit = Fit(updates=4_000)
    horizon: int = 50
    rollouts: int = 200
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What was foretold, and its verdict.

    Attributes:
        dynamics: Name of D1.
        prior: Name of D2.
        target: Name of the domain that is to be learned for.
        coverage: Of D2 by D1.
        disagreement: Of the members' means, standard deviations of D1's targets.
        shared: One-step error of positions, likewise; none where the robot's table has no units.
        error: One-step error of everything but the reward, likewise.
        drift: The clone in D1's model.
        verdict: In plain language.
    """

    dynamics: str
    prior: str
    target: str
    coverage: Coverage
    disagreement: Pair
    shared: Pair | None
    error: Pair
    drift: Drift
    verdict: Verdict


def forecast(
    dynamics: str, prior: str, target: str | None = None, effort: Effort | None = None
) -> Forecast:
    """Foretell whether D2's behaviour can be carried into D1's world.

    Args:
        dynamics: Name of D1.
        prior: Name of D2.
        target: Domain to learn for, where the data do not say it.
        effort: How much to take.

    Raises:
        UserError: Data are missing, are of two robots or few, or D1 is a single short episode.
    """
    effort, cpu = effort or Effort(), torch.device("cpu")
    found = sources(ALGORITHMS["mabe"], dynamics, prior, target)
    assert found.dynamics is not None
    assert found.prior is not None
    layout = found.dynamics.store.layout
    width, action = layout.observation_size, layout.action_size
    sizes = Sizes(seeds=(effort.seed,), observation=width, action=action)
    one, other = found.data(found.dynamics, cpu), found.data(found.prior, cpu)
    held = apart(one.ends, HELD, generator(effort.seed, "forecast/episodes", cpu))
    known, home = spaced(one.rows[~held], effort.rows), spaced(one.rows[held], effort.asked)
    if len(known) < FEWEST or not len(home):
        raise UserError(f"{dynamics} has {len(one.rows):,} transitions; a forecast needs more.")
    if len(other.rows) < FEWEST:
        raise UserError(f"{prior} has {len(other.rows):,} transitions; a forecast needs {FEWEST}.")
    there = spaced(other.rows, effort.asked)
    states, both = (Support(known[:, :end], home[:, :end]) for end in (width, width + action))
    away = both.distance(there[:, : width + action])
    coverage = Coverage(
        states=states.share(there[:, :width]),
        both=float((away <= both.radius).double().mean()),
        distance=float(away.median()) / max(both.radius, 1e-9),
    )
    model, clone = effort.model.build(sizes), Unweighted(fit=effort.clone).build(sizes)
    _fit("Fitting a small model to D1", model.fitting(known))
    _fit("Cloning D2", clone.fitting(other))
    asked, kept = (unpack(rows, width, action) for rows in (there, home))
    disagreement = Pair(there=spread(model, asked), home=spread(model, kept))
    columns = list(range(width))
    units = [quantity.unit for quantity in found.target.robot.observation]
    places = [index for index, unit in enumerate(units) if unit in POSITIONS]
    error = Pair(there=one_step(model, asked, columns), home=one_step(model, kept, columns))
    shared = None
    if places:
        shared = Pair(there=one_step(model, asked, places), home=one_step(model, kept, places))
    drift = roll_out(model, clone, found.target, asked, states, effort)
    return Forecast(
        dynamics=dynamics,
        prior=prior,
        target=found.target.name,
        coverage=coverage,
        disagreement=disagreement,
        shared=shared,
        error=error,
        drift=drift,
        verdict=judge(coverage, disagreement, shared, error, drift),
    )


def spread(model: EnsembleModel, rows: Batch) -> float:
    """Standard deviation of the members' means, root mean square over everything they predict.

    In standard deviations of the targets that the model was fitted to; rows are [B, .].
    """
    mean, _ = model.predict(rows.observation[None], rows.action[None])
    apart_ = (mean / model.target_std).std(1, correction=0)
    return float(apart_.square().mean().sqrt())


def one_step(model: EnsembleModel, rows: Batch, columns: list[int]) -> float:
    """Root mean square error of the elites' mean prediction of some observations.

    In standard deviations of the targets that the model was fitted to; rows are [B, .].
    """
    mean, _ = model.predict(rows.observation[None], rows.action[None])
    predicted = mean[0, model.elites[0]].mean(0)[:, columns]
    change = (rows.next_observation - rows.observation)[:, columns]
    return float(((predicted - change) / model.target_std[columns]).square().mean().sqrt())


@torch.no_grad()
def roll_out(
    model: EnsembleModel,
    clone: BehaviourPrior,
    target: Domain,
    rows: Batch,
    support: Support,
    effort: Effort,
) -> Drift:
    """Let the clone act by its mode in D1's model, from D2's states, with no one to correct it."""
    elites, sizes = model.elites.shape[1], model.sizes
    starts = spaced(rows.observation, max(elites, effort.rollouts))
    observation = starts[: len(starts) // elites * elites][None]
    streams = Streams(sizes, "forecast/rollouts")
    alive = torch.ones(observation.shape[:2], dtype=torch.bool)
    total, count, left = 0.0, 0, None
    for step in range(effort.horizon):
        if left is None and support.share(observation[0]) < 0.5:
            left = step
        noise = streams.normal(observation.shape[1], sizes.action + sizes.observation)
        order = streams.permutation(elites)
        found = imagine(model, lambda o, _: clone.act(o), target, None, observation, noise, order)
        alive &= found.sound
        total += float(found.reward[alive].sum())
        count += int(alive.sum())
        observation = torch.where(alive[..., None], found.after, observation)
        alive &= ~found.ended
    std, mean = rows.observation.std(0, correction=0).clamp_min(1e-6), rows.observation.mean(0)
    away: Tensor = ((observation[0] - mean) / std).abs().mean(0)
    farthest = int(away.argmax())
    names = [quantity.name for quantity in target.robot.observation]
    return Drift(
        horizon=effort.horizon,
        reward=total / max(count, 1),
        recorded=float(rows.reward.mean()),
        left_after=left,
        ended=1.0 - float(alive.double().mean()),
        farthest=names[farthest] if names else f"observation {farthest}",
        distance=float(away[farthest]),
    )


def _fit(title: str, fit: Fitting) -> None:
    with Work(title, fit.total, "updates") as work:
        while not fit.finished:
            taken = fit.advance(50 - fit.done % 50)
            work.advance(taken, fit.note() if fit.done % 50 == 0 else "")
