"""Where an arm stands on a task: its mean, its interval, and how likely the favourite beats it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mabe_transfer import statistics
from mabe_transfer.statistics import Estimate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mabe_transfer.marks import Marks
    from mabe_transfer.outcome import Record
    from mabe_transfer.statistics import Floats

ALL = "all"
"""What stands for all tasks together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """An arm on a task, or on all of them.

    Attributes:
        task: Robot, or `ALL`.
        label: The arm.
        returns: Mean of the last evaluations, one a seed; empty for all tasks together.
        earned: Their mean, with its interval.
        score: The mean of their scores, with its interval; for all tasks together the interquartile
            mean of all scores. None where a target has no marks.
        beaten: Probability that the favourite earns more, with its interval.
        failure: The sentence in which the arm ended, where it failed.
    """

    task: str
    label: str
    returns: tuple[float, ...] = ()
    earned: Estimate | None = None
    score: Estimate | None = None
    beaten: Estimate | None = None
    failure: str = ""

    def line(self, favourite: str) -> dict[str, str]:
        """A line of the table, in which the favourite has a short name."""
        found = "failed" if self.failure else "-"
        spread = "-"
        if self.earned is not None:
            found, spread = f"{self.earned.value:,.0f}", f"{np.std(self.returns):,.0f}"
        return {
            "robot": self.task,
            "arm": self.label,
            "return": found,
            "+- over seeds": spread,
            "return, 95 %": _interval(self.earned, 0),
            "score": "-" if self.score is None else f"{self.score.value:,.1f}",
            "score, 95 %": _interval(self.score, 1),
            f"P({favourite} beats it)": "-" if self.beaten is None else f"{self.beaten.value:.2f}",
            "P, 95 %": _interval(self.beaten, 2),
        }


def standings(
    records: Sequence[Record], favourite: str, marks: Mapping[str, Marks | None]
) -> list[Standing]:
    """Where every arm stands on every task, and on all tasks together if there are several.

    Args:
        records: What a matrix came to.
        favourite: Label of the arm that the others are compared with.
        marks: Of each task's target.
    """
    found = {(record.task, record.label): np.array(record.returns) for record in records}
    failed = {(record.task, record.label): record.failure for record in records}
    tasks = list(dict.fromkeys(record.task for record in records))
    labels = list(dict.fromkeys(record.label for record in records))
    rows = [
        _one(task, label, found, failed, favourite, marks.get(task))
        for task in tasks
        for label in labels
        if (task, label) in found
    ]
    known = {task: mark for task in tasks if (mark := marks.get(task)) is not None}
    if len(tasks) > 1 and len(known) == len(tasks):
        scores = {
            label: [
                known[task].score(found[task, label])
                for task in tasks
                if found.get((task, label), np.empty(0)).size
            ]
            for label in labels
        }
        rows += [
            _over_all(label, scores[label], scores.get(favourite, []), label == favourite)
            for label in labels
            if len(scores[label]) == len(tasks)
        ]
    return rows


def _one(
    task: str,
    label: str,
    found: Mapping[tuple[str, str], Floats],
    failed: Mapping[tuple[str, str], str],
    favourite: str,
    marks: Marks | None,
) -> Standing:
    own, best = found[task, label], found.get((task, favourite), np.empty(0))
    if not own.size:
        return Standing(task=task, label=label, failure=failed[task, label])
    beaten = None
    if label != favourite and best.size:
        beaten = statistics.probability_of_improvement([best], [own])
    return Standing(
        task=task,
        label=label,
        returns=tuple(float(value) for value in own),
        earned=statistics.mean_interval(own),
        score=None if marks is None else statistics.mean_interval(marks.score(own)),
        beaten=beaten,
    )


def _over_all(label: str, own: list[Floats], best: list[Floats], is_favourite: bool) -> Standing:
    """An arm over all tasks, none of which it lacks."""
    beaten = None
    if not is_favourite and len(best) == len(own):
        beaten = statistics.probability_of_improvement(best, own)
    return Standing(
        task=ALL,
        label=label,
        score=statistics.interquartile_interval(own),
        beaten=beaten,
    )


def _interval(found: Estimate | None, digits: int) -> str:
    return "-" if found is None else f"[{found.low:,.{digits}f}, {found.high:,.{digits}f}]"
