"""`mabe-transfer envs`: what worlds there are, and what a shift really changes."""

from __future__ import annotations

from typing import Annotated

import typer

from mabe_transfer import catalogue
from mabe_transfer.cli import late
from mabe_transfer.cli.tables import out, show
from mabe_transfer.config import to_json
from mabe_transfer.progress import notice

with late.imports():
    from mabe_transfer import certificate, domains, references

app = typer.Typer(no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(help="A domain: <robot>[-<shift>[=<value>]]...[-<task>], or a TOML file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List robots, shifts and tasks; a domain is one of each, joined by dashes."""
    rows = [
        {"kind": kind, "name": name, "what": what}
        for kind, entries in (
            ("robot", {r.name: r.title for r in catalogue.robots().values()}),
            ("shift", {s.name: s.summary for s in catalogue.shifts().values()}),
            ("task", {t.name: t.summary for t in catalogue.tasks().values()}),
        )
        for name, what in entries.items()
    ]
    show(rows, title="Robots, shifts and tasks", as_json=as_json)


@app.command("show")
def show_(name: Name, as_json: Json = False) -> None:
    """Show everything that a domain's name says: sizes, units, rewards, ends, references."""
    domain = domains.domain(name)
    if as_json:
        out.print_json(data=to_json(domain))
        return
    robot = domain.robot
    facts = {
        "domain": domain.name,
        "robot": robot.title,
        "model": robot.model,
        "control period": f"{robot.control_timestep_s} s, {robot.max_episode_steps} steps",
        "shifts": "; ".join(f"{a.name}: {a.shift.summary}" for a in domain.shifts) or "none",
        "strengths": ", ".join(f"{a.name} x {a.value:g}" for a in domain.shifts if a.value) or "-",
        "reward": " ".join(f"{weight:+g} {term}" for term, weight in domain.weights.items()),
        "observation": ", ".join(f"{q.name} [{q.unit}]" for q in robot.observation) or "flat",
        "action": ", ".join(f"{q.name} [{q.unit}]" for q in robot.action) or "flat",
        "reference": reference_sentence(domain, name),
    }
    show([{"fact": k, "value": v} for k, v in facts.items()], title=domain.name)


@app.command()
def check(name: Name, as_json: Json = False) -> None:
    """Certify a domain's physics: only what its shifts declare differs, by what they declare."""
    domain = domains.domain(name)
    found = certificate.certify(domain)
    if as_json:
        out.print_json(data=to_json(found))
    else:
        _print(found)
    found.require()
    certified = "Certified: what is declared differs by what is declared, and nothing else does."
    plain = f"{domain.name} has no shift, and nothing differs from the robot's own model."
    notice(certified if domain.shifts else plain)


@app.command()
def reference(
    name: Name,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each policy.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes.")] = 0,
) -> None:
    """Measure random and expert returns of a domain; prints the TOML to paste into its robot."""
    typer.echo(references.measure(domains.domain(name), episodes=episodes, seed=seed))


def reference_sentence(domain: domains.Domain, name: str) -> str:
    """A domain's reference returns in one sentence, with how they were, or are to be, measured."""
    found = domain.reference
    if found is None:
        return f"none; measure with: mabe-transfer envs reference {name}"
    how = f", {found.episodes} episodes, {found.engine}" if found.episodes else ""
    return f"random {found.random:g}, expert {found.expert:g} ({found.command}{how})"


def _print(found: certificate.Certificate) -> None:
    rows = [
        {
            "field": change.field,
            "base": _brief(change.base),
            "shifted": _brief(change.shifted),
            "factor": "-" if change.factor is None else f"{change.factor:g}",
            "why": "declared" if change.declared else "follows" if change.derived else "UNDECLARED",
        }
        for change in found.changes
    ]
    rows += [
        {
            "field": f"effective friction, {row.geom} on the ground",
            "base": f"{row.base:g}",
            "shifted": f"{row.shifted:g}",
            "factor": f"{row.ratio:g}",
            "why": "measured in contact",
        }
        for row in found.frictions
    ]
    show(rows, title=f"Physics of {found.domain}")


def _brief(values: tuple[float, ...]) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:4])
    return shown + (f", ... ({len(values)})" if len(values) > 4 else "")
