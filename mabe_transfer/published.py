"""Scores that others printed, from `datasets/published.toml`: what our rows stand beside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from mabe_transfer import catalogue
from mabe_transfer.config import from_mapping
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.written import read_toml

if TYPE_CHECKING:
    from pathlib import Path


ROUNDING = 0.1
"""Scores and averages are printed with one decimal, so they may disagree by half of one, twice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrintedRow:
    """One method's scores.

    Attributes:
        method: As it is printed.
        scores: Normalised, one a task.
        spread: What is printed behind +-, one a task or none.
        average: The average as printed, if one is.
        source: Which of the table's sources, where there are several.
    """

    method: str
    scores: tuple[float, ...]
    spread: tuple[float, ...] = ()
    average: float | None = None
    source: str = ""

    @property
    def wrong_average(self) -> bool:
        """Whether the printed average is not that of the printed scores."""
        mean = sum(self.scores) / len(self.scores)
        return self.average is not None and abs(self.average - mean) > ROUNDING


@dataclass(frozen=True, kw_only=True, slots=True)
class Printed:
    """A printed table: methods by tasks, all on one version of the data.

    Raises:
        UserError: A row has another number of scores than there are tasks, or is there twice.
    """

    name: str
    title: str
    data: str
    source: str
    tasks: tuple[str, ...]
    rows: tuple[PrintedRow, ...]

    def __post_init__(self) -> None:
        """Refuse what does not make a table."""
        where = f"The printed table {self.name!r}"
        methods = [row.method for row in self.rows]
        for names in (self.tasks, methods):
            if len(set(names)) < len(names):
                raise UserError(f"{where}: one of {', '.join(names)} is there twice.")
        for row in self.rows:
            for kind, values in (("scores", row.scores), ("spread", row.spread)):
                if len(values) != len(self.tasks) and (values or kind == "scores"):
                    raise UserError(
                        f"{where}: {row.method} has {len(values)} values as {kind}, and there are "
                        f"{len(self.tasks)} tasks."
                    )


@cache
def tables() -> dict[str, Printed]:
    """Every printed table, by name."""
    return read(catalogue.folder("datasets") / "published.toml")


def read(path: Path) -> dict[str, Printed]:
    """Read a file of `[tables.<name>]`.

    Raises:
        UserError: The file is no TOML, has a key that does not exist, or a table is none.
    """
    content = read_toml(path)
    for key in content:
        if key != "tables":
            raise UserError(f"{path}: {unknown('key', key, ['tables'])}")
    return {
        name: from_mapping(Printed, {"name": name, **table}, f"{path} [tables.{name}]")
        for name, table in content.get("tables", {}).items()
    }


def table(name: str) -> Printed:
    """Look a printed table up by its name."""
    if name not in tables():
        raise unknown("printed table", name, tables())
    return tables()[name]
