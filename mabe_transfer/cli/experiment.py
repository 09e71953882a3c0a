"""`mabe-transfer experiment`: a result by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mabe_transfer import demo as main_job
from mabe_transfer.cli.tables import show
from mabe_transfer.progress import notice
from mabe_transfer.threads import limit_threads

app = typer.Typer(no_args_is_help=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of runs, table, picture and video.")] = Path(
        "runs/demo"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Policies of each arm.")] = 3,
    smoke: Annotated[bool, typer.Option("--smoke", help="A minute's worth, to see it work.")] = (
        False
    ),
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all.")] = 0,
) -> None:
    """Carry backward running from ice to normal ground, beside the arms it must beat."""
    limit_threads(threads)
    made = main_job.run(out, seeds=seeds, scale=main_job.SMOKE if smoke else main_job.FULL)
    show(made.rows, title="halfcheetah-backward: forward data on normal ground + backward on ice")
    for name, path in made.files.items():
        notice(f"{name}: {path}")


@app.callback()
def experiments() -> None:
    """Reproduce a result by one command."""
