"""What users and the catalogue write: TOML files, and the files that they name."""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path
from typing import Any

from mabe_transfer.errors import UserError

FILES = (".toml", ".xml", ".urdf", ".mjb", ".safetensors", ".hdf5")
"""What the name of a file ends with, where it could be a catalogue's name as well."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: There is no such file, or it is not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not TOML ({error}).") from None


def beside(path: str, name: str) -> str:
    """A file that a user's file names, as it is found from anywhere; other names as they are."""
    if ":" in name or not name.endswith(FILES):
        return name
    return os.path.abspath(Path(path).parent / Path(name).expanduser())


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None


def is_path(name: str) -> bool:
    """Whether a name given by the user is the path of a TOML file."""
    return name.endswith(".toml")
