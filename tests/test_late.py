"""What a command does not use does not run: neither `--help` nor `envs list` waits for torch."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import mabe_transfer
from mabe_transfer.cli import late

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEAVY = ("torch", "mujoco", "matplotlib", "gymnasium", "tensorboard", "h5py", "zarr", "numpy")
COMMANDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("--help",): (),
    ("train", "--help"): (),
    ("envs", "list"): (),
    ("algorithms", "presets"): (),
    ("envs", "show", "hopper-ice-backward"): ("numpy",),
    ("data", "list"): ("numpy", "zarr"),
}
"""Commands, in an order in which what is imported only grows, and what of `HEAVY` they may need."""
RUN_THEM = """
import contextlib, io, json, sys
from mabe_transfer.cli import app
commands, heavy = json.loads(sys.argv[1])
found = []
for words in commands:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            app(words)
        except SystemExit as end:
            assert not end.code, words
    found.append([name for name in heavy if name in sys.modules])
print(json.dumps(found))
"""
MODULE = "RAN = True\n"


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules belong to the package as long as a test runs."""
    folder, kept = tmp_path / "planted", set(sys.modules)
    folder.mkdir()
    monkeypatch.setattr(mabe_transfer, "__path__", [*mabe_transfer.__path__, str(folder)])
    yield folder
    for name in set(sys.modules) - kept:
        if name.startswith(late.PACKAGE):
            del sys.modules[name]
            vars(mabe_transfer).pop(name.split(".")[1], None)


def late_module(name: str) -> Any:
    """What `from mabe_transfer import name` binds among late imports."""
    with late.imports():
        return getattr(__import__("mabe_transfer", fromlist=[name]), name)


def ran(module: Any) -> bool:
    return "RAN" in vars(module)


def test_commands_import_nothing_heavy_that_they_do_not_use() -> None:
    words = json.dumps([list(COMMANDS), HEAVY])
    run = [sys.executable, "-c", RUN_THEM, words]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command, found in zip(COMMANDS, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert set(found) <= set(COMMANDS[command]), command


def test_completion_imports_nothing_heavy() -> None:
    code = f"import sys; from mabe_transfer.cli import app\ntry: app(prog_name='mabe-transfer')\n\
finally: print([name for name in {HEAVY} if name in sys.modules])"
    asked = {
        "_MABE_TRANSFER_COMPLETE": "complete_bash",
        "COMP_WORDS": "mabe-transfer train --d",
        "COMP_CWORD": "2",
    }
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ | asked)
    *offered, imported = done.stdout.split("\n")[:-1]
    assert offered == ["--dynamics", "--device"]
    assert imported == "[]"


def test_module_runs_when_something_is_taken_from_it(planted: Path) -> None:
    (planted / "cellar.py").write_text(MODULE)
    module = late_module("cellar")
    assert not ran(module)
    assert module.RAN
    assert ran(module)


def test_module_that_is_asked_who_it_is_goes_on_waiting(planted: Path) -> None:
    (planted / "cellar.py").write_text(MODULE)
    module = late_module("cellar")
    assert module.__file__ == str(planted / "cellar.py")
    assert not hasattr(module, "__warningregistry__")
    inspect.getmodule(sys._getframe(), "nowhere.py")  # asks every module, as torch does
    assert not ran(module)


def test_module_runs_when_another_module_takes_something_from_it(planted: Path) -> None:
    (planted / "cellar.py").write_text(MODULE)
    (planted / "attic.py").write_text("from mabe_transfer.cellar import RAN\n")
    cellar, attic = late_module("cellar"), late_module("attic")
    assert attic.RAN
    assert ran(cellar)


@pytest.mark.parametrize(
    "statement",
    [
        "import mabe_transfer.cellar.wine",
        "from mabe_transfer.cellar import wine",
        "from mabe_transfer.cellar.wine import DRUNK",
    ],
)
def test_package_runs_before_a_module_inside_it(statement: str, planted: Path) -> None:
    (planted / "cellar").mkdir()
    (planted / "cellar" / "__init__.py").write_text(MODULE)
    (planted / "cellar" / "wine.py").write_text("from mabe_transfer.cellar import RAN as DRUNK\n")
    cellar = late_module("cellar")
    assert not ran(cellar)
    exec(statement, {})
    assert ran(cellar)
    assert cellar.wine.DRUNK


def test_module_that_is_not_there_is_missed_at_once(planted: Path) -> None:
    assert not list(planted.iterdir())
    with pytest.raises(ModuleNotFoundError, match="cellar"), late.imports():
        importlib.import_module("mabe_transfer.cellar")


def test_what_fails_to_run_fails_where_it_is_used(planted: Path) -> None:
    (planted / "cellar.py").write_text("raise RuntimeError('damp')\n")
    module = late_module("cellar")
    with pytest.raises(RuntimeError, match="damp"):
        _ = module.RAN


def test_modules_of_others_do_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somebody_elses.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    with late.imports():
        found = importlib.import_module("somebody_elses")
    assert ran(found)


def test_nothing_waits_after_the_block(planted: Path) -> None:
    (planted / "cellar.py").write_text(MODULE)
    before = list(sys.meta_path)
    with late.imports():
        pass
    assert sys.meta_path == before
    assert ran(importlib.import_module("mabe_transfer.cellar"))
