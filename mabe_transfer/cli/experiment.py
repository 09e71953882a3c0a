"""`mabe-transfer experiment`: a result by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mabe_transfer.cli import late
from mabe_transfer.cli.tables import show, split
from mabe_transfer.cli.training import parse_overrides, pick_device
from mabe_transfer.config import Overrides
from mabe_transfer.errors import UserError
from mabe_transfer.progress import notice

with late.imports():
    from mabe_transfer import ablations, benchmark, budgets, figure6, grid, outcome
    from mabe_transfer import demo as main_job
    from mabe_transfer import forecast as foretelling
    from mabe_transfer import scale as scales
    from mabe_transfer import threads as processor

app = typer.Typer(no_args_is_help=True)


Scale = Annotated[str, typer.Option(help="`full`, or `smoke`: a minute's worth, to see it work.")]
D4rlScale = Annotated[
    str, typer.Option(help="`full`, `cpu` (small networks, 5,000 updates), or `smoke`.")
]
Seeds = Annotated[int, typer.Option(min=1, help="Policies of each arm.")]
Runs = Annotated[Path, typer.Option(help="Folder of the runs.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all.")]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Gradient updates of each seed's policy; the scale's by default."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="part.field=value, where a row has the part")
]
Names = Annotated[str | None, typer.Option(help="By commas; all by default.")]
Datasets = Annotated[
    str | None,
    typer.Option(help="By commas, such as hopper-medium; all of the experiment's by default."),
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of runs, table, picture and video.")] = Path(
        "runs/demo"
    ),
    seeds: Seeds = 3,
    scale: Scale = "full",
    override: Set = None,
    threads: Threads = 0,
) -> None:
    """Carry backward running from ice to normal ground, beside the arms it must beat."""
    processor.limit_threads(threads)
    chosen = scales.scale(scale, _overrides(override), main_job.SCALES)
    made = main_job.run(out, seeds=seeds, scale=chosen)
    show(made.rows, title="halfcheetah-backward: forward data on normal ground + backward on ice")
    for name, path in made.files.items():
        notice(f"{name}: {path}")


@app.command("figure6")
def figure6_(
    robots: Names = None,
    seeds: Seeds = 3,
    scale: Scale = "full",
    steps: Steps = None,
    out: Annotated[Path, typer.Option(help="Folder of numbers, table and picture.")] = Path(
        "results/figure6"
    ),
    runs: Runs = Path("runs/figure6"),
    override: Set = None,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Carry backward running from ice to normal ground: the paper's arms, and more."""
    processor.limit_threads(threads)
    chosen = scales.scale(scale, _overrides(override), updates=steps)
    made = figure6.run(
        split(robots, "--robots") or figure6.ROBOTS,
        chosen,
        seeds=seeds,
        out=runs,
        results=scales.apart(out, chosen),
        device=pick_device(device),
    )
    show(made.lines, title=figure6.TITLE)
    _end(made.files, made.outcome)


@app.command("figure3")
def figure3_(
    datasets: Datasets = None,
    seeds: Seeds = 3,
    scale: D4rlScale = "full",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results/figure3"),
    runs: Runs = Path("runs/d4rl-ours"),
    override: Set = None,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """MABE without its prior, RL and uncertainty, on the D4RL datasets of this project."""
    processor.limit_threads(threads)
    job = _job(datasets, seeds, scale, out, runs, override, device)
    _print(ablations.figure3(job), "Figure 3: what each part is worth")


@app.command("figure4")
def figure4_(
    datasets: Datasets = None,
    seeds: Seeds = 3,
    scale: D4rlScale = "full",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results/figure4"),
    runs: Runs = Path("runs/d4rl-ours"),
    override: Set = None,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """MABE's adaptive prior against a flat one, learning curves."""
    processor.limit_threads(threads)
    job = _job(datasets, seeds, scale, out, runs, override, device)
    _print(ablations.figure4(job), "Figure 4: adaptive against flat prior")


@app.command("table1")
def table1_(
    datasets: Datasets = None,
    seeds: Seeds = 3,
    scale: D4rlScale = "full",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results/table1"),
    runs: Runs = Path("runs/d4rl-ours"),
    override: Set = None,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """The paper's Table 1 on the D4RL datasets of this project, as `benchmark d4rl` has it."""
    processor.limit_threads(threads)
    job = _job(datasets, seeds, scale, out, runs, override, device)
    _print(ablations.table1(job), "Table 1")


@app.command("rows")
def rows_(
    datasets: Datasets = None,
    seeds: Seeds = 3,
    scale: D4rlScale = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results/rows"),
    runs: Runs = Path("runs/d4rl-ours"),
    override: Set = None,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Every algorithm of the table on half cheetah's and hopper's D4RL datasets of this project."""
    processor.limit_threads(threads)
    job = _job(datasets, seeds, scale, out, runs, override, device)
    _print(ablations.rows(job), "Every algorithm")


@app.command("matrix")
def matrix_(
    robot: Annotated[str, typer.Option(help="Which one.")] = "halfcheetah",
    shifts: Names = None,
    tasks: Names = None,
    seeds: Seeds = 3,
    scale: Scale = "full",
    steps: Steps = None,
    forecasts: Annotated[bool, typer.Option(help="Foretell each field as well.")] = True,
    out: Annotated[Path, typer.Option(help="Folder of numbers, table and heat map.")] = Path(
        "results/matrix"
    ),
    runs: Runs = Path("runs/matrix"),
    override: Set = None,
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Where carrying a behaviour helps and where it hurts: physics shifts by tasks."""
    processor.limit_threads(threads)
    chosen = scales.scale(scale, _overrides(override), updates=steps)
    job = grid.Job(
        robot=robot,
        scale=chosen,
        seeds=seeds,
        shifts=split(shifts, "--shifts") or grid.SHIFTS,
        tasks=split(tasks, "--tasks") or grid.TASKS,
        effort=foretelling.Effort() if forecasts else None,
        out=runs,
        results=scales.apart(out / robot, chosen),
        device=pick_device(device),
    )
    made = grid.run(job)
    show(made.lines, title=made.outcome.title)
    _end(made.files, made.outcome)


def _job(
    datasets: str | None, seeds: int, scale: str, out: Path, runs: Path, override: list[str] | None,
    device: str,
) -> ablations.Job:  # fmt: skip
    chosen = scales.scale(scale, _overrides(override), budgets.SCALES)
    return ablations.Job(
        scale=chosen,
        seeds=seeds,
        datasets=split(datasets, "--datasets"),
        out=runs,
        results=scales.apart(out, chosen),
        device=pick_device(device),
    )


def _overrides(given: list[str] | None) -> Overrides:
    return tuple(parse_overrides(given or []).items())


def _print(made: benchmark.Made, title: str) -> None:
    show(made.board.rows, title=title)
    for note in made.board.notes:
        notice(note)
    _end(made.files, made.outcome)


def _end(files: dict[str, Path], cells: outcome.Outcome) -> None:
    """Say where the results are, and whether cells failed."""
    for name, path in files.items():
        notice(f"{name}: {path}")
    if cells.failed:
        raise UserError(
            f"{len(cells.failed)} of {len(cells.records)} runs failed, as the table says; the "
            "same command tries them again."
        )


@app.callback()
def experiments() -> None:
    """Reproduce a result by one command."""
