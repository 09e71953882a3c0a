"""Configurations: strict to load, dotted to override, exact to write down and read back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from mabe_transfer.config import (
    difference,
    fingerprint,
    from_json,
    from_mapping,
    has_field,
    to_json,
    with_overrides,
)
from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Nothing:
    """A part without fields."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Motor:
    """A part with defaults for all its fields."""

    power: float = 1.0
    gears: int = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Sail:
    """A part that has a field of the motor's, and one more."""

    power: float = 1.0
    area: float = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Boat:
    """Every kind of field that a configuration may have."""

    name: str
    length: float
    crew: int = 1
    open: bool = False
    depth: float | None = None
    widths: tuple[int, ...] = (1, 2)
    reach: tuple[float, float] = (-math.inf, math.inf)
    drive: Motor | Sail | Nothing = Motor()
    spare: Sail | None = None
    prices: dict[str, float] = field(default_factory=dict)


BOAT = Boat(name="gull", length=4.5)


def boat(**table: Any) -> Boat:
    return from_mapping(Boat, {"name": "gull", "length": 4.5, **table}, "boats.toml [gull]")


# -- loading -------------------------------------------------------------------------------------


def test_table_of_required_keys_takes_the_defaults() -> None:
    assert boat() == BOAT


def test_unknown_key_is_refused_with_its_place_and_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"boats.toml \[gull\].*no key 'lenght'.*mean 'length'\?"):
        from_mapping(Boat, {"name": "gull", "lenght": 4.5}, "boats.toml [gull]")


def test_missing_keys_are_named() -> None:
    with pytest.raises(UserError, match=r"^boats.toml: missing name, length\.$"):
        from_mapping(Boat, {"crew": 2}, "boats.toml")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"crew": 2.0}, "crew: expected int, got 2.0"),
        ({"crew": True}, "crew: expected int, got True"),
        ({"length": "4.5"}, "length: expected float, got '4.5'"),
        ({"length": True}, "length: expected float, got True"),
        ({"open": 1}, "open: expected bool, got 1"),
        ({"name": 3}, "name: expected str, got 3"),
        ({"depth": "deep"}, "depth: expected float, got 'deep'"),
        ({"widths": 3}, r"widths: expected a list such as \[1,2\], got 3"),
        ({"widths": [1, 2.5]}, "widths: expected int, got 2.5"),
        ({"reach": [1.0]}, "reach: expected 2 values, got 1"),
        ({"drive": 5}, "drive: expected Motor, got 5"),
        ({"drive": {"power": "much"}}, "drive: power: expected float, got 'much'"),
        ({"prices": [1.0]}, r"prices: expected a table, got \[1.0\]"),
        ({"prices": {"new": "dear"}}, "prices.new: expected float, got 'dear'"),
    ],
)
def test_value_of_another_type_is_refused(table: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        boat(**table)


def test_whole_number_is_taken_for_a_float() -> None:
    length = boat(length=4).length
    assert length == 4.0
    assert type(length) is float


def test_list_becomes_a_tuple() -> None:
    assert boat(widths=[3, 4, 5]).widths == (3, 4, 5)


def test_nothing_is_taken_where_a_union_has_it() -> None:
    assert boat(depth=None).depth is None


def test_nothing_is_refused_where_a_union_has_it_not() -> None:
    with pytest.raises(UserError, match="drive: expected Motor, got None"):
        boat(drive=None)


def test_table_becomes_the_first_part_of_the_union_that_takes_it() -> None:
    assert boat(drive={"power": 3.0}).drive == Motor(power=3.0)
    assert boat(drive={"power": 3.0, "area": 9.0}).drive == Sail(power=3.0, area=9.0)


def test_named_type_chooses_the_part_of_the_union() -> None:
    assert boat(drive={"type": "Sail", "power": 3.0}).drive == Sail(power=3.0)
    assert boat(drive={"type": "Nothing"}).drive == Nothing()


def test_infinities_are_read_from_words() -> None:
    assert boat(reach=["-inf", "inf"]).reach == (-math.inf, math.inf)


# -- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        BOAT,
        boat(drive={"type": "Nothing"}),
        boat(drive={"type": "Sail", "area": 1e-17}, spare={"power": 0.1}),
        boat(depth=math.inf, reach=[-1, "inf"], widths=[], prices={"new": 3, "old": 0.1}),
    ],
)
def test_json_round_trip_gives_the_same_configuration(value: Boat) -> None:
    text = json.dumps(to_json(value), allow_nan=False)
    assert from_json(Boat, json.loads(text), "run") == value


def test_json_is_read_as_strictly_as_a_table() -> None:
    with pytest.raises(UserError, match="no key 'sails'"):
        from_json(Boat, {**to_json(BOAT), "sails": 2}, "run")


def test_json_of_another_class_is_refused() -> None:
    with pytest.raises(UserError, match="no key 'type'"):
        from_json(Motor, to_json(Sail()), "run")


# -- fingerprints --------------------------------------------------------------------------------


def test_fingerprint_is_the_same_in_every_process() -> None:
    assert fingerprint(Motor()) == "85dd8ecc7fc15fc8"


def test_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_fingerprint_tells_classes_with_the_same_fields_apart() -> None:
    assert fingerprint(Motor()) != fingerprint({"power": 1.0, "gears": 3})


def test_fingerprint_depends_on_every_digit() -> None:
    assert fingerprint(Motor(power=0.1)) != fingerprint(Motor(power=math.nextafter(0.1, 1.0)))


# -- overrides -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("length", "5", 5.0),
        ("length", "1e-3", 0.001),
        ("length", "inf", math.inf),
        ("crew", "4", 4),
        ("open", "true", True),
        ("open", "True", True),
        ("depth", "2.5", 2.5),
        ("depth", "none", None),
        ("depth", "null", None),
        ("widths", "[64, 64]", (64, 64)),
        ("name", "tern", "tern"),
    ],
)
def test_override_is_read_as_the_type_of_its_field(path: str, text: str, expected: object) -> None:
    value = getattr(with_overrides(BOAT, {path: text}), path)
    assert value == expected
    assert type(value) is type(expected)


def test_override_reaches_into_a_part() -> None:
    assert with_overrides(BOAT, {"drive.gears": "5"}).drive == Motor(gears=5)


def test_overrides_leave_the_original_alone() -> None:
    with_overrides(BOAT, {"drive.gears": "5", "crew": "7"})
    assert Boat(name="gull", length=4.5) == BOAT


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("drvie.gears", "5", r"--set drvie: There is no field 'drvie'.*mean 'drive'\?"),
        ("drive.gear", "5", r"--set drive.gear: There is no field 'gear'.*mean 'gears'\?"),
        (
            "spare.power",
            "5",
            "--set spare.power: there is no spare here whose 'power' could be set",
        ),
        ("crew.age", "5", "--set crew.age: crew is 1 here and has no field 'age'"),
        ("drive", "5", "this is a part; set one of its fields: drive.power, drive.gears"),
        ("crew", "many", "--set crew: expected int, got 'many'"),
        ("crew", "2.5", "--set crew: expected int, got 2.5"),
        ("length", "long", "--set length: expected float, got 'long'"),
        ("widths", "64", r"--set widths: expected a list such as \[1,2\], got 64"),
        ("open", "yes", "--set open: expected bool, got 'yes'"),
    ],
)
def test_override_that_makes_no_sense_is_refused(path: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_overrides(BOAT, {path: text})


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("drive", True),
        ("drive.gears", True),
        ("drive.gear", False),
        ("spare", True),
        ("spare.power", False),  # it is None here
        ("crew.age", False),
    ],
)
def test_field_is_there_if_every_part_on_its_way_is(path: str, there: bool) -> None:
    assert has_field(BOAT, path) is there


# -- what an earlier version kept ----------------------------------------------------------------


ARGO = Boat(name="Argo", length=30.0, drive=Motor(power=50.0), spare=Sail())


def kept(change: dict[str, Any] | None = None, *lacking: str) -> dict[str, Any]:
    """What was kept of `ARGO`, its motor changed, less some fields of the boat."""
    table = {key: value for key, value in to_json(ARGO).items() if key not in lacking}
    table["drive"] = {**table["drive"], **(change or {})}
    return {"boat": json.loads(json.dumps(table)), "seeds": [0, 1]}


def asked(**changes: Any) -> dict[str, Any]:
    return {"boat": replace(ARGO, **changes), "seeds": (0, 1)}


def test_configuration_agrees_with_its_own_json() -> None:
    assert difference(kept(), asked()) == ""


def test_field_gained_since_agrees_at_its_default() -> None:
    older = kept(None, "crew", "depth", "widths", "reach", "prices")
    del older["boat"]["drive"]["gears"], older["boat"]["spare"]["area"]
    assert difference(older, asked()) == ""


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"crew": 2}, "boat.crew (1 there by default, 2 asked for)"),
        ({"widths": (1,)}, "boat.widths ([1, 2] there by default, [1] asked for)"),
        ({"depth": 2.5}, "boat.depth (None there by default, 2.5 asked for)"),
        (
            {"drive": Motor(power=50.0, gears=4)},
            "boat.drive.gears (3 there by default, 4 asked for)",
        ),
    ],
)
def test_field_gained_since_that_is_no_default_is_named_with_both_values(
    changes: dict[str, Any], sentence: str
) -> None:
    older = kept(None, "crew", "widths", "depth")
    del older["boat"]["drive"]["gears"]
    assert difference(older, asked(**changes)) == sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"crew": 2}, "boat.crew (1 there, 2 asked for)"),
        ({"drive": Motor(power=51.0)}, "boat.drive.power (50.0 there, 51.0 asked for)"),
        ({"drive": Sail(power=50.0)}, "boat.drive (Motor there, Sail asked for)"),
        ({"spare": None}, "boat.spare (Sail there, None asked for)"),
        ({"widths": (1, 2, 3)}, "boat.widths ([1, 2] there, [1, 2, 3] asked for)"),
        ({"widths": (1, 3)}, "boat.widths.1 (2 there, 3 asked for)"),
        ({"prices": {"oar": 2.0}}, "boat.prices.oar (None there, 2.0 asked for)"),
    ],
)
def test_first_difference_is_named_with_both_values(changes: dict[str, Any], sentence: str) -> None:
    assert difference(kept(), asked(**changes)) == sentence


def test_field_lost_since_is_a_difference_whatever_its_value() -> None:
    sentence = "boat.drive.fuel ('diesel' there, and this version has no such field)"
    assert difference(kept({"fuel": "diesel"}), asked()) == sentence


def test_what_a_mapping_lacks_is_none() -> None:
    assert difference(kept() | {"preset": None}, asked()) == ""
    assert difference(kept(), asked() | {"preset": "v2"}) == "preset (None there, 'v2' asked for)"
