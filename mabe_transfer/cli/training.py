"""`mabe-transfer train`, `evaluate` and `render`: from two datasets to a policy, and to see it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mabe_transfer import presets
from mabe_transfer.cli import late
from mabe_transfer.cli.tables import show
from mabe_transfer.config import fingerprint, with_overrides
from mabe_transfer.errors import UserError
from mabe_transfer.progress import notice

with late.imports():
    from mabe_transfer import (
        algorithms,
        composition,
        domains,
        locks,
        policies,
        runs,
        transfer,
        video,
        worlds,
    )
    from mabe_transfer import evaluate as evaluation
    from mabe_transfer import scale as scales
    from mabe_transfer import threads as processor
    from mabe_transfer import train as learning

if TYPE_CHECKING:
    import torch

Runs = Annotated[list[Path], typer.Argument(help="A run's folder, or those of several.")]


def train(
    dynamics: Annotated[str, typer.Option(help="D1: data of the world to act in.")] = "",
    prior: Annotated[str, typer.Option(help="D2: data of the wanted behaviour.")] = "",
    algo: Annotated[
        str, typer.Option(help="A row of `algorithms list`; the preset's, or mabe.")
    ] = "",
    preset: Annotated[
        str,
        typer.Option(help="Published settings, of `algorithms presets`: mopo-v2/hopper-medium."),
    ] = "",
    target: Annotated[str, typer.Option(help="Target domain; follows from the data.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Policies trained together.")] = 3,
    first_seed: Annotated[
        int, typer.Option(min=0, help="The first seed; the others follow it.")
    ] = 0,
    steps: Annotated[
        int, typer.Option(min=0, help="Steps of each seed; 0: as the row has it.")
    ] = 0,
    evaluate_every: Annotated[
        int, typer.Option(min=0, help="Steps between evaluations; 0: as the row has it.")
    ] = 0,
    scale: Annotated[
        str,
        typer.Option(
            help="`full`: the row as `algorithms show` has it; `short`: the main job's settings; "
            "`cpu`: small networks. Presets and --set win over it."
        ),
    ] = "full",
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="part.field=value, such as policy.discount=0.98"),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder; a matching one resumes.")] = None,
) -> None:
    """Train a policy from D1's dynamics and D2's behaviour, and evaluate it in the target."""
    processor.limit_threads(threads)
    given = parse_overrides(override or [])
    chosen = presets.choose(preset, dynamics or prior) if preset else None
    row = algorithms.algorithm(algo) if algo else _usual(chosen)
    if chosen is not None:
        chosen.check(row.name, row)
        given = chosen.overrides | given
    usual = learning.Schedule.of(row)
    if scale != scales.FULL.name:
        sized = scales.scale(scale, known={scales.FULL.name: scales.FULL, **scales.TRAININGS})
        given, usual = dict(sized.settings(row)) | given, sized.schedule(row)
    row = with_overrides(row, given)
    found = transfer.sources(row, dynamics or None, prior or None, target or None)
    for line in found.describe(row):
        notice(line)
    if chosen is not None:
        notice(chosen.describe())
    numbers = tuple(range(first_seed, first_seed + seeds))
    schedule = lengths(usual, steps, evaluate_every)
    if schedule.updates <= row.waiting:
        notice(
            f"For its first {row.waiting:,} updates (policy.critics_first) {row.name}'s policy "
            f"stays as it starts, and there are no more than {schedule.updates:,}."
        )
    marks = [chosen.name] if chosen else []
    identity = fingerprint([row, schedule, numbers, dynamics, prior, *marks])[:6]
    named = Path("runs") / f"{row.name}-{found.target.name}-{identity}"
    where = pick_device(device)
    of_preset = chosen.name if chosen else ""
    config = learning.identity(row, found, schedule, seeds=numbers, device=where, preset=of_preset)
    folder = out or runs.resumed(named, config)
    with locks.sole(folder):
        trainer = learning.Trainer(
            row, found, schedule, seeds=numbers, device=where, folder=folder, preset=of_preset
        )
        report(trainer.run(), found.target)


def _usual(chosen: presets.Chosen | None) -> composition.Algorithm:
    """The row that is trained where none is named: the preset's, or MABE."""
    if chosen is None:
        return algorithms.algorithm("mabe")
    try:
        return algorithms.algorithm(chosen.preset.row)
    except UserError as error:
        raise UserError(f"The preset {chosen.name}: {error}") from None


def lengths(usual: learning.Schedule, steps: int, evaluate_every: int) -> learning.Schedule:
    """The usual schedule, but for what is given: 0 is not."""
    updates = steps or usual.updates
    every = min(evaluate_every or usual.evaluate_every, updates)
    return replace(usual, updates=updates, evaluate_every=every)


def report(result: learning.Result, target: domains.Domain) -> None:
    """Print what a run came to."""
    rows = [
        {
            "seed": seed,
            "return": float(value),
            **({"score": float(target.normalised(value))} if target.reference else {}),
        }
        for seed, value in zip(result.seeds, result.per_seed, strict=True)
    ]
    show(rows, title=f"{result.row} in {result.target}: mean of the last evaluations")
    facts = ", ".join(f"{name} {value:,.1f}" for name, value in result.summary.items())
    notice(f"Over seeds: {facts}. The run is in {result.folder}.")


def evaluate(
    runs: Runs,
    env: Annotated[str, typer.Option(help="Domain; a run's own target by default.")] = "",
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each seed.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Play whole episodes with a run's policies, in its target or in another domain."""
    rows, summaries = [], []
    for run, found in [(run, policies.load(run)) for run in runs]:  # all are there, or none plays
        domain = domains.domain(env) if env else found.target
        returns, lengths = policies.play(found, domain, episodes=episodes, seed=seed)
        rows += [
            {
                "run": str(run),
                "domain": domain.name,
                "seed": number,
                "return": float(row.mean()),
                "std over episodes": float(row.std()),
                "length": float(length.mean()),
                "score": float(domain.normalised(row.mean())) if domain.reference else None,
            }
            for number, row, length in zip(found.seeds, returns, lengths, strict=True)
        ]
        summary = evaluation.summary(returns.mean(1), domain)
        facts = ", ".join(f"{name} {value:,.1f}" for name, value in summary.items())
        summaries.append(f"{run} in {domain.name}, over seeds: {facts}")
    show(rows, title=f"{episodes} episodes a seed", as_json=as_json)
    for sentence in summaries:
        notice(sentence)


def render(
    runs: Runs,
    out: Annotated[
        Path | None, typer.Option(help="The video to write, .mp4; by default in the run.")
    ] = None,
    env: Annotated[str, typer.Option(help="Domain; the run's own target by default.")] = "",
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of the policy to film; the run's first by default."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Control steps to film.")] = 400,
    force: Annotated[bool, typer.Option("--force", help="Replace what lies at --out.")] = False,
) -> None:
    """Film a run's policy."""
    if out is not None and len(runs) > 1:
        raise UserError(f"--out {out}: is one video, and {len(runs)} runs are to be filmed.")
    for run in runs:
        _film(run, out, env, seed, steps, force=force)


def _film(
    run: Path, out: Path | None, env: str, seed: int | None, steps: int, *, force: bool
) -> None:
    found = policies.load(run)
    domain = domains.domain(env) if env else found.target
    worlds.require_robot(domain, found.target.robot.name, str(run))
    chosen = found.seeds[0] if seed is None else seed
    path = out or run / f"video-{domain.name}-seed-{chosen}.mp4"
    if path.exists() and not force:
        raise UserError(f"{path} exists; choose another --out, or replace it with --force.")
    total = video.film(found.act_one(chosen), domain, path, steps=steps, seed=chosen)
    notice(f"{path}: {steps} steps in {domain.name}, return {total:,.1f}.")


def parse_overrides(given: list[str]) -> dict[str, str]:
    """Read `part.field=value` options.

    Raises:
        UserError: One has no `=`.
    """
    for text in given:
        if "=" not in text:
            raise UserError(
                f"--set {text!r}: write part.field=value, such as policy.discount=0.98."
            )
    return {name: value for name, _, value in (text.partition("=") for text in given)}


def pick_device(name: str) -> torch.device:
    """Resolve `auto`, and refuse a device that is not there."""
    import torch  # seconds, which only the commands that compute should take

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: there is cpu, cuda, and auto.") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: there is cpu, cuda, and auto.")
    seen = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= seen:
        there = f"cuda:0 to cuda:{seen - 1}" if seen else "no CUDA device"
        raise UserError(f"--device {name}: torch sees {there} here.")
    return device
