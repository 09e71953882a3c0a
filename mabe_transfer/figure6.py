"""The paper's Figure 6: a behaviour carried from ice to normal ground, beside what must be beaten.

D1 is forward running on normal ground (a training's replay), D2 an expert's backward running on
ice, the target backward running on normal ground. The paper's four arms stand beside what it lacks:
MABE with its divergence counted in actions; and as controls the prior alone, both data pooled,
pooled with corrected rewards (DARA), and the target's own expert as 100.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mabe_transfer import catalogue, domains, locks, matrix, pooling, report, runs
from mabe_transfer.algorithms import ALGORITHMS
from mabe_transfer.arms import prior_alone, scaled
from mabe_transfer.config import fingerprint, to_json
from mabe_transfer.errors import unknown
from mabe_transfer.evaluate import LAST
from mabe_transfer.marks import Marks, measure
from mabe_transfer.matrix import Cell, Matrix
from mabe_transfer.outcome import Outcome, Record, others, spare
from mabe_transfer.pooling import Pool
from mabe_transfer.standing import ALL, Standing, standings

if TYPE_CHECKING:
    import torch

    from mabe_transfer.scale import Scale

ROBOTS = ("hopper", "walker2d", "halfcheetah")
TITLE = "Backward running carried from ice to normal ground (the paper's Figure 6)"


@dataclass(frozen=True, slots=True)
class Data:
    """The names of one robot's data: D1, D2, both, and both with D2's rewards corrected."""

    forward: str
    backward: str
    pooled: str
    corrected: str


@dataclass(frozen=True, slots=True)
class Arm:
    """A row of the algorithm table with its data.

    Attributes:
        label: In tables.
        short: In the picture.
        row: Name of the algorithm.
        sources: Names of D1 and D2, from a robot's data.
    """

    label: str
    short: str
    row: str
    sources: Callable[[Data], tuple[str, str | None]]


MABE = "(iv) MABE: D1's dynamics, D2's prior"
ALONE = "mabe-no-rl"
ARMS = (
    Arm("(i) task transfer: MOPO on D1, relabelled", "(i)", "mopo", lambda d: (d.forward, None)),
    Arm("(ii) domain transfer: MOPO on D2", "(ii)", "mopo", lambda d: (d.backward, None)),
    Arm(
        "(iii) MOPO on D1, started as D2's prior",
        "(iii)",
        "mopo-from-prior",
        lambda d: (d.forward, d.backward),
    ),
    Arm(MABE, "(iv)", "mabe", lambda d: (d.forward, d.backward)),
    Arm(
        "(iv) with the divergence counted in actions",
        "(iv) in\nactions",
        "mabe-scaled",
        lambda d: (d.forward, d.backward),
    ),
    Arm("prior alone, zero-shot", "prior", ALONE, lambda d: (d.forward, d.backward)),
    Arm("D1 and D2 pooled, MOPO", "pooled\nMOPO", "mopo", lambda d: (d.pooled, None)),
    Arm("D1 and D2 pooled, MABE", "pooled\nMABE", "mabe", lambda d: (d.pooled, None)),
    Arm("pooled, rewards corrected (DARA), MOPO", "DARA", "mopo", lambda d: (d.corrected, None)),
)
LABELS = tuple(arm.label for arm in ARMS)
IN_PICTURE = {arm.label: arm.short for arm in ARMS}


@dataclass(frozen=True, slots=True)
class Made:
    """What the experiment left behind."""

    lines: list[dict[str, str]]
    outcome: Outcome
    files: dict[str, Path]


def run(
    robots: tuple[str, ...],
    scale: Scale,
    *,
    seeds: int,
    out: Path,
    results: Path,
    device: torch.device,
) -> Made:
    """Collect, train every arm of every robot, and write numbers, table and picture.

    Every step that was done before is found and not repeated; robots whose results are there, of
    the same scale and seeds, stay in the table.

    Args:
        robots: Whose behaviour is carried.
        scale: How much is done.
        seeds: Policies of each arm.
        out: Folder of the runs.
        results: Folder of `results.json`, `table.md` and `picture.png`.
        device: Where.

    Raises:
        UserError: A robot is none of the paper's, or results would be lost.
        Interrupted: The user asked to stop; the same command goes on.
    """
    for robot in robots:
        if robot not in ROBOTS:
            raise unknown("robot", robot, ROBOTS, owner="Figure 6")

    def kept() -> tuple[Record, ...]:
        return others(results, robots, scale.seeds(seeds), to_json(scale))

    tasks = {*robots, *(record.task for record in kept())}
    spare(results, dict.fromkeys(itertools.product(LABELS, tasks)), scale.seeds(seeds), scale.plan)
    cells = tuple(cell for robot in robots for cell in arms(robot, data(robot, scale), scale))
    outcome = matrix.run(
        Matrix(
            title=TITLE,
            data="D1: medium-replay, forward, normal ground; D2: expert, backward, ice",
            cells=cells,
            seeds=scale.seeds(seeds),
            schedule=scale.plan,
        ),
        out,
        device,
    )
    with locks.held(results, patient=True):  # other robots' results may have come meanwhile
        found = (*outcome.records, *kept())
        records = sorted(found, key=lambda record: ROBOTS.index(record.task))
        shown = list(dict.fromkeys(record.task for record in records))
        marks = {robot: _marks(robot, scale, out) for robot in shown}
        return write(replace(outcome, records=tuple(records)), marks, scale, results)


def data(robot: str, scale: Scale) -> Data:
    """Collect or find a robot's data, and pool them.

    Raises:
        Interrupted: The user asked to stop; the same command goes on.
    """
    one = scale.gather(catalogue.recipe(f"{robot}-figure6-forward"), scale.forward)
    two = scale.gather(catalogue.recipe(f"{robot}-figure6-backward-on-ice"), scale.backward)
    target = domains.domain(f"{robot}-backward")
    plain = Pool(
        dynamics=one, prior=two, target=target, out=f"{robot}-figure6-pooled{scale.suffix}"
    )
    paid = Pool(
        dynamics=one,
        prior=two,
        target=target,
        out=f"{robot}-figure6-corrected-{fingerprint(scale.correction)[:8]}{scale.suffix}",
        correction=scale.correction,
    )
    return Data(one, two, pooling.pool(plain), pooling.pool(paid))


def arms(robot: str, names: Data, scale: Scale) -> tuple[Cell, ...]:
    """The arms of one robot, in the order of `ARMS`."""
    return tuple(_cell(arm, robot, names, scale) for arm in ARMS)


def _cell(arm: Arm, robot: str, names: Data, scale: Scale) -> Cell:
    row = ALGORITHMS[arm.row]
    if arm.row == ALONE:  # fitted as MABE fits it
        row = prior_alone(scaled("mabe", scale))
    dynamics, prior = arm.sources(names)
    return Cell(
        label=arm.label,
        task=robot,
        row=row,
        dynamics=dynamics,
        prior=prior,
        target=f"{robot}-backward",
        overrides=scale.settings(row),
        schedule=scale.schedule(row),
    )


def write(outcome: Outcome, marks: dict[str, Marks | None], scale: Scale, results: Path) -> Made:
    """Write numbers, table and picture of an outcome, complete or not."""
    found = standings(outcome.records, MABE, marks)
    lines = [standing.line("MABE") for standing in found]
    numbers = {
        "title": outcome.title,
        "scale": to_json(scale),
        "seeds": list(outcome.seeds),
        "marks": to_json(marks),
        "standings": to_json(found),
        "provenance": runs.provenance(),
    }
    files = {"numbers": results / "results.json", "table": results / "table.md"}
    runs.write_json(files["numbers"], numbers)
    report.markdown(lines, files["table"], title=TITLE, notes=_notes(outcome, marks, scale))
    files["records"] = outcome.write(results / "records.json")
    groups, unit = _bars(found)
    files["picture"] = report.bars(
        groups, results / "picture.png", title=TITLE, unit=unit, marked=IN_PICTURE[MABE]
    )
    return Made(lines, outcome, files)


def _marks(robot: str, scale: Scale, out: Path) -> Marks | None:
    target, source = _worlds(robot)
    return measure(target, source, episodes=scale.reference_episodes, folder=out)


def _worlds(robot: str) -> tuple[domains.Domain, domains.Domain]:
    return domains.domain(f"{robot}-backward"), domains.domain(f"{robot}-ice-backward")


def _bars(found: list[Standing]) -> tuple[dict[str, report.Bars], str]:
    """Robot -> short name of the arm -> mean and its interval, and what that is of."""
    shown = [standing for standing in found if standing.task != ALL and standing.earned]
    scored = all(standing.score is not None for standing in shown)
    groups: dict[str, report.Bars] = {}
    for standing in shown:
        number = standing.score if scored else standing.earned
        assert number is not None
        name = IN_PICTURE[standing.label]
        groups.setdefault(standing.task, {})[name] = (number.value, number.low, number.high)
    return groups, "score (100: SAC online)" if scored else "return"


def _notes(outcome: Outcome, marks: dict[str, Marks | None], scale: Scale) -> list[str]:
    machines = sorted({record.machine for record in outcome.records if record.machine})
    lines = [
        f"Scale: {scale.name}. Each seed takes {scale.updates:,} updates of {scale.batch}, the "
        f"prior and the prior alone {scale.prior_updates:,}, the dynamics at most {scale.epochs} "
        f"epochs. Seeds: {', '.join(str(seed) for seed in outcome.seeds)}.",
        f"A number is the mean over seeds of each seed's last {min(LAST, scale.looks)} evaluations "
        f"of {scale.episodes} episodes, or of as many episodes of the fitted prior alone; in "
        "brackets stand bootstrap 95 % intervals, seeds drawn again. For "
        f"{ALL} robots together the score is the interquartile mean.",
        "Nothing here was seen by the dynamics or the prior: evaluations alone touch the target.",
        f"Machine: {'; '.join(machines) or 'unknown'}.",
    ]
    for robot, found in marks.items():
        if found is not None:
            lines.append(found.sentence(*_worlds(robot)))
    return lines + [f"{r.label}, {r.task}: {r.failure}" for r in outcome.records if r.failure]
