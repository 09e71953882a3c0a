"""The speed scripts: each runs at its smallest, and the one table says what the numbers say."""

import ast
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Load a script by its name, as Python would run it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    yield load
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(SCRIPTS)):
            del sys.modules[name]


def row(key: str, against: str, ratio: float | None, **more: Any) -> dict[str, Any]:
    """A row of a result file, as a script writes it."""
    side = {"median": 12.0, "lowest": 1.0, "highest": 20.0, "rounds": 5}
    return {
        "key": key,
        "against": against,
        "case": "",
        "unit": "updates/s",
        "ours": side,
        "theirs": None if ratio is None else {**side, "median": 12.0 / ratio},
        "ratio": ratio,
        "target": None,
        "skipped": "",
        "note": "",
        **more,
    }


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Write a result file by hand."""
    facts = {
        "script": name,
        "rows": rows,
        "rounds": 5,
        "threads": 2,
        "load": [0.5, 0.5, 0.5],
        "provenance": {"cpu": "a processor", "cores": 2, "versions": {}, "commit": "abc"},
    }
    (folder / f"{name}.json").write_text(json.dumps(facts), "utf-8")


def test_ratio_of_rates_and_of_seconds_says_how_many_times_faster_this_project_is(
    script: Any,
) -> None:
    rounds = script("rounds")
    rates = rounds.Comparison(key="a", against="b", ours=(1.0, 6.0, 90.0), theirs=(2.0, 3.0, 4.0))
    seconds = rounds.Comparison(
        key="a", against="b", ours=(6.0,), theirs=(3.0,), less_is_better=True
    )
    assert rates.ratio == 2.0  # medians 6 and 3
    assert seconds.ratio == 0.5
    assert rounds.Comparison(key="a", against="b", ours=(1.0,)).ratio is None


def test_contestants_take_turns_and_the_first_turn_does_not_count(script: Any) -> None:
    rounds, played = script("rounds"), []

    def play(who: str) -> float:
        played.append(who)
        return float(len(played))

    found = rounds.alternate({"one": lambda: play("one"), "two": lambda: play("two")}, 2)
    assert played == ["one", "two"] * 3
    assert found == {"one": (3.0, 5.0), "two": (4.0, 6.0)}


def test_table_has_every_goal_with_its_ratio_verdict_or_reason(script: Any, tmp_path: Path) -> None:
    report = script("report")
    kit = "OfflineRL-Kit"
    written(tmp_path, "updates", [row("update", kit, 3.0), row("update", "unifloral", 0.5)])
    written(
        tmp_path,
        "rollouts",
        [
            row("rollout", kit, None, skipped="no --peer-offlinerlkit"),
            row("environments", "EnvPool", 1.5, case="hopper"),
            row("environments", "EnvPool", 0.75, case="walker2d"),
            row("batch time", kit, 4.0),
        ],
    )
    results = report.collect(tmp_path)
    table = {(line[0].partition(" (")[0], line[1]): line[2:] for line in report.table(results)}
    assert len(report.table(results)) == len(script("rounds").GOALS)
    update = "one policy update of `mopo`, 1 seed"
    assert table[update, kit] == ("12 : 4 updates/s", "3.00x", "2x", "met")
    assert table[update, "unifloral"] == ("12 : 24 updates/s", "0.50x", "1x", "missed")
    rolled = table["model rollouts of `mabe`, kept transitions/s", kit]
    assert rolled == ("", "", "10x", "skipped: no --peer-offlinerlkit")
    worst = table["batched environments, steps/s", "EnvPool"]
    assert worst == ("12 : 16 updates/s", "0.75x", "1x", "missed")
    text = report.show(results, markdown=True)
    assert "batched environments, steps/s (walker2d, the worst)" in text
    assert "- batch time against OfflineRL-Kit: 4.00x (12 : 3 updates/s)" in text
    assert "- updates: a processor, 2 cores, no GPU, 2 threads, load 0.5, 5 rounds" in text


def test_curve_bends_where_cost_grows_faster_than_in_proportion(script: Any) -> None:
    growth = script("growth")
    costs = {1: 1.0, 2: 2.0, 4: 8.0}
    axis = growth.Axis("seeds", "s", (1, 2, 4), True, lambda n: lambda: costs[n])
    found = growth.curve(axis, 1)
    assert found["slopes"] == pytest.approx([1.0, 2.0])
    assert found["bends_at"] == 4
    assert growth.verdict({"seeds": found}).startswith("What bends first: seeds, at 4 (4 times")


def test_score_is_reached_when_the_mean_of_the_last_evaluations_is_there(script: Any) -> None:
    to_score = script("to_score")
    points = [(10.0 * i, float(i)) for i in range(1, 9)]  # means of five: 3, 4, 5, 6
    assert to_score.score(points) == 6.0
    assert to_score.first_there(points, 4.5) == 70.0
    assert to_score.first_there(points, 7.0) is None


def test_error_on_held_out_rows_is_of_the_best_five_in_deviations_of_the_targets(
    script: Any,
) -> None:
    script("rounds")
    import numpy as np

    serving = importlib.import_module("peers.serving")
    zeros = np.zeros((2, 1))
    held = {"observations": zeros, "next_observations": zeros + 2.0, "rewards": np.zeros(2)}
    # Seven members are off by 0, 2, ... 12 in the observation, whose deviation is 2: squared and
    # averaged over observation and reward, 0, 1/2, 2, 9/2, 8, 25/2, 18; the five best average 3.
    mean = np.zeros((7, 2, 2))
    mean[:, :, 0] = 2.0 + 2.0 * np.arange(7)[:, None]
    assert serving.held_out_error(mean, held, np.array([2.0, 1.0])) == pytest.approx(3.0)


def test_plain_path_takes_the_same_steps_up_to_rounding(script: Any) -> None:
    equal, rounds = script("equal_scores"), []
    from mabe_transfer.parts import unpack
    from mabe_transfer.parts.regulariser import Entropy
    from mabe_transfer.parts.sac import Sac
    from mabe_transfer.streams import Sizes

    sizes = Sizes(seeds=(0, 1), observation=3, action=2)
    rows = torch.randn(2, 64, 3 + 2 + 1 + 3 + 1, generator=torch.Generator().manual_seed(0))
    rows[..., -1] = 0.0
    for path in (contextlib.nullcontext, equal.plainly):
        with path():
            learner = Sac(hidden=(16, 16)).build(sizes, Entropy().build(sizes, None))
            before = [p.detach().clone() for p in learner.actor.parameters()]
            for _ in range(5):
                learner.update(unpack(rows, 3, 2))
            moved = zip(learner.actor.parameters(), before, strict=True)
            rounds.append([p.detach() - old for p, old in moved])
    for fast, plain in zip(*rounds, strict=True):
        assert fast.abs().max() > 1e-4
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["updates", "rollouts", "dynamics", "to_score", "growth", "equal_scores", "whole_run"],
)
def test_script_runs_at_its_smallest_without_peers(name: str, tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PEER_")}
    environment |= {"PYTHONPATH": str(ROOT), "MABE_TRANSFER_DATA": str(tmp_path)}
    words = ["--smoke", "--threads", "1", "--json", str(target)]
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), *words],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(target.read_text("utf-8"))
    assert found["script"] == name
    assert found["rows"] or found["scores"]
    for line in found["rows"]:
        assert line["ratio"] is None or line["ratio"] > 0.0
        if "OfflineRL-Kit" in line["against"] or "unifloral" in line["against"]:
            reasons = ("--peer-", "OfflineRL-Kit", "no products in bfloat16")
            assert any(reason in line["skipped"] for reason in reasons), line


def test_smoke_size_gets_no_verdict(script: Any, tmp_path: Path) -> None:
    report = script("report")
    written(tmp_path, "updates", [row("update", "OfflineRL-Kit", 3.0)])
    path = tmp_path / "updates.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "size": "smoke"}), "utf-8")
    assert report.table(report.collect(tmp_path))[0][-1] == "no measurement, smoke size"


def test_newer_folder_counts_where_two_hold_a_result_of_one_name(
    script: Any, tmp_path: Path
) -> None:
    report = script("report")
    for name, ratio in (("kept", 3.0), ("new", 4.0)):
        (tmp_path / name).mkdir()
        written(tmp_path / name, "updates", [row("update", "OfflineRL-Kit", ratio)])
    written(tmp_path / "kept", "to_score", [row("score", "OfflineRL-Kit", 6.0)])
    found = report.table(report.collect(tmp_path / "kept", tmp_path / "new"))
    assert [line[3] for line in found if line[3]] == ["4.00x", "6.00x"]


def calls_of(tree: ast.AST) -> Iterator[tuple[str, set[str], bool]]:
    """What workers are asked for: call, keywords, and whether there may be more of them."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        named = node.args and isinstance(node.args[0], ast.Constant)
        if node.func.attr in ("ask", "send") and named:
            words = {word.arg for word in node.keywords if word.arg is not None}
            first = node.args[0]
            assert isinstance(first, ast.Constant)
            yield str(first.value), words, any(word.arg is None for word in node.keywords)


def test_workers_are_asked_for_what_they_have() -> None:
    known: dict[str, list[tuple[set[str], set[str], bool]]] = {}
    for worker in SCRIPTS.glob("peers/run_*.py"):
        for node in ast.walk(ast.parse(worker.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                given = node.args
                positional = [arg.arg for arg in given.args if arg.arg != "self"]
                needed = set(positional[: len(positional) - len(given.defaults)])
                more = {arg.arg for arg in given.kwonlyargs}
                form = (needed, {*positional, *more}, given.kwarg is not None)
                known.setdefault(node.name, []).append(form)
    asked = 0
    for script in (*SCRIPTS.glob("*.py"), SCRIPTS / "peers" / "__init__.py"):
        for call, words, others in calls_of(ast.parse(script.read_text("utf-8"))):
            forms = known[call]
            assert any(words <= names or more for _, names, more in forms), (script.name, call)
            assert others or any(needed <= words for needed, *_ in forms), (script.name, call)
            asked += 1
    assert asked > 8
