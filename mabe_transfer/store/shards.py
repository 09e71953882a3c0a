"""Reading arrays: whole shards at once, decoded in parallel straight into where they are wanted.

Zarr writes a store and any Zarr can read it. This reader goes to the shards itself, because it
reads the one encoding that the format allows: that is twice as fast, an absent or damaged chunk is
an error that names itself (Zarr takes an absent one for fill values), and no file gets to choose
which code decodes it.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import google_crc32c
import numpy as np
from numcodecs import zstd  # type: ignore[import-untyped]
from numpy.typing import NDArray

from mabe_transfer.errors import UserError
from mabe_transfer.store.format import Column, read_json
from mabe_transfer.store.places import Place

Array = NDArray[Any]
Bytes = NDArray[np.uint8]

# The one way in which this format encodes an array.
ENCODING = {
    "chunk grid": "regular",
    "keys": "default/",
    "codecs": ["sharding_indexed"],
    "codecs of a chunk": ["bytes", "zstd", "crc32c"],
    "codecs of the index": ["bytes", "crc32c"],
    "place of the index": "end",
    "byte order": "little",
    "rows left over in a shard": 0,
}
HASH_ROWS = 1 << 20  # rows that are in memory at a time while an array is hashed


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One array of a store, checked against the format but not yet read.

    Attributes:
        place: Where the store lies.
        name: Of the array within the store.
        dtype: Of its elements.
        shape: [rows] or [rows, width].
        shard_rows: Rows a shard, which is one file or object.
        chunk_rows: Rows a chunk, which is what one checksum covers.
    """

    place: Place
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    shard_rows: int
    chunk_rows: int

    @classmethod
    def open(cls, place: Place, name: str, column: Column, rows: int | None = None) -> Self:
        """Read an array's metadata.

        Args:
            place: Where the store lies.
            name: Of the array.
            column: The type it must have.
            rows: The length it must have, if that is known.

        Raises:
            UserError: The array is absent, or has another type, shape or encoding.
        """
        metadata = read_json(place, f"{name}/zarr.json")
        if metadata is None:
            raise UserError(f"{place.name} lacks the array {name!r}.")
        if (dtype := metadata.get("data_type")) != column.dtype:
            raise UserError(f"{place.name}: {name} has data type {dtype!r}, not {column.dtype!r}.")
        try:
            shape = [int(size) for size in metadata["shape"]]
            shard_rows, chunk_rows = _rows_of_shard_and_chunk(metadata, shape[1:])
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise UserError(
                f"{place.name}: {name} is not encoded as the format says (regular shards of whole "
                "rows, little-endian, zstd, CRC32C)."
            ) from None
        width = [] if column.width is None else [column.width]
        if shape[1:] != width or shape[0] != (shape[0] if rows is None else rows):
            expected = ["N" if rows is None else rows, *width]
            raise UserError(f"{place.name}: {name} has shape {shape}, expected {expected}.")
        return cls(place, name, np.dtype(column.dtype), tuple(shape), shard_rows, chunk_rows)

    def read(self, start: int = 0, stop: int | None = None, *, finite: bool = True) -> Array:
        """Read rows [start, stop); see `read_arrays`."""
        stop = self.shape[0] if stop is None else stop
        return read_arrays({self.name: self}, start, stop, finite=finite)[self.name]

    def fill(self, out: Array, start: int, shard: int, *, finite: bool) -> None:
        """Decode what one shard holds of the rows from `start` on into `out`.

        Raises:
            UserError: The shard is absent or damaged, or holds a number that is not finite.
        """
        stored = self.place.read(self._key(shard))
        if stored is None:
            self._refuse("shard", shard, "is missing")
        chunks = self._index(stored, shard)
        for number, (offset, size) in enumerate(chunks):
            first = shard * self.shard_rows + number * self.chunk_rows
            low, high = max(first, start), min(first + self.chunk_rows, start + len(out))
            if low >= high:
                continue
            target = out[low - start : high - start]
            whole = high - low == self.chunk_rows
            chunk = target if whole else np.empty((self.chunk_rows, *self.shape[1:]), self.dtype)
            self._decode(stored[offset : offset + size], chunk, first // self.chunk_rows)
            if not whole:
                target[...] = chunk[low - first : high - first]
            if finite and (row := unsound_row(target)) is not None:
                what = "neither true nor false" if self.dtype == np.bool_ else "not finite"
                raise UserError(f"{self.place.name}: {self.name} is {what} at row {low + row:,}.")

    def _key(self, shard: int) -> str:
        return f"{self.name}/c/{shard}" + "/0" * (len(self.shape) - 1)

    def _index(self, stored: Bytes, shard: int) -> list[tuple[int, int]]:
        """Give each chunk's (offset, size) from the end of a shard, [chunks, 2]."""
        tail = 16 * (self.shard_rows // self.chunk_rows)
        index = stored[-tail - 4 : -4]
        if len(stored) < tail + 4 or _crc(index) != stored[-4:].tobytes():
            self._refuse("shard", shard, "is corrupted: its index does not match its CRC32C")
        return [(offset, size) for offset, size in index.view("<u8").reshape(-1, 2).tolist()]

    def _decode(self, stored: Bytes, chunk: Array, number: int) -> None:
        """Decode one chunk into an array that is exactly as large."""
        if len(stored) < 4 or _crc(stored[:-4]) != stored[-4:].tobytes():
            self._refuse("chunk", number, "is corrupted: it does not match its CRC32C")
        raw = chunk.reshape(-1).view(np.uint8)
        raw[-8:] = 0xFF  # neither finite nor a truth value, should the chunk decode short
        try:
            zstd.decompress(stored[:-4], raw)
        except (RuntimeError, ValueError):
            self._refuse("chunk", number, "is corrupted: it does not decode")

    def _refuse(self, kind: str, number: int, what: str) -> NoReturn:
        rows = self.chunk_rows if kind == "chunk" else self.shard_rows
        last = min((number + 1) * rows, self.shape[0]) - 1
        raise UserError(
            f"{self.place.name}: {kind} {number} of {self.name} "
            f"(rows {number * rows:,} to {last:,}) {what}."
        )


def read_arrays(
    arrays: Mapping[str, StoredArray], start: int, stop: int, *, finite: bool = True
) -> dict[str, Array]:
    """Read rows [start, stop) of several arrays, their shards in parallel.

    Args:
        arrays: What to read.
        start: First row.
        stop: Row after the last.
        finite: Refuse numbers that are not finite, and truth values that are neither.

    Raises:
        UserError: A shard is absent or damaged, or holds a number that is not finite.
    """
    out = {name: np.empty((stop - start, *a.shape[1:]), a.dtype) for name, a in arrays.items()}
    jobs = [
        (array, out[name], shard)
        for name, array in arrays.items()
        for shard in range(start // array.shard_rows, -(-stop // array.shard_rows))
    ]

    def work(job: tuple[StoredArray, Array, int]) -> None:
        array, target, shard = job
        array.fill(target, start, shard, finite=finite)

    if len(jobs) == 1:
        work(jobs[0])
        return out
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(work, jobs):
            pass
    return out


def unsound_row(values: Array) -> int | None:
    """Find the first row with a number that is not finite, or a truth value that is neither."""
    sound = values.view(np.uint8) <= 1 if values.dtype == np.bool_ else np.isfinite(values)
    if sound.all():
        return None
    return int(np.argmin(sound.reshape(len(values), -1).all(axis=1)))


def content_hash(arrays: Mapping[str, StoredArray]) -> str:
    """Hash what arrays hold, however they are sharded and compressed.

    Returns:
        SHA-256, in hex, over each array in the order of the names: a line "name dtype shape" and
        the raw little-endian bytes.

    Raises:
        UserError: A chunk is absent or damaged.
    """
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.name} {list(array.shape)}\n".encode())
        for start in range(0, array.shape[0], HASH_ROWS):
            stop = min(start + HASH_ROWS, array.shape[0])
            rows = array.read(start, stop, finite=False)
            digest.update(rows.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _crc(data: Bytes) -> bytes:
    return struct.pack("<I", google_crc32c.value(data))


def _rows_of_shard_and_chunk(metadata: dict[str, Any], width: list[int]) -> tuple[int, int]:
    """Insist on the one encoding of the format."""
    grid, keys = metadata["chunk_grid"], metadata["chunk_key_encoding"]
    sharding = metadata["codecs"][0]["configuration"]
    shard, chunk = grid["configuration"]["chunk_shape"], sharding["chunk_shape"]
    found = {
        "chunk grid": grid["name"],
        "keys": keys["name"] + keys.get("configuration", {}).get("separator", "/"),
        "codecs": [codec["name"] for codec in metadata["codecs"]],
        "codecs of a chunk": [codec["name"] for codec in sharding["codecs"]],
        "codecs of the index": [codec["name"] for codec in sharding["index_codecs"]],
        "place of the index": sharding.get("index_location", "end"),
        "byte order": sharding["codecs"][0].get("configuration", {}).get("endian", "little"),
        "width of a shard": shard[1:],
        "width of a chunk": chunk[1:],
        "rows left over in a shard": shard[0] % chunk[0],
    }
    if found != ENCODING | {"width of a shard": width, "width of a chunk": width}:
        raise ValueError(found)
    return shard[0], chunk[0]


def pieces(rows: int, before: int, shard_rows: int) -> Iterator[slice]:
    """Cut rows, which come after those before, where they cross from one shard into the next."""
    start = 0
    while start < rows:
        stop = min(rows, start + shard_rows - (before + start) % shard_rows)
        yield slice(start, stop)
        start = stop
