"""Published settings of a row, dataset by dataset, from `datasets/presets/*.toml`.

A preset is differences from a row as `part.field = value`, the ones for all datasets under
`[common]` and the ones of a dataset under its name. A user's own file works wherever a name does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mabe_transfer import catalogue
from mabe_transfer.config import from_mapping, with_overrides
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.written import is_path, read_toml

D4RL_STYLE = re.compile(
    r"(?:d4rl:)?(?P<robot>halfcheetah|hopper|walker2d)(?:-d4rl)?"
    r"-(?P<tier>random|medium|expert|medium-replay|medium-expert)(?:-(?P<release>v\d+))?"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Settings that somebody published for a row.

    Attributes:
        name: Of its file.
        title: What it is.
        row: The algorithm that it sets.
        data: The release of D4RL that it was found on.
        source: Paper or repository, and where in it.
        note: What was published beside it and is no setting of the row.
        common: Settings for every dataset.
        datasets: Settings of each dataset, robot and tier; where there is none, all datasets are
            set alike.

    Raises:
        UserError: It sets nothing.
    """

    name: str
    title: str
    row: str
    data: str
    source: str
    note: str = ""
    common: dict[str, Any] = field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a preset that sets nothing."""
        if not self.common and not any(self.datasets.values()):
            raise UserError(f"The preset {self.name!r} sets nothing: neither common nor datasets.")

    def overrides(self, dataset: str = "") -> dict[str, str]:
        """The settings for a dataset, as `--set` takes them; the dataset's win over the common.

        Raises:
            UserError: The preset has no such dataset, or needs one and none is named.
        """
        if self.datasets and dataset not in self.datasets:
            raise unknown("dataset", dataset, self.datasets, owner=f"The preset {self.name}")
        own = self.datasets.get(dataset, {})
        return dict(_dotted(self.common)) | dict(_dotted(own))


@dataclass(frozen=True, slots=True)
class Chosen:
    """A preset, and which of its datasets."""

    preset: Preset
    dataset: str = ""

    @property
    def name(self) -> str:
        """As `--preset` takes it, and as a run records it: mopo-v2/hopper-medium."""
        return f"{self.preset.name}/{self.dataset}" if self.dataset else self.preset.name

    @property
    def overrides(self) -> dict[str, str]:
        """Its settings, as `--set` takes them."""
        return self.preset.overrides(self.dataset)

    def describe(self) -> str:
        """What it sets, and what was published beside it, in a sentence for the user."""
        settings = ", ".join(f"{path}={text}" for path, text in self.overrides.items())
        beside = f" Published with it: {self.preset.note}." if self.preset.note else ""
        return f"Preset {self.name}: {settings}.{beside}"

    def check(self, name: str, row: object) -> None:
        """Refuse another row than the preset's, and settings that do not reach it.

        Args:
            name: The row's.
            row: The row itself.

        Raises:
            UserError: It is another row, lacks a field, or does not take a value.
        """
        if name != self.preset.row:
            raise UserError(
                f"The preset {self.preset.name} sets the row {self.preset.row}, and not {name}."
            )
        try:
            with_overrides(row, self.overrides)
        except UserError as error:
            raise UserError(
                f"The preset {self.name}: {str(error).removeprefix('--set ')}"
            ) from None


@cache
def presets() -> dict[str, Preset]:
    """Every preset, by name."""
    folder = catalogue.folder("datasets") / "presets"
    return {path.stem: read(path) for path in sorted(folder.glob("*.toml"))}


def read(path: Path) -> Preset:
    """Read a preset's file.

    Raises:
        UserError: It is no TOML, has a key that does not exist, lacks one, or sets nothing.
    """
    return from_mapping(Preset, {"name": path.stem, **read_toml(path)}, str(path))


def preset(name: str) -> Preset:
    """Look a preset up by name or by the path of a TOML file."""
    if is_path(name):
        return read(Path(name))
    if name not in presets():
        raise unknown("preset", name, presets())
    return presets()[name]


def choose(text: str, data: str) -> Chosen:
    """Find what `--preset` means for a dataset.

    Args:
        text: A preset's name or path, with or without the dataset: mopo-v2, mopo-v2/hopper-medium.
        data: Name of the data that the policy learns from, which tells the dataset where the text
            does not.

    Raises:
        UserError: There is no such preset or dataset, the name of the data does not tell which, or
            tells another release than the preset's.
    """
    head, _, last = text.rpartition("/")
    if head and not is_path(text):
        found = preset(head)
        if not found.datasets:
            raise UserError(f"The preset {found.name} is the same for all data: --preset {head}.")
        if last not in found.datasets:
            raise unknown("dataset", last, found.datasets, owner=f"The preset {found.name}")
        return Chosen(found, last)
    found = preset(text)
    if data in found.datasets:
        return Chosen(found, data)
    match = D4RL_STYLE.fullmatch(data)
    release = match["release"] if match else None
    if release not in (None, found.data):
        raise UserError(
            f"The preset {found.name} was found on D4RL {found.data}, and {data} is {release}, "
            f"which is other data; to take it all the same, {_by_name(found)}."
        )
    if not found.datasets:
        return Chosen(found)
    if match is None:
        why = f"{data!r} does not tell which one is meant" if data else "none is named"
        raise UserError(
            f"The preset {found.name} differs by dataset, and {why}: {_by_name(found)}."
        )
    dataset = f"{match['robot']}-{match['tier']}"
    if dataset not in found.datasets:
        raise unknown("dataset", dataset, found.datasets, owner=f"The preset {found.name}")
    return Chosen(found, dataset)


def _by_name(found: Preset) -> str:
    if found.datasets:
        return f"write --preset {found.name}/DATASET, with one of {', '.join(found.datasets)}"
    return "set its values with --set"


def _dotted(table: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Nested tables as dotted names, and values as a command line would have them."""
    pairs: list[tuple[str, str]] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            pairs += _dotted(value, f"{path}{key}.")
        else:
            pairs.append((f"{path}{key}", value if isinstance(value, str) else json.dumps(value)))
    return pairs
