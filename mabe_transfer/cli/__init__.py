"""The command line: each command parses, calls one function and prints one table."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from mabe_transfer import __version__
from mabe_transfer.cli import (
    algorithms,
    behaviour,
    benchmark,
    data,
    envs,
    experiment,
    export,
    forecast,
    late,
    training,
)
from mabe_transfer.cli.tables import show
from mabe_transfer.errors import Interrupted, UserError
from mabe_transfer.progress import console

with late.imports():
    from mabe_transfer import bridges, doctor

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERRUPTED = 130


class Commands(TyperGroup):
    """Turns a user's mistake into one sentence and exit code 2, without a traceback.

    So it does with what the file system refuses, wherever that is.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise _refused(error) from None
        except OSError as error:
            if error.filename is None:  # no file's
                raise
            raise _refused(f"{error.filename}: {error.strerror}.") from None
        except Interrupted as error:
            console.print(_escaped(error), soft_wrap=True, highlight=False)
            raise typer.Exit(INTERRUPTED) from None


def _refused(error: UserError | str) -> typer.Exit:
    """Say what is wrong; gives how the command ends."""
    console.print(f"[red]Error:[/red] {_escaped(error)}", soft_wrap=True, highlight=False)
    return typer.Exit(2)


def _escaped(error: Exception | str) -> str:
    return str(error).replace("[", r"\[")


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turn data from two worlds into one policy.",
)
app.add_typer(envs.app, name="envs", help="Robots, physics shifts and tasks.")
app.add_typer(data.app, name="data", help="Datasets: list, check, import, export, download.")
app.add_typer(behaviour.app, name="behaviour", help="Policies whose behaviour is collected.")
app.add_typer(algorithms.app, name="algorithms", help="The table of algorithms.")
app.add_typer(experiment.app, name="experiment", help="Reproduce a result by one command.")
app.add_typer(benchmark.app, name="benchmark", help="Standard runs beside printed scores.")
app.command("collect")(data.collect)
app.command("forecast")(forecast.forecast)
app.command("train")(training.train)
app.command("evaluate")(training.evaluate)
app.command("render")(training.render)
app.command("export")(export.export)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@contextmanager
def _searched(folder: Path) -> Iterator[None]:
    """Look for D4RL's files in a folder first, as long as one command runs."""
    option = bridges.d4rl.OPTION
    kept = os.environ.get(option)
    os.environ[option] = str(folder)
    try:
        yield
    finally:
        if kept is None:
            del os.environ[option]
        else:
            os.environ[option] = kept


@app.command("doctor")
def examine(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Look at this machine: versions, device, rendering, folders, extras, and what to do."""
    found = doctor.examine()
    rows = [
        {"what": one.what, "found": one.found, "state": one.state, "what to do": one.advice or "-"}
        for one in found
    ]
    show(rows, title="This machine", as_json=as_json)
    if any(one.state == doctor.BROKEN for one in found):
        raise typer.Exit(1)


@app.callback()
def main(
    context: typer.Context,
    d4rl_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of D4RL's files, before $D4RL_DATASET_DIR and D4RL's own."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn data from two worlds into one policy."""
    del version
    if d4rl_dir is not None:
        if not d4rl_dir.is_dir():
            raise UserError(f"--d4rl-dir {d4rl_dir}: there is no such folder.")
        context.with_resource(_searched(d4rl_dir))
