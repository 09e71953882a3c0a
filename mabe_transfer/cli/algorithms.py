"""`mabe-transfer algorithms`: the table of algorithms, printed from its rows."""

from __future__ import annotations

from typing import Annotated

import typer

from mabe_transfer.algorithms import ALGORITHMS, algorithm
from mabe_transfer.cli.tables import out, show
from mabe_transfer.config import to_json

app = typer.Typer(no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List every row with its parts."""
    rows = [
        {
            "row": row.name,
            "dynamics": _part(row.dynamics),
            "prior": _part(row.prior),
            "policy regularisation": row.policy_regularisation,
            "policy": _part(row.policy),
            "uncertainty": _part(row.uncertainty),
            "critic": _part(row.critic),
            "paper": row.paper,
        }
        for row in ALGORITHMS.values()
    ]
    show(rows, title="Algorithms", as_json=as_json)


@app.command("show")
def show_(name: Annotated[str, typer.Argument(help="A row of the table.")]) -> None:
    """Show a row with every hyper-parameter, as `--set part.field=value` reaches them."""
    out.print_json(data=to_json(algorithm(name)))


def _part(part: object | None) -> str:
    return "-" if part is None else type(part).__name__
