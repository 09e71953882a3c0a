"""From the records of a matrix to a table: tasks by rows, with intervals and comparisons.

A number is the mean over seeds of each seed's last evaluations, +- its spread over seeds. Below
them stand, over all tasks, the average, the interquartile mean and the probability of improvement
on a named row, each with a stratified bootstrap 95 % interval (Agarwal et al. 2021). A row that
lacks a task has no aggregate: leaving its failure out would flatter it.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mabe_transfer import evaluate, report, runs, statistics
from mabe_transfer.errors import unknown

if TYPE_CHECKING:
    from pathlib import Path

    from mabe_transfer.outcome import Outcome, Record
    from mabe_transfer.published import Printed, PrintedRow
    from mabe_transfer.statistics import Estimate, Floats

COLUMNS = ("method", "data", "task", "seeds", "mean", "std", "low", "high", "note")


@dataclass(frozen=True, slots=True)
class Board:
    """A table of results: text cells, and the sentences that it stands on."""

    title: str
    rows: list[dict[str, str]]
    notes: list[str]

    def write(self, path: Path) -> Path:
        """Write it as Markdown."""
        return report.markdown(self.rows, path, title=self.title, notes=self.notes)


class Scores:
    """The records of an outcome by row and task.

    Args:
        outcome: What a matrix came to.
    """

    def __init__(self, outcome: Outcome) -> None:
        self.labels = list(dict.fromkeys(record.label for record in outcome.records))
        self.tasks = list(dict.fromkeys(record.task for record in outcome.records))
        self.records = {(record.label, record.task): record for record in outcome.records}
        self.normalised = all(record.scores or record.failure for record in outcome.records)

    def of(self, record: Record) -> Floats:
        """A record's numbers, one a seed: scores where every target has them, else returns."""
        return np.array(record.scores if self.normalised else record.returns)

    def text(self, label: str, task: str) -> str:
        """A cell of the table."""
        record = self.records.get((label, task))
        if record is None:
            return "-"
        if record.failure:
            return "diverged" if record.diverged else "failed"
        return _spread(float(self.of(record).mean()), float(self.of(record).std()))

    def strata(self, label: str) -> list[Floats] | None:
        """A row's numbers, one array a task; none where a task is missing."""
        found = [self.records.get((label, task)) for task in self.tasks]
        complete = [self.of(r) for r in found if r is not None and not r.failure]
        return complete if found and len(complete) == len(found) else None


def board(outcome: Outcome, *, reference: str = "", printed: Printed | None = None) -> Board:
    """Put an outcome into a table, beside a printed one if there is one.

    Args:
        outcome: What a matrix came to.
        reference: Label of the row that the others are compared with; by default MOPO, the paper's
            most directly competing baseline, or else the first.
        printed: Others' scores; their tasks that were not run are left out.

    Raises:
        UserError: No row has the reference's label.
    """
    scores = Scores(outcome)
    reference = reference or ("mopo" if "mopo" in scores.labels else next(iter(scores.labels), ""))
    if reference not in scores.labels:
        raise unknown("row to compare with", reference, scores.labels)
    columns = {label: _column(scores, label, reference) for label in scores.labels}
    if printed is not None and scores.normalised:
        data = printed.data if _same_data(outcome, printed) else "ours"
        columns = {label: {"data": data} | column for label, column in columns.items()}
        for row in printed.rows:
            columns[f"{row.method} (printed)"] = _printed_column(printed, row, scores.tasks)
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [
        {"task": name, **{label: column.get(name, "") for label, column in columns.items()}}
        for name in names
    ]
    return Board(outcome.title, rows, _notes(outcome, scores, printed))


def tidy(outcome: Outcome, path: Path, *, printed: Printed | None = None) -> Path:
    """Write an outcome as CSV, a line for each cell, the printed ones below.

    The columns `low` and `high` are the bootstrap interval of the mean over seeds.
    """
    scores = Scores(outcome)
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for record in outcome.records:
        line: dict[str, Any] = {
            "method": record.label, "data": outcome.data, "task": record.task,
            "seeds": " ".join(str(seed) for seed in outcome.seeds), "note": record.failure,
        }  # fmt: skip
        if not record.failure:
            found = statistics.mean_interval(scores.of(record))
            numbers = (found.value, float(scores.of(record).std()), found.low, found.high)
            line |= dict(zip(("mean", "std", "low", "high"), map(_exact, numbers), strict=True))
        writer.writerow(line)
    for row in printed.rows if printed is not None and scores.normalised else ():
        assert printed is not None
        spread = row.spread or [""] * len(printed.tasks)
        for task, mean, std in zip(printed.tasks, row.scores, spread, strict=True):
            line = {"method": row.method, "data": printed.data, "task": task, "mean": mean}
            line |= {"std": std, "note": f"printed: {row.source or printed.source}"}
            if task in scores.tasks:
                writer.writerow(line)
    runs.write_text(path, file.getvalue())
    return path


def _column(scores: Scores, label: str, reference: str) -> dict[str, str]:
    column = {task: scores.text(label, task) for task in scores.tasks}
    strata, others = scores.strata(label), scores.strata(reference)
    if len(scores.tasks) > 1 and scores.normalised:  # returns of several worlds do not add up
        average = None if strata is None else float(np.mean([task.mean() for task in strata]))
        column["average"] = "-" if average is None else _number(average)
        found = None if strata is None else statistics.interquartile_interval(strata)
        column["IQM"] = _estimate(found, 1)
    if label != reference:
        compared = None
        if strata is not None and others is not None:
            compared = statistics.probability_of_improvement(strata, others)
        column[f"P(better than {reference})"] = _estimate(compared, 2)
    return column


def _printed_column(printed: Printed, row: PrintedRow, tasks: list[str]) -> dict[str, str]:
    known = {task: index for index, task in enumerate(printed.tasks)}
    column = {"data": printed.data}
    for task in tasks:
        index = known.get(task)
        if index is None:
            column[task] = "-"
        elif row.spread:
            column[task] = _spread(row.scores[index], row.spread[index])
        else:
            column[task] = _number(row.scores[index])
    if len(tasks) > 1 and all(task in known for task in tasks):
        average = _number(float(np.mean([row.scores[known[task]] for task in tasks])))
        stated = row.wrong_average and set(tasks) == set(printed.tasks)
        column["average"] = f"{average} (printed {row.average})" if stated else average
    return column


def _notes(outcome: Outcome, scores: Scores, printed: Printed | None) -> list[str]:
    plan = outcome.schedule
    looks = min(evaluate.LAST, -(-plan.updates // plan.evaluate_every))
    kind = "normalised score" if scores.normalised else "return"
    machines = sorted({record.machine for record in outcome.records if record.machine})
    notes = [
        f"Data: {outcome.data}.",
        f"Budget: {plan.updates:,} updates for each seed, of batches as each row has them; rows "
        "that step on whole trajectories take the same share of their usual steps. Seeds: "
        f"{', '.join(str(seed) for seed in outcome.seeds)}.",
        f"A number is the {kind}, mean +- standard deviation over seeds of the last {looks} "
        f"evaluations of {plan.episodes} episodes each; in brackets stand bootstrap 95 % "
        "intervals, seeds drawn again within each task.",
        f"Machine: {'; '.join(machines) or 'unknown'}.",
    ]
    if printed is not None and scores.normalised:
        notes.append(
            f"Printed: {printed.title} ({printed.source}), on {printed.data}"
            + ("." if _same_data(outcome, printed) else ", which is other data than ours.")
        )
    notes += _settings(outcome)
    names = {r.preset.partition("/")[0]: r.label for r in outcome.records if r.preset}
    if names:
        pairs = ", ".join(f"{label} has {preset}" for preset, label in names.items())
        notes.append(f"Published settings (`mabe-transfer algorithms presets`): {pairs}.")
    notes += [f"{r.label} on {r.task}: {r.failure}" for r in outcome.records if r.failure]
    return notes


def _settings(outcome: Outcome) -> list[str]:
    """What was set in the rows beside published settings, by the rows that share it."""
    rows: dict[str, list[str]] = {}  # a setting, and the labels of the rows that have it
    plain = [record for record in outcome.records if record.overrides and not record.preset]
    for record in plain:
        for path, text in record.overrides or ():
            labels = rows.setdefault(f"{path}={text}", [])
            labels += [record.label] if record.label not in labels else []
    found: dict[tuple[str, ...], list[str]] = {}
    for setting, labels in rows.items():
        found.setdefault(tuple(labels), []).append(setting)
    parts = [f"{', '.join(labels)}: {', '.join(given)}" for labels, given in found.items()]
    return [f"Set in the rows: {'; '.join(parts)}."] if parts else []


def _same_data(outcome: Outcome, printed: Printed) -> bool:
    return outcome.data.startswith(printed.data)


def _number(value: float) -> str:
    return f"{value:.1f}"


def _exact(value: float) -> str:
    return f"{value:.4f}"


def _spread(mean: float, std: float) -> str:
    return f"{mean:,.1f} +- {std:,.1f}"


def _estimate(found: Estimate | None, digits: int) -> str:
    if found is None:
        return "-"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
