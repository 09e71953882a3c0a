"""Scores that others printed: whole, averaged again, and read strictly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mabe_transfer import benchmark, d4rl_tasks, published
from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

TABLE = """
[tables.mine]
title = "Mine"
data = "D4RL v2"
source = "a page"
tasks = ["a", "b"]
rows = [{ method = "X", scores = [1.0, 2.0], spread = [0.1, 0.2] }]
"""


@pytest.mark.parametrize("name", ["mabe-table-1", "field-v2"])
def test_printed_averages_are_those_of_their_scores_but_for_the_paper_s_bc(name: str) -> None:
    wrong = {row.method for row in published.table(name).rows if row.wrong_average}
    assert wrong == ({"BC"} if name == "mabe-table-1" else set())


def test_recomputed_averages_are_those_worked_out_by_hand() -> None:
    rows = {row.method: sum(row.scores) / 9 for row in published.table("mabe-table-1").rows}
    expected = {"BC": 31.92, "MABE": 77.47, "MOPO": 42.14, "MOReL": 72.94}
    expected |= {"SAC": 0.41, "CQL": 63.91, "BRAC-v": 35.49}
    assert rows == pytest.approx(expected, abs=0.006)


def test_table_1_has_the_paper_s_seven_methods_on_our_nine_tasks() -> None:
    table = published.table("mabe-table-1")
    methods = [row.method for row in table.rows]
    assert methods == ["BC", "MABE", "MOPO", "MOReL", "SAC", "CQL", "BRAC-v"]
    assert table.tasks == d4rl_tasks.TABLE_1
    assert {method.lower() for method in methods} >= set(benchmark.METHODS)


def test_no_table_holds_two_versions_of_the_data() -> None:
    versions = [table.data for table in published.tables().values()]
    assert versions == ["D4RL v0", "D4RL v2"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"a", "b"]', '"a"]', "X has 2 values as scores, and there are 1 tasks"),
        ("[0.1, 0.2]", "[0.1]", "X has 1 values as spread, and there are 2 tasks"),
        ('["a", "b"]', '["a", "a"]', "one of a, a is there twice"),
        ("spread", "spreads", "Did you mean 'spread'?"),
        ("tables.mine", "table.mine", "there is tables. Did you mean 'tables'?"),
        ("2.0]", '"2"]', "scores: expected float, got '2'"),
        ('source = "a page"\n', "", "missing source"),
    ],
)
def test_file_that_is_no_table_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "published.toml"
    assert old in TABLE
    path.write_text(TABLE.replace(old, new))
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        published.read(path)


def test_file_of_a_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "published.toml"
    path.write_text(TABLE)
    (row,) = published.read(path)["mine"].rows
    assert (row.scores, row.spread, row.average) == ((1.0, 2.0), (0.1, 0.2), None)


def test_unknown_table_gets_the_nearest_name() -> None:
    with pytest.raises(UserError, match="Did you mean 'mabe-table-1'"):
        published.table("mabe-table-2")
