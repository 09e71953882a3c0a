"""Read `envs/` and `datasets/`: what there is, as typed rows.

The only module that knows where the catalogue lies. It says nothing about how a fact is used:
`domains` composes robots, shifts and tasks; `collect` follows recipes. A path to a user's own
TOML file is accepted wherever a name is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from mabe_transfer.config import from_mapping
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.written import beside, is_path, read_toml

Interval = tuple[float, float]
ANYTHING: Interval = (-math.inf, math.inf)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """One entry of an observation or an action: its name in the model and its unit."""

    name: str
    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reset:
    """Noise added to the initial state: uniform in +-scale, or normal with that deviation."""

    position_uniform: float
    velocity_uniform: float = 0.0
    velocity_normal: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """Weights of a locomotor's reward terms, before a task weighs the terms themselves."""

    forward_per_m_s: float = 1.0
    healthy_bonus: float = 0.0
    control_cost: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Healthy:
    """Open intervals within which an episode goes on; `state` bounds all but the height."""

    height_m: Interval = ANYTHING
    pitch_rad: Interval = ANYTHING
    state: Interval = ANYTHING


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Returns of a random and an expert policy, with how they were measured."""

    random: float
    expert: float
    random_std: float = 0.0
    expert_std: float = 0.0
    episodes: int = 0
    engine: str = ""
    command: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Robot:
    """A robot's facts. `model` is `gymnasium:<file>`, `dm_control:<domain>/<task>` or a path."""

    name: str
    title: str
    model: str
    control_timestep_s: float
    frame_skip: int
    max_episode_steps: int = 1000
    observation: tuple[Quantity, ...] = ()
    action: tuple[Quantity, ...] = ()
    velocity_clip: float = math.inf
    reset: Reset = Reset(position_uniform=0.0)
    reward: Reward = Reward()
    healthy: Healthy = Healthy()
    legacy_model: str = ""
    foot_geoms: tuple[str, ...] = ()
    strengths: dict[str, float] = field(default_factory=dict)
    references: dict[str, Reference] = field(default_factory=dict)

    @property
    def native(self) -> bool:
        """Whether this project simulates the robot itself (and in batches)."""
        return not self.model.startswith("dm_control:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """One change to the compiled model: a field of `mujoco.MjModel`, multiplied.

    `factor` is the edit's own; without one, the edit multiplies by the shift's.
    """

    model_field: str
    factor: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """What a physics shift changes, relative to the robot's own values.

    `value` says where its factor comes from: `name` (`friction=0.5`), `robot` (the robot's own
    `strengths` table) or `none` (the shift has no factor).
    """

    name: str
    summary: str
    value: str
    edits: tuple[Edit, ...] = ()
    legacy_capsule_inertia: bool = False
    legacy_rewards: bool = False

    def __post_init__(self) -> None:
        """Refuse a source of the factor that does not exist."""
        if self.value not in {"name", "robot", "none"}:
            raise unknown("source of a shift's value", self.value, {"name", "robot", "none"})
        for edit in self.edits:
            if (self.value == "none") != (edit.factor is not None):
                needs = "needs a factor" if self.value == "none" else "has a factor of its own"
                raise UserError(
                    f"The shift {self.name!r} has value = {self.value!r}, and its edit of "
                    f"{edit.model_field} {needs}."
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """How the reward terms are weighted: reward = forward F + healthy H - control C."""

    name: str
    summary: str
    forward: float = 1.0
    healthy: float = 1.0
    control: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainRow:
    """A user's own domain: names or paths of its robot, shifts and task."""

    robot: str
    shifts: tuple[str, ...] = ()
    task: str = "forward"


QUALITIES = ("random", "medium", "expert", "medium-replay", "medium-expert", "ladder")
"""Whose behaviour a dataset can hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A dataset to collect: which domain, whose behaviour, how many transitions, which seed.

    Without `transitions`, a replay is taken whole and anything else gets the default number.
    """

    name: str
    summary: str
    env: str
    quality: str
    transitions: int | None = None
    seed: int = 0
    policy: str = ""


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
    model, legacy = (beside(name, one) for one in (found.model, found.legacy_model))
    return replace(found, model=model, legacy_model=legacy)


def shift(name: str) -> Shift:
    """Look a shift up by name or by the path of a TOML file."""
    return _look_up("shift", name, shifts, Shift)


def task(name: str) -> Task:
    """Look a task up by name or by the path of a TOML file."""
    return _look_up("task", name, tasks, Task)


def domain_row(path: str) -> DomainRow:
    """Read a user's domain file; the files that it names lie beside it."""
    row = from_mapping(DomainRow, read_toml(Path(path)), path)
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
    return [
        from_mapping(Recipe, {"name": name, **table}, f"{path} [recipes.{name}]")
        for name, table in tables.items()
    ]


def _rows(root: Path, row: type[T]) -> dict[str, T]:
    return {
        path.stem: from_mapping(row, read_toml(path), str(path))
        for path in sorted(root.glob("*.toml"))
    }


def _look_up(kind: str, name: str, known: Any, row: type[T]) -> T:
    if is_path(name):
        return from_mapping(row, read_toml(Path(name)), name)
    rows: dict[str, T] = known()
    if name not in rows:
        raise unknown(kind, name, rows)
    return rows[name]
