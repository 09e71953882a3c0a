"""What `envs/` and `datasets/` may say: a robot, a physics shift, a task, a domain, a recipe.

An entry refuses what makes no sense by itself; `catalogue` reads entries, and says of which file.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from mabe_transfer.errors import UserError, unknown

WORD = re.compile("[A-Za-z][A-Za-z0-9_]*(-[A-Za-z0-9_]+)*")
Interval = tuple[float, float]
ANYTHING: Interval = (-math.inf, math.inf)


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


def _require_word(name: str) -> None:
    """Refuse what could not be part of a domain's name.

    Raises:
        UserError: It is none.
    """
    if not WORD.fullmatch(name):
        raise UserError(
            f"name = {name!r}: expected letters, digits, _ and -, beginning with a letter."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Robot:
    """A robot's facts. `model` is `gymnasium:<file>`, `dm_control:<domain>/<task>` or a path.

    `model_sha256` is of a user's own file as it was read, without what it includes: data and runs
    keep it, so that a file edited since is noticed. A table does not give it.
    """

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
    model_sha256: str = ""
    foot_geoms: tuple[str, ...] = ()
    strengths: dict[str, float] = field(default_factory=dict)
    references: dict[str, Reference] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse times in which nothing happens, and a name that no domain's could begin with."""
        _require_word(self.name)
        for name in ("control_timestep_s", "frame_skip", "max_episode_steps"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UserError(f"{name} must be above 0, not {value!r}.")

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

    def __post_init__(self) -> None:
        """Refuse a factor that no physical quantity takes."""
        if self.factor is not None and not 0.0 <= self.factor < math.inf:
            raise UserError(
                f"the factor of {self.model_field} must be 0 or more, not {self.factor}."
            )


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
        _require_word(self.name)
        if self.value not in {"name", "robot", "none"}:
            raise unknown("source of a shift's value", self.value, {"name", "robot", "none"})
        if not (self.edits or self.legacy_capsule_inertia or self.legacy_rewards):
            raise UserError(f"The shift {self.name!r} changes nothing; give it edits.")
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

    def __post_init__(self) -> None:
        """Refuse weights of which a reward would be no number."""
        _require_word(self.name)
        for name in ("forward", "healthy", "control"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} must be a finite number, not {getattr(self, name)}.")


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

    def __post_init__(self) -> None:
        """Refuse what cannot be collected."""
        if self.quality not in QUALITIES:
            raise unknown("quality", self.quality, QUALITIES)
        if self.transitions is not None and self.transitions < 1:
            raise UserError(f"transitions must be at least 1, not {self.transitions}.")
        if self.seed < 0:
            raise UserError(f"seed must be at least 0, not {self.seed}.")
