"""The doctor: what is judged broken, what is only noted, and the command's exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from typer.testing import CliRunner

from mabe_transfer import doctor, offscreen
from mabe_transfer.cli import app

if TYPE_CHECKING:
    from pathlib import Path

THINGS = (
    "python",
    "torch",
    "device",
    "bfloat16",
    "mujoco",
    "dm_control",
    "rendering",
    "D4RL files",
)


@pytest.fixture(autouse=True)
def rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither back end is tried, which would take seconds each."""
    monkeypatch.setattr(offscreen, "works", lambda name, environment: name == "osmesa")
    monkeypatch.delenv(offscreen.VARIABLE, raising=False)  # a film in this process sets it


@pytest.mark.parametrize(
    ("version", "state"),
    [("3.17.0", "ok"), ("3.20.1", "ok"), ("3.3.6", "broken"), ("4.0.0", "broken"),
     ("4.0.1", "broken"), ("2.3.7", "broken")],
)  # fmt: skip
def test_release_of_mujoco_is_judged(version: str, state: str) -> None:
    assert doctor.engine(version).state == state


def test_known_bad_release_is_named() -> None:
    assert "wrong Hessian" in doctor.engine("4.0.0").found
    assert "wrong Hessian" not in doctor.engine("3.3.6").found


def test_sound_machine_is_told_what_to_do_and_exits_0(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    rows = {row["what"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert set(THINGS) <= rows.keys()
    assert rows["rendering"]["found"] == "osmesa"
    assert all(row["what to do"] != "-" for row in rows.values() if row["state"] != "ok")


@pytest.mark.parametrize(("has", "found"), [(True, "trains faster"), (False, "none known")])
def test_products_in_bfloat16_are_told(
    has: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has}, raising=False)
    rows = {one.what: one for one in doctor.examine()}
    assert found in rows["bfloat16"].found


def test_folder_that_is_a_file_is_broken_and_exits_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("MABE_TRANSFER_DATA", str(tmp_path / "taken"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "cannot be written" in result.stdout


def test_missing_extra_is_noted_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "moon", (("no-such-package",), "cheese"))
    found = {one.what: one for one in doctor.examine()}["extra moon"]
    assert (found.state, found.advice) == ("note", "pip install 'mabe-transfer[moon]' for cheese")
