"""Presets: every published setting reaches its row, the data's name finds it, runs record it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from mabe_transfer import benchmark, d4rl_tasks, outcome, presets, scoreboard
from mabe_transfer.algorithms import algorithm
from mabe_transfer.benchmark import Plan
from mabe_transfer.cli import app
from mabe_transfer.config import with_overrides
from mabe_transfer.d4rl_tasks import SOURCES
from mabe_transfer.errors import UserError
from mabe_transfer.parts.conservative import Conservative
from mabe_transfer.parts.inconsistency import Inconsistency
from mabe_transfer.parts.regulariser import Entropy
from mabe_transfer.parts.rollouts import Rollouts
from mabe_transfer.parts.sac import Sac
from mabe_transfer.parts.td3 import Td3
from mabe_transfer.parts.uncertainty import StdPenalty
from mabe_transfer.train import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mabe_transfer.composition import Algorithm
    from mabe_transfer.matrix import Cell

TINY = (
    "--set", "dynamics.max_epochs=1", "--set", "dynamics.hidden=[8]",
    "--set", "dynamics.weight_decay=[0.0]", "--set", "policy.hidden=[8,8]",
    "--set", "rollouts.starts=20", "--threads", "1", "--device", "cpu",
)  # fmt: skip
MINE = """
title = "mine"
row = "mopo"
data = "v2"
source = "my notebook"

[datasets.my-data]
uncertainty.weight = 7.0
"""


def call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def refusal(*words: str) -> str:
    made = call(*words)
    assert made.exit_code == 2, made.output
    assert "Traceback" not in made.output
    return " ".join(made.output.split())


def row_of(text: str, data: str = "") -> Algorithm:
    """A preset's row with its settings."""
    chosen = presets.choose(text, data)
    return with_overrides(algorithm(chosen.preset.row), chosen.overrides)


EVERY = [
    (name, dataset)
    for name, found in presets.presets().items()
    for dataset in found.datasets or [""]
]


# -- what ships ----------------------------------------------------------------------------------


def test_methods_that_publish_their_settings_have_presets() -> None:
    assert {found.row for found in presets.presets().values()} == {
        "combo", "cql", "edac", "iql", "mobile", "mopo", "rebrac", "td3+bc",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "dataset"), EVERY)
def test_every_setting_of_a_preset_reaches_its_row(name: str, dataset: str) -> None:
    chosen = presets.Chosen(presets.preset(name), dataset)
    row = algorithm(chosen.preset.row)
    chosen.check(row.name, row)
    for path, text in chosen.overrides.items():
        alone = with_overrides(row, {path: text})
        value: Any = alone
        for part in path.split("."):
            value = getattr(value, part)
        wanted = json.loads(text)
        assert value == (tuple(wanted) if isinstance(wanted, list) else wanted)


@pytest.mark.parametrize("name", presets.presets())
def test_preset_is_of_tasks_of_the_benchmark_and_has_all_of_table_1(name: str) -> None:
    found = presets.preset(name)
    assert set(found.datasets) <= set(d4rl_tasks.TASKS)
    assert not found.datasets or set(d4rl_tasks.TABLE_1) <= set(found.datasets)
    assert found.name == f"{found.row}-{found.data}"
    assert found.source


# horizon and weight in the order of Table 1: medium, replay, expert of half cheetah, hopper, walker
MOPO: dict[str, list[tuple[int, float]]] = {
    "mopo-v0": [(1, 1), (5, 5), (5, 5), (5, 1), (5, 1), (1, 1), (5, 5), (5, 1), (1, 2)],
    "mopo-v2": [
        (5, 0.5), (5, 5), (5, 0.5), (5, 0.5), (5, 2.5), (1, 2.5), (5, 2.5), (5, 5), (1, 2.5),
    ],
}  # fmt: skip
COMBO: list[tuple[int, float]] = [
    (5, 0.5),
    (5, 5),
    (1, 5),
    (5, 0.5),
    (5, 0.5),
    (1, 0.5),
    (5, 5),
    (5, 5),
    (1, 5),
]
MOBILE: list[tuple[int, float]] = [
    (5, 0.5),
    (5, 1.5),
    (5, 0.5),
    (5, 0.1),
    (5, 0.1),
    (1, 0.5),
    (5, 1),
    (5, 1.5),
    (1, 1.5),
]
REBRAC = [
    (0.001, 0.01), (0.01, 0.01), (0.05, 0.1), (0.01, 0.001), (0.05, 0.5), (0.05, 0.01),
    (0.01, 0.1), (0.1, 0.01), (0.01, 0.01),
]  # fmt: skip


@pytest.mark.parametrize("name", MOPO)
def test_mopo_has_the_published_horizons_and_penalties(name: str) -> None:
    rows = [row_of(f"{name}/{task}") for task in d4rl_tasks.TABLE_1]
    found = [(r.rollouts, r.uncertainty) for r in rows]
    assert found == [(Rollouts(horizon=h), StdPenalty(weight=w)) for h, w in MOPO[name]]


def test_combo_pushes_down_at_all_states_with_the_weights_found_so() -> None:
    rows = [row_of(f"combo-v2/{task}") for task in d4rl_tasks.TABLE_1]
    assert [(r.rollouts, r.critic) for r in rows] == [
        (Rollouts(horizon=h, real_share=0.5), Conservative(weight=w)) for h, w in COMBO
    ]


def test_mobile_has_the_published_weights_and_on_two_datasets_a_fixed_temperature() -> None:
    rows = [row_of(f"mobile-v2/{task}") for task in d4rl_tasks.TABLE_1]
    assert [(r.rollouts and r.rollouts.horizon, r.critic) for r in rows] == [
        (h, Inconsistency(weight=w, least_target=0.0)) for h, w in MOBILE
    ]
    free = Entropy(learning_rate=1e-4, cap=1.0)
    fixed = replace(free, automatic=False, initial=0.2)
    expected = [
        fixed if task in ("hopper-medium", "hopper-medium-replay") else free
        for task in d4rl_tasks.TABLE_1
    ]
    assert [row.regulariser for row in rows] == expected


def test_rebrac_has_the_published_penalties() -> None:
    found = [row_of(f"rebrac-v2/{task}").policy for task in d4rl_tasks.TABLE_1]
    pairs = [(p.policy_penalty, p.critic_penalty) for p in found if isinstance(p, Td3)]
    assert pairs == REBRAC


def test_edac_takes_50_critics_on_hopper_alone() -> None:
    policies = {task: row_of(f"edac-v2/{task}").policy for task in d4rl_tasks.TABLE_1}
    many = {t for t, p in policies.items() if isinstance(p, Sac) and p.critics == 50}
    assert many == {task for task in d4rl_tasks.TABLE_1 if task.startswith("hopper")}


# -- which dataset -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "data", "name"),
    [
        ("mopo-v2", "d4rl:hopper-medium-v2", "mopo-v2/hopper-medium"),
        ("mopo-v2", "walker2d-d4rl-medium-replay", "mopo-v2/walker2d-medium-replay"),
        ("mopo-v0", "d4rl:halfcheetah-medium-expert-v0", "mopo-v0/halfcheetah-medium-expert"),
        ("mopo-v2/hopper-medium", "d4rl:hopper-medium-v0", "mopo-v2/hopper-medium"),
        ("mopo-v2/hopper-medium", "anything", "mopo-v2/hopper-medium"),
        ("cql-v2", "d4rl:hopper-medium-v2", "cql-v2"),
        ("cql-v2", "anything", "cql-v2"),
    ],
)
def test_name_of_the_data_tells_the_dataset(text: str, data: str, name: str) -> None:
    assert presets.choose(text, data).name == name


@pytest.mark.parametrize(
    ("text", "data", "message"),
    [
        ("mopo-v3", "", r"no preset 'mopo-v3'.*Did you mean 'mopo-v2'\?"),
        ("mopo-v2/hoper-medium", "", r"preset mopo-v2 has no dataset 'hoper-medium'.*'hopper-"),
        ("cql-v2/hopper-medium", "", "preset cql-v2 is the same for all data"),
        ("mopo-v2", "d4rl:hopper-expert-v2", "preset mopo-v2 has no dataset 'hopper-expert'"),
        ("mopo-v2", "logged", r"'logged' does not tell which.*write --preset mopo-v2/DATASET"),
        ("mopo-v2", "", "none is named: write --preset mopo-v2/DATASET"),
        ("mopo-v2", "d4rl:hopper-medium-v0", "found on D4RL v2, and d4rl:hopper-medium-v0 is v0"),
        ("cql-v2", "d4rl:hopper-medium-v0", "set its values with --set"),
    ],
)
def test_choice_that_cannot_be_is_refused(text: str, data: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        presets.choose(text, data)


def test_preset_of_a_user_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    for text, data in ((str(path), "my-data"), (f"{path}/my-data", "other")):
        chosen = presets.choose(text, data)
        assert (chosen.name, chosen.overrides) == ("mine/my-data", {"uncertainty.weight": "7.0"})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("source =", "origin =", "There is no key 'origin'"),
        ('source = "my notebook"', "", "missing source"),
        ("uncertainty.weight = 7.0", "", "sets nothing"),
        ("[datasets.my-data]", "[data-sets.my-data]", "Did you mean 'datasets'"),
    ],
)
def test_file_is_read_strictly(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace(old, new))
    with pytest.raises(UserError, match=message):
        presets.preset(str(path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "uncertainty.weight",
            "uncertainty.wait",
            "The preset mine/my-data: .*Did you mean 'weight'",
        ),
        ("= 7.0", '= "much"', "The preset mine/my-data: .*expected float, got 'much'"),
        ('row = "mopo"', 'row = "combo"', "sets the row combo, and not mopo"),
    ],
)
def test_settings_that_miss_the_row_are_refused(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace(old, new))
    with pytest.raises(UserError, match=message):
        presets.choose(str(path), "my-data").check("mopo", algorithm("mopo"))


# -- the commands --------------------------------------------------------------------------------


@pytest.fixture
def hopper(stand_in: Callable[[str, int], None]) -> None:
    stand_in("hopper-d4rl-medium", 300)


def test_run_has_the_settings_records_the_choice_and_set_wins(hopper: None, tmp_path: Path) -> None:
    command = (
        "train", "--dynamics", "hopper-d4rl-medium", "--preset", "mopo-v2", "--seeds", "1",
        "--steps", "2", "--out", str(tmp_path / "run"), "--set", "rollouts.horizon=2", *TINY,
    )  # fmt: skip
    made = call(*command)
    assert made.exit_code == 0, made.output
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["preset"] == "mopo-v2/hopper-medium"
    row = config["row"]
    assert row["name"] == "mopo"
    assert row["uncertainty"]["weight"] == 5.0
    assert row["policy"]["policy_rate"] == 1e-4
    assert row["rollouts"]["horizon"] == 2
    assert "uncertainty.weight=5.0" in " ".join(made.output.split())
    without = [word for word in command if word not in ("--preset", "mopo-v2")]
    assert "another preset" in refusal(*without, "--algo", "mopo")


def test_preset_and_algo_must_agree() -> None:
    said = refusal("train", "--dynamics", "x", "--preset", "mopo-v2/hopper-medium", "--algo", "cql")
    assert "The preset mopo-v2 sets the row mopo, and not cql." in said


def test_preset_of_a_row_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "x"\nrow = "mopoo"\ndata = "v2"\nsource = "me"\n'
        "[common]\npolicy.policy_rate = 1e-4\n"
    )
    said = refusal("train", "--preset", str(path), "--dynamics", "nothing")
    assert "The preset mine: There is no algorithm 'mopoo'" in said
    assert "Did you mean 'mopo'" in said


def test_presets_are_listed_and_each_is_shown() -> None:
    listed = json.loads(call("algorithms", "presets", "--json").stdout)
    assert [line["preset"] for line in listed] == sorted(presets.presets())
    shown = json.loads(call("algorithms", "presets", "combo-v2", "--json").stdout)
    assert shown[0]["dataset"] == "halfcheetah-medium"
    assert shown[0]["critic.model_states_only"] == "false"
    text = call("algorithms", "presets", "combo-v2").output
    assert "On all: critic.actions=10" in " ".join(text.split())
    assert "Did you mean 'combo-v2'?" in refusal("algorithms", "presets", "comb-v2")


# -- the benchmark -------------------------------------------------------------------------------


def cells(**changes: Any) -> list[Cell]:
    usual: dict[str, Any] = {
        "algos": ("bc", "mopo", "combo"), "seeds": (0,), "schedule": Schedule(), "overrides": {},
        "datasets": ("hopper-medium", "walker2d-medium"), "source": SOURCES["files"],
    }  # fmt: skip
    plan = Plan(**usual | changes)
    return list(benchmark.cells(plan, benchmark.named(plan)))


def test_benchmark_sets_the_rows_that_have_a_preset_and_no_other() -> None:
    found = cells(presets=("mopo-v2",), overrides={"rollouts.horizon": "3"})
    assert [cell.preset for cell in found] == [
        "", "mopo-v2/hopper-medium", "", "", "mopo-v2/walker2d-medium", "",
    ]  # fmt: skip
    assert [cell.algorithm.uncertainty for cell in found[1::3]] == [
        StdPenalty(weight=5.0), StdPenalty(weight=0.5),
    ]  # fmt: skip
    assert found[1].algorithm.rollouts == Rollouts(horizon=3)
    assert found[0].algorithm == algorithm("bc")


def test_release_stands_for_all_presets_found_on_it() -> None:
    found = cells(presets=("v2",))
    assert {cell.preset.partition("/")[0] for cell in found} == {"", "mopo-v2", "combo-v2"}
    ours = cells(presets=("v0",), source=SOURCES["ours"])
    assert {cell.preset.partition("/")[0] for cell in ours} == {"", "mopo-v0"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"presets": ("cql-v2",)}, "sets the row cql, which is not among --algos bc,mopo,combo"),
        ({"presets": ("mopo-v0",)}, "found on D4RL v0, and the data are v2"),
        ({"presets": ("mopo-v0", "mopo-v2"), "source": SOURCES["ours"]}, "for one row, mopo"),
        ({"presets": ("mopo-v4",)}, r"Did you mean 'mopo-v2'\?"),
        ({"presets": ("v2",), "algos": ("bc",)}, "No row of --algos bc has a preset of D4RL v2"),
        (
            {"presets": ("mopo-v2",), "datasets": ("hopper-random",)},
            "has no dataset 'hopper-random'",
        ),
    ],
)
def test_benchmark_refuses_a_preset_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cells(**changes)


def test_table_says_whose_settings_a_row_had(hopper: None, tmp_path: Path) -> None:
    made = call(
        "benchmark", "d4rl", "--algos", "bc,td3+bc", "--datasets", "hopper-medium", "--seeds", "1",
        "--steps", "2", "--episodes", "1", "--preset", "v2", "--out", str(tmp_path),
        "--set", "policy.hidden=[8,8]", "--threads", "1", "--device", "cpu",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    found = outcome.read(tmp_path / "records.json")
    assert [record.preset for record in found.records] == ["", "td3+bc-v2"]
    assert "td3+bc has td3+bc-v2" in (tmp_path / "table.md").read_text()
    plain = scoreboard.board(
        outcome.Outcome(
            title="", data="", seeds=(0,), schedule=Schedule(), records=found.records[:1]
        )
    )
    assert not any("settings" in note for note in plain.notes)
