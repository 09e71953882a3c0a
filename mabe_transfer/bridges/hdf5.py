"""Reading a few known arrays out of an HDF5 file by somebody else, without trusting it.

Nothing is walked and nothing is executed: each array is asked for by its name, its links, type,
shape, storage and filters are checked first, and rows are then read block by block. So a file
cannot make this reader follow a link out of it, load code, or need more memory than a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np

from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

BLOCK_ROWS = 65_536
MAX_ROWS = 50_000_000
MAX_CHUNK_BYTES = 1 << 27  # a chunk is decoded as a whole
MAX_TEXT_BYTES = 1 << 20
# Deflate packs at most 1,032 to 1; what declares more than it can hold was never written.
MAX_RATIO, SLACK_BYTES = 1_100, 1 << 20
NAMED_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32_000})  # HDF5's own, and h5py's LZF
FAILURES = (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError)
NUMBERS = "fiub"


@dataclass(frozen=True, slots=True)
class Column:
    """One array of a file, checked but not yet read: [rows] or [rows, width]."""

    where: str
    data: h5py.Dataset
    rows: int
    width: int | None

    @property
    def exact(self) -> bool:
        """Whether its numbers are float64."""
        return bool(self.data.dtype == np.float64)

    def read(self, start: int, stop: int, dtype: type[np.generic]) -> NDArray[Any]:
        """Read rows [start, stop) as another type of number.

        Raises:
            UserError: The rows cannot be decoded, or a number is not finite in that type.
        """
        raw = self._raw(start, stop)
        with np.errstate(over="ignore", invalid="ignore"):
            values = raw.astype(dtype)
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if bad.size:
            raise UserError(f"{self.where} is not finite at row {start + int(bad[0]):,}.")
        return values

    def flags(self) -> NDArray[np.bool_]:
        """Read all rows as booleans, written as such or as 0 and 1.

        Raises:
            UserError: A value is something else.
        """
        found = np.empty(self.rows, np.bool_)
        for start, stop in blocks(self.rows):
            raw = self._raw(start, stop)
            bad = np.flatnonzero(~((raw == 0) | (raw == 1)))
            if bad.size:
                at = int(bad[0])
                raise UserError(
                    f"{self.where} must hold true and false, and row {start + at:,} is {raw[at]!s}."
                )
            found[start:stop] = raw != 0
        return found

    def _raw(self, start: int, stop: int) -> NDArray[Any]:
        try:
            raw = self.data[start:stop]
        except FAILURES as error:
            raise UserError(f"{self.where} cannot be decoded: {_said(error)}.") from None
        return np.asarray(raw).reshape((stop - start,) if self.width is None else raw.shape)


class Hdf5:
    """An HDF5 file, opened to read arrays by name.

    Raises:
        UserError: There is no such file, or it is no whole HDF5 file.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        if not path.is_file():
            raise UserError(f"{path}: there is no such file.")
        try:
            self._file = h5py.File(path, "r", locking="best-effort")
        except FAILURES as error:
            raise UserError(
                f"{path} is no whole HDF5 file ({_said(error)}); a download that was cut short "
                "looks like that."
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def column(self, name: str, rows: int | None = None, width: int | None = None) -> Column:
        """Check an array over rows and give what reads it.

        Args:
            name: Its key.
            rows: How many it must have, where that is known.
            width: How many numbers a row must have; None where a row is a single number.

        Raises:
            UserError: It is absent, or not such an array of numbers.
        """
        found = self.optional(name, rows, width)
        if found is None:
            raise UserError(f"{self.name} lacks the array {name!r}.")
        return found

    def optional(
        self, name: str, rows: int | None = None, width: int | None = None
    ) -> Column | None:
        """Do as `column`; None where there is nothing under that name."""
        data = self._find(name)
        if data is None:
            return None
        where = f"{self.name}: {name}"
        shape, kind = _form(data, where)
        if kind not in NUMBERS:
            raise UserError(f"{where} must hold numbers, and is of type {data.dtype!s}.")
        wanted = [rows if rows is not None else "N", *([] if width is None else [width])]
        if width is None and shape[1:] == (1,):
            shape = shape[:1]  # as D4RL's own loader accepts it
        if len(shape) != len(wanted) or (rows is not None and shape[0] != rows):
            raise UserError(f"{where} has shape {list(shape)}, expected {_shape(wanted)}.")
        if width is not None and shape[1] != width:
            raise UserError(f"{where} has shape {list(shape)}, expected {_shape(wanted)}.")
        if not 0 < shape[0] <= MAX_ROWS:
            raise UserError(f"{where} has {shape[0]:,} rows; 1 to {MAX_ROWS:,} can be read.")
        _check_storage(data, where)
        return Column(where, data, shape[0], width)

    def tensor(self, name: str, limit: int = 1 << 22) -> NDArray[np.float32]:
        """Read a small array of any shape as float32.

        Raises:
            UserError: It is absent, holds no numbers, is not finite, or has more than `limit`.
        """
        data = self._find(name)
        if data is None:
            raise UserError(f"{self.name} lacks the array {name!r}.")
        where = f"{self.name}: {name}"
        shape, kind = _form(data, where)
        if kind not in NUMBERS or not 0 < np.prod(shape, dtype=float) <= limit:
            raise UserError(f"{where} must hold at most {limit:,} numbers.")
        _check_storage(data, where)
        flat = Column(where, data, shape[0] if shape else 1, None)
        try:
            values = np.asarray(data[()], np.float32)
        except FAILURES as error:
            raise UserError(f"{flat.where} cannot be decoded: {_said(error)}.") from None
        if not np.isfinite(values).all():
            raise UserError(f"{where} is not finite.")
        return values

    def text(self, name: str) -> str | None:
        """Read a string or a number as text; None where there is none that is short.

        Raises:
            UserError: It cannot be decoded.
        """
        data = self._find(name)
        if data is None:
            return None
        where = f"{self.name}: {name}"
        shape, kind = _form(data, where)
        if shape not in ((), (1,)) or kind not in "SiufO":
            return None
        if kind == "O" and h5py.check_string_dtype(data.dtype) is None:
            return None
        if kind == "S" and data.dtype.itemsize > MAX_TEXT_BYTES:
            return None
        try:
            _check_storage(data, where)
            value = data[()] if shape == () else data[0]
            return value.decode() if isinstance(value, bytes) else str(value)
        except FAILURES as error:
            raise UserError(f"{where} cannot be decoded: {_said(error)}.") from None

    def _find(self, name: str) -> h5py.Dataset | None:
        """Go to an array link by link, none of which may lead out of the file."""
        node: Any = self._file
        where = f"{self.name}: {name}"
        try:
            for part in name.split("/"):
                if not isinstance(node, h5py.Group):
                    raise UserError(f"{where}: {node.name} is an array, and should be a group.")
                link = node.get(part, getlink=True)
                if link is None:
                    return None
                if not isinstance(link, h5py.HardLink):
                    raise UserError(f"{where} is a link to elsewhere; links are not followed.")
                node = node[part]
        except FAILURES as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{where} cannot be opened: {_said(error)}.") from None
        if not isinstance(node, h5py.Dataset):
            raise UserError(f"{where} must be an array, and is a {type(node).__name__.lower()}.")
        return node


def blocks(rows: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """Cut rows from `first` on into blocks: (first row, row after the last)."""
    for start in range(first, rows, BLOCK_ROWS):
        yield start, min(start + BLOCK_ROWS, rows)


def _form(data: h5py.Dataset, where: str) -> tuple[tuple[int, ...], str]:
    """Shape and kind of number of an array."""
    try:
        shape, dtype = data.shape, data.dtype
    except FAILURES as error:
        raise UserError(f"{where} has a type that is not known here: {_said(error)}.") from None
    if shape is None:
        raise UserError(f"{where} is empty.")
    return tuple(shape), str(dtype.kind)


def _check_storage(data: h5py.Dataset, where: str) -> None:
    """Refuse data that lies elsewhere, was never written, or takes foreign code to decode."""
    try:
        plist = data.id.get_create_plist()
        filters = {plist.get_filter(index)[0] for index in range(plist.get_nfilters())}
        elsewhere = bool(data.is_virtual or data.external)
        stored, item = data.id.get_storage_size(), data.dtype.itemsize
        chunk = int(np.prod(data.chunks, dtype=float) * item) if data.chunks else 0
        declared = float(np.prod(data.shape, dtype=float) * item)
    except FAILURES as error:
        raise UserError(f"{where} cannot be examined: {_said(error)}.") from None
    if elsewhere:
        raise UserError(f"{where} keeps its data in another file, which is not followed.")
    if not filters <= NAMED_FILTERS:
        raise UserError(f"{where} needs the HDF5 filter {max(filters - NAMED_FILTERS)} to decode.")
    if chunk > MAX_CHUNK_BYTES:
        raise UserError(
            f"{where} has chunks of {chunk >> 20:,} MiB; at most {MAX_CHUNK_BYTES >> 20} can be "
            "read: write it again with smaller ones."
        )
    if declared > MAX_RATIO * stored + SLACK_BYTES:
        raise UserError(
            f"{where} declares {declared:,.0f} bytes and stores {stored:,}: most of it was never "
            "written."
        )


def _shape(wanted: list[Any]) -> str:
    return f"[{', '.join(str(size) for size in wanted)}]"


def _said(error: BaseException) -> str:
    text = str(error.args[0] if error.args else error) or type(error).__name__
    return text.strip().splitlines()[0].rstrip(".") if text.strip() else type(error).__name__
