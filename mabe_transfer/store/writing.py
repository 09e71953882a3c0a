"""Writing a store so that a kill at any moment leaves something to resume, or nothing.

Rows gather in a buffer of one shard, and only whole shards are written. After each, the store
records durably how many rows are safe, together with the caller's cursor: the point from which an
interrupted writing goes on.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from mabe_transfer.errors import UserError
from mabe_transfer.store.format import EPISODE_COLUMNS, Column, Layout, check_given, plain_json
from mabe_transfer.store.partial import Partial, Progress
from mabe_transfer.store.places import Location, first_line, locate
from mabe_transfer.store.reading import Store, open_store
from mabe_transfer.store.shards import (
    Array,
    StoredArray,
    content_hash,
    pieces,
    read_arrays,
    unsound_row,
)
from mabe_transfer.transitions import Episodes, Integers, Transitions

if TYPE_CHECKING:
    from zarr.types import AnyArray

SHARD_ROWS = 262_144
CHUNK_ROWS = 65_536
# Measured on hopper states, made up and public ones: level 3 saves 7 % of the size, level -1 less
# than 1 %, but that decodes ten times as fast, and flags and padding it compresses all the same.
ZSTD_LEVEL = -1
# What stands where nothing was written. A float that was not written is then found on reading.
FILL = {"float32": np.nan, "float64": np.nan, "bool": False, "int64": 0}


class StoreWriter:
    """Appends transitions to a data set that does not exist yet, or is not yet complete.

    `StoreWriter.open`, then `append` as often as there is data, then `finish`. As a context manager
    it lets go of an unfinished store at the end, for the next `open` to resume.

    Attributes:
        rows: Rows accepted so far, those of interrupted writings included.
        resumed_rows: Rows that were safe on opening: the caller goes on after them.
        cursor: What the caller said with the last row; None before the first.
    """

    def __init__(self, partial: Partial, layout: Layout) -> None:
        self._partial = partial
        self._layout = layout
        progress = partial.progress
        self._shard_rows = progress.shard_rows
        self.rows = self.resumed_rows = progress.rows
        self.cursor = progress.cursor
        self._seeds = list(progress.seeds)
        self._open = progress.open
        self._zarr = partial.place.zarr()
        self._arrays: dict[str, AnyArray] = {}
        self._buffers: dict[str, Array] = {}
        for name, column in layout.columns().items():
            self._arrays[name] = (
                self._open_array(name)
                if self.rows
                else self._create(name, column, self._shard_rows)
            )
            shape = (self._shard_rows, *self._arrays[name].shape[1:])
            self._buffers[name] = np.full(shape, FILL[column.dtype], column.dtype)
        self._restore_buffers()

    @classmethod
    def open(
        cls,
        location: Location,
        layout: Layout,
        attributes: Mapping[str, Any],
        *,
        shard_rows: int = SHARD_ROWS,
    ) -> Self:
        """Begin a store, or go on with one that was interrupted.

        Args:
            location: A local path, or the URL of a prefix in an object store.
            layout: Sizes of the arrays.
            attributes: What the data is, see `format.GIVEN`; plain JSON.
            shard_rows: Rows that are written at a time, in one file an array.

        Raises:
            UserError: Something is there already, another process is writing it, or it was begun
                with another layout, shard or attribute; or an attribute is absent, unknown or of
                another type.
        """
        if shard_rows < 1 or (shard_rows > CHUNK_ROWS and shard_rows % CHUNK_ROWS):
            raise ValueError(f"shard_rows must be below {CHUNK_ROWS} or a multiple of it.")
        target = locate(location, create=True)
        checked = check_given(attributes, layout, target.name)
        try:
            return cls(Partial(target, checked, shard_rows), layout)
        except target.failures as error:
            raise UserError(f"{target.name} cannot be written: {first_line(error)}.") from error

    def append(self, transitions: Transitions, seeds: Integers, *, cursor: Any = None) -> None:
        """Add rows; they are copied.

        Args:
            transitions: The rows, usually whole episodes.
            seeds: Of the episodes that begin in these rows, in order, `UNKNOWN_SEED` where nobody
                knows; int64, one an episode if these are whole episodes.
            cursor: Plain JSON from which the caller can go on after these rows; a writer that
                resumes here gives it back.

        Raises:
            ValueError: The rows have another layout, or the seeds do not fit the episodes.
            UserError: A number is not finite, the cursor is not plain JSON, or the place cannot be
                written, be it full or out of reach.
        """
        if len(transitions) == 0:
            return
        if (layout := Layout.of(transitions)).columns() != self._layout.columns():
            raise ValueError(f"These rows have {layout}, but the store has {self._layout}.")
        ends = transitions.terminals | transitions.timeouts
        begun = int(ends[:-1].sum()) + (not self._open)
        if seeds.dtype != np.int64 or seeds.shape != (begun,):
            raise ValueError(
                f"{begun} episodes begin in these rows, so seeds must be int64 [{begun}], "
                f"not {seeds.dtype} {list(seeds.shape)}."
            )
        for name, values in transitions.arrays().items():
            if (row := unsound_row(values)) is not None:
                where = f"{self._partial.name}: {name}"
                raise UserError(f"{where} is not finite at row {self.rows + row:,}.")
        cursor = plain_json({"cursor": cursor}, self._partial.name)["cursor"]
        before = self._state()
        with self._explained():
            filled = self._gather(transitions)
            self._open, self.cursor = not bool(ends[-1]), cursor
            self._seeds += seeds.tolist()
            if self.rows % self._shard_rows == 0:
                self._record(*self._state())
            elif filled:
                self._record(*before)

    def finish(self) -> Store:
        """Write the rest, the episodes and the content hash, and only then call it complete.

        Raises:
            UserError: There are no rows, the place cannot be written, or a chunk is damaged.
        """
        if not self.rows:
            raise UserError(f"{self._partial.name}: no rows were appended, so nothing is kept.")
        with self._explained():
            if used := self.rows % self._shard_rows:
                self._write_shard(self.rows // self._shard_rows, used)
            for array in self._arrays.values():
                if array.shape[0] != self.rows:
                    array.resize((self.rows, *array.shape[1:]))
            self._partial.place.settle(f"{name}/zarr.json" for name in self._arrays)
            self._record(*self._state())
            self._write_episodes()
            columns = self._layout.columns() | EPISODE_COLUMNS
            self._partial.complete(self.rows, content_hash(self._stored(columns)))
        return open_store(self._partial.name)

    def close(self) -> None:
        """Let go of the store as it is, for another writer to resume."""
        self._partial.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open_array(self, name: str) -> "AnyArray":
        # Zarr ignores the `config` of an array that it opens, and would leave out chunks of zeros.
        with zarr.config.set({"array.write_empty_chunks": True}):
            return zarr.open_array(self._zarr, path=name, mode="r+")

    def _create(self, name: str, column: Column, rows: int) -> "AnyArray":
        width = () if column.width is None else (column.width,)
        return zarr.create_array(
            self._zarr,
            name=name,
            shape=(rows, *width),
            shards=(self._shard_rows, *width),
            chunks=(min(CHUNK_ROWS, self._shard_rows), *width),
            dtype=column.dtype,
            fill_value=FILL[column.dtype],
            compressors=[ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec()],
            config={"write_empty_chunks": True},  # an absent chunk is then always an error
            overwrite=True,
        )

    def _stored(self, columns: Mapping[str, Column]) -> dict[str, StoredArray]:
        place = self._partial.place
        return {name: StoredArray.open(place, name, column) for name, column in columns.items()}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in a sentence why the place cannot be written, and what is safe."""
        try:
            yield
        except self._partial.place.failures as error:
            raise UserError(
                f"{self._partial.place.name} cannot be written: {first_line(error)}; "
                f"{self._partial.progress.rows:,} rows are safe, and writing goes on from there."
            ) from error

    def _restore_buffers(self) -> None:
        """Take the safe rows of the last shard, which is not whole, back into the buffers."""
        if used := self.rows % self._shard_rows:
            arrays = self._stored(self._layout.columns())
            for name, rows in read_arrays(arrays, self.rows - used, self.rows).items():
                self._buffers[name][:used] = rows

    def _gather(self, transitions: Transitions) -> int:
        """Copy rows into the buffers and write each shard that they fill; count those."""
        filled = 0
        for piece in pieces(len(transitions), self.rows, self._shard_rows):
            at = self.rows % self._shard_rows
            for name, values in transitions.arrays().items():
                self._buffers[name][at : at + piece.stop - piece.start] = values[piece]
            self.rows += piece.stop - piece.start
            if self.rows % self._shard_rows == 0:
                self._write_shard(self.rows // self._shard_rows - 1, self._shard_rows)
                filled += 1
        return filled

    def _write_shard(self, shard: int, used: int) -> None:
        """Write the buffers as one shard, whole, whatever a killed writer left in its place."""
        start, stop = shard * self._shard_rows, (shard + 1) * self._shard_rows
        for name, array in self._arrays.items():
            buffer = self._buffers[name]
            buffer[used:] = FILL[array.dtype.name]
            if array.shape[0] < stop:
                array.resize((stop, *array.shape[1:]))
            array[start:stop] = buffer
        self._settle(self._arrays, range(shard, shard + 1))

    def _write_episodes(self) -> None:
        columns = self._layout.columns()
        needed = {name: columns[name] for name in ("rewards", "terminals", "timeouts")}
        rows = read_arrays(self._stored(needed), 0, self.rows)
        episodes = Episodes.between(rows["terminals"] | rows["timeouts"])
        values: dict[str, Array] = {
            "episodes/start": episodes.start,
            "episodes/length": episodes.length,
            "episodes/return": episodes.sums(rows["rewards"]).astype(np.float32),
            "episodes/seed": np.array(self._seeds, np.int64),
        }
        arrays = {
            n: self._create(n, column, len(episodes)) for n, column in EPISODE_COLUMNS.items()
        }
        for name, array in arrays.items():
            array[:] = values[name]
        self._settle(arrays, range(-(-len(episodes) // self._shard_rows)))

    def _settle(self, arrays: Mapping[str, "AnyArray"], shards: range) -> None:
        """Return once these shards, and what says how long the arrays are, would survive."""
        self._partial.place.settle(
            key
            for name, array in arrays.items()
            for key in (
                f"{name}/zarr.json",
                *(f"{name}/c/{shard}" + "/0" * (array.ndim - 1) for shard in shards),
            )
        )

    def _state(self) -> tuple[int, int, bool, Any]:
        return self.rows, len(self._seeds), self._open, self.cursor

    def _record(self, rows: int, begun: int, is_open: bool, cursor: Any) -> None:
        """Record what is safe: the rows so far, or those of an earlier state."""
        self._partial.record(
            Progress(
                shard_rows=self._shard_rows,
                rows=rows,
                seeds=tuple(self._seeds[:begun]),
                open=is_open,
                cursor=cursor,
            )
        )
