"""Tables on standard output, and the same rows as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mabe_transfer.config import to_json
from mabe_transfer.errors import UserError

out = Console()
"""Where results go; progress and notices go to standard error."""


def show(rows: Sequence[Mapping[str, Any]], *, title: str, as_json: bool = False) -> None:
    """Print rows as a table whose columns are the first row's keys, or as JSON."""
    if as_json:
        print(json.dumps(to_json(list(rows)), indent=1))
        return
    table = Table()
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    width = None if out.is_terminal else 160
    console = Console(width=width) if width else out
    console.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True, highlight=False)
    console.print(table)


def split(text: str | None, option: str) -> tuple[str, ...]:
    """Names that the user separated by commas; none where the option was not given.

    Raises:
        UserError: It was given without a name, or names something twice.
    """
    names = tuple(word.strip() for word in (text or "").split(",") if word.strip())
    if text is not None and not names:
        raise UserError(f"{option} {text!r}: expected names by commas.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{option}: {twice!r} is named twice.")
    return names


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 100 else f"{value:,.1f}"
    return escape(str(value))
