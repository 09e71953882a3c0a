"""Measuring in turns: what every speed script shares, from its options to the JSON that it writes.

Contestants take turns within one run, the first turn warms up, and medians of the others count. A
ratio says how many times faster this project is, whether rates or seconds were measured. The goals
stand here once, and `report.py` prints them with what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mabe_transfer import runs

ORK, UNIFLORAL = "OfflineRL-Kit", "unifloral"
MINIMUM = 5  # rounds of a median
FOLDER = Path(__file__).resolve().parents[1] / "results" / "bench"

Json = dict[str, Any]
Play = Callable[[], float]  # does the work once and gives its rate or its seconds


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure of the table: what is compared with whom, and the least ratio that is wanted."""

    key: str
    against: str
    what: str
    at_least: float | None


UPDATE = "one policy update of `mopo`, 1 seed"
SEEDS = "5 seeds in one process, seed-updates/s"
ROLLOUT = "model rollouts of `mabe`, kept transitions/s"
EPOCH = "one epoch of `mabe`: 1,000 updates, 50,000 x 5 rollout"
FIT = "dynamics model to the same held-out error, wall clock"
SCORE = "wall clock to the score OfflineRL-Kit's MOPO ends with"
ENVS = "batched environments, steps/s"
LOADING = "loading 1 M transitions"
GPU = "one GPU: 5 seeds' `mabe` updates/s"

GOALS = (
    Goal("update", ORK, UPDATE, 2.0),
    Goal("update", UNIFLORAL, UPDATE, 1.0),
    Goal("seeds", f"5 {ORK} processes", SEEDS, 2.5),
    Goal("seeds", f"{UNIFLORAL}, seed by seed", SEEDS, 1.2),
    Goal("update-half", ORK, f"{UPDATE}, hidden layers in bfloat16", 2.0),
    Goal("update-half", UNIFLORAL, f"{UPDATE}, hidden layers in bfloat16", 1.0),
    Goal("seeds-half", f"5 {ORK} processes", f"{SEEDS}, bfloat16", 2.5),
    Goal("seeds-half", f"{UNIFLORAL}, seed by seed", f"{SEEDS}, bfloat16", 1.2),
    Goal("mabe-update", "our own `mopo`", "`mabe` update", 0.85),
    Goal("rollout", ORK, ROLLOUT, 10.0),
    Goal("rollout", UNIFLORAL, ROLLOUT, 2.5),
    Goal("epoch", ORK, EPOCH, 4.0),
    Goal("epoch", UNIFLORAL, EPOCH, 1.4),
    Goal("dynamics", ORK, FIT, 5.0),
    Goal("dynamics", UNIFLORAL, FIT, 2.5),
    Goal("score", ORK, SCORE, 5.0),
    Goal("environments", "`mujoco.rollout`, open loop", ENVS, 0.85),
    Goal("environments", "EnvPool", ENVS, 1.0),
    Goal("loading", "gzip HDF5", LOADING, 3.0),
    Goal("loading", "Minari", LOADING, 6.0),
    Goal("gpu-updates", f"{ORK}, one seed", GPU, 20.0),
    Goal("gpu-updates", f"{UNIFLORAL}, five vmapped", GPU, 1.2),
    Goal("gpu-updates-tf32", f"{UNIFLORAL}, five vmapped", f"{GPU}, both in TF32", 1.2),
    Goal("gpu-hour", "15 minutes", "one GPU: 5 seeds x 1 M updates, everything", 1.0),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Both sides' measurements of one figure, or why there are none.

    Attributes:
        key: Which goal it is measured for; any other name is reported below the table.
        against: Who the other side is, as in the goal.
        unit: What the numbers are; seconds where `less_is_better`.
        ours: One number a round.
        theirs: Likewise.
        less_is_better: Times rather than rates.
        skipped: Why nothing was measured.
        note: What a reader must know about the measurement.
        case: Which data set or robot, where there are several.
    """

    key: str
    against: str
    unit: str = ""
    ours: tuple[float, ...] = ()
    theirs: tuple[float, ...] = ()
    less_is_better: bool = False
    skipped: str = ""
    note: str = ""
    case: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times faster this project is; none where a side is missing."""
        if not self.ours or not self.theirs:
            return None
        mine, other = statistics.median(self.ours), statistics.median(self.theirs)
        return other / mine if self.less_is_better else mine / other

    def to_json(self) -> Json:
        """The row of a result file."""
        goal = goal_of(self.key, self.against)
        return {
            "key": self.key,
            "against": self.against,
            "case": self.case,
            "unit": self.unit,
            "ours": spread(self.ours),
            "theirs": spread(self.theirs),
            "ratio": self.ratio,
            "target": goal.at_least if goal else None,
            "skipped": self.skipped,
            "note": self.note,
        }


def goal_of(key: str, against: str) -> Goal | None:
    """The goal that a figure is measured for, if it is one."""
    found = [goal for goal in GOALS if (goal.key, goal.against) == (key, against)]
    return found[0] if found else None


def spread(values: tuple[float, ...]) -> Json | None:
    """Median, lowest, highest and number of the measurements."""
    if not values:
        return None
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
        "rounds": len(values),
    }


def alternate(contestants: Mapping[str, Play], rounds: int) -> dict[str, tuple[float, ...]]:
    """Let all play once a round, in turn; the first round warms up and does not count."""
    found: dict[str, list[float]] = {who: [] for who in contestants}
    for turn in range(rounds + 1):
        for who, play in contestants.items():
            value = play()
            if turn:
                found[who].append(value)
    return {who: tuple(values) for who, values in found.items()}


def options(doc: str | None) -> argparse.ArgumentParser:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=MINIMUM, help="measurements of a median")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="less work a round")
    parser.add_argument("--smoke", action="store_true", help="the least work that runs at all")
    parser.add_argument("--json", type=Path, help="where the result goes")
    for peer in ("offlinerlkit", "unifloral"):
        name = f"PEER_{peer.upper()}"
        given = os.environ.get(name)
        parser.add_argument(
            f"--peer-{peer}",
            type=Path,
            default=Path(given) if given else None,
            help=f"a checkout of the peer; without one its rows are skipped (${name})",
        )
    parser.add_argument(
        "--python-unifloral",
        default=os.environ.get("PYTHON_UNIFLORAL", ""),
        help="a Python with jax, flax, optax and distrax ($PYTHON_UNIFLORAL)",
    )
    return parser


def parse(parser: argparse.ArgumentParser, words: list[str] | None = None) -> argparse.Namespace:
    """Read the options; a median takes at least five rounds, except in a smoke test."""
    given = parser.parse_args(words)
    if given.smoke:
        given.rounds, given.quick = 1, True
    elif given.rounds < MINIMUM:
        parser.error(f"a median takes at least {MINIMUM} rounds")
    return given


def finish(
    script: str,
    given: argparse.Namespace,
    rows: list[Comparison],
    settings: Json,
    **more: Any,
) -> None:
    """Print what was measured, and write it where `--json` says."""
    for row in rows:
        print(line(row.to_json()), flush=True)
    if given.json is None:
        return
    facts = {
        "script": script,
        **machine(),
        "threads": given.threads,
        "rounds": given.rounds,
        "size": "smoke" if given.smoke else "quick" if given.quick else "full",
        "settings": settings,
        "rows": [row.to_json() for row in rows],
        **more,
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(given.json, facts)


def machine() -> Json:
    """What a measurement depends on beside its settings."""
    return {"provenance": {**runs.provenance(), "cpu": cpu()}, "load": list(os.getloadavg())}


def cpu() -> str:
    """The processor's name, as far as the system tells it."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for row in facts.read_text().splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def line(row: Json) -> str:
    """One row as a line for the terminal."""
    goal = goal_of(row["key"], row["against"])
    what = goal.what if goal else row["key"]
    title = f"{what} against {row['against']}" + (f" ({row['case']})" if row["case"] else "")
    if row["ratio"] is None:
        alone = row["ours"]
        shown = f"{alone['median']:,.4g} {row['unit']}; " if alone else ""
        return f"{title}: {shown}skipped, {row['skipped'] or 'nothing to compare with'}"
    ours, theirs = row["ours"]["median"], row["theirs"]["median"]
    wanted = "" if row["target"] is None else f", wanted {row['target']:g}x"
    return f"{title}: {row['ratio']:.2f}x ({ours:,.4g} : {theirs:,.4g} {row['unit']}){wanted}"


def load(path: Path) -> Json:
    """Read a result file."""
    found: Json = json.loads(path.read_text("utf-8"))
    return found
