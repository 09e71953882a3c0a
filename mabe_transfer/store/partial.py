"""A store that is being written: what is safe in it, who writes it, and how it becomes complete.

The record of what is safe is one attribute of the root, `progress`, replaced in one atomic and
durable write. A local store lies in a sibling called `<name>.partial` until it is renamed; in an
object store, the attribute `complete` makes the difference.
"""

import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mabe_transfer import locks
from mabe_transfer.config import from_mapping
from mabe_transfer.errors import Busy, UserError
from mabe_transfer.store.format import difference, read_attributes, write_attributes
from mabe_transfer.store.places import Folder, ObjectPlace, Place, sync
from mabe_transfer.store.reading import partial_of

FIRST = ("domain", "quality", "seed")
"""Attributes that say best what another store is of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is safe in an unfinished store.

    Attributes:
        shard_rows: Rows that are written at a time.
        rows: Rows that need not come again.
        seeds: Of the episodes that begin in them.
        open: Whether the last of them leaves its episode open.
        cursor: What the caller said with the last of them.
    """

    shard_rows: int
    rows: int = 0
    seeds: tuple[int, ...] = ()
    open: bool = False
    cursor: Any = None


class Partial:
    """An unfinished store, begun or found.

    Attributes:
        name: Of the store when it is complete, as the user writes it.
        place: Where it is written.
        progress: What is safe in it.
    """

    def __init__(
        self, target: Folder | ObjectPlace, attributes: dict[str, Any], shard_rows: int
    ) -> None:
        self.name = target.name
        self.place: Place = partial_of(target) if isinstance(target, Folder) else target
        self.progress = Progress(shard_rows=shard_rows)
        self._target = target
        self._attributes = attributes
        self.release = self._lock()
        try:
            self._resume_or_begin()
        except BaseException:
            self.release()
            raise

    def record(self, progress: Progress) -> None:
        """Say durably what is safe."""
        write_attributes(self.place, self._attributes | {"progress": asdict(progress)})
        self.progress = progress

    def complete(self, rows: int, content_hash: str) -> None:
        """Declare the store complete and give it its name."""
        ending = {"rows": rows, "content_hash": content_hash, "complete": True}
        write_attributes(self.place, self._attributes | ending)
        self._rename()
        self.release()

    def _resume_or_begin(self) -> None:
        found = read_attributes(self.place)
        if found is not None and found.get("complete") is True:
            self._rename()  # all that the interrupted writing had left to do
            self._refuse()
        if found is None:
            self._attributes |= {"created": datetime.now(UTC).isoformat(timespec="seconds")}
            self.record(self.progress)
            return
        self._attributes |= {"created": found.get("created")}
        progress = from_mapping(Progress, found.get("progress", {}), self.place.name)
        now = self._attributes | {"shard_rows": self.progress.shard_rows}
        then = {name: found.get(name) for name in self._attributes}
        then |= {"shard_rows": progress.shard_rows}
        one, other = ({name: both.get(name) for name in FIRST} for both in (then, now))
        if changed := difference(one, other) or difference(then, now):
            raise UserError(
                f"{self.place.name} was begun with {changed[0]} = {changed[1]!r}, and now it is "
                f"{changed[2]!r}: go on with the former, or delete what was begun."
            )
        self.progress = progress
        if isinstance(self.place, Folder):
            for leftover in self.place.path.rglob("*.partial"):
                leftover.unlink()  # of a file that Zarr was writing at the kill

    def _lock(self) -> Callable[[], object]:
        """Keep other processes out until the lock is released, or this process is no more."""
        if not isinstance(self._target, Folder):
            return lambda: None
        if self._target.path.exists():
            self._refuse()
        path = partial_of(self._target).path
        release = locks.take(path)
        if release is None:
            raise Busy(f"{path} is being written by another process.")
        return weakref.finalize(self, release)

    def _rename(self) -> None:
        if isinstance(self._target, Folder):
            if self._target.path.exists():
                self._refuse()
            partial_of(self._target).path.rename(self._target.path)
            sync(self._target.path.parent)

    def _refuse(self) -> None:
        raise UserError(f"{self.name} exists already, and nothing is ever overwritten.")
