"""The grid of physics shifts by tasks: its fields, its gains by hand, and what is written."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mabe_transfer import domains, grid
from mabe_transfer.errors import UserError
from mabe_transfer.forecast import Effort, Forecast
from mabe_transfer.gain import MABE, MOPO, PRIOR, Gain, Place, correlations, gains
from mabe_transfer.grid import SHIFTS, TASKS, Job
from mabe_transfer.outcome import Outcome, Record
from mabe_transfer.parts.dynamics import Ensemble
from mabe_transfer.parts.prior import Fit
from mabe_transfer.scale import FULL, SMOKE
from mabe_transfer.train import Schedule
from mabe_transfer.verdict import Coverage, Drift, Pair, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from mabe_transfer.matrix import Matrix

ICE = Place(robot="hopper", shift="ice", task="backward")
SMALL = Effort(
    rows=300,
    asked=50,
    model=Ensemble(members=2, elites=2, hidden=(8,), max_epochs=1),
    clone=Fit(updates=5, batch=32, hidden=(8,)),
    horizon=3,
    rollouts=10,
)
TINY = replace(
    SMOKE,
    forward=replace(SMOKE.forward, transitions=200),
    backward=replace(SMOKE.backward, transitions=100),
    updates=4,
    looks=2,
    prior_updates=4,
    prior_looks=2,
    starts=8,
    overrides=(
        ("policy.hidden", "[8,8]"), ("prior.fit.hidden", "[8,8]"), ("dynamics.hidden", "[8]"),
        ("dynamics.members", "2"), ("dynamics.elites", "2"),
    ),
)  # fmt: skip


def told(both: float) -> Forecast:
    drift = Drift(
        horizon=1, reward=0.0, recorded=0.0, left_after=None, ended=0.0, farthest="", distance=0.0
    )
    return Forecast(
        dynamics="D1",
        prior="D2",
        target="hopper",
        coverage=Coverage(states=both, both=both, distance=2.0 - both),
        disagreement=Pair(there=2.0 - both, home=1.0),
        shared=None,
        error=Pair(there=1.0 + both, home=1.0),
        drift=drift,
        verdict=Verdict(word="", sentences=()),
    )


def outcome(**returns: tuple[float, ...]) -> Outcome:
    names = {"mabe": MABE, "prior": PRIOR, "mopo": MOPO}
    records = tuple(
        Record(
            label=names[name],
            task=ICE.name,
            row=name,
            returns=values,
            failure="" if values else "It fell.",
        )
        for name, values in returns.items()
    )
    return Outcome(title="", data="", seeds=(0, 1), schedule=Schedule(), records=records)


def test_grid_is_nine_shifts_by_two_tasks_whose_worlds_exist() -> None:
    assert SHIFTS == (
        "friction=0.1", "friction=0.5", "friction=2", "friction=5",
        "gravity=0.1", "gravity=0.5", "gravity=2", "gravity=5", "ice",
    )  # fmt: skip
    for shift in SHIFTS:
        for task in TASKS:
            place = Place(robot="halfcheetah", shift=shift, task=task)
            source, target = domains.domain(place.source), domains.domain(place.target)
            assert [applied.name for applied in source.shifts] == [shift]
            assert source.task == target.task == domains.domain(place.target).task
            assert target.task.name == task
            assert not target.shifts


def test_fields_share_mopo_s_run_and_differ_in_d2() -> None:
    other = replace(ICE, shift="gravity=2")
    one, two = (grid.fields(place, "D1", place.source, FULL) for place in (ICE, other))
    assert [cell.label for cell in one] == [MOPO, PRIOR, MABE]
    assert replace(one[0], task="") == replace(two[0], task="")
    assert [cell.prior for cell in one] == [None, ICE.source, ICE.source]
    assert {cell.target for cell in (*one, *two)} == {"hopper-backward"}


def test_gain_by_hand() -> None:
    """MABE earns 5 and 9, the prior 4 and 6, MOPO 1 and 1: +2, +6, and 3 of 4 pairs are won."""
    (found,) = gains(outcome(mabe=(5.0, 9.0), prior=(4.0, 6.0), mopo=(1.0, 1.0)), [ICE], {})
    assert (found.over_prior, found.over_mopo, found.least) == (2.0, 6.0, 2.0)
    assert found.beats_both == 0.75
    assert found.unit == "return"


def test_gain_over_what_failed_is_no_number() -> None:
    (found,) = gains(outcome(mabe=(5.0, 9.0), prior=(), mopo=(1.0, 1.0)), [ICE], {})
    assert math.isnan(found.over_prior)
    assert found.over_mopo == 6.0
    assert math.isnan(found.least)
    assert math.isnan(found.beats_both)
    (found,) = gains(outcome(mabe=(5.0, 9.0), prior=(4.0, 6.0), mopo=()), [ICE], {})
    assert found.over_prior == 2.0
    assert math.isnan(found.beats_both)


def test_correlation_is_of_what_was_foretold_and_the_lesser_gain() -> None:
    def field(both: float, over_prior: float, over_mopo: float) -> Gain:
        return Gain(
            place=ICE,
            over_prior=over_prior,
            over_mopo=over_mopo,
            beats_both=0.5,
            unit="score",
            forecast=told(both),
        )

    fields = [field(0.1, -5.0, 9.0), field(0.5, 9.0, 1.0), field(0.9, 2.0, 3.0)]
    assert correlations(fields) == {
        "covered share": pytest.approx(1.0),
        "nearness": pytest.approx(1.0),
        "agreement of the members": pytest.approx(1.0),
        "accuracy of a step": pytest.approx(-1.0),
        "accuracy of positions": pytest.approx(math.nan, nan_ok=True),  # of which nothing is known
    }
    turned = [
        replace(gain, over_prior=-20.0 * both) for gain, both in zip(fields, (1, 2, 3), strict=True)
    ]
    assert correlations(turned)["covered share"] == pytest.approx(-1.0)
    assert math.isnan(correlations(fields[:2])["nearness"])
    assert math.isnan(correlations([*fields[:2], field(0.9, math.nan, 1.0)])["covered share"])


def job(tmp_path: Path, **changes: Any) -> Job:
    usual: dict[str, Any] = {"robot": "hopper", "scale": TINY, "seeds": 1, "effort": SMALL}
    folders = {"out": tmp_path / "runs", "results": tmp_path / "results"}
    return Job(**usual | folders | {"device": torch.device("cpu")} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robot": "hoper"}, "Did you mean 'hopper'"),
        ({"shifts": ("friction=2.0",)}, "Did you mean 'friction=2'"),
        ({"tasks": ("backwards",)}, "Did you mean 'backward'"),
    ],
)
def test_what_is_not_in_the_grid_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        grid.run(job(tmp_path, **changes))


@pytest.mark.slow
def test_grid_leaves_numbers_table_and_heat_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = job(tmp_path, shifts=("ice", "gravity=2"), tasks=("backward",))
    made = grid.run(small)
    assert not made.outcome.failed, made.outcome.failed
    assert len(made.lines) == 2
    numbers = json.loads((tmp_path / "results" / "results.json").read_text())
    assert len(numbers["gains"]) == 2
    assert made.files["picture"].stat().st_size > 1000
    text = (tmp_path / "results" / "table.md").read_text()
    assert "Rank correlation" in text
    monkeypatch.setattr(grid, "forecast", lambda *_: pytest.fail("foretold twice"))
    assert grid.run(small).lines == made.lines


def test_fields_that_were_run_before_stay_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside: list[Job] = []

    def train(asked: Matrix, *_: object) -> Outcome:
        if beside:  # another process finishes while this one trains
            grid.run(beside.pop())
        records = tuple(
            Record(label=c.label, task=c.task, row="", returns=(float(len(c.label)),))
            for c in asked.cells
        )
        return replace(outcome(), seeds=asked.seeds, schedule=asked.schedule, records=records)

    monkeypatch.setattr(SMOKE.__class__, "gather", lambda *_: "D")
    monkeypatch.setattr(grid, "_forecast", lambda *_: told(0.5))
    monkeypatch.setattr("mabe_transfer.matrix.run", train)
    grid.run(job(tmp_path, shifts=("ice",)))
    made = grid.run(job(tmp_path, shifts=("gravity=2",), tasks=("backward",)))
    fields = [(line["D2's world"], line["task"]) for line in made.lines]
    assert fields == [("gravity=2", "backward"), ("ice", "forward"), ("ice", "backward")]
    assert len(made.outcome.records) == 9
    numbers = json.loads((tmp_path / "results" / "results.json").read_text())
    assert [row["forecast"]["coverage"]["both"] for row in numbers["gains"]] == [0.5] * 3
    assert grid.run(job(tmp_path, shifts=("ice",), tasks=("backward",))).lines == made.lines
    beside.append(job(tmp_path, shifts=("gravity=5",), tasks=("backward",)))
    made = grid.run(job(tmp_path, shifts=("gravity=2",), tasks=("forward",)))
    assert len(made.lines) == 5
    assert len(made.outcome.records) == 15
