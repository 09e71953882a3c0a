"""D4RL's data sets by name: `d4rl:hopper-medium-v2`.

The Gym-MuJoCo sets of D4RL come in three releases, v0, v1 and v2, which are different data. A name
stands for one file with one SHA-256; a file that has another hash is not that data set.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mabe_transfer import catalogue, domains
from mabe_transfer.bridges import convert
from mabe_transfer.config import fingerprint, from_mapping
from mabe_transfer.domains import Domain, to_facts
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.store import Store, open_store
from mabe_transfer.written import read_toml, sha256

SCHEME = "d4rl:"
OPTION = "MABE_TRANSFER_D4RL_DIR"  # what `--d4rl-dir` says
VARIABLE = "D4RL_DATASET_DIR"  # D4RL's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One file of D4RL; `path` is below what mirrors share."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class D4rlName:
    """A data set of D4RL."""

    robot: str
    quality: str
    release: str

    @property
    def name(self) -> str:
        """As D4RL writes it: hopper-medium-v2."""
        return f"{self.robot}-{self.quality}-{self.release}"

    @property
    def listed(self) -> Listed:
        """Its file."""
        return files()[self.name]

    @property
    def file(self) -> str:
        """The file's name, as D4RL's loader keeps it."""
        return Path(self.listed.path).name

    @property
    def domain(self) -> Domain:
        """Where it was recorded: D4RL's engine and reward rules, running forward."""
        return domains.domain(f"{self.robot}-d4rl")


@cache
def files() -> dict[str, Listed]:
    """Every file of D4RL that is known, by the data set's name."""
    return {
        name: from_mapping(Listed, row, f"d4rl/files.toml [files.{name}]")
        for name, row in _table()["files"].items()
    }


def mirrors() -> tuple[str, ...]:
    """Where the files can be downloaded from."""
    return tuple(_table()["mirrors"])


def _table() -> dict[str, Any]:
    return read_toml(catalogue.folder("datasets") / "d4rl" / "files.toml")


def parse(name: str) -> D4rlName:
    """Read a name such as `d4rl:hopper-medium-v2`.

    Raises:
        UserError: D4RL has no such data set.
    """
    plain = name.removeprefix(SCHEME)
    if plain not in files():
        near = unknown("D4RL data set", plain, files())
        hint = str(near).partition("Did you mean ")[2]
        raise UserError(
            f"There is no D4RL data set {plain!r}; write d4rl:<robot>-<quality>-<release>, such as "
            f"d4rl:hopper-medium-replay-v2.{' Did you mean ' + hint if hint else ''}"
        )
    robot, _, rest = plain.partition("-")
    quality, _, release = rest.rpartition("-")
    return D4rlName(robot, quality, release)


def folders() -> list[Path]:
    """Where files are looked for: `--d4rl-dir`, `$D4RL_DATASET_DIR`, then D4RL's own folder."""
    named = [Path(os.environ[key]) for key in (OPTION, VARIABLE) if os.environ.get(key)]
    return [*named, Path.home() / ".d4rl" / "datasets"]


def find(name: D4rlName) -> Path | None:
    """The file of a data set in the first folder that has it."""
    return next((p for p in (where / name.file for where in folders()) if p.is_file()), None)


def located(name: D4rlName) -> Path:
    """The file of a data set.

    Raises:
        UserError: No folder has it; the sentence says how to get it.
    """
    path = find(name)
    if path is None:
        looked = ", ".join(f"{where}/" for where in folders())
        raise UserError(
            f"There is no {name.file} in {looked}; name its folder with --d4rl-dir, or get it "
            f"({name.listed.bytes / 2**20:,.0f} MiB) with: mabe-transfer data download "
            f"{SCHEME}{name.name}"
        )
    return path


def open_named(name: str, cache: Path) -> tuple[Store, Domain]:
    """Open a data set of D4RL, converted at its first use.

    Args:
        name: `d4rl:hopper-medium-v2`.
        cache: Folder of converted data.

    Raises:
        UserError: There is no such data set, its file is not here, or is another one.
    """
    known = parse(name)
    domain = known.domain
    key = fingerprint(
        {"sha256": known.listed.sha256, "rules": convert.RULES, "domain": to_facts(domain)}
    )
    out = cache / f"{known.name}-{key}.zarr"
    if not out.exists():
        path = located(known)
        check(known, path)
        origin = convert.Origin(
            title=f"D4RL {known.name}",
            quality=known.quality,
            facts={
                "format": "d4rl",
                "release": known.release,
                "name": known.name,
                "sha256": known.listed.sha256,
            },
        )
        convert.of_hdf5(path, domain, origin, out)
    return open_store(out), domain


def check(name: D4rlName, path: Path) -> None:
    """Hold a file against the size and hash that D4RL's file has.

    Raises:
        UserError: It is another file.
    """
    size, listed = path.stat().st_size, name.listed
    rename = f"mabe-transfer data import {path} --env {name.domain.name} --name NAME"
    if size != listed.bytes:
        cut = " (its download was cut short)" if size < listed.bytes else ""
        raise UserError(
            f"{path} has {size:,} bytes, and D4RL's {name.name} has {listed.bytes:,}{cut}; data of "
            f"your own comes in under a name of its own: {rename}"
        )
    if (found := sha256(path)) != listed.sha256:
        raise UserError(
            f"{path} is not D4RL's {name.name}: its SHA-256 is {found[:16]}…, expected "
            f"{listed.sha256[:16]}…; data of your own comes in under its own name: {rename}"
        )
