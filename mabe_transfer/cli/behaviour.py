"""`mabe-transfer behaviour`: train and list the policies whose behaviour is collected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mabe_transfer.cli import late
from mabe_transfer.cli.tables import show
from mabe_transfer.cli.training import parse_overrides
from mabe_transfer.config import with_overrides

with late.imports():
    from mabe_transfer import behaviour as behaviours
    from mabe_transfer import domains, ladders, online, references, shipping, worlds
    from mabe_transfer import threads as processor

app = typer.Typer(no_args_is_help=True)


@app.command()
def train(
    names: Annotated[list[str], typer.Argument(help="Domains of one robot, trained together.")],
    out: Annotated[Path, typer.Option(help="Folder for the ladders, <domain>.safetensors.")],
    run: Annotated[Path, typer.Option(help="Run folder; a matching one resumes.")],
    steps: Annotated[int, typer.Option(min=1000, help="Environment steps a domain.")] = 320_000,
    rungs: Annotated[int, typer.Option(min=2, help="Policies measured along the way.")] = 16,
    keep: Annotated[
        int | None, typer.Option(min=5, help="Keep at most this many policies; 8 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the first domain; the next adds 1.")] = 0,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="part.field=value, such as sac.hidden=[128,128]"),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all.")] = 0,
) -> None:
    """Train SAC in several domains as one stack, and keep policies along the way."""
    processor.limit_threads(threads)
    kept = keep or shipping.SHIPPED_RUNGS
    config = replace(online.OnlineConfig(), env_steps=steps, rungs=rungs)
    config = with_overrides(config, parse_overrides(override or []))
    command = (
        f"mabe-transfer behaviour train {' '.join(names)} --steps {steps} --rungs {rungs} "
        f"--keep {kept} --seed {seed}" + "".join(f" --set {change}" for change in override or [])
    )
    where = [domains.domain(name) for name in names]
    for domain in where:
        shipping.vacant(out, domain, command)
    trained = ladders.train(where, config, seed=seed, folder=run)
    for found in trained:
        shipping.publish(found, out, command, keep=kept)
    _print(trained)


@app.command("list")
def list_() -> None:
    """List the behaviour policies that ship, with their measured returns."""
    _print([behaviours.load_ladder(path) for path in behaviours.shipped_ladders()])


@app.command()
def evaluate(
    name: Annotated[str, typer.Argument(help="A domain with a shipped ladder, or a ladder.")],
    env: Annotated[str, typer.Option(help="Where it acts; its own domain by default.")] = "",
    episodes: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes.")] = 0,
) -> None:
    """Play the expert of a ladder, by its mode, in its own domain or in another one."""
    path = Path(name)
    found = (
        behaviours.load_ladder(path)
        if path.suffix == ".safetensors"
        else ladders.ladder(domains.domain(name))
    )
    where = domains.domain(env) if env else found.domain
    worlds.require_robot(where, found.domain.robot.name, name)
    returns = references.play(where, found.policy(found.expert), episodes=episodes, seed=seed)
    row = {
        "policy": f"{found.domain.name}, expert",
        "acts in": where.name,
        "return": float(returns.mean()),
        "std": float(returns.std()),
    }
    if where.reference:
        row["score"] = float(where.normalised(returns.mean()))
    show([row], title=f"{episodes} episodes from seed {seed}")


def _print(shown: list[behaviours.Ladder]) -> None:
    rows = [
        {
            "domain": found.domain.name,
            "rungs": len(found.rungs),
            "medium": _measured(found, found.medium),
            "expert": _measured(found, found.expert),
            "made by": found.provenance.get("command", "-"),
        }
        for found in shown
    ]
    show(rows, title="Behaviour policies: mean return of sampled actions")


def _measured(found: behaviours.Ladder, index: int) -> str:
    rung = found.rungs[index]
    return f"{rung.mean:,.0f} +- {rung.std:,.0f} at {rung.env_steps:,}"
