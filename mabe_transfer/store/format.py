"""What a store holds: its arrays with their types, and its attributes.

The format is a Zarr v3 group. Over `N` transitions: observations and next_observations f32 [N, O],
actions f32 [N, A], rewards f32 [N], terminals and timeouts bool [N], qpos f64 [N, nq] and qvel
f64 [N, nv] (absent where nq or nv is 0), reward_terms/<name> f32 [N]; over `E` episodes:
episodes/start, episodes/length and episodes/seed int64 [E], episodes/return f32 [E]. Every array is
sharded, its chunks are zstd with a CRC32C. The root's attributes are those of `Attributes`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

from mabe_transfer.config import from_mapping
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.store.places import Place
from mabe_transfer.transitions import Transitions

FORMAT = "mabe-transfer/transitions"
VERSION = 1
UNKNOWN_SEED = -1  # of an episode that others recorded without saying

# What the caller of a writer says of the data; the rest of `Attributes` the writer knows itself.
GIVEN = ("domain", "quality", "terms", "behaviour", "recipe", "seed", "versions")


class Column(NamedTuple):
    """The type of one array; `width` is None where a row is a single number."""

    dtype: str
    width: int | None


EPISODE_COLUMNS = {
    "episodes/start": Column("int64", None),
    "episodes/length": Column("int64", None),
    "episodes/return": Column("float32", None),
    "episodes/seed": Column("int64", None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The sizes that fix every array of a store.

    Attributes:
        observation_size: O.
        action_size: A.
        nq: Generalised positions; 0 if the states are not stored.
        nv: Generalised velocities; likewise.
        terms: Names of the reward terms.

    Raises:
        UserError: A size or a name is impossible.
    """

    observation_size: int
    action_size: int
    nq: int = 0
    nv: int = 0
    terms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.observation_size, self.action_size) < 1 or min(self.nq, self.nv) < 0:
            raise UserError(f"A data set cannot have these sizes: {self}.")
        if bad := [name for name in self.terms if not name.isidentifier()]:
            raise UserError(f"A reward term cannot be called {bad[0]!r}: use letters and digits.")

    @classmethod
    def of(cls, transitions: Transitions) -> Self:
        """Read the sizes off some transitions."""
        return cls(
            observation_size=transitions.observations.shape[1],
            action_size=transitions.actions.shape[1],
            nq=0 if transitions.qpos is None else transitions.qpos.shape[1],
            nv=0 if transitions.qvel is None else transitions.qvel.shape[1],
            terms=tuple(sorted(transitions.reward_terms)),
        )

    def columns(self) -> dict[str, Column]:
        """Every array over the transitions, with its type."""
        columns = {
            "observations": Column("float32", self.observation_size),
            "actions": Column("float32", self.action_size),
            "rewards": Column("float32", None),
            "next_observations": Column("float32", self.observation_size),
            "terminals": Column("bool", None),
            "timeouts": Column("bool", None),
        }
        if self.nq:
            columns["qpos"] = Column("float64", self.nq)
        if self.nv:
            columns["qvel"] = Column("float64", self.nv)
        return columns | {f"reward_terms/{name}": Column("float32", None) for name in self.terms}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """The attributes of a finished store, all plain JSON.

    Attributes:
        format: `FORMAT`.
        version: `VERSION`.
        layout: The sizes.
        rows: N.
        domain: Canonical name of the domain the data is from.
        quality: Of the behaviour, as the recipe calls it.
        terms: Reward term -> its weight in the recorded reward.
        behaviour: Whose behaviour this is, with the hash of its weights.
        recipe: The resolved recipe.
        seed: Of the collection; None if others recorded the data.
        versions: Library -> version, the physics engine included.
        created: When the writing began, ISO 8601.
        content_hash: SHA-256 of the arrays, see `shards.content_hash`.
        complete: True; written last.
    """

    format: str
    version: int
    layout: Layout
    rows: int
    domain: str
    quality: str
    terms: dict[str, float]
    behaviour: dict[str, Any]
    recipe: dict[str, Any]
    seed: int | None
    versions: dict[str, str]
    created: str
    content_hash: str
    complete: bool


def plain_json(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Turn attributes into what they will be after a round trip through a file.

    Raises:
        UserError: They hold something that JSON cannot say.
    """
    try:
        return dict(json.loads(json.dumps(dict(value), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: the attributes are not plain JSON: {error}.") from None


def check_given(given: Mapping[str, Any], layout: Layout, where: str) -> dict[str, Any]:
    """Check what a caller says of the data before any of it is written.

    Returns:
        The attributes as plain JSON, with the layout.

    Raises:
        UserError: One is missing, unknown or of another type, or the terms are not the layout's.
    """
    attributes = plain_json(given, where)
    for name in attributes:
        if name not in GIVEN:
            raise unknown("attribute of a data set", name, GIVEN)
    for name in GIVEN:
        if name not in attributes:
            raise UserError(f"{where}: the attribute {name!r} is missing.")
    if sorted(attributes["terms"]) != sorted(layout.terms):
        raise UserError(
            f"{where}: the attribute 'terms' weights {sorted(attributes['terms'])}, "
            f"but the layout holds {sorted(layout.terms)}."
        )
    attributes |= {"format": FORMAT, "version": VERSION}
    attributes |= plain_json({"layout": asdict(layout)}, where)
    ending = {"rows": 0, "created": "", "content_hash": "", "complete": True}
    from_mapping(Attributes, attributes | ending, where)
    return attributes


def check_stored(attributes: Mapping[str, Any], where: str) -> Attributes:
    """Check the attributes of a finished store; keys that others added are left alone.

    Raises:
        UserError: One is missing or of another type.
    """
    names = {f.name for f in fields(Attributes)}
    return from_mapping(Attributes, {k: v for k, v in attributes.items() if k in names}, where)


def read_json(place: Place, key: str) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no such key.

    Raises:
        UserError: It is not JSON.
    """
    if (raw := place.read(key)) is None:
        return None
    try:
        return dict(json.loads(raw.tobytes()))
    except (TypeError, ValueError):
        raise UserError(f"{place.name}: {key} is not JSON, so its writing was cut short.") from None


def read_attributes(place: Place) -> dict[str, Any] | None:
    """Read the root's attributes; None where there is no Zarr group.

    Raises:
        UserError: There is a group, but not of this format and version.
    """
    group = read_json(place, "zarr.json")
    if group is None:
        return None
    attributes = group.get("attributes")
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
        raise UserError(f"{place.name} is a Zarr group, but not a data set of this project.")
    if attributes.get("version") != VERSION:
        raise UserError(
            f"{place.name} has format version {attributes.get('version')!r}, but this release "
            f"reads version {VERSION}: use the release that wrote it."
        )
    return attributes


def write_attributes(place: Place, attributes: Mapping[str, Any]) -> None:
    """Replace the root's attributes, in one atomic and durable write."""
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    place.write("zarr.json", json.dumps(group, indent=1, allow_nan=False).encode())


def difference(one: Any, other: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """Find the first dotted key in which two JSON values differ, with both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            inner = f"{key}.{name}" if key else name
            if found := difference(one.get(name), other.get(name), inner):
                return found
        return None
    return None if one == other else (key, one, other)
