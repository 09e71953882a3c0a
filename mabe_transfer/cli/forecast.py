"""`mabe-transfer forecast`: whether a behaviour can be carried, before anything is trained."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mabe_transfer.cli import late
from mabe_transfer.cli.tables import show
from mabe_transfer.config import to_json

with late.imports():
    from mabe_transfer import forecast as foretelling
    from mabe_transfer import threads as processor


def forecast(
    dynamics: Annotated[str, typer.Option(help="D1: data of the world to act in.")],
    prior: Annotated[str, typer.Option(help="D2: data of the wanted behaviour.")],
    target: Annotated[str, typer.Option(help="Target domain; follows from the data.")] = "",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what D1's model knows of D2's behaviour, and what to expect of MABE."""
    processor.limit_threads(threads)
    found = foretelling.forecast(dynamics, prior, target or None)
    if as_json:
        typer.echo(json.dumps(to_json(found), indent=1))
        return
    show(_rows(found), title=f"{prior} carried into {found.target} by {dynamics}")
    for sentence in found.verdict.sentences:
        typer.echo(sentence)


def _rows(found: foretelling.Forecast) -> list[dict[str, object]]:
    """What was measured, a line each."""
    rows: list[dict[str, object]] = [
        {"measured": "states covered by D1, share", "on D2": found.coverage.states},
        {"measured": "states with actions covered, share", "on D2": found.coverage.both},
        {"measured": "median distance to D1, in its reach", "on D2": found.coverage.distance},
    ]
    pairs = (
        ("one-step error, positions", found.shared),
        ("one-step error, everything", found.error),
        ("members' disagreement", found.disagreement),
    )
    for name, pair in pairs:
        if pair is not None:
            rows.append({"measured": name, "on D2": pair.there, "on D1": pair.home})
    rows.append({"measured": "prior in D1's model, reward a step", "on D2": found.drift.reward})
    blank: dict[str, object] = {"measured": "", "on D2": "-", "on D1": "-"}
    return [blank | row for row in rows]
