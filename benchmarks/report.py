"""The one table: every figure of the project's speed, its ratio and the ratio that is wanted.

Reads what the scripts beside this one wrote, and with `--run` lets each of them measure first, one
after another: in a quick form into `scratch/bench`, with `--full` into `results/bench`. What a run
does not measure is taken from `results/bench`, and what takes hours (`to_score.py` with data) is
measured by calling its script. A row that was not measured says why.

    python benchmarks/report.py [--run [--full]] [--folder FOLDER] [--markdown]
        [--peer-offlinerlkit FOLDER] [--peer-unifloral FOLDER --python-unifloral PYTHON]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import rounds
from rounds import GOALS, Goal, Json

if TYPE_CHECKING:
    import argparse

HERE = Path(__file__).parent
SCRATCH = HERE.parent / "scratch" / "bench"
SHARED = ("updates", "rollouts", "dynamics", "growth")  # which take the shared options
OWN = {"environments": ["--quick"], "data_loading": []}  # and what makes the others quick

UNMEASURED = {
    "score": "takes hours: to_score.py --data ... --json results/bench/to_score.json",
    "gpu-updates": "updates.py --device cuda --json results/bench/gpu.json, where there is a GPU",
    "gpu-updates-tf32": "as the row above",
    "gpu-hour": "whole_run.py --data ... --json results/bench/whole_run.json, where there is a GPU",
}


def collect(*folders: Path) -> list[Json]:
    """Every result file of some folders; of files with one name, that of the last folder."""
    paths = {path.name: path for folder in folders for path in sorted(folder.glob("*.json"))}
    return [rounds.load(path) for path in paths.values()]


def table(results: list[Json]) -> list[tuple[str, str, str, str, str, str]]:
    """Rows of the table: what, against whom, ours and theirs, ratio, wanted, verdict.

    A goal that was measured in several cases (robots, data sets) counts with its worst one.
    """
    measured = [
        {**row, "size": result.get("size", "full")} for result in results for row in result["rows"]
    ]
    rows = []
    for goal in GOALS:
        found = [r for r in measured if (r["key"], r["against"]) == (goal.key, goal.against)]
        rows.append(line(goal, found))
    return rows


def line(goal: Goal, found: list[Json]) -> tuple[str, str, str, str, str, str]:
    """One goal's row."""
    wanted = "" if goal.at_least is None else f"{goal.at_least:g}x"
    done = [row for row in found if row["ratio"] is not None]
    if not done:
        why = next((row["skipped"] for row in found if row["skipped"]), "")
        reason = why or UNMEASURED.get(goal.key, "not measured")
        return (goal.what, goal.against, "", "", wanted, f"skipped: {reason}")
    worst = min(done, key=lambda row: float(row["ratio"]))
    sides = f"{number(worst['ours']['median'])} : {number(worst['theirs']['median'])}"
    verdict = "met" if goal.at_least is None or worst["ratio"] >= goal.at_least else "missed"
    if worst["size"] == "smoke":
        verdict = "no measurement, smoke size"
    if len(done) < len(found):
        verdict += f", {len(found) - len(done)} of {len(found)} skipped"
    case = f" ({worst['case']}, the worst)" if len(done) > 1 else ""
    what = goal.what + case
    return (
        what,
        goal.against,
        f"{sides} {worst['unit']}",
        f"{worst['ratio']:.2f}x",
        wanted,
        verdict,
    )


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def others(results: list[Json]) -> list[str]:
    """What was measured beside the goals, a line each."""
    rows = [row for result in results for row in result["rows"]]
    return [rounds.line(row) for row in rows if rounds.goal_of(row["key"], row["against"]) is None]


def circumstances(results: list[Json]) -> list[str]:
    """On what, with how many threads and how busy a machine each script measured."""
    lines = []
    for result in results:
        facts = result["provenance"]
        versions = facts["versions"]
        lines.append(
            f"{result['script']}: {facts['cpu']}, {facts['cores']} cores, "
            f"{facts.get('gpu') or 'no GPU'}, "
            f"{result.get('threads', '?')} threads, load {result['load'][0]:.1f}, "
            f"{result['rounds']} rounds, torch {versions.get('torch', '?')}, "
            f"{result.get('size', 'full')} size, commit {facts['commit']}"
        )
    return lines


def show(results: list[Json], *, markdown: bool) -> str:
    """The table as text, and what belongs to it."""
    head = ("what", "against", "ours : theirs", "ratio", "wanted", "")
    rows = [head, *table(results)]
    if markdown:
        rule = ("---",) * len(head)
        text = [f"| {' | '.join(row)} |" for row in (head, rule, *rows[1:])]
    else:
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
    for title, lines in (
        ("Also measured:", others(results)),
        ("Growth:", [result["verdict"] for result in results if "verdict" in result]),
        ("Measured on:", circumstances(results)),
    ):
        if lines:
            text += ["", title, *(f"- {one}" for one in lines)]
    return "\n".join(text)


def run(given: argparse.Namespace) -> None:
    """Let every script measure; one that fails leaves its rows out, and says so."""
    size = ["--smoke"] if given.smoke else [] if given.full else ["--quick"]
    shared = [
        *size,
        "--rounds",
        str(max(given.rounds, rounds.MINIMUM)),
        "--threads",
        str(given.threads),
    ]
    curves = rounds.FOLDER.parent / "growth" if given.full else given.folder / "growth"
    for name in ("peer_offlinerlkit", "peer_unifloral", "python_unifloral"):
        if value := getattr(given, name):
            shared += [f"--{name.replace('_', '-')}", str(value)]
    for script in (*SHARED, *OWN):
        words = shared if script in SHARED else ([] if given.full else OWN[script])
        own = [] if script != "growth" else ["--out", str(curves)]
        if script == "data_loading" and given.smoke:
            own = ["--rows", "2000"]
        print(f"\n== {script}", flush=True)
        target = ["--json", str(given.folder / f"{script}.json")]
        done = subprocess.run([sys.executable, str(HERE / f"{script}.py"), *words, *own, *target])
        if done.returncode:
            print(f"{script} ended with {done.returncode}.", file=sys.stderr, flush=True)


def main() -> None:
    """Measure if asked to, and print the table."""
    parser = rounds.options(__doc__)
    parser.add_argument("--run", action="store_true", help="measure first")
    parser.add_argument("--full", action="store_true", help="at full size")
    parser.add_argument("--folder", type=Path, help="of the results")
    parser.add_argument("--markdown", action="store_true")
    given = rounds.parse(parser)
    if given.folder is None:
        given.folder = SCRATCH if given.run and not given.full else rounds.FOLDER
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.run:
        run(given)
    print("\n" + show(collect(rounds.FOLDER, given.folder), markdown=given.markdown))


if __name__ == "__main__":
    main()
