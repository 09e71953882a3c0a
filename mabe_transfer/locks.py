"""One process at a time in a folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mabe_transfer.errors import Busy, UserError
from mabe_transfer.progress import notice

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOOK = 0.5  # seconds between two tries to get a lock


def take(folder: Path) -> Callable[[], None] | None:
    """Lock a folder, which is made if absent.

    Returns:
        What releases it; none where somebody else has it. Where the system or the file system
        knows no locks, everybody gets it.

    Raises:
        OSError: The folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        return _nothing
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:
        pass  # a file system without locks
    return lambda: os.close(handle)


@contextmanager
def held(folder: Path, *, patient: bool = False) -> Iterator[bool]:
    """Hold a folder's lock for a while; false where somebody else has it.

    Args:
        folder: Made if absent.
        patient: Wait until it is free.

    Raises:
        UserError: The folder cannot be made.
    """
    try:
        while (release := take(folder)) is None and patient:
            time.sleep(LOOK)
    except OSError as error:
        raise UserError(f"{folder} cannot be a folder to write to ({error.strerror}).") from None
    try:
        yield release is not None
    finally:
        if release is not None:
            release()


@contextmanager
def sole(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, or refuse.

    Raises:
        Busy: Another process has it.
    """
    with held(folder) as mine:
        if not mine:
            raise Busy(f"Another process is at work in {folder}.")
        yield


def once(make: Callable[[], object], there: Callable[[], bool]) -> bool:
    """Make what is not there yet, or wait for the process that is making it.

    Args:
        make: Refuses by `Busy` where another process is at it, and wherever it is there by then.
        there: Whether it is there.

    Returns:
        Whether it was there, or was made elsewhere.
    """
    told = False
    while not there():
        try:
            make()
        except Busy as busy:
            if not told:
                notice(f"{str(busy).rstrip('.')}; waiting for it.")
            told = True
            time.sleep(LOOK)
        except UserError:
            if not there():
                raise
        else:
            return False
    return True


def _nothing() -> None:
    return None
