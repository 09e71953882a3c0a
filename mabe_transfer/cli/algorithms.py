"""`mabe-transfer algorithms`: the table of algorithms, printed from its rows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated

import typer

from mabe_transfer import glossary, presets
from mabe_transfer.cli import late
from mabe_transfer.cli.tables import out, show
from mabe_transfer.config import to_json
from mabe_transfer.errors import UserError
from mabe_transfer.presets import Preset
from mabe_transfer.progress import notice
from mabe_transfer.written import is_path

with late.imports():
    from mabe_transfer import algorithms, comparison, report

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
    if as_json and as_markdown:
        raise UserError("--json and --markdown: name one of them.")
    rows = comparison.table()
    if as_markdown:
        named = [{**row, "row": f"`{row['row']}`"} for row in rows]
        print("\n".join(report.markdown_lines(named)))
        return
    show(rows, title="Algorithms", as_json=as_json)


@app.command("presets")
def presets_(
    name: Annotated[
        str, typer.Argument(help="A preset, or one of its datasets, PRESET/DATASET; all of them.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List published settings, or what one of them sets on each dataset."""
    if name:
        _show_preset(_named(name), as_json=as_json)
        return
    rows = [
        {
            "preset": one.name,
            "row": one.row,
            "data": f"D4RL {one.data}",
            "datasets": str(len(one.datasets) or "all"),
            "source": one.source,
        }
        for one in presets.presets().values()
    ]
    show(rows, title="Presets, for train --preset and benchmark d4rl --preset", as_json=as_json)


@app.command("show")
def show_(
    name: Annotated[str, typer.Argument(help="A row of the table.")], as_json: Json = False
) -> None:
    """Show a row with every hyper-parameter, as `--set part.field=value` reaches them."""
    row = algorithms.algorithm(name)
    if as_json:
        out.print_json(data=to_json(row))
        return
    lines = [
        {
            "setting": one.path,
            "value": one.value if one.part else json.dumps(to_json(one.value)),
            "meaning": one.meaning,
        }
        for one in glossary.settings(row)
    ]
    show(lines, title=f"{row.name} ({row.paper})")


def _named(name: str) -> Preset:
    """A preset, whole or cut down to the dataset that stands behind its name."""
    if "/" not in name or is_path(name):
        return presets.preset(name)
    chosen = presets.choose(name, "")
    one = {chosen.dataset: chosen.preset.datasets[chosen.dataset]}
    return replace(chosen.preset, datasets=one)


def _show_preset(preset: Preset, *, as_json: bool) -> None:
    """A line for each dataset; what is the same on all of them stands beside the table."""
    settings = {each or "all": preset.overrides(each) for each in preset.datasets or ("",)}
    same: dict[str, str] = {}
    if len(settings) > 1:
        same = dict(set.intersection(*(set(values.items()) for values in settings.values())))
    names = dict.fromkeys(key for values in settings.values() for key in values)
    shown = [key for key in names if as_json or key not in same]
    rows = [
        {"dataset": each, **{key: values.get(key, "-") for key in shown}}
        for each, values in settings.items()
    ]
    show(rows, title=f"{preset.title} ({preset.source})", as_json=as_json)
    if same:
        notice("On all: " + ", ".join(f"{key}={same[key]}" for key in sorted(same)))
    if preset.note:
        notice(f"Published with it: {preset.note}.")
