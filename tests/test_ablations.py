"""Figures 3 and 4: what a drop is, beside the paper's, and what the jobs ask the benchmark for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import matplotlib.image as mpimg
import pytest
import torch

from mabe_transfer import ablations, benchmark, report
from mabe_transfer.ablations import CLAIMS, FIGURE_3, FIGURE_4, Job
from mabe_transfer.algorithms import ALGORITHMS, ROWS
from mabe_transfer.benchmark import METHODS, Plan
from mabe_transfer.budgets import SCALES, Sample
from mabe_transfer.config import with_overrides
from mabe_transfer.d4rl_tasks import Ours
from mabe_transfer.outcome import Outcome, Record
from mabe_transfer.parts.trajectories import WholeRollouts
from mabe_transfer.train import Schedule

if TYPE_CHECKING:
    from pathlib import Path

    from mabe_transfer.composition import Algorithm

NARROW = (
    ("policy.hidden", "[8,8]"), ("prior.fit.hidden", "[8,8]"), ("dynamics.hidden", "[8]"),
    ("dynamics.members", "2"), ("dynamics.elites", "2"),
)  # fmt: skip
TINY = replace(
    SCALES["smoke"],
    forward=replace(SCALES["smoke"].forward, transitions=100),
    updates=4,
    looks=2,
    prior_updates=4,
    starts=8,
    overrides=NARROW,
)


def outcome(**scores: tuple[float, ...]) -> Outcome:
    """Rows with one seed on tasks a, b, ...; NaN is a failure."""
    records = tuple(
        Record(
            label=row.replace("_", "-"),
            task=task,
            row=row,
            returns=() if value != value else (value,),
            scores=() if value != value else (value,),
            failure="It fell." if value != value else "",
        )
        for row, values in scores.items()
        for task, value in zip("abc", values, strict=False)
    )
    return Outcome(title="", data="", seeds=(0,), schedule=Schedule(), records=records)


def job(tmp_path: Path, **changes: Any) -> Job:
    usual: dict[str, Any] = {"scale": TINY, "seeds": 1, "datasets": ("hopper-medium",)}
    folders = {"out": tmp_path / "runs", "results": tmp_path / "results"}
    return Job(**usual | folders | {"device": torch.device("cpu")} | changes)


def test_drop_is_the_change_of_the_average_score_in_percent() -> None:
    """80 and 40 with all parts, 30 and 42 without the prior: 36 of 60 is 40 % less."""
    found = ablations.drops(
        outcome(
            mabe_uncertainty=(80.0, 40.0),
            mabe_no_prior=(30.0, 42.0),
            mabe_no_rl=(60.0, 60.0),
            mabe=(0.0, 30.0),
        )
    )
    assert [(line["without"], line["change"], line["the paper's"]) for line in found] == [
        ("prior", "-40 %", "-41 %"),
        ("RL", "+0 %", "-48 %"),
        ("uncertainty", "-75 %", "-9 %"),
    ]
    assert [line["lower on"] for line in found] == ["1 of 2", "1 of 2", "2 of 2"]


def test_drop_leaves_out_what_a_row_lacks_and_is_undefined_below_nothing() -> None:
    nan = float("nan")
    found = ablations.drops(
        outcome(
            mabe_uncertainty=(-5.0, 50.0),
            mabe_no_prior=(1.0, nan),
            mabe_no_rl=(1.0, 1.0),
            mabe=(1.0, 1.0),
        )
    )
    assert [line["change"] for line in found] == ["-", "-", "-"]
    assert {line["lower on"] for line in found} == {"0 of 1"}


def test_adaptive_and_flat_prior_are_compared_by_hand() -> None:
    found = ablations.comparison(
        outcome(mabe=(50.0,), mabe_flat_prior=(20.0,)),
        {"a": {"mabe": [(1, 90.0), *[(2, 5.0)] * 10], "mabe-flat-prior": [(1, 1.0), (2, 3.0)]}},
    )
    assert found == [
        {
            "task": "a",
            "adaptive": "50.0 +- 0.0",
            "flat": "20.0 +- 0.0",
            "sway, adaptive": "0",
            "sway, flat": "1",
            "P(adaptive earns more)": "1.00",
        }
    ]


@pytest.mark.parametrize(
    ("figure", "rows"),
    [("table1", METHODS), ("figure3", FIGURE_3), ("figure4", FIGURE_4)],
)
def test_full_jobs_are_the_benchmark_on_our_nine_datasets(
    figure: str, rows: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Plan] = []

    def keep(plan: Plan, *_: object, **__: object) -> Any:
        asked.append(plan)
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "run", keep)
    full = job(tmp_path, scale=SCALES["full"], datasets=())
    with pytest.raises(KeyboardInterrupt):
        getattr(ablations, figure)(full)
    assert asked[0].algos == rows
    assert asked[0].source == Ours()
    assert asked[0].schedule.updates == 100_000
    named = benchmark.named(asked[0])
    assert len(named) == 9
    found = benchmark.cells(asked[0], named)
    assert len(found) == 9 * len(rows)
    assert all(cell.algorithm == ALGORITHMS[cell.label] for cell in found)


def test_paper_s_claims_stand_beside_rows_that_lack_one_part() -> None:
    assert CLAIMS == {"mabe-no-prior": -41.0, "mabe-no-rl": -48.0, "mabe": -9.0}


def test_sample_has_names_of_its_own() -> None:
    assert Sample(TINY).names()["hopper-medium"].dataset == "hopper-d4rl-medium-smoke"


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["figure3", "figure4"])
def test_smoke_leaves_numbers_table_and_picture(figure: str, tmp_path: Path) -> None:
    made = getattr(ablations, figure)(job(tmp_path))
    assert not made.outcome.failed, made.outcome.failed
    for suffix in ("json", "md", "png"):
        assert (tmp_path / "results" / f"{figure}.{suffix}").stat().st_size > 100
    assert (tmp_path / "results" / "records.json").is_file()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_scale_for_two_cores_reaches_every_row(row: Algorithm) -> None:
    found = with_overrides(row, dict(SCALES["cpu"].settings(row)))
    part = found.policy if hasattr(found.policy, "hidden") else found.prior.fit  # type: ignore[union-attr]
    assert part.hidden == (64, 64)
    if isinstance(row.rollouts, WholeRollouts):  # few and long, not many and short
        assert found.rollouts == row.rollouts


def test_every_row_stands_on_hopper_and_half_cheetah_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr("mabe_transfer.benchmark.run", lambda plan, *_, **__: plans.append(plan))
    ablations.rows(job(tmp_path, datasets=()))
    assert plans[0].algos == tuple(row.name for row in ROWS)
    assert len(plans[0].datasets) == 6
    assert not any(name.startswith("walker2d") for name in plans[0].datasets)


def test_pictures_have_at_most_three_panels_beside_each_other(tmp_path: Path) -> None:
    """Nine datasets in one row were too small to read."""
    shapes = {}
    for count in (1, 3, 6):
        groups = {str(group): {"whole": (1.0, 0.5, 2.0)} for group in range(count)}
        path = report.bars(groups, tmp_path / "a.png", title="", unit="score", marked="whole")
        shapes[count] = mpimg.imread(path).shape
    assert shapes[3][1] == shapes[6][1] > shapes[1][1]
    assert shapes[6][0] == 2 * shapes[3][0]
