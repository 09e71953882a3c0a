"""The command line: each command parses, calls one function and prints one table."""

from __future__ import annotations

from typing import Annotated, Any

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
    training,
)
from mabe_transfer.errors import UserError
from mabe_transfer.progress import console
from mabe_transfer.runs import Interrupted

INTERRUPTED = 130


class Commands(TyperGroup):
    """Turns a user's mistake into one sentence and exit code 2, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            console.print(f"[red]Error:[/red] {_escaped(error)}", soft_wrap=True, highlight=False)
            raise typer.Exit(2) from None
        except Interrupted as error:
            console.print(_escaped(error), soft_wrap=True, highlight=False)
            raise typer.Exit(INTERRUPTED) from None


def _escaped(error: Exception) -> str:
    return str(error).replace("[", r"\[")


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turn data from two worlds into one policy.",
)
app.add_typer(envs.app, name="envs", help="Robots, physics shifts and tasks.")
app.add_typer(data.app, name="data", help="Datasets that were collected.")
app.add_typer(behaviour.app, name="behaviour", help="Policies whose behaviour is collected.")
app.add_typer(algorithms.app, name="algorithms", help="The table of algorithms.")
app.add_typer(experiment.app, name="experiment", help="Reproduce a result by one command.")
app.add_typer(benchmark.app, name="benchmark", help="Standard runs beside printed scores.")
app.command("collect")(data.collect)
app.command("train")(training.train)
app.command("evaluate")(training.evaluate)
app.command("render")(training.render)
app.command("export")(export.export)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn data from two worlds into one policy."""
    del version
