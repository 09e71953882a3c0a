"""Where the bytes of a store lie: a folder on this machine, or an object store behind a URL.

A place gives and takes whole values under keys, as Zarr does. Writing a value is atomic: after a
kill there is the old value or the new one.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import zarr.abc.store
from numpy.typing import NDArray
from zarr.storage import LocalStore

from mabe_transfer.errors import UserError, unknown

if TYPE_CHECKING:
    import obstore.store

Location = str | Path

READ_ONLY_SCHEMES = ("http", "https")
SCHEMES = ("s3", "gs", "az", "file", "memory", *READ_ONLY_SCHEMES)


class Place(Protocol):
    """Somewhere that keeps bytes under keys."""

    @property
    def name(self) -> str:
        """The place as the user writes it."""

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What is raised when the place fails while Zarr writes to it."""

    def read(self, key: str) -> NDArray[np.uint8] | None:
        """Give a value, or None where there is none.

        Raises:
            UserError: The place cannot be reached or forbids it.
        """

    def write(self, key: str, value: bytes) -> None:
        """Replace a value atomically and durably, or raise one of `failures`."""

    def settle(self, keys: Iterable[str]) -> None:
        """Return once these values would survive a power cut."""

    def zarr(self) -> zarr.abc.store.Store:
        """The place as Zarr writes to it."""


class Folder:
    """A folder on this machine."""

    failures = (OSError,)

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The folder's path."""
        return str(self.path)

    def read(self, key: str) -> NDArray[np.uint8] | None:
        """Read a file; the path is absent, or leads through a file, where there is no value."""
        try:
            return np.fromfile(self.path / key, np.uint8)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{self.path / key} cannot be read: {first_line(error)}.") from error

    def write(self, key: str, value: bytes) -> None:
        """Write beside the file, then replace it."""
        path = self.path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".new")
        aside.write_bytes(value)
        sync(aside)
        aside.replace(path)
        sync(path.parent)

    def settle(self, keys: Iterable[str]) -> None:
        """Sync the files and the folders above them, together: a disk commits many at once."""
        files = [self.path / key for key in keys]
        above = {p for file in files for p in file.parents if p.is_relative_to(self.path)}
        with ThreadPoolExecutor(16) as pool:
            for _ in pool.map(sync, (*files, *above)):
                pass

    def zarr(self) -> zarr.abc.store.Store:
        """The folder as Zarr writes to it."""
        return LocalStore(self.path)


class ObjectPlace:
    """A prefix in an object store."""

    def __init__(self, url: str, store: "obstore.store.ObjectStore") -> None:
        import obstore.exceptions

        self.name = url
        self.failures = (OSError, obstore.exceptions.BaseError)
        self._store = store

    def read(self, key: str) -> NDArray[np.uint8] | None:
        """Get an object."""
        import obstore

        try:
            return np.frombuffer(memoryview(obstore.get(self._store, key).bytes()), np.uint8)
        except FileNotFoundError:
            return None
        except self.failures as error:
            raise _unreachable(self.name, error) from error

    def write(self, key: str, value: bytes) -> None:
        """Put an object, which is atomic and durable in itself."""
        import obstore

        obstore.put(self._store, key, value)

    def settle(self, keys: Iterable[str]) -> None:
        """Do nothing: an object that was put is there to stay."""

    def zarr(self) -> zarr.abc.store.Store:
        """The prefix as Zarr writes to it."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._store)


def locate(location: Location, *, create: bool = False) -> Folder | ObjectPlace:
    """Turn a path or a URL into a place.

    Args:
        location: A local path, or a URL with one of `SCHEMES`.
        create: It is going to be written.

    Raises:
        UserError: The URL's scheme is unknown or cannot be written, it lacks what its kind needs,
            or the extra `cloud` is not installed.
    """
    scheme, separator, _ = str(location).partition("://")
    if not separator:
        return Folder(Path(location).expanduser())
    url = str(location).rstrip("/")
    if scheme not in SCHEMES:
        raise unknown("kind of object store", scheme, SCHEMES)
    if create and scheme in READ_ONLY_SCHEMES:
        raise UserError(f"{url} can only be read: write to a path or to another object store.")
    try:
        import obstore.store
    except ImportError:
        raise UserError(
            f"{url} lies in an object store, which needs: pip install 'mabe-transfer[cloud]'."
        ) from None
    if scheme == "memory":
        return ObjectPlace(url, _memory(url))
    options: dict[str, Any] = {}
    if scheme == "http":
        options["client_options"] = {"allow_http": True}
    if create and scheme == "file":
        options["mkdir"] = True
    try:
        return ObjectPlace(url, obstore.store.from_url(url, **options))
    except (obstore.exceptions.BaseError, OSError, ValueError) as error:
        raise _unreachable(url, error) from error


@cache
def _memory(url: str) -> "obstore.store.ObjectStore":
    """Give this process's store of that name, so that what is written there can be read there."""
    import obstore.store

    return obstore.store.MemoryStore()


def _unreachable(name: str, error: Exception) -> UserError:
    return UserError(f"{name} cannot be used: {first_line(error)}.")


def first_line(error: Exception) -> str:
    """Keep the first line of what failed; an object store says more, for its authors."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return said.strip().splitlines()[0].rstrip(".")


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk; Windows has no way to flush a folder."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
