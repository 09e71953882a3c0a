"""The D4RL benchmark: which data, which rows, which printed table, and the command itself."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from typer.testing import CliRunner

from mabe_transfer import ablations, benchmark, catalogue, d4rl_tasks, domains, matrix
from mabe_transfer.acquire import of_recipe, provide
from mabe_transfer.algorithms import ALGORITHMS
from mabe_transfer.benchmark import Plan
from mabe_transfer.budgets import SCALES
from mabe_transfer.cli import app
from mabe_transfer.d4rl_tasks import SOURCES
from mabe_transfer.entries import QUALITIES
from mabe_transfer.errors import UserError
from mabe_transfer.parts.uncertainty import StdPenalty
from mabe_transfer.train import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TINY = (
    "--set", "prior.fit.hidden=[8,8]",
    "--set", "policy.hidden=[8,8]", "--threads", "1", "--device", "cpu",
)  # fmt: skip


def call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def plan(**changes: Any) -> Plan:
    usual: dict[str, Any] = {"algos": ("bc", "mopo"), "seeds": (0,), "schedule": Schedule()}
    return Plan(**usual | {"overrides": {}} | changes)


def cells_of(given: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> matrix.Matrix:
    """The matrix that a plan comes to, which is not run."""
    asked: list[matrix.Matrix] = []

    def keep(found: matrix.Matrix, *_: object) -> Any:
        asked.append(found)
        raise KeyboardInterrupt

    monkeypatch.setattr(matrix, "run", keep)
    for source in (d4rl_tasks.Ours, d4rl_tasks.Files):
        monkeypatch.setattr(source, "prepare", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(given, tmp_path, tmp_path, torch.device("cpu"))
    return asked[0]


# -- data ----------------------------------------------------------------------------------------


def test_table_1_is_three_tiers_of_three_robots_in_the_paper_s_order() -> None:
    assert d4rl_tasks.TABLE_1[:4] == (
        "halfcheetah-medium", "hopper-medium", "walker2d-medium", "halfcheetah-medium-replay",
    )  # fmt: skip
    assert d4rl_tasks.TABLE_1[-1] == "walker2d-medium-expert"


def test_every_dataset_of_ours_is_a_recipe_in_d4rl_s_physics_with_its_references() -> None:
    names = {named.dataset: task for task, named in SOURCES["ours"].names().items()}
    ours = {name for name in catalogue.recipes() if "-d4rl-" in name}
    assert ours == set(names)
    assert len(ours) == 15
    for name in ours:
        request = of_recipe(catalogue.recipe(name))
        assert f"{request.domain.name}-{request.quality}" == name
        assert request.quality in QUALITIES
        assert request.domain.legacy_rewards
        assert (request.transitions is None) == (request.quality == "medium-replay")


@pytest.mark.parametrize(
    ("robot", "random", "expert"),
    [
        ("hopper", -20.272305, 3234.3),
        ("halfcheetah", -280.178953, 12135.0),
        ("walker2d", 1.629008, 4592.3),
    ],
)
def test_scores_in_d4rl_s_physics_are_d4rl_s(robot: str, random: float, expert: float) -> None:
    domain = domains.domain(f"{robot}-d4rl")
    assert domain.normalised(random) == 0.0
    assert domain.normalised(expert) == 100.0


def test_datasets_are_named_by_task_or_in_full() -> None:
    ours = benchmark.named(plan(datasets=("hopper-medium", "walker2d-d4rl-expert")))
    assert [d.dataset for d in ours] == ["hopper-d4rl-medium", "walker2d-d4rl-expert"]
    files = plan(source=SOURCES["files"], datasets=("hopper-medium", "d4rl:hopper-medium-v2"))
    assert [d.dataset for d in benchmark.named(files)] == ["d4rl:hopper-medium-v2"]
    assert [d.task for d in benchmark.named(plan())] == list(d4rl_tasks.TABLE_1)


def test_unknown_dataset_gets_the_nearest_name() -> None:
    with pytest.raises(UserError, match="Did you mean 'hopper-medium'"):
        benchmark.named(plan(datasets=("hoper-medium",)))


def test_versions_are_never_mixed() -> None:
    mixed = plan(
        source=SOURCES["files"], datasets=("d4rl:hopper-medium-v0", "d4rl:walker2d-medium-v2")
    )
    with pytest.raises(UserError, match="are of v0 and v2, which are different data"):
        benchmark.named(mixed)


@pytest.mark.parametrize(
    ("version", "data"), [("ours", "D4RL v0"), ("v0", "D4RL v0"), ("v2", "D4RL v2"), ("v1", None)]
)
def test_each_version_stands_beside_scores_of_its_own(version: str, data: str | None) -> None:
    found = benchmark.printed(version)
    assert (found.data if found else None) == data


# -- cells ---------------------------------------------------------------------------------------


def test_matrix_has_every_row_on_every_dataset_in_d4rl_s_physics(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = plan(source=SOURCES["files"], datasets=("hopper-random", "halfcheetah-expert"))
    found = cells_of(given, monkeypatch, tmp_path)
    assert [(c.label, c.dynamics, c.target) for c in found.cells] == [
        (row, f"d4rl:{task}-v2", target)
        for task, target in (
            ("hopper-random", "hopper-d4rl"),
            ("halfcheetah-expert", "halfcheetah-d4rl"),
        )
        for row in ("bc", "mopo")
    ]
    assert found.data == "D4RL v2, its own files"


def test_override_reaches_the_rows_that_have_its_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changes = {"prior.fit.rate": "0.007", "uncertainty.weight": "5"}
    found = cells_of(plan(overrides=changes), monkeypatch, tmp_path)
    by_row = {cell.label: cell.algorithm for cell in found.cells}
    assert by_row["bc"].prior is not None
    assert by_row["bc"].prior.fit.rate == 0.007
    assert by_row["mopo"].prior is None
    assert by_row["mopo"].uncertainty == StdPenalty(weight=5.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"uncertainty.wait": "5"}, "Did you mean 'weight'"),
        ({"uncertainty.weight": "much"}, "expected float, got 'much'"),
    ],
)
def test_wrong_override_is_refused_before_anything_is_collected(
    override: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        benchmark.run(plan(overrides=override), tmp_path, tmp_path, torch.device("cpu"))
    assert list(tmp_path.iterdir()) == []


def test_last_ten_looks_are_of_the_last_half_of_a_training() -> None:
    assert [benchmark.looks(n) for n in (1, 20, 40_000, 100_000, 1_000_000)] == [
        1, 1, 2_000, 5_000, 5_000,
    ]  # fmt: skip


# -- the command ---------------------------------------------------------------------------------


def test_data_of_a_recipe_s_name_that_was_made_otherwise_is_refused(tmp_path: Path) -> None:
    """`collect --env hopper-d4rl --quality medium` has the name of D4RL's, and other sizes."""
    words = ("--quality", "random", "--transitions", "200", "--out", "hopper-d4rl-medium")
    assert call("collect", "--env", "hopper-d4rl", *words).exit_code == 0
    made = call(
        "benchmark", "d4rl", "--algos", "bc", "--datasets", "hopper-medium", "--seeds", "1",
        "--steps", "2", "--out", str(tmp_path / "runs"),
    )  # fmt: skip
    assert made.exit_code == 2
    assert "was not made by the recipe hopper-d4rl-medium" in " ".join(made.output.split())
    other = replace(catalogue.recipe("hopper-d4rl-random"), name="mine", transitions=100)
    provide(other, "mine")
    with pytest.raises(UserError, match=r"transitions \(100 there, 120 asked for\); move it away"):
        provide(replace(other, transitions=120), "mine")


def test_command_trains_tabulates_and_does_nothing_twice(
    tmp_path: Path, stand_in: Callable[[str, int], None]
) -> None:
    for name in ("hopper-d4rl-medium", "hopper-d4rl-expert"):
        stand_in(name, 200)
    command = (
        "benchmark", "d4rl", "--algos", "bc,sac", "--datasets", "hopper-medium,hopper-expert",
        "--seeds", "2", "--steps", "4", "--episodes", "1", "--out", str(tmp_path / "runs"),
        "--results", str(tmp_path / "results"), *TINY,
    )  # fmt: skip
    made = call(*command)
    assert made.exit_code == 0, made.output
    assert "D4RL benchmark" in made.output
    results = tmp_path / "results"
    files = {path.name: path.read_bytes() for path in results.iterdir()}
    assert set(files) == {"records.json", "table.md", "table.csv"}
    text = files["table.md"].decode()
    assert "MABE (printed)" in text
    assert "P(better than bc)" in text
    assert "datasets/d4rl-ours.toml" in text
    with (results / "table.csv").open() as file:
        methods = [line["method"] for line in csv.DictReader(file)]
    assert methods[:4] == ["bc", "sac", "bc", "sac"]
    again = call(*command)
    assert again.exit_code == 0, again.output
    assert again.output.count("done before") == 4
    assert {path.name: path.read_bytes() for path in results.iterdir()} == files
    fewer = call("benchmark", "show", str(results / "records.json"), "--algos", "bc", "--results",
                 str(results))  # fmt: skip
    assert fewer.exit_code == 2
    assert "holds results of sac on" in " ".join(fewer.output.split())
    assert {path.name: path.read_bytes() for path in results.iterdir()} == files
    assert "Set in the rows: bc: prior.fit.hidden=[8,8]; sac: policy.hidden=[8,8]." in text
    other = call(*command, "--set", "policy.discount=0.5")
    assert other.exit_code == 2
    assert "holds results of sac with other settings, policy.discount" in " ".join(
        other.output.split()
    )
    assert {path.name: path.read_bytes() for path in results.iterdir()} == files
    shown = call("benchmark", "show", str(results / "records.json"), "--json")
    rows = json.loads(shown.stdout)
    assert rows[0]["task"] == "hopper-medium"


def test_command_at_a_scale_is_the_experiment_at_that_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []

    def keep(given: Plan, *_: object, **__: object) -> None:
        plans.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "run", keep)
    words = ("--scale", "cpu", "--out", str(tmp_path))
    call("benchmark", "d4rl", *words)
    call("benchmark", "d4rl", *words, "--steps", "7000", "--episodes", "2")
    with pytest.raises(KeyboardInterrupt):
        ablations.table1(
            ablations.Job(
                scale=SCALES["cpu"],
                seeds=3,
                out=tmp_path,
                results=tmp_path,
                device=torch.device("cpu"),
            )
        )
    same, longer, experiment = plans
    cells = [benchmark.cells(one, benchmark.named(one)) for one in (same, experiment)]
    assert cells[0] == cells[1]
    assert (same.seeds, same.source) == (experiment.seeds, experiment.source)
    assert same.schedule.updates == 5_000
    for row in ("bc", "mopo"):
        assert longer.schedules is not None
        found = longer.schedules(ALGORITHMS[row])
        assert (found.updates, found.episodes) == (7_000, 2)


def test_command_goes_on_past_a_failing_cell_and_ends_with_exit_code_2(tmp_path: Path) -> None:
    made = call(
        "benchmark", "d4rl", "--source", "files", "--algos", "bc", "--datasets", "hopper-medium",
        "--out", str(tmp_path), "--device", "cpu",
    )  # fmt: skip
    assert made.exit_code == 2, made.output
    assert "1 of 1 cells failed" in " ".join(made.output.split())
    assert "failed" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--source", "mine"), "there is files, ours"),
        (("--scale", "cpus"), "Did you mean 'cpu'?"),
        (("--scale", "smoke", "--source", "files"), "goes with --source ours alone"),
        (("--algos", "bc,mop"), "Did you mean 'mopo'?"),
        (("--reference", "cqll"), "there is bc"),
    ],
)
def test_wrong_choice_is_refused(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    made = call("benchmark", "d4rl", "--algos", "bc", "--out", str(tmp_path / "runs"), *words)
    assert made.exit_code == 2
    assert message in " ".join(made.output.split())
    assert not (tmp_path / "runs").exists()
