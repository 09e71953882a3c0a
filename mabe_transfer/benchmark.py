"""The D4RL benchmark: rows of the algorithm table on D4RL's data, beside the paper's Table 1.

Whatever the source of the data (see `d4rl_tasks`), policies are evaluated in D4RL's physics and
normalised by D4RL's reference returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mabe_transfer import matrix, presets, published, scoreboard
from mabe_transfer.algorithms import algorithm
from mabe_transfer.config import Overrides, has_field, with_overrides
from mabe_transfer.d4rl_tasks import SOURCES, TABLE_1, TASKS, Named, Source
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.matrix import Cell, Matrix
from mabe_transfer.outcome import Outcome, spare
from mabe_transfer.scoreboard import Board
from mabe_transfer.train import Schedule

if TYPE_CHECKING:
    import torch

    from mabe_transfer.composition import Algorithm
    from mabe_transfer.presets import Preset
    from mabe_transfer.published import Printed

METHODS = ("bc", "mabe", "mopo", "morel", "sac", "cql", "brac-v")
"""The methods of Table 1, in its order."""


PRINTED = {"ours": "mabe-table-1", "v0": "mabe-table-1", "v2": "field-v2"}


Settings = Callable[["Algorithm"], Overrides]
"""What is set in a row."""
Schedules = Callable[["Algorithm"], Schedule]
"""How long a row is trained."""


def as_tabled(row: Algorithm) -> Overrides:
    """Set nothing."""
    del row
    return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        algos: Rows of the algorithm table.
        datasets: Names or tasks; the nine of Table 1 if there is none.
        source: Where the data are from.
        seeds: Of every cell.
        schedule: Of every cell.
        schedules: Of a row, where rows differ.
        overrides: `part.field` to value, for the rows that have such a field.
        settings: What else is set in a row; presets and overrides win over it.
        presets: Published settings, for the rows that they are of: names, or a release of D4RL for
            all that were found on it. Overrides win over them.
    """

    algos: tuple[str, ...] = METHODS
    datasets: tuple[str, ...] = ()
    source: Source = SOURCES["ours"]
    seeds: tuple[int, ...]
    schedule: Schedule
    schedules: Schedules | None = None
    overrides: Mapping[str, str]
    settings: Settings = as_tabled
    presets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """What a benchmark came to, and the files that say so."""

    outcome: Outcome
    board: Board
    files: dict[str, Path]


def run(plan: Plan, out: Path, results: Path, device: torch.device, *, reference: str = "") -> Made:
    """Collect what is missing, run the matrix, and write its records and tables.

    Args:
        plan: What to run.
        out: Folder of the runs.
        results: Folder of `records.json`, `table.md` and `table.csv`.
        device: Where.
        reference: The row that the others are compared with; see `scoreboard.board`.

    Raises:
        UserError: Results of more rows, datasets or seeds would be lost.
        Interrupted: The user asked to stop; the same command goes on.
    """
    if reference and reference not in plan.algos:
        raise unknown("row to compare with", reference, plan.algos)
    datasets = named(plan)
    version = datasets[0].version
    asked = Matrix(
        title="D4RL benchmark",
        data=plan.source.data(version),
        cells=cells(plan, datasets),
        seeds=plan.seeds,
        schedule=plan.schedule,
    )
    coming = {(cell.label, cell.task): cell.overrides for cell in asked.cells}
    spare(results, coming, asked.seeds, asked.schedule, asked.data)
    for dataset in datasets:
        plan.source.prepare(dataset)
    outcome = matrix.run(asked, out, device)
    beside = printed(version)
    board = scoreboard.board(outcome, reference=reference, printed=beside)
    return Made(outcome, board, write(outcome, board, results, beside))


def write(outcome: Outcome, board: Board, results: Path, beside: Printed | None) -> dict[str, Path]:
    """Write records and tables of an outcome; gives the files."""
    return {
        "records": outcome.write(results / "records.json"),
        "table": board.write(results / "table.md"),
        "numbers": scoreboard.tidy(outcome, results / "table.csv", printed=beside),
    }


def in_order(outcome: Outcome) -> Outcome:
    """An outcome with its tasks in the order of the paper's Table 1, others after them."""
    place = {task: index for index, task in enumerate(TASKS)}
    records = sorted(outcome.records, key=lambda record: place.get(record.task, len(place)))
    return replace(outcome, records=tuple(records))


def looks(updates: int) -> int:
    """Updates between evaluations: so that the last ten are of the last half of the training."""
    return min(5_000, -(-updates // 20))


def printed(version: str) -> Printed | None:
    """The printed table that a version of the data may stand beside."""
    return published.table(PRINTED[version]) if version in PRINTED else None


def named(plan: Plan) -> list[Named]:
    """The datasets of a plan.

    Raises:
        UserError: One does not exist, or they are of several versions.
    """
    known = plan.source.names()
    for name in plan.datasets:
        if name not in known:
            raise unknown("dataset", name, known, owner="This benchmark")
    found = list(dict.fromkeys(known[name] for name in plan.datasets or TABLE_1))
    versions = sorted({dataset.version for dataset in found})
    if len(versions) > 1:
        raise UserError(
            f"--datasets are of {' and '.join(versions)}, which are different data and never share "
            "a table; run one version at a time."
        )
    return found


def settings(plan: Plan, version: str) -> dict[str, Preset]:
    """The presets of a plan, each by the row that it is of.

    Args:
        plan: What to run.
        version: Of the data; ours stands for any release of D4RL.

    Raises:
        UserError: There is no such preset, or it is of a row that is not run, of another release
            than the data, or one of two for a row.
    """
    found: dict[str, Preset] = {}
    known = presets.presets().values()
    for text in plan.presets:
        several = [one for one in known if one.data == text]
        if several:
            several = [one for one in several if one.row in plan.algos]
            if not several:
                raise UserError(
                    f"No row of --algos {','.join(plan.algos)} has a preset of D4RL {text}."
                )
        for one in several or [presets.preset(text)]:
            if one.row not in plan.algos:
                raise UserError(
                    f"The preset {one.name} sets the row {one.row}, which is not among --algos "
                    f"{','.join(plan.algos)}."
                )
            if version not in ("ours", one.data):
                raise UserError(
                    f"The preset {one.name} was found on D4RL {one.data}, and the data are "
                    f"{version}, which are different data."
                )
            if found.setdefault(one.row, one) != one:
                raise UserError(
                    f"--preset has {found[one.row].name} and {one.name} for one row, {one.row}."
                )
    return found


def cells(plan: Plan, datasets: list[Named]) -> tuple[Cell, ...]:
    """Every row of a plan on every dataset, with the settings that reach it.

    Raises:
        UserError: A setting reaches no row, or does not go with the row that it is of.
    """
    rows = [algorithm(name) for name in dict.fromkeys(plan.algos)]
    published_for = settings(plan, datasets[0].version)
    for path, text in plan.overrides.items():
        if not any(has_field(row, path) for row in rows):
            part = path.split(".")[0]
            nearest = next((row for row in rows if getattr(row, part, None) is not None), rows[0])
            with_overrides(nearest, {path: text})  # says what is wrong with it
    found = tuple(
        _cell(row, dataset, plan, published_for.get(row.name))
        for dataset in datasets
        for row in rows
    )
    for cell in found:
        _ = cell.algorithm  # says what is wrong with it, before hours of collecting
    return found


def _cell(row: Algorithm, dataset: Named, plan: Plan, preset: Preset | None) -> Cell:
    """A row on a dataset, with what the plan sets in it and the overrides of parts that it has."""
    overrides, chosen = dict(plan.settings(row)), None
    if preset is not None:
        chosen = presets.Chosen(preset, dataset.task if preset.datasets else "")
        chosen.check(row.name, row)
        overrides |= chosen.overrides
    overrides |= {path: text for path, text in plan.overrides.items() if has_field(row, path)}
    return Cell(
        label=row.name,
        task=dataset.task,
        row=row,
        dynamics=dataset.dataset,
        target=f"{TASKS[dataset.task]}-d4rl",
        overrides=tuple(overrides.items()),
        preset=chosen.name if chosen else "",
        schedule=plan.schedules(row) if plan.schedules else None,
    )
