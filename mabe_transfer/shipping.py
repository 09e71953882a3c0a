"""Write behaviour policies to where they ship, each domain's once and by one command."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mabe_transfer import runs
from mabe_transfer.behaviour import Ladder, load_ladder
from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from mabe_transfer.domains import Domain

SHIPPED_RUNGS = 8  # policies of a ladder, unless told otherwise; about 1 MB


def publish(found: Ladder, folder: Path, command: str, *, keep: int = SHIPPED_RUNGS) -> Path:
    """Write a ladder where it ships, of `keep` policies at most, with the command that made it.

    Raises:
        UserError: Another command's ladder is there.
    """
    path = vacant(folder, found.domain, command)
    provenance = {**found.provenance, "command": command, "versions": runs.versions()}
    replace(found.thinned(keep), provenance=provenance).save(path)
    return path


def vacant(folder: Path, domain: Domain, command: str) -> Path:
    """Where a domain's ladder may be written: there is none, or this very command's.

    Raises:
        UserError: Another command's ladder is there.
    """
    path = folder / f"{domain.name}.safetensors"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file, and a folder is to be written to.")
    if path.exists() and load_ladder(path).provenance.get("command") != command:
        raise UserError(f"{path} is another training's; choose another --out, or move it away.")
    return path
