"""Where carrying a behaviour across worlds helps and where it hurts: physics shifts by tasks.

D1 is a training's replay of the plain world, forward; D2 is the expert of a shifted world at a
task; the target is the plain world at that task. MABE's gain is over the better of what it must
beat: the prior alone, and MOPO on D1. What a forecast said beforehand stands beside it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mabe_transfer import catalogue, domains, locks, matrix, report, runs
from mabe_transfer.algorithms import ALGORITHMS
from mabe_transfer.arms import prior_alone, scaled
from mabe_transfer.config import fingerprint, from_json, to_json
from mabe_transfer.entries import Recipe
from mabe_transfer.errors import unknown
from mabe_transfer.figure6 import ROBOTS, Made
from mabe_transfer.forecast import Effort, Forecast, forecast
from mabe_transfer.gain import MABE, MOPO, PRIOR, Gain, Place, correlations, gains, line
from mabe_transfer.library import open_dataset
from mabe_transfer.matrix import Cell, Matrix
from mabe_transfer.outcome import others, spare
from mabe_transfer.scale import Scale

if TYPE_CHECKING:
    from mabe_transfer.outcome import Outcome, Record

FACTORS = (0.1, 0.5, 2.0, 5.0)
SHIFTS = (*(f"{what}={f:g}" for what in ("friction", "gravity") for f in FACTORS), "ice")
TASKS = ("forward", "backward")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to run, and where.

    Attributes:
        robot: Which one.
        scale: How much of it.
        seeds: Policies of each cell.
        shifts: Of the grid, among `SHIFTS`.
        tasks: Of the grid, among `TASKS`.
        effort: Of a forecast; none foretells nothing.
        out: Folder of the runs.
        results: Folder of `results.json`, `table.md` and `gain.png`.
        device: Where.
    """

    robot: str
    scale: Scale
    seeds: int
    shifts: tuple[str, ...] = SHIFTS
    tasks: tuple[str, ...] = TASKS
    effort: Effort | None = Effort()
    out: Path
    results: Path
    device: torch.device


def run(job: Job) -> Made:
    """Collect, foretell, train every field of the grid, and write numbers, table and heat map.

    Behaviour policies that do not ship are trained first. Every step that was done before is found;
    fields whose results are there, of the same scale and seeds, stay in the table.

    Raises:
        UserError: The robot, a shift or a task is none of the grid's, or results would be lost.
        Interrupted: The user asked to stop; the same command goes on.
    """
    for kind, given, known in (
        ("robot", (job.robot,), ROBOTS),
        ("shift", job.shifts, SHIFTS),
        ("task", job.tasks, TASKS),
    ):
        for name in given:
            if name not in known:
                raise unknown(kind, name, known, owner="The matrix")
    places = [
        Place(robot=job.robot, shift=shift, task=task) for shift in job.shifts for task in job.tasks
    ]
    names = [place.name for place in places]

    def kept() -> tuple[Record, ...]:
        return others(job.results, names, job.scale.seeds(job.seeds), to_json(job.scale))

    shown = {*names, *(record.task for record in kept())}
    coming = dict.fromkeys(itertools.product((MOPO, PRIOR, MABE), shown))
    spare(job.results, coming, job.scale.seeds(job.seeds), job.scale.plan)
    one = job.scale.gather(catalogue.recipe(f"{job.robot}-figure6-forward"), job.scale.forward)
    cells, foretold = [], {}
    for place in places:
        two = job.scale.gather(_recipe(place), job.scale.backward)
        cells += fields(place, one, two, job.scale)
        if job.effort is not None:
            foretold[place.name] = _forecast(job.effort, one, two, place.target, job.out)
    outcome = matrix.run(
        Matrix(
            title=f"Physics shifts by tasks, {job.robot}",
            data="D1: medium-replay, forward, plain world; D2: expert of the shifted world",
            cells=tuple(cells),
            seeds=job.scale.seeds(job.seeds),
            schedule=job.scale.plan,
        ),
        job.out,
        job.device,
    )
    with locks.held(job.results, patient=True):  # other fields' results may have come meanwhile
        more = kept()
        found = [*gains(outcome, places, foretold), *_gained(job.results, more)]
        found.sort(key=lambda gain: (SHIFTS.index(gain.place.shift), TASKS.index(gain.place.task)))
        return write(job, replace(outcome, records=(*outcome.records, *more)), found)


def fields(place: Place, one: str, two: str, scale: Scale) -> list[Cell]:
    """The arms of one field; MOPO does not see D2, so that all shifts of a task share its run."""
    alone = prior_alone(scaled("mabe", scale))
    return [
        Cell(
            label=label,
            task=place.name,
            row=arm,
            dynamics=one,
            prior=prior,
            target=place.target,
            overrides=scale.settings(arm),
            schedule=scale.schedule(arm),
        )
        for label, arm, prior in (
            (MOPO, ALGORITHMS["mopo"], None),
            (PRIOR, alone, two),
            (MABE, ALGORITHMS["mabe"], two),
        )
    ]


def write(job: Job, outcome: Outcome, found: list[Gain]) -> Made:
    """Write numbers, table and heat map of what there is."""
    ranks = correlations(found)
    lines = [line(gain) for gain in found]
    files = {"numbers": job.results / "results.json", "table": job.results / "table.md"}
    numbers = {
        "title": outcome.title,
        "scale": to_json(job.scale),
        "seeds": list(outcome.seeds),
        "gains": to_json(found),
        "rank correlations of forecast and gain": to_json(ranks),
        "provenance": runs.provenance(),
    }
    runs.write_json(files["numbers"], numbers)
    machines = sorted({record.machine for record in outcome.records if record.machine})
    notes = [
        f"Scale: {job.scale.name}, {job.scale.updates:,} updates of each seed's policy, "
        f"{job.scale.prior_updates:,} of a prior. Seeds: {', '.join(map(str, outcome.seeds))}.",
        "A gain is MABE's mean of the last ten evaluations less the arm's; P is of a pair of seeds "
        "of MABE and of the better arm.",
        "Rank correlation of what was foretold without training and the gain over both arms, "
        f"over {len(found)} fields: "
        + ", ".join(f"{name} {rank:.2f}" for name, rank in ranks.items())
        + ".",
        f"Machine: {'; '.join(machines) or 'unknown'}.",
        *(f"{r.label}, {r.task}: {r.failure}" for r in outcome.records if r.failure),
    ]
    report.markdown(lines, files["table"], title=outcome.title, notes=notes)
    files["records"] = outcome.write(job.results / "records.json")
    files["picture"] = _picture(found, job.results / "gain.png", f"MABE's gain, {job.robot}")
    return Made(lines, outcome, files)


def _gained(results: Path, records: tuple[Record, ...]) -> list[Gain]:
    """The gains that were written with these records."""
    if not records:
        return []
    tasks, path = {record.task for record in records}, results / "results.json"
    written = [from_json(Gain, row, str(path)) for row in runs.read_json(path)["gains"]]
    return [gain for gain in written if gain.place.name in tasks]


def _picture(found: list[Gain], path: Path, title: str) -> Path:
    """Both gains as heat maps over the shifts and tasks that there are; white where one lacks."""
    by_place = {(gain.place.shift, gain.place.task): gain for gain in found}
    shifts, tasks = (list(dict.fromkeys(names)) for names in zip(*by_place, strict=True))
    tasks.sort(key=TASKS.index)
    maps = {
        name: [[getattr(by_place.get((s, t)), field, float("nan")) for t in tasks] for s in shifts]
        for name, field in (("over the prior alone", "over_prior"), ("over MOPO", "over_mopo"))
    }
    return report.heat(maps, shifts, tasks, path, title=title)


def _recipe(place: Place) -> Recipe:
    source = domains.domain(place.source)
    return Recipe(
        name=f"{source.name}-expert",
        summary=f"D2 of the grid of physics shifts: the expert of {source.name}",
        env=source.name,
        quality="expert",
    )


def _forecast(effort: Effort, one: str, two: str, target: str, folder: Path) -> Forecast:
    """A forecast, made once and kept in a folder."""
    contents = [open_dataset(name).content for name in (one, two)]
    key = fingerprint({"data": contents, "target": target, "effort": to_json(effort)})
    path = folder / f"forecast-{key}.json"
    if path.is_file():
        return from_json(Forecast, runs.read_json(path), str(path))
    found = forecast(one, two, target, effort)
    runs.write_json(path, to_json(found))
    return found
