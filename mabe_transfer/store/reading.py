"""Opening a store: into memory at once, in blocks of whole shards, or only its attributes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mabe_transfer.errors import UserError
from mabe_transfer.store.format import EPISODE_COLUMNS, Layout, check_stored, read_attributes
from mabe_transfer.store.places import Folder, Location, Place, locate
from mabe_transfer.store.shards import StoredArray, content_hash, read_arrays
from mabe_transfer.transitions import Floats, Integers, Transitions

STATES = ("qpos", "qvel")
PARTIAL = ".partial"  # what a local store is called until it is complete


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredEpisodes:
    """The episodes of a store.

    Attributes:
        start: First row, int64 [E].
        length: Number of rows, int64 [E].
        returns: Undiscounted sum of the recorded rewards, f32 [E].
        seed: With which the episode began; -1 if others recorded it without saying, int64 [E].
    """

    start: Integers
    length: Integers
    returns: Floats
    seed: Integers

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSummary:
    """What a list of stores says of each.

    Attributes:
        path: The store.
        rows: Number of transitions.
        domain: Canonical name of the domain the data is from.
        quality: Of the behaviour.
        seed: Of the collection; None if others recorded the data.
        created: ISO 8601.
        content_hash: As recorded.
    """

    path: Path
    rows: int
    domain: str
    quality: str
    seed: int | None
    created: str
    content_hash: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Store:
    """A finished data set, checked against the format but not yet read.

    Attributes:
        location: As the user wrote it.
        attributes: The root's attributes, plain JSON, see `format.Attributes`.
        layout: Sizes of the arrays.
        rows: Number of transitions.
        arrays: Every array by name, those of the episodes included.
    """

    location: str
    attributes: dict[str, Any] = field(repr=False)
    layout: Layout
    rows: int
    arrays: dict[str, StoredArray] = field(repr=False)

    def load(
        self, limit: int | None = None, *, states: bool = True, terms: bool = True
    ) -> Transitions:
        """Read transitions into memory, all arrays and shards in parallel.

        Args:
            limit: Only so many of the first rows.
            states: Read qpos and qvel too, which training does not need.
            terms: Read the terms of the reward too, which relabelling needs.

        Raises:
            UserError: A chunk is absent or damaged, or holds a number that is not finite.
        """
        stop = self.rows if limit is None else min(limit, self.rows)
        return Transitions.of_arrays(read_arrays(self._wanted(states, terms), 0, stop))

    def stream(
        self, rows_per_block: int | None = None, *, states: bool = True, terms: bool = True
    ) -> Iterator[Transitions]:
        """Read transitions block by block, so that only one block is in memory at a time.

        Args:
            rows_per_block: Rounded up to whole shards; one shard by default. The last block may
                have fewer rows.
            states: As in `load`.
            terms: As in `load`.

        Raises:
            UserError: As `load` does.
        """
        shard = self.arrays["observations"].shard_rows
        block = max(1, -(-(rows_per_block or shard) // shard)) * shard
        arrays = self._wanted(states, terms)
        for start in range(0, self.rows, block):
            stop = min(start + block, self.rows)
            yield Transitions.of_arrays(read_arrays(arrays, start, stop))

    def _wanted(self, states: bool, terms: bool) -> dict[str, StoredArray]:
        return {
            name: self.arrays[name]
            for name in self.layout.columns()
            if (states or name not in STATES) and (terms or not name.startswith("reward_terms/"))
        }

    def episodes(self) -> StoredEpisodes:
        """Read where the episodes lie, with their returns and seeds."""
        start, length, returns, seed = (self.arrays[name].read() for name in EPISODE_COLUMNS)
        return StoredEpisodes(start=start, length=length, returns=returns, seed=seed)

    def content_hash(self) -> str:
        """Hash again what the arrays hold now; `attributes["content_hash"]` is what they held."""
        return content_hash(self.arrays)


def open_store(location: Location) -> Store:
    """Open a finished data set for reading.

    Args:
        location: A local path, or the URL of a prefix in an object store.

    Raises:
        UserError: There is no store, it is still being written, it has another format version, or
            an attribute or array is absent or of another type, shape or encoding.
    """
    place = locate(location)
    attributes = read_attributes(place)
    if attributes is None:
        raise _no_store(place)
    if attributes.get("complete") is not True:
        raise _unfinished(place.name, place, attributes)
    checked = check_stored(attributes, place.name)
    arrays = {
        name: StoredArray.open(place, name, column, checked.rows)
        for name, column in checked.layout.columns().items()
    }
    episodes: int | None = None
    for name, column in EPISODE_COLUMNS.items():
        arrays[name] = StoredArray.open(place, name, column, episodes)
        episodes = arrays[name].shape[0]
    return Store(
        location=place.name,
        attributes=attributes,
        layout=checked.layout,
        rows=checked.rows,
        arrays=arrays,
    )


def list_stores(root: Path) -> list[StoreSummary]:
    """Find every finished data set below a folder, by path.

    What is still being written, and what is no data set of this format version, is left out.
    """
    found = []
    for folder, below, files in os.walk(root):
        below.sort()
        if "zarr.json" not in files:
            continue
        below.clear()  # the arrays of a group are no stores
        if (summary := _summary(Path(folder))) is not None:
            found.append(summary)
    return found


def _summary(path: Path) -> StoreSummary | None:
    try:
        attributes = read_attributes(Folder(path)) or {}
        if path.name.endswith(PARTIAL) or attributes.get("complete") is not True:
            return None
        checked = check_stored(attributes, str(path))
    except UserError:
        return None
    return StoreSummary(
        path=path,
        rows=checked.rows,
        domain=checked.domain,
        quality=checked.quality,
        seed=checked.seed,
        created=checked.created,
        content_hash=checked.content_hash,
    )


def partial_of(folder: Folder) -> Folder:
    """Give the temporary sibling in which a local store is written."""
    path = folder.path if folder.path.name not in ("", "..") else Path(os.path.abspath(folder.path))
    return Folder(path.with_name(path.name + PARTIAL))


def _no_store(place: Place) -> UserError:
    if isinstance(place, Folder):
        partial = partial_of(place)
        if (attributes := read_attributes(partial)) is not None:
            return _unfinished(place.name, partial, attributes)
        if place.read(".zgroup") is not None:
            return UserError(f"{place.name} is a Zarr v2 group, and a data set is a v3 group.")
        if not place.path.exists():
            return UserError(f"There is no data set {place.name}.")
    return UserError(f"{place.name} is not a data set: it holds no Zarr v3 group.")


def _unfinished(name: str, where: Place, attributes: dict[str, Any]) -> UserError:
    rows = attributes.get("progress", attributes).get("rows", 0)
    return UserError(
        f"{name} is still being written: {rows:,} rows are safe in {where.name}, and the command "
        "that writes it, given again, goes on from there."
    )
