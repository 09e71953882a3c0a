"""`mabe-transfer behaviour`: train and list the policies whose behaviour is collected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mabe_transfer import catalogue, domains
from mabe_transfer.acquire import publish, train_ladders
from mabe_transfer.behaviour import Ladder, load_ladder
from mabe_transfer.cli.tables import show
from mabe_transfer.cli.training import limit_threads, parse_overrides
from mabe_transfer.config import with_overrides
from mabe_transfer.online import OnlineConfig

app = typer.Typer(no_args_is_help=True)


@app.command()
def train(
    names: Annotated[list[str], typer.Argument(help="Domains of one robot, trained together.")],
    out: Annotated[Path, typer.Option(help="Folder for the ladders, <domain>.safetensors.")],
    run: Annotated[Path, typer.Option(help="Run folder; a matching one resumes.")],
    steps: Annotated[int, typer.Option(min=1000, help="Environment steps a domain.")] = 320_000,
    rungs: Annotated[int, typer.Option(min=2, help="Policies kept of each domain.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the first domain; the next adds 1.")] = 0,
    override: Annotated[list[str] | None, typer.Option("--set", help="field=value")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all.")] = 0,
) -> None:
    """Train SAC in several domains as one stack, and keep policies along the way."""
    limit_threads(threads)
    config = replace(OnlineConfig(), env_steps=steps, rungs=rungs)
    config = with_overrides(config, parse_overrides(override or []))
    command = (
        f"mabe-transfer behaviour train {' '.join(names)} --steps {steps} --rungs {rungs} "
        f"--seed {seed}" + "".join(f" --set {change}" for change in override or [])
    )
    ladders = train_ladders([domains.domain(n) for n in names], config, seed=seed, folder=run)
    for ladder in ladders:
        publish(ladder, out, command)
    _print(ladders)


@app.command("list")
def list_() -> None:
    """List the behaviour policies that ship, with their measured returns."""
    folder = catalogue.folder("datasets") / "policies"
    _print([load_ladder(path) for path in sorted(folder.glob("*.safetensors"))])


def _print(ladders: list[Ladder]) -> None:
    rows = [
        {
            "domain": ladder.domain.name,
            "rungs": len(ladder.rungs),
            "medium": _measured(ladder, ladder.medium),
            "expert": _measured(ladder, ladder.expert),
            "made by": ladder.provenance.get("command", "-"),
        }
        for ladder in ladders
    ]
    show(rows, title="Behaviour policies: mean return of sampled actions")


def _measured(ladder: Ladder, index: int) -> str:
    rung = ladder.rungs[index]
    return f"{rung.mean:,.0f} +- {rung.std:,.0f} at {rung.env_steps:,}"
