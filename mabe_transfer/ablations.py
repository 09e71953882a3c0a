"""The paper's Table 1 and Figures 3 and 4 on this project's own data, beside what the paper says.

All of them are the D4RL benchmark with other rows. Figure 3 removes one of MABE's three parts at a
time, Figure 4 compares the adaptive prior with the flat one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mabe_transfer import benchmark, budgets, report, runs, statistics
from mabe_transfer.algorithms import ROWS
from mabe_transfer.benchmark import METHODS, Made
from mabe_transfer.config import to_json
from mabe_transfer.d4rl_tasks import TABLE_1, TASKS
from mabe_transfer.domains import domain
from mabe_transfer.evaluate import LAST
from mabe_transfer.scale import Scale
from mabe_transfer.scoreboard import Scores
from mabe_transfer.train import result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mabe_transfer.outcome import Outcome
    from mabe_transfer.report import Bars, History

WHOLE = "mabe-uncertainty"
CLAIMS = {"mabe-no-prior": -41.0, "mabe-no-rl": -48.0, "mabe": -9.0}
"""What removing a part costs, in percent, by the row that lacks it (the paper's section 4)."""
LACKS = {"mabe-no-prior": "prior", "mabe-no-rl": "RL", "mabe": "uncertainty"}
FIGURE_3 = (WHOLE, *CLAIMS)
FIGURE_4 = ("mabe", "mabe-flat-prior")
EVERY_ROW = tuple(row.name for row in ROWS)
EVERY_ROW_ON = tuple(task for task in TABLE_1 if TASKS[task] != "walker2d")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to run, and where.

    Attributes:
        scale: One of `budgets.SCALES`.
        seeds: Policies of each cell.
        datasets: Tasks or names of datasets; the nine of Table 1 if there is none.
        out: Folder of the runs.
        results: Folder of the tables.
        device: Where.
    """

    scale: Scale
    seeds: int
    datasets: tuple[str, ...] = ()
    out: Path
    results: Path
    device: torch.device


def table1(job: Job) -> Made:
    """The methods of the paper's Table 1; see `benchmark.run`."""
    return _run(job, METHODS, "")


def rows(job: Job) -> Made:
    """Every algorithm of the table, on half cheetah and hopper unless told otherwise."""
    return _run(replace(job, datasets=job.datasets or EVERY_ROW_ON), EVERY_ROW, "")


def figure3(job: Job) -> Made:
    """MABE whole, and without its prior, RL and uncertainty.

    Adds `figure3.json`, `figure3.md` and `figure3.png` to what the benchmark writes.
    """
    made = _run(job, FIGURE_3, WHOLE)
    title = "What each part of MABE is worth (the paper's Figure 3)"
    tasks = _complete(made.outcome, FIGURE_3)
    notes = [
        f"A change is that of the average score over the {len(tasks)} datasets on which every row "
        f"has a result, in percent of the average of {WHOLE}, which has all three parts.",
        "The paper's claims do not all agree: without the prior MABE is MOPO, and in its Table 1 "
        "MOPO is 46 % below MABE.",
        *made.board.notes,
    ]
    files = _write(job, "figure3", title, drops(made.outcome), notes)
    groups = {task: _bars(made.outcome, task) for task in tasks}
    files["picture of figure3"] = report.bars(
        groups, job.results / "figure3.png", title=title, unit="score", marked="whole"
    )
    return replace(made, files=made.files | files)


def figure4(job: Job) -> Made:
    """MABE with its adaptive prior and with the flat one.

    Adds `figure4.json`, `figure4.md` and `figure4.png`, the learning curves, to what the benchmark
    writes.
    """
    made = _run(job, FIGURE_4, FIGURE_4[1])
    title = "Adaptive against flat prior (the paper's Figure 4)"
    found = curves(made.outcome, job.out)
    notes = [
        "The paper finds that the adaptive prior helps stability and asymptotic performance.",
        "Sway is the standard deviation of the last ten evaluations about their mean, each the "
        "mean over seeds, in returns. P is of a pair of seeds.",
        *made.board.notes,
    ]
    files = _write(job, "figure4", title, comparison(made.outcome, found), notes)
    files["picture of figure4"] = report.panels(
        found, job.results / "figure4.png", title=title, unit="return, mean over seeds"
    )
    return replace(made, files=made.files | files)


def drops(outcome: Outcome) -> list[dict[str, str]]:
    """What removing each part costs, beside the paper's claim, a line a part.

    The change of the mean score over the datasets that every row has, in percent of the whole
    row's; and on how many of them the row without the part is lower.
    """
    scores, tasks = Scores(outcome), _complete(outcome, FIGURE_3)
    lines = []
    for label, claim in CLAIMS.items():
        whole, without = (
            np.array([scores.of(scores.records[row, task]).mean() for task in tasks])
            for row in (WHOLE, label)
        )
        change = "-"
        if tasks and whole.mean() > 0.0:  # of nothing there is no percent
            change = f"{100.0 * (without.mean() / whole.mean() - 1.0):+.0f} %"
        lines.append(
            {
                "without": LACKS[label],
                "row": label,
                "average": f"{without.mean():.1f}" if tasks else "-",
                "average of the whole": f"{whole.mean():.1f}" if tasks else "-",
                "change": change,
                "the paper's": f"{claim:+.0f} %",
                "lower on": f"{int((without < whole).sum())} of {len(tasks)}",
            }
        )
    return lines


def curves(outcome: Outcome, out: Path) -> dict[str, dict[str, History]]:
    """Task -> row -> its learning curve, of the runs that have a result."""
    found: dict[str, dict[str, History]] = {}
    for record in outcome.records:
        if not record.failure:
            where = domain(record.target)
            run = result(out / record.folder, record.row, where, outcome.seeds)
            found.setdefault(record.task, {})[record.label] = run.history
    return found


def comparison(
    outcome: Outcome, histories: Mapping[str, Mapping[str, History]]
) -> list[dict[str, str]]:
    """How adaptive and flat prior end, how they sway, and how likely the adaptive one wins."""
    scores, lines = Scores(outcome), []
    adaptive, flat = FIGURE_4
    for task in _complete(outcome, FIGURE_4):
        pair = [scores.of(scores.records[label, task]) for label in FIGURE_4]
        wins = statistics.superiority(pair[0], pair[1])
        line = {"task": task}
        for label, numbers in zip(("adaptive", "flat"), pair, strict=True):
            line[label] = f"{numbers.mean():,.1f} +- {numbers.std():,.1f}"
        line["sway, adaptive"] = sway(histories[task][adaptive])
        line["sway, flat"] = sway(histories[task][flat])
        lines.append(line | {"P(adaptive earns more)": f"{float(wins):.2f}"})
    return lines


def sway(history: History) -> str:
    """Standard deviation of the last evaluations about their mean."""
    return f"{np.std([value for _, value in history[-LAST:]]):,.0f}"


def _run(job: Job, rows: tuple[str, ...], reference: str) -> Made:
    """The benchmark, as a scale has it."""
    plan = budgets.plan(job.scale, rows, job.datasets, job.scale.seeds(job.seeds))
    return benchmark.run(plan, job.out, job.results, job.device, reference=reference)


def _complete(outcome: Outcome, rows: tuple[str, ...]) -> list[str]:
    """Tasks on which all of the rows have a result."""
    known = {(record.label, record.task) for record in outcome.records if not record.failure}
    tasks = dict.fromkeys(record.task for record in outcome.records)
    return [task for task in tasks if all((row, task) in known for row in rows)]


def _bars(outcome: Outcome, task: str) -> Bars:
    """The rows of Figure 3 on a task."""
    scores, found = Scores(outcome), {}
    for label in FIGURE_3:
        mean = statistics.mean_interval(scores.of(scores.records[label, task]))
        name = f"no {LACKS[label]}" if label in LACKS else "whole"
        found[name] = (mean.value, mean.low, mean.high)
    return found


def _write(
    job: Job, name: str, title: str, lines: list[dict[str, str]], notes: list[str]
) -> dict[str, Path]:
    numbers = job.results / f"{name}.json"
    record = {"title": title, "rows": lines, "scale": to_json(job.scale)}
    runs.write_json(numbers, record | {"provenance": runs.provenance()})
    table = report.markdown(lines, job.results / f"{name}.md", title=title, notes=notes)
    return {f"numbers of {name}": numbers, f"table of {name}": table}
