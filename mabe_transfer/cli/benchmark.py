"""`mabe-transfer benchmark`: rows of the algorithm table on standard data, beside print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mabe_transfer import published
from mabe_transfer.cli import late
from mabe_transfer.cli.tables import show, split
from mabe_transfer.cli.training import parse_overrides, pick_device
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.progress import notice

with late.imports():
    from mabe_transfer import benchmark, budgets, d4rl_tasks, outcome, scoreboard
    from mabe_transfer import scale as scales
    from mabe_transfer import threads as processor

app = typer.Typer(no_args_is_help=True)
Reference = Annotated[
    str, typer.Option(help="Row to compare the others with; mopo, or the first, by default.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def d4rl(
    algos: Annotated[
        str | None,
        typer.Option(help="Rows of `algorithms list`, by commas; Table 1's by default."),
    ] = None,
    datasets: Annotated[
        str | None,
        typer.Option(help="By commas, such as hopper-medium; the nine of Table 1 by default."),
    ] = None,
    source: Annotated[
        str, typer.Option(help="`ours`: collected here; `files`: D4RL's own.")
    ] = "ours",
    seeds: Annotated[int, typer.Option(min=1, help="Policies of each cell.")] = 3,
    first_seed: Annotated[int, typer.Option(min=0, help="Seeds count from here.")] = 0,
    scale: Annotated[
        str,
        typer.Option(
            help="`full`: rows as `algorithms show` has them; `cpu`: small networks, 5,000 "
            "updates; `smoke`: to see it work."
        ),
    ] = "full",
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Gradient updates of each seed, with `--scale cpu` of a prior's fit too; 100,000, "
            "or the scale's.",
        ),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Of each evaluation; 10, or the scale's.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="part.field=value, where a row has the part")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Published settings by commas; v0 or v2: all of that release."),
    ] = None,
    reference: Reference = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/benchmark-d4rl"),
    results: Annotated[
        Path | None, typer.Option(help="Folder of the tables; that of --out by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train rows on D4RL's data; repeated, it skips what is complete and resumes the rest."""
    processor.limit_threads(threads)
    if source not in d4rl_tasks.SOURCES:
        raise unknown("--source", source, d4rl_tasks.SOURCES)
    sized = budgets.resized(
        scales.scale(scale, known=budgets.SCALES), updates=steps, episodes=episodes
    )
    plan = budgets.plan(
        sized,
        split(algos, "--algos") or benchmark.METHODS,
        split(datasets, "--datasets"),
        tuple(range(first_seed, first_seed + seeds)),
        source=d4rl_tasks.SOURCES[source],
        overrides=parse_overrides(override or []),
        presets=split(preset, "--preset"),
    )
    folder = scales.apart(results or out, sized)
    made = benchmark.run(plan, out, folder, pick_device(device), reference=reference)
    _print(made.board, as_json)
    for name, path in made.files.items():
        notice(f"{name}: {path}")
    if made.outcome.failed:
        raise UserError(
            f"{len(made.outcome.failed)} of {len(made.outcome.records)} cells failed, as the table "
            "says; the same command tries them again."
        )


@app.command("show")
def show_(
    records: Annotated[
        list[Path], typer.Argument(help="A matrix's records.json or progress.json; or several.")
    ],
    algos: Annotated[
        str | None, typer.Option(help="Rows, by commas; all of them by default.")
    ] = None,
    reference: Reference = "",
    printed: Annotated[str, typer.Option(help="A printed table to set beside it.")] = "",
    results: Annotated[Path | None, typer.Option(help="Folder to write records and tables to.")] = (
        None
    ),
    as_json: Json = False,
) -> None:
    """Show the table of a matrix, from its records, as far as they go.

    Records of several machines make one table, if seeds, schedule, settings and data are the same.
    """
    found = outcome.joined([outcome.read(path) for path in records])
    if algos is not None:
        found = outcome.of_rows(found, split(algos, "--algos"))
    found = benchmark.in_order(found)
    beside = published.table(printed) if printed else None
    board = scoreboard.board(found, reference=reference, printed=beside)
    _print(board, as_json)
    if results is not None:
        coming = {(record.label, record.task): record.overrides for record in found.records}
        outcome.spare(results, coming, found.seeds, found.schedule, found.data)
        for name, path in benchmark.write(found, board, results, beside).items():
            notice(f"{name}: {path}")


def _print(board: scoreboard.Board, as_json: bool) -> None:
    show(board.rows, title=board.title, as_json=as_json)
    for note in board.notes:
        notice(note)
