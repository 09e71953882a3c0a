"""Read `envs/` and `datasets/`: what there is, as typed rows.

The only module that knows where the catalogue lies. It says nothing about how a fact is used:
`domains` composes robots, shifts and tasks; `collect` follows recipes. A path to a user's own
TOML file is accepted wherever a name is.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mabe_transfer.config import from_mapping
from mabe_transfer.entries import DomainRow, Recipe, Robot, Shift, Task
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.written import beside, is_path, read_toml, sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


def folder(kind: str) -> Path:
    """Give the folder of a catalogue (`envs` or `datasets`): shipped copy or checkout."""
    shipped = Path(str(files("mabe_transfer"))) / "_catalogue" / kind
    return shipped if shipped.is_dir() else Path(__file__).parents[1] / kind


@cache
def robots() -> dict[str, Robot]:
    """Every robot of the catalogue, by name."""
    return _rows(folder("envs") / "robots", Robot)


@cache
def shifts() -> dict[str, Shift]:
    """Every physics shift of the catalogue, by name."""
    return _rows(folder("envs") / "physics", Shift)


@cache
def tasks() -> dict[str, Task]:
    """Every task of the catalogue, by name."""
    return _rows(folder("envs") / "tasks", Task)


@cache
def recipes() -> dict[str, Recipe]:
    """Every dataset recipe of the catalogue, by name; a file holds `[recipes.<name>]` tables."""
    found: dict[str, Recipe] = {}
    for path in sorted(folder("datasets").glob("*.toml")):
        for row in _recipes(path):
            if row.name in found:
                raise UserError(f"{path}: recipe {row.name!r} is defined twice.")
            found[row.name] = row
    return found


def robot(name: str) -> Robot:
    """Look a robot up by name or by the path of a TOML file, whose own `model` lies beside it."""
    found = _look_up("robot", name, robots, Robot)
    if not is_path(name):
        return found
    _require_own_references(found, name)
    model, legacy = (beside(name, one) for one in (found.model, found.legacy_model))
    digest = sha256(Path(model)) if Path(model).is_file() else ""  # else of no file of the user's
    return replace(found, model=model, legacy_model=legacy, model_sha256=digest)


def _require_own_references(own: Robot, path: str) -> None:
    """Refuse reference returns that were copied with the table of a robot of another model."""
    for known in robots().values():
        copied = [name for name, one in own.references.items() if known.references.get(name) == one]
        if copied and own.model != known.model:
            raise UserError(
                f"{path}: its [references] are those of {known.name}, another model; delete them, "
                "and measure its own with: mabe-transfer envs reference"
            )


def shift(name: str) -> Shift:
    """Look a shift up by name or by the path of a TOML file."""
    return _look_up("shift", name, shifts, Shift)


def task(name: str) -> Task:
    """Look a task up by name or by the path of a TOML file."""
    return _look_up("task", name, tasks, Task)


def domain_row(path: str) -> DomainRow:
    """Read a user's domain file; the files that it names lie beside it."""
    table = read_toml(Path(path))
    if "robot" not in table:
        raise UserError(f'{path}: is no domain, since it names no robot: robot = "hopper".')
    row = from_mapping(DomainRow, table, path)
    robot, task, *shifts = (beside(path, one) for one in (row.robot, row.task, *row.shifts))
    return replace(row, robot=robot, task=task, shifts=tuple(shifts))


def recipe(name: str) -> Recipe:
    """Look a recipe up by name or by the path of a TOML file that holds exactly one."""
    if not is_path(name):
        if name not in recipes():
            raise unknown("recipe", name, recipes())
        return recipes()[name]
    rows = _recipes(Path(name))
    if len(rows) != 1:
        raise UserError(f"{name}: expected one [recipes.<name>] table, found {len(rows)}.")
    env, policy = (beside(name, one) for one in (rows[0].env, rows[0].policy))
    return replace(rows[0], env=env, policy=policy)


def _recipes(path: Path) -> list[Recipe]:
    tables = read_toml(path).get("recipes", {})
    if not isinstance(tables, dict) or not all(isinstance(t, dict) for t in tables.values()):
        raise UserError(f"{path}: a recipe is a table of its own, [recipes.<name>].")
    for name, table in tables.items():
        if "name" in table:
            raise UserError(f"{path} [recipes.{name}]: a recipe has its table's name; drop `name`.")
    return [
        from_mapping(Recipe, {**table, "name": name}, f"{path} [recipes.{name}]")
        for name, table in tables.items()
    ]


def _rows(root: Path, row: type[T]) -> dict[str, T]:
    return {
        path.stem: from_mapping(row, read_toml(path), str(path))
        for path in sorted(root.glob("*.toml"))
    }


def _look_up(kind: str, name: str, known: Any, row: type[T]) -> T:
    rows: dict[str, T] = known()
    if is_path(name):
        own = from_mapping(row, read_toml(Path(name)), name)
        _require_new(own, rows, kind, name)
        return own
    if name not in rows:
        raise unknown(kind, name, rows)
    return rows[name]


def _require_new(own: Any, known: Mapping[str, Any], kind: str, path: str) -> None:
    """Refuse the name of what ships, by which its references and policies are found."""
    one, other = own, known.get(own.name)
    if kind == "robot" and other is not None:  # a copy may have other references
        one, other = (replace(row, references={}) for row in (one, other))
    if other is not None and one != other:
        raise UserError(f"{path}: {own.name!r} is the name of a {kind} that ships; choose another.")
