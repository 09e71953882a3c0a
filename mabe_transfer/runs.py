"""A run is a folder: what was asked, what happened, and where it stands.

    config.json  provenance.json  metrics.jsonl  evaluations.jsonl  status.json  TensorBoard events
    dynamics/  prior/  policy/  checkpoint/            tensors as safetensors

Every file is replaced in one move. A folder with the same configuration is resumed; one with
another is refused, never overwritten.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from glob import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.tensorboard import SummaryWriter

from mabe_transfer import weights
from mabe_transfer.config import difference, to_json
from mabe_transfer.errors import Diverged, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mabe_transfer.config import Json

PARTIAL = ".partial"  # how the name of a file ends that is being written
LIBRARIES = ("mabe-transfer", "torch", "mujoco", "gymnasium", "numpy", "zarr")


class RunFolder:
    """A run's folder, opened to write.

    Args:
        path: The folder; made if absent.
        config: The resolved configuration.

    Raises:
        UserError: The folder holds a run with another configuration, or something else.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        claim(path, config)
        self._sign()
        self._events: SummaryWriter | None = None

    def _sign(self) -> None:
        """Note what the run depends on, and what it depends on where it was resumed by another."""
        file, now = self.path / "provenance.json", provenance()
        if not file.is_file():
            write_json(file, now)
            return
        status = self.path / "status.json"
        first = read_json(file)
        later = first.pop("resumed", [])
        done = status.is_file() and read_json(status)["state"] == "complete"
        if not done and now not in (first, *later):
            write_json(file, {**first, "resumed": [*later, now]})

    def truncate(self, update: int) -> None:
        """Forget what was logged after an update, since it is about to happen again."""
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            forget(self.path / name, "update", update)
        self._events = SummaryWriter(str(self.path), purge_step=update + 1)

    def log(self, name: str, update: int, row: Mapping[str, Any]) -> None:
        """Append a row to `metrics` or `evaluations`, and its numbers to TensorBoard."""
        with (self.path / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps({"update": update, **row}) + "\n")
        if self._events is None:
            self._events = SummaryWriter(str(self.path))
        for key, value in row.items():
            values = value if isinstance(value, list) else [value]
            if all(isinstance(number, (int, float)) for number in values):
                self._events.add_scalar(f"{name}/{key}", sum(values) / len(values), update)
        self._events.flush()

    def status(self, state: str, **facts: Any) -> None:
        """Say where the run stands: `running`, `interrupted`, `failed` or `complete`."""
        write_json(self.path / "status.json", {"state": state, "time": time.time(), **facts})

    def close(self) -> None:
        """Close the event file."""
        if self._events is not None:
            self._events.close()


def claim(path: Path, config: Mapping[str, Any]) -> None:
    """Take a folder for the run of this configuration, or make sure that it is that very run's.

    Where an earlier version wrote the folder, fields that were gained since have their defaults.

    Raises:
        UserError: The folder holds a run with another configuration, or something else.
    """
    kept = path / "config.json"
    if kept.is_file():
        found = difference(read_json(kept), config)
        if found:
            raise UserError(
                f"{path} holds a run with another {found}; choose another folder, or repeat "
                "the command that made it to resume it."
            )
    elif path.exists() and (path.is_file() or any(map(_is_whole, path.iterdir()))):
        raise UserError(f"{path} is not empty and holds no run; choose another folder.")
    write_json(kept, to_json(config))


def _is_whole(path: Path) -> bool:
    """Whether a file was written to its end, or is what a killed process left of one."""
    return path.suffix != PARTIAL


def resumed(usual: Path, config: Mapping[str, Any]) -> Path:
    """The folder of this very run: the usual one, or one that an earlier version named otherwise.

    Names end with a hash of the configuration, which a field that was gained since changes.
    """
    stem, _, key = usual.name.rpartition("-")
    if not usual.exists():
        for kept in sorted(
            usual.parent.glob(f"{escape(stem)}-{'[0-9a-f]' * len(key)}/config.json")
        ):
            with suppress(UserError):  # what cannot be read is not this run's
                if not difference(read_json(kept), config):
                    return kept.parent
    return usual


def forget(path: Path, key: str, last: int) -> None:
    """Drop the rows of a JSONL file that come after the last one, by a number in each."""
    if path.is_file():
        rows = [row for row in read_rows(path) if row[key] <= last]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[Json]:
    """Rows of a JSONL file; a last line cut short by a kill is left out."""
    rows: list[Json] = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def read_json(path: Path) -> Json:
    """Read a JSON object.

    Raises:
        UserError: The file is missing or no JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not JSON ({error}).") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object.")
    return value


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one move."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one move.

    Raises:
        UserError: The place cannot be written to, be it full or forbidden.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({error.strerror}).") from None


def provenance() -> Json:
    """What a result depends on beside its configuration: versions, code, machine."""
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "commit": _commit(),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "tf32": tf32(),
    }


def tf32() -> bool:
    """Whether a GPU multiplies in TF32, which changes numbers."""
    return torch.cuda.is_available() and torch.backends.cuda.matmul.allow_tf32


def versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop at the next safe point."""
    stop = Stop()
    kept: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        del frame
        stop.asked = True
        signal.signal(number, kept[number] or signal.SIG_DFL)  # a second one stops at once

    try:
        for number in kept:
            signal.signal(number, ask)
    except ValueError:  # not the main thread: signals belong to somebody else
        pass
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            if signal.getsignal(number) is ask:
                signal.signal(number, handler)


class Stop:
    """Whether somebody asked to stop."""

    asked = False


def checkpoint_path(folder: Path) -> Path:
    """Where a run's state is kept."""
    return folder / "checkpoint" / "state.safetensors"


def load_checkpoint(folder: Path) -> tuple[weights.Tensors, Json] | None:
    """A run's saved state, if it has one."""
    path = checkpoint_path(folder)
    return weights.load(path) if path.is_file() else None


def diverged(folder: Path, names: list[str], update: int) -> Diverged:
    """Build the error for a training whose losses, or weights, are no numbers any more."""
    kept = checkpoint_path(folder)
    where = f"the last good checkpoint is {kept}" if kept.is_file() else "nothing was kept"
    return Diverged(
        f"Training diverged: {', '.join(names)} not finite after {update:,} updates; {where}."
    )


def _commit() -> str | None:
    """The commit of the checkout that this code runs from, if it is one."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
