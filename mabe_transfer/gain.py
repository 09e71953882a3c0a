"""What MABE gained in each field of a grid of physics shifts by tasks, beside what was foretold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mabe_transfer import statistics
from mabe_transfer.forecast import Forecast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mabe_transfer.outcome import Outcome, Record

MABE, PRIOR, MOPO = "MABE", "prior alone", "MOPO"
FEWEST = 3  # fields that order anything


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One field of the grid."""

    robot: str
    shift: str
    task: str

    @property
    def name(self) -> str:
        """As a task of the matrix."""
        return f"{self.shift} {self.task}"

    @property
    def source(self) -> str:
        """The domain of D2."""
        return f"{self.robot}-{self.shift}{self._suffix}"

    @property
    def target(self) -> str:
        """The domain that is learned for."""
        return f"{self.robot}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return "" if self.task == "forward" else f"-{self.task}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """What MABE gained in one field.

    Attributes:
        place: Which.
        over_prior: Mean return less that of the prior alone; NaN where either failed.
        over_mopo: Likewise less that of MOPO on D1.
        beats_both: Probability that a seed of MABE earns more than the better of the two arms; NaN
            where one of the three failed.
        unit: `score` where the target has reference returns, else `return`.
        forecast: What was foretold from the data alone.
    """

    place: Place
    over_prior: float
    over_mopo: float
    beats_both: float
    unit: str
    forecast: Forecast | None = None

    @property
    def least(self) -> float:
        """The gain over the better of the two."""
        return float(np.minimum(self.over_prior, self.over_mopo))


def gains(outcome: Outcome, places: list[Place], foretold: Mapping[str, Forecast]) -> list[Gain]:
    """What MABE gained in every field, from the records of the matrix."""
    records = {(record.label, record.task): record for record in outcome.records}
    found = []
    for place in places:
        three = [records.get((label, place.name)) for label in (MABE, PRIOR, MOPO)]
        scored = all(record is not None and record.scores for record in three)
        own, prior, mopo = (_numbers(record, scored) for record in three)
        complete = own.size and prior.size and mopo.size
        best = max((prior, mopo), key=_mean)
        beats = statistics.superiority(own, best) if complete else np.nan
        found.append(
            Gain(
                place=place,
                over_prior=_mean(own) - _mean(prior),
                over_mopo=_mean(own) - _mean(mopo),
                beats_both=float(beats),
                unit="score" if scored else "return",
                forecast=foretold.get(place.name),
            )
        )
    return found


def _numbers(record: Record | None, scored: bool) -> statistics.Floats:
    if record is None or record.failure:
        return np.empty(0)
    return np.array(record.scores if scored else record.returns)


def _mean(values: statistics.Floats) -> float:
    return float(values.mean()) if values.size else float("nan")


TOLD: dict[str, Callable[[Forecast], float]] = {
    "covered share": lambda told: told.coverage.both,
    "nearness": lambda told: -told.coverage.distance,
    "agreement of the members": lambda told: -told.disagreement.ratio,
    "accuracy of a step": lambda told: -told.error.ratio,
    "accuracy of positions": lambda told: math.nan if told.shared is None else -told.shared.ratio,
}
"""What a forecast says, each the better the larger; NaN where it is not known.

Nearness is the negative of the median distance, which still tells fields apart where nothing is
covered."""


def correlations(found: list[Gain]) -> dict[str, float]:
    """Spearman's between what was foretold and the gain over both arms.

    Fields without a forecast or a gain count for nothing; NaN where fewer than three are left, or
    all are alike.
    """
    return {name: _correlation(say, found) for name, say in TOLD.items()}


def _correlation(say: Callable[[Forecast], float], found: list[Gain]) -> float:
    pairs = np.array([(say(gain.forecast), gain.least) for gain in found if gain.forecast])
    known = pairs[np.isfinite(pairs).all(-1)] if len(pairs) else pairs
    if len(known) < FEWEST:
        return float("nan")
    return statistics.rank_correlation(known[:, 0], known[:, 1])


def line(gain: Gain) -> dict[str, str]:
    """A line of the table."""
    told = gain.forecast
    return {
        "D2's world": gain.place.shift,
        "task": gain.place.task,
        f"gain over the {PRIOR}": f"{gain.over_prior:+,.1f}",
        f"gain over {MOPO}": f"{gain.over_mopo:+,.1f}",
        "unit": gain.unit,
        "P(MABE beats both)": f"{gain.beats_both:.2f}",
        "covered, foretold": "-" if told is None else f"{100.0 * told.coverage.both:.0f} %",
        "error of a step, foretold": "-" if told is None else f"x {told.error.ratio:.1f}",
        "verdict, foretold": "-" if told is None else told.verdict.word,
    }
