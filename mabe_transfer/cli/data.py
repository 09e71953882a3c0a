"""`mabe-transfer collect` and `mabe-transfer data`: make datasets, look at them, exchange them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mabe_transfer import catalogue
from mabe_transfer.cli import late
from mabe_transfer.cli.tables import out, show
from mabe_transfer.config import to_json
from mabe_transfer.entries import QUALITIES
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.progress import notice

with late.imports():
    from mabe_transfer import acquire, bridges, domains, library
    from mabe_transfer import replay as resimulation
    from mabe_transfer import verify as verification

if TYPE_CHECKING:
    from mabe_transfer.store import Store

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A dataset's name, path or URL.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def collect(
    env: Annotated[str, typer.Option(help="Domain to collect in, or a TOML file.")] = "",
    recipe: Annotated[str, typer.Option(help="A recipe of datasets/*.toml, or a TOML file.")] = "",
    quality: Annotated[
        str | None, typer.Option(help=f"One of: {', '.join(QUALITIES)}; expert unless given.")
    ] = None,
    transitions: Annotated[
        int | None, typer.Option(help="How many; 100,000, or a medium-replay whole.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="A ladder to use, or d4rl:NAME for the policy in its file.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the collection, 0 or more.")] = None,
    out_: Annotated[
        str | None, typer.Option("--out", help="Name, path or URL of the dataset.")
    ] = None,
) -> None:
    """Collect a dataset: a domain, a quality of behaviour, a number of transitions.

    What is given beside a recipe replaces what it says; the dataset then needs a name of its own.
    """
    if bool(env) == bool(recipe):
        raise UserError("Name either a domain with --env or a recipe with --recipe.")
    if out_ == "":
        raise UserError("--out '': expected a name, a path or a URL.")
    given = {"quality": quality, "transitions": transitions, "policy": policy, "seed": seed}
    changes: dict[str, Any] = {name: one for name, one in given.items() if one is not None}
    if recipe:
        asked = catalogue.recipe(recipe)
        changed = replace(asked, **changes)
        if changed != asked and not out_:
            raise UserError(
                f"--{' and --'.join(changes)} would change the recipe {asked.name}, whose name "
                "stands for its own data; name the dataset with --out."
            )
        request = acquire.of_recipe(changed, out=out_)
    else:
        request = acquire.Request(
            domain=domains.domain(env), **{"quality": "expert", **changes}, out=out_
        )
    describe(acquire.acquire(request))


def describe(store: Store) -> None:
    """Print what a dataset holds."""
    episodes, attributes = store.episodes(), store.attributes
    returns, length = episodes.returns, episodes.length
    facts = {
        "domain": attributes["domain"],
        "quality": attributes["quality"],
        "behaviour": "; ".join(attributes["behaviour"].get("shares", [])),
        "transitions": f"{store.rows:,}",
        "episodes": f"{len(episodes):,} of {length.mean():,.0f} +- {length.std():,.0f} steps",
        "return": f"{returns.mean():,.1f} +- {returns.std():,.1f} "
        f"({returns.min():,.1f} to {returns.max():,.1f})",
        "notes": "; ".join(attributes["behaviour"].get("notes", [])) or "-",
        "versions": ", ".join(f"{k} {v}" for k, v in attributes["versions"].items()),
        "content hash": attributes["content_hash"],
        "lies in": store.location,
    }
    show([{"fact": k, "value": v} for k, v in facts.items()], title=Path(store.location).stem)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the complete datasets in the data folder."""
    rows = [
        {
            "name": library.called(found.path),
            "domain": found.domain,
            "quality": found.quality,
            "transitions": found.rows,
            "created": found.created,
        }
        for found in library.named_stores()
    ]
    if not rows:
        notice(f"There is no dataset in {library.data_root()}/; see: mabe-transfer collect --help")
    if rows or as_json:
        show(rows, title=f"Datasets in {library.data_root()}/", as_json=as_json)


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes that `collect --recipe` knows."""
    rows = [to_json(row) for row in catalogue.recipes().values()]
    show([{k: v for k, v in row.items() if k != "type"} for row in rows], title="Recipes",
         as_json=as_json)  # fmt: skip


@app.command()
def info(name: Name, as_json: Json = False) -> None:
    """Show what a dataset holds and where it is from."""
    dataset = library.open_dataset(name)
    if as_json:
        out.print_json(data=dataset.store.attributes)
    else:
        describe(dataset.store)


@app.command()
def verify(
    name: Name,
    replay: Annotated[bool, typer.Option("--replay", help="Simulate a sample again.")] = False,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Rows to simulate again; 256 unless given.")
    ] = None,
) -> None:
    """Check a dataset: checksums, episodes, finiteness, reward terms, and the physics."""
    if sample is not None and not replay:
        raise UserError(f"--sample {sample}: says how many rows --replay simulates; give both.")
    dataset = library.open_dataset(name)
    findings = verification.verify(
        dataset.store,
        replay=resimulation.resimulate(dataset.domain) if replay else None,
        sample=sample or 256,
    )
    rows = [
        {"check": f.check, "passed": "yes" if f.passed else "NO", "detail": f.detail}
        for f in findings
    ]
    show(rows, title=f"Verification of {name}")
    failed = [finding for finding in findings if not finding.passed]
    if failed:
        raise UserError(f"{name} fails the check {failed[0].check!r}: {failed[0].detail}")


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="An HDF5 file with D4RL's keys, or minari:ID.")],
    env: Annotated[str, typer.Option(help="Domain it was recorded in, or a TOML file.")] = "",
    name: Annotated[str, typer.Option(help="Of the dataset; the file's own by default.")] = "",
    quality: Annotated[str, typer.Option(help="Of the behaviour, in a word.")] = "recorded",
) -> None:
    """Bring in data by others, or what `data export` wrote, as a dataset."""
    domain = domains.domain(env) if env else None
    describe(bridges.bring_in(source, domain, library.data_root(), name=name, quality=quality))


@app.command()
def export(
    name: Name,
    to: Annotated[str, typer.Option(help="d4rl (an HDF5 file) or minari.")],
    out_: Annotated[str, typer.Option("--out", help="The file, or Minari's id.")],
) -> None:
    """Write a dataset for other libraries; bringing it in again loses nothing."""
    dataset = library.open_dataset(name)
    if to == "d4rl":
        written = bridges.export.to_d4rl(dataset.store, Path(out_))
    elif to == "minari":
        written = bridges.minari_export.to_minari(dataset.store, dataset.domain, out_)
    else:
        raise unknown("format", to, ("d4rl", "minari"))
    out.print(f"{name} is in {written}", soft_wrap=True, highlight=False)


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="d4rl:<robot>-<quality>-<release>.")],
    mirror: Annotated[list[str] | None, typer.Option(help="Addresses to try first.")] = None,
) -> None:
    """Download a file of D4RL, resuming what was interrupted, and check its SHA-256."""
    if not name.startswith(bridges.d4rl.SCHEME):
        raise UserError(f"Only D4RL's files are downloaded here, such as d4rl:hopper-medium-v2; "
                        f"{name!r} is none.")  # fmt: skip
    out.print(
        f"{name} is in {bridges.download.download(name, mirror or [])}",
        soft_wrap=True,
        highlight=False,
    )
