"""What the cells of a matrix came to, as plain records in a JSON file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mabe_transfer import runs
from mabe_transfer.config import Overrides, difference, from_json, to_json
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.train import Schedule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from mabe_transfer.config import Json


Place = tuple[str, str]
"""A row's label and a task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What a cell came to.

    Attributes:
        label: As the cell's.
        task: As the cell's.
        row: Name of the algorithm's row.
        dynamics: Name of D1.
        prior: Name of D2.
        target: Name of the domain that was learned for.
        folder: Of the run, inside the matrix's folder.
        preset: Whose settings the row had, if anyone's.
        overrides: `part.field` and value of all that was set in the row; none in records of earlier
            versions, which do not say.
        machine: Where it was trained.
        returns: Mean of the last evaluations, one a seed; empty where the cell failed.
        scores: The same, normalised; empty where the target has no reference returns.
        failure: The sentence in which it ended, where it failed.
        diverged: Whether that was a divergence: a result, which is not tried again.
    """

    label: str
    task: str
    row: str
    dynamics: str | None = None
    prior: str | None = None
    target: str = ""
    folder: str = ""
    preset: str = ""
    overrides: Overrides | None = None
    machine: str = ""
    returns: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    failure: str = ""
    diverged: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a matrix came to so far."""

    title: str
    data: str
    seeds: tuple[int, ...]
    schedule: Schedule
    records: tuple[Record, ...]

    def write(self, path: Path) -> Path:
        """Write it as JSON, in one move."""
        runs.write_json(path, to_json(self))
        return path

    @property
    def failed(self) -> list[Record]:
        """Cells that ended otherwise than by a result; repeating the matrix tries them again."""
        return [record for record in self.records if record.failure and not record.diverged]


def read(path: Path) -> Outcome:
    """Read what `Outcome.write` wrote.

    Raises:
        UserError: There is no such file, or it holds something else.
    """
    try:
        return from_json(Outcome, runs.read_json(path), str(path))
    except UserError as error:
        raise UserError(f"{path}: holds no records of a benchmark ({error})") from None


def spare(
    folder: Path,
    coming: Mapping[Place, Overrides | None],
    seeds: Sequence[int],
    schedule: Schedule,
    data: str = "",
) -> None:
    """Refuse to replace results by those of fewer cells, or of other seeds, data or trainings.

    Args:
        folder: Where results are to be written.
        coming: The cells of what is to be run, and what is set in their rows; none where something
            else says that.
        seeds: Of every cell.
        schedule: How long it is trained.
        data: Which data it stands on, where that may differ.

    Raises:
        UserError: The folder holds results that would be lost.
    """
    path = folder / "records.json"
    if not path.is_file():
        return
    kept = read(path)
    lost = [f"{r.label} on {r.task}" for r in kept.records if (r.label, r.task) not in coming]
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    if lost:
        raise UserError(
            f"{folder} holds results of {lost[0]}{more}, which this would replace and not make "
            "again; choose another --out."
        )
    if not set(kept.seeds) <= set(seeds):
        one, other = (", ".join(map(str, some)) for some in (kept.seeds, seeds))
        raise UserError(
            f"{folder} holds results of the seeds {one}, which those of {other} would replace; "
            "choose another --out."
        )
    if data and kept.data != data:
        raise UserError(
            f"{folder} holds results on other data, {kept.data}, which those on {data} would "
            "replace; choose another --out."
        )
    if other := difference(to_json(kept.schedule), schedule, "schedule"):
        raise UserError(
            f"{folder} holds results of another training, {other}, which this would replace; "
            "choose another --out."
        )
    for record in kept.records:
        if other := _other_settings(record.overrides, coming[record.label, record.task]):
            raise UserError(
                f"{folder} holds results of {record.label} with other settings, {other}, which "
                "this would replace; choose another --out."
            )


def others(
    folder: Path, tasks: Iterable[str], seeds: Sequence[int], scale: Json
) -> tuple[Record, ...]:
    """The records of other tasks that a folder holds, to stand beside those of these tasks.

    So an experiment can be run task by task, in several sessions, and its table grows.

    Args:
        folder: Where results are to be written.
        tasks: Of what is to be run.
        seeds: Of every cell.
        scale: How much of everything is done, as JSON.

    Raises:
        UserError: The folder's results are of another scale, or those of other tasks of other
            seeds, so that they share no table.
    """
    path = folder / "records.json"
    if not path.is_file():
        return ()
    kept, coming = read(path), set(tasks)
    rest = tuple(record for record in kept.records if record.task not in coming)
    names = ", ".join(dict.fromkeys(record.task for record in rest or kept.records))
    other = difference(runs.read_json(folder / "results.json")["scale"], scale, "scale")
    if rest:
        other = other or difference(list(kept.seeds), list(seeds), "seeds")
    if other:
        raise UserError(
            f"{folder} holds results of {names} that share no table with these: {other}; choose "
            "another --out."
        )
    return rest


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Make one outcome of several that share seeds, schedule and data, as of several machines.

    Raises:
        UserError: They do not share them, or differ on a cell or in a row's settings.
    """
    first = outcomes[0]
    records: dict[Place, Record] = {}
    settings: dict[str, Overrides] = {}
    for found in outcomes:
        for name in ("title", "data", "seeds", "schedule"):
            mine, its = getattr(first, name), getattr(found, name)
            if mine != its:
                raise UserError(f"Results of another {name} do not join: {mine} and {its}.")
        for record in found.records:
            known = records.setdefault((record.label, record.task), record)
            if known.returns != record.returns or known.failure != record.failure:
                raise UserError(f"{record.label} on {record.task} has two results; leave one out.")
            if record.overrides is None or record.preset:  # which may differ between data sets
                continue
            usual = settings.setdefault(record.label, record.overrides)
            if other := _other_settings(usual, record.overrides):
                raise UserError(
                    f"{record.label} has other settings on {record.task} than elsewhere, {other}; "
                    "such results share no table."
                )
    return replace(first, records=tuple(records.values()))


def _other_settings(kept: Overrides | None, asked: Overrides | None) -> str:
    """Where what was set differs from what is asked for; empty where it agrees or is not known."""
    return "" if None in (kept, asked) else difference(dict(kept or ()), dict(asked or ()))


def of_rows(outcome: Outcome, labels: Sequence[str]) -> Outcome:
    """Some rows of an outcome, in their given order.

    Raises:
        UserError: It has no such row.
    """
    known = dict.fromkeys(record.label for record in outcome.records)
    for label in labels:
        if label not in known:
            raise unknown("row of these records", label, known)
    some = [record for record in outcome.records if record.label in labels]
    some.sort(key=lambda record: labels.index(record.label))
    return replace(outcome, records=tuple(some))


def describe(record: Record) -> str:
    """A record in a few words: how it failed, or mean +- standard deviation over seeds."""
    if record.failure:
        return record.failure
    kind, values = ("score", record.scores) if record.scores else ("return", record.returns)
    return f"{kind} {np.mean(values):,.1f} +- {np.std(values):,.1f}"
