"""Fetching D4RL's files: on request only, resumable, and checked before they get their name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from mabe_transfer.bridges import d4rl
from mabe_transfer.errors import UserError
from mabe_transfer.progress import Work, notice
from mabe_transfer.written import sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_BYTES = 1 << 20
TIMEOUT_S = 30.0
PARTIAL_CONTENT = 206


def download(name: str, mirrors: Sequence[str] = ()) -> Path:
    """Download the file of a D4RL data set into the first of `d4rl.folders()`.

    What an interrupted download left is taken up again. The file gets its name only when its
    SHA-256 is D4RL's.

    Args:
        name: `d4rl:hopper-medium-v2`.
        mirrors: URLs to try, in order, before those of the catalogue.

    Raises:
        UserError: There is no such data set, no mirror gives it, the disk is full, or what came
            is another file.
    """
    known = d4rl.parse(name)
    here = d4rl.find(known)
    if here is not None:
        d4rl.check(known, here)
        notice(f"{here} is here already, whole.")
        return here
    target = d4rl.folders()[0] / known.file
    partial = target.with_name(f"{target.name}.partial")
    failures = []
    for mirror in (*mirrors, *d4rl.mirrors()):
        url = f"{mirror.rstrip('/')}/{known.listed.path}"
        if not url.startswith(("http://", "https://")):
            raise UserError(f"A mirror is an http or https address, not {mirror!r}.")
        failure = _attempt(url, partial, known.listed.bytes)
        if failure is None and sha256(partial) != known.listed.sha256:
            partial.unlink()
            failure = "what it gave is another file: its SHA-256 is not D4RL's"
        if failure is None:
            partial.rename(target)
            return target
        notice(f"{url}: {failure}.")
        failures.append(f"{url} ({failure})")
    kept = "; what came so far is kept" if partial.exists() else ""
    raise UserError(
        f"{known.file} cannot be downloaded: {'; '.join(failures)}. Name another address with "
        f"--mirror, or put the file into {target.parent}/ by hand{kept}."
    )


def _attempt(url: str, partial: Path, size: int) -> str | None:
    """Append to what is there until the file is whole; say in words why it is not."""
    try:
        done = partial.stat().st_size if partial.exists() else 0
        if done > size:
            partial.unlink()
            done = 0
        if done == size:
            return None
        _require_room(partial, size - done)
        done = _fetch(url, partial, done, size)
    except HTTPError as error:
        return f"it answers {error.code} {error.reason}"
    except URLError as error:
        return f"it cannot be reached: {error.reason}"
    except UserError:
        raise
    except (OSError, ValueError) as error:
        return f"the connection failed: {error}"
    return None if done == size else f"it ended after {done:,} of {size:,} bytes"


def _require_room(partial: Path, size: int) -> None:
    """Refuse to begin what the disk has no room for."""
    above = next(p for p in partial.absolute().parents if p.exists())
    if (free := shutil.disk_usage(above).free) < size:
        raise UserError(
            f"{partial.parent}/ has {free >> 20:,} MiB left, and {size >> 20:,} MiB are to come."
        )


def _fetch(url: str, partial: Path, done: int, size: int) -> int:
    """Get the rest of a file; gives how many bytes there are then, at most one block too many."""
    request = Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urlopen(request, timeout=TIMEOUT_S) as answer:
        if done and answer.status != PARTIAL_CONTENT:
            done = 0  # this mirror cannot resume
        partial.parent.mkdir(parents=True, exist_ok=True)
        with (
            partial.open("r+b" if done else "wb") as file,
            Work(f"Downloading {Path(url).name}", size, "bytes", done=done) as work,
        ):
            file.seek(done)
            while done <= size and (block := answer.read(BLOCK_BYTES)):
                file.write(block)
                done += len(block)
                work.advance(len(block))
            file.flush()
            os.fsync(file.fileno())
    return done
