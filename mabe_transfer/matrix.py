"""An experiment is a matrix of cells: rows of the algorithm table by tasks, each with its own data.

Every cell is a run whose folder is named by the hash of all that makes it. Running a matrix skips
the cells that are complete, resumes what was interrupted, and goes on past a cell that fails: its
sentence is its result. Several processes may run one matrix; each takes cells nobody else has, and
in the end waits for those that the others still have.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mabe_transfer import locks, runs
from mabe_transfer.composition import Algorithm
from mabe_transfer.config import Overrides, fingerprint, with_overrides
from mabe_transfer.errors import Busy, Diverged, Interrupted, UserError
from mabe_transfer.outcome import Outcome, Record, describe
from mabe_transfer.progress import clock, notice
from mabe_transfer.train import Schedule, Trainer, identity, result
from mabe_transfer.transfer import Sources, sources

if TYPE_CHECKING:
    from pathlib import Path

    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One entry of a matrix: a row, trained on its data for its target.

    Attributes:
        label: The row of the result's table: an arm, or the algorithm's name.
        task: The column: what is compared on equal terms, such as a dataset or a robot.
        row: The algorithm.
        dynamics: Name of D1.
        prior: Name of D2.
        target: Domain to learn for, where the data do not say it.
        overrides: `part.field` and value, as `--set` takes them.
        preset: Whose settings are among them, for the record.
        schedule: Of this cell, where it is not the matrix's.
    """

    label: str
    task: str
    row: Algorithm
    dynamics: str | None = None
    prior: str | None = None
    target: str | None = None
    overrides: Overrides = ()
    preset: str = ""
    schedule: Schedule | None = None

    @property
    def algorithm(self) -> Algorithm:
        """The row with its overrides."""
        return with_overrides(self.row, dict(self.overrides))


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """Cells that share seeds and schedule.

    Attributes:
        title: What is asked.
        data: Which data it stands on, for the tables.
        cells: In the order in which they are trained.
        seeds: One policy each, all of a cell trained together.
        schedule: How long, in gradient steps; see `Schedule.matched` for rows that have others. A
            cell may have one of its own.

    Raises:
        UserError: Two cells have one label and one task.
    """

    title: str
    data: str
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    schedule: Schedule

    def __post_init__(self) -> None:
        """Refuse two cells in one place."""
        places = [(cell.label, cell.task) for cell in self.cells]
        for label, task in places:
            if places.count((label, task)) > 1:
                raise UserError(f"{self.title}: {label} on {task} is there twice.")


def run(matrix: Matrix, out: Path, device: torch.device) -> Outcome:
    """Train every cell that is not complete, and gather all of them.

    Args:
        matrix: What to run.
        out: Folder of the runs, and of `progress.json`, the records so far, which is replaced after
            every cell.
        device: Where.

    Returns:
        The records of all cells.

    Raises:
        Interrupted: The user asked to stop; the same command goes on.
    """
    records: dict[int, Record] = {}
    started, trained, total = time.monotonic(), 0, len(matrix.cells)
    left, patient = list(enumerate(matrix.cells, 1)), False
    while left:
        elsewhere = []
        for number, cell in left:
            line = f"{number} of {total}, {cell.label} on {cell.task}"
            begun = time.monotonic()
            try:
                record, new = _one(cell, matrix, out, device, line, patient=patient)
            except (Interrupted, KeyboardInterrupt) as stop:
                raise Interrupted(
                    f"Stopped at {line}: {len(records)} done. The same command skips those and "
                    f"goes on. {stop}".rstrip()
                ) from None
            if record is None:
                if not patient:
                    notice(f"{line}: another process is at it; waiting for it in the end.")
                elsewhere.append((number, cell))
                continue
            records[number] = record
            trained += new
            took = f", in {clock(time.monotonic() - begun)}" if new else ", done before"
            notice(f"{line}: {describe(record)}{took}{_left(started, trained, total - number)}")
            _outcome(matrix, records).write(out / "progress.json")
        left, patient = elsewhere, True
    return _outcome(matrix, records)


def _outcome(matrix: Matrix, records: dict[int, Record]) -> Outcome:
    return Outcome(
        title=matrix.title,
        data=matrix.data,
        seeds=matrix.seeds,
        schedule=matrix.schedule,
        records=tuple(records[number] for number in sorted(records)),
    )


def _left(started: float, trained: int, cells: int) -> str:
    """Guess the time left from the cells trained so far, all taken for equal."""
    if not trained or not cells:
        return ""
    return f"; at most {clock((time.monotonic() - started) / trained * cells)} left"


def _one(
    cell: Cell, matrix: Matrix, out: Path, device: torch.device, line: str, *, patient: bool
) -> tuple[Record | None, bool]:
    """A cell's record, trained if need be; none where another process is at it."""
    try:
        row = cell.algorithm
        schedule = cell.schedule or matrix.schedule.matched(row)
        found = sources(row, cell.dynamics, cell.prior, cell.target)
        config = identity(
            row, found, schedule, seeds=matrix.seeds, device=device, preset=cell.preset
        )
    except Busy:  # with the conversion of the data
        if patient:
            time.sleep(locks.LOOK)
        return None, False
    except UserError as error:  # the data are not there, say
        why = str(error)
        failed = Record(
            label=cell.label,
            task=cell.task,
            row=cell.row.name,
            overrides=cell.overrides,
            failure=why,
        )
        return failed, False
    usual = out / f"{row.name}-{found.target.name}-{fingerprint(config)}"
    folder = runs.resumed(usual, config)
    with locks.held(folder, patient=patient) as mine:
        if not mine:
            return None, False
        status = folder / "status.json"
        known = runs.read_json(status) if status.is_file() else {}
        if known.get("state") == "complete":
            return _gather(cell, found, folder, matrix.seeds), False
        if known.get("diverged"):
            return _gather(cell, found, folder, (), str(known["why"]), diverged=True), False
        done = known.get("updates")
        notice(f"{line}: " + (f"going on after {done:,} updates" if done else "training"))
        try:
            trainer = Trainer(
                row,
                found,
                schedule,
                seeds=matrix.seeds,
                device=device,
                folder=folder,
                preset=cell.preset,
            )
            trainer.run()
        except Interrupted:
            raise
        except UserError as error:
            diverged = isinstance(error, Diverged)
            return _gather(cell, found, folder, (), str(error), diverged=diverged), True
        except Exception as error:  # one cell's trouble must not end a night's work
            runs.write_text(folder / "traceback.txt", traceback.format_exc())
            why = f"{type(error).__name__}: {error}; see {folder / 'traceback.txt'}."
            return _gather(cell, found, folder, (), why), True
        return _gather(cell, found, folder, matrix.seeds), True


def _gather(
    cell: Cell,
    found: Sources,
    folder: Path,
    seeds: tuple[int, ...],
    failure: str = "",
    *,
    diverged: bool = False,
) -> Record:
    """What a run's folder holds, or how it failed."""
    returns: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    if not failure:
        per_seed = result(folder, cell.row.name, found.target, seeds).per_seed
        returns = tuple(float(value) for value in per_seed)
        if not np.isfinite(per_seed).all():
            returns, failure = (), f"An evaluation is no number: {folder / 'evaluations.jsonl'}."
        elif found.target.reference is not None:
            scores = tuple(float(value) for value in found.target.normalised(per_seed))
    return Record(
        label=cell.label,
        task=cell.task,
        row=cell.row.name,
        dynamics=found.dynamics.name if found.dynamics else None,
        prior=found.prior.name if found.prior else None,
        target=found.target.name,
        folder=folder.name,
        preset=cell.preset,
        overrides=cell.overrides,
        machine=_machine(folder),
        returns=returns,
        scores=scores,
        failure=failure,
        diverged=diverged,
    )


def _machine(folder: Path) -> str:
    """Where a run was trained, and by which code."""
    path = folder / "provenance.json"
    if not path.is_file():
        return ""
    facts = runs.read_json(path)
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("torch", "mujoco"))
    commit = f", commit {facts['commit']}" if facts["commit"] else ""
    return f"{facts['gpu'] or facts['machine']}, {facts['cores']} cores, {versions}{commit}"
