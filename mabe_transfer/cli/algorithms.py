"""`mabe-transfer algorithms`: the table of algorithms, printed from its rows."""

from __future__ import annotations

from typing import Annotated

import typer

from mabe_transfer import comparison, report
from mabe_transfer.algorithms import algorithm
from mabe_transfer.cli.tables import out, show
from mabe_transfer.config import to_json

app = typer.Typer(no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_(
    as_json: Json = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, as README has it.")
    ] = False,
) -> None:
    """List every row by its parts: the paper's Table 2 and what came since."""
    rows = comparison.table()
    if as_markdown and not as_json:
        named = [{**row, "row": f"`{row['row']}`"} for row in rows]
        print("\n".join(report.markdown_lines(named)))
        return
    show(rows, title="Algorithms", as_json=as_json)


@app.command("show")
def show_(name: Annotated[str, typer.Argument(help="A row of the table.")]) -> None:
    """Show a row with every hyper-parameter, as `--set part.field=value` reaches them."""
    out.print_json(data=to_json(algorithm(name)))
