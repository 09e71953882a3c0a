"""The table of algorithms: the paper's Table 2, cell by cell, and README's copy of it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mabe_transfer.algorithms import ALGORITHMS, MABE, MOPO
from mabe_transfer.cli import app
from mabe_transfer.comparison import table
from mabe_transfer.parts.sac import Sac
from mabe_transfer.parts.uncertainty import Disagreement

README = Path(__file__).resolve().parents[1] / "README.md"

# The paper's Table 2 as printed, a line of it a line here.
PAPER_ROWS = ("MABE (ours)", "MOPO/MOReL", "BRAC-v", "BREMEN", "ABM", "AWR")
PAPER = {
    "Model-Based": ("Yes", "Yes", "No", "Yes", "No", "No"),
    "Behavior Prior": (
        "Adaptive", "None", "Unweighted", "Unweighted", "Adaptive", "Adaptive",
    ),
    "Policy Regularization": (
        "Explicit KL", "None", "Explicit KL", "Implicit KL", "Implicit KL", "Implicit KL",
    ),
    "Policy Optimization": ("SAC", "SAC/NPG", "SAC", "TRPO", "MPO", "Imitation"),
    "Uncertainty": ("Optional", "Yes", "No", "No", "No", "No"),
}  # fmt: skip
COLUMNS = {  # in our spelling
    "Model-Based": "model-based",
    "Behavior Prior": "behaviour prior",
    "Policy Regularization": "policy regularisation",
    "Policy Optimization": "policy optimisation",
    "Uncertainty": "uncertainty",
}
# One printed column stands for two rows, of which each takes its side of the stroke.
ROWS = {
    "MABE (ours)": ("mabe",),
    "MOPO/MOReL": ("mopo", "morel"),
    "BRAC-v": ("brac-v",),
    "BREMEN": ("bremen",),
    "ABM": ("abm",),
    "AWR": ("awr",),
}
# Where our cell says more than print: print's word, then what the row adds to it.
FINER = {
    ("mabe", "behaviour prior"): "Adaptive: Q - V",
    ("mabe", "uncertainty"): "Optional: mabe-uncertainty",
    ("mopo", "uncertainty"): "Yes: deviation",
    ("morel", "uncertainty"): "Yes: halt",
    ("bremen", "policy optimisation"): "TRPO from the prior",
    ("abm", "behaviour prior"): "Adaptive: indicator",
    ("awr", "behaviour prior"): "Adaptive: advantage",
}
# Where our row is another than print: MABE's policy starts as the prior; `mabe-paper`'s does not.
# ABM's does too, since its prior is fitted first, and not together with the policy.
DIFFERENT = {
    ("mabe", "policy optimisation"): "SAC from the prior",
    ("abm", "policy optimisation"): "MPO from the prior",
}

CELLS = [
    (printed, row, line, words[PAPER_ROWS.index(printed)])
    for line, words in PAPER.items()
    for printed in PAPER_ROWS
    for row in ROWS[printed]
]


def call(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@cache
def ours() -> dict[str, dict[str, str]]:
    return {line["row"]: line for line in json.loads(call("algorithms", "list", "--json").stdout)}


@pytest.mark.parametrize(("printed", "row", "line", "word"), CELLS)
def test_cell_is_that_of_the_paper_s_table_2(printed: str, row: str, line: str, word: str) -> None:
    if "/" in word:
        word = word.split("/")[ROWS[printed].index(row)]
    column = COLUMNS[line]
    expected = FINER.get((row, column), word)
    assert expected.startswith(word)
    expected = DIFFERENT.get((row, column), expected)
    assert ours()[row][column].casefold() == expected.casefold()


def test_row_of_the_paper_s_own_mabe_optimises_as_print_has_it() -> None:
    assert ours()["mabe-paper"]["policy optimisation"] == "SAC"
    assert ours()["mabe-paper"]["behaviour prior"] == "adaptive: Q"


def test_every_row_is_in_the_table_in_its_order() -> None:
    assert list(ours()) == list(ALGORITHMS)


def test_readme_s_table_is_the_output_of_the_command() -> None:
    printed = call("algorithms", "list", "--markdown").stdout
    assert printed.startswith("| row | model-based | behaviour prior | policy regularisation |")
    assert printed.count("\n") == len(ALGORITHMS) + 2
    assert f"\n\n{printed}\n" in README.read_text("utf-8")


@pytest.mark.parametrize(
    ("row", "column", "cell"),
    [
        ("brac-p", "policy regularisation", "explicit KL, policy alone"),
        ("td3+bc", "policy regularisation", "squared distance, policy alone"),
        ("rebrac", "policy regularisation", "squared distance"),
        ("mopo-from-prior", "policy regularisation", "none"),
        ("mabe-advantage", "behaviour prior", "adaptive: advantage"),
        ("mobile", "uncertainty", "yes: in the critics"),
        ("sac-n", "critics", "10"),
        ("edac", "critics", "diverse, 10"),
        ("combo", "critics", "conservative"),
        ("bremen", "critics", "-"),
        ("mabe-no-prior", "paper", "2005.13239"),
    ],
)
def test_cell_of_a_row_beyond_the_paper(row: str, column: str, cell: str) -> None:
    assert ours()[row][column] == cell


def test_cells_follow_from_the_parts_of_a_row_that_is_not_in_the_table() -> None:
    row = replace(MOPO, uncertainty=Disagreement(), policy=Sac(critics=5))
    line = table({row.name: row})[0]
    assert (line["uncertainty"], line["critics"]) == ("yes: disagreement", "5")
    assert table({"mabe": MABE})[0]["uncertainty"] == "no"  # optional where a row has it
