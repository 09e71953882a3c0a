"""Settings by their dotted names, and what their classes say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from mabe_transfer.algorithms import ALGORITHMS
from mabe_transfer.cli import app
from mabe_transfer.config import has_field
from mabe_transfer.glossary import meanings, settings

if TYPE_CHECKING:
    from mabe_transfer.composition import Algorithm


@dataclass(frozen=True)
class Inner:
    """A part.

    Attributes:
        size: How large: in metres,
            or more.
        other: Another one.

    Raises:
        Nothing: this is no setting.
    """

    size: int = 3
    other: int = 4


@dataclass(frozen=True)
class Outer(Inner):
    """Has a part, and what it inherits."""

    part: Inner = Inner()


def test_meanings_are_read_from_the_section_of_attributes_alone() -> None:
    assert meanings(Inner) == {"size": "How large: in metres, or more.", "other": "Another one."}


def test_parts_come_before_their_settings_under_dotted_names() -> None:
    found = [(one.path, one.value, one.part) for one in settings(Outer())]
    assert found == [
        ("size", 3, False),
        ("other", 4, False),
        ("part", "Inner", True),
        ("part.size", 3, False),
        ("part.other", 4, False),
    ]
    assert next(iter(settings(Outer()))).meaning == "How large: in metres, or more."


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=lambda row: row.name)
def test_every_setting_of_every_row_has_a_meaning_and_a_name_that_set_takes(row: Algorithm) -> None:
    for one in settings(row):
        assert one.meaning, one.path
        assert has_field(row, one.path)


def test_command_prints_dotted_names_and_json_on_demand() -> None:
    shown = CliRunner().invoke(app, ["algorithms", "show", "mabe"], env={"COLUMNS": "160"})
    assert "prior.fit.updates" in shown.output
    assert "Target divergence delta in nats" in shown.output
    assert CliRunner().invoke(app, ["algorithms", "show", "mabe", "--json"]).output.startswith("{")
