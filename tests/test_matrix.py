"""A matrix of runs: what is skipped, resumed and recorded, and the table that comes of it."""

from __future__ import annotations

import csv
import math
import os
import shutil
import signal
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from mabe_transfer import (
    benchmark,
    domains,
    ladders,
    locks,
    matrix,
    outcome,
    published,
    runs,
    scoreboard,
)
from mabe_transfer import collect as collecting
from mabe_transfer.algorithms import BC, BRAC_V, BREMEN, MOREL, SAC
from mabe_transfer.behaviour import RandomPolicy
from mabe_transfer.errors import Busy, Interrupted, UserError
from mabe_transfer.graphs import Stepper
from mabe_transfer.learner import Learner
from mabe_transfer.matrix import Cell, Matrix
from mabe_transfer.online import OnlineConfig
from mabe_transfer.outcome import Outcome, Record, others, read, spare
from mabe_transfer.parts.dynamics import EnsembleModel
from mabe_transfer.parts.prior import BehaviourPrior, Fit, Network, Unweighted
from mabe_transfer.parts.sac import Sac
from mabe_transfer.train import Schedule
from mabe_transfer.transfer import sources

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mabe_transfer.composition import Algorithm
    from mabe_transfer.config import Overrides

FIT = Fit(updates=5, batch=16, hidden=(8, 8))
POLICY = Sac(hidden=(8, 8))
TINY_SAC = replace(SAC, policy=POLICY)
TINY_BC = replace(BC, batch=16, prior=Unweighted(fit=Network(hidden=(8, 8))))
TINY_BRAC = replace(BRAC_V, policy=POLICY, prior=Unweighted(fit=FIT))
SHORT = Schedule(updates=6, evaluate_every=3, episodes=1, log_every=3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Datasets of a random policy in D4RL's physics, with episodes of a few steps."""
    root = tmp_path_factory.mktemp("stores")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "BLOCK", 8)
        for name in ("hopper-d4rl", "halfcheetah-d4rl"):
            base = domains.domain(name)
            store = collecting.collect(
                replace(base, robot=replace(base.robot, max_episode_steps=5)),
                [collecting.Share(RandomPolicy(), 100, "random")],
                seed=3,
                location=root / f"{name}-random.zarr",
                facts={"quality": "random", "behaviour": {}, "recipe": {}},
                title=name,
            )
            found[name] = store.location
    return found


def cell(stores: dict[str, str], robot: str, row: Algorithm, **changes: Any) -> Cell:
    name = f"{robot}-d4rl"
    plain = Cell(label=row.name, task=name, row=row, dynamics=stores[name])
    return replace(plain, **changes)


def small(stores: dict[str, str], *cells: Cell) -> Matrix:
    """Two rows on hopper, which is scored in D4RL's whole domain, and one on half cheetah.

    The learners' steps: sac on hopper 1 to 6, brac-v 7 to 12, sac on half cheetah 13 to 18.
    """
    usual = (
        cell(stores, "hopper", TINY_SAC, target="hopper-d4rl"),
        cell(stores, "hopper", TINY_BRAC, target="hopper-d4rl"),
        cell(stores, "halfcheetah", TINY_SAC),
    )
    return Matrix(
        title="small", data="a random policy", cells=cells or usual, seeds=(0, 4), schedule=SHORT
    )


def refuse(*_: object, **__: object) -> Any:
    raise AssertionError("this is not to be called")


def at_step(number: int, act: Callable[[Learner], None], patch: pytest.MonkeyPatch) -> None:
    """Do something once, before the n-th step of all learners together."""
    advance, left = Stepper.advance, [number]

    def stopping(self: Stepper, most: int) -> int:
        if isinstance(self.steps, Learner):
            left[0] -= 1
            if left[0] == 0:
                act(self.steps)
        return advance(self, most)

    patch.setattr(Stepper, "advance", stopping)


@pytest.fixture(scope="module")
def whole(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A matrix that was never interrupted."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MABE_TRANSFER_DATA", str(root / "data"))
        return root / "runs", matrix.run(small(stores), root / "runs", CPU)


# -- what a matrix comes to ----------------------------------------------------------------------


def test_every_cell_has_a_record_with_a_return_and_a_score_of_each_seed(
    whole: tuple[Path, Outcome],
) -> None:
    out, found = whole
    labels = [(record.label, record.task) for record in found.records]
    hopper, cheetah = "hopper-d4rl", "halfcheetah-d4rl"
    assert labels == [("sac", hopper), ("brac-v", hopper), ("sac", cheetah)]
    for record in found.records:
        assert record.failure == ""
        rows = runs.read_rows(out / record.folder / "evaluations.jsonl")
        last = np.mean([row["returns"] for row in rows[-10:]], axis=0)
        np.testing.assert_allclose(record.returns, last)
    # D4RL's constants for hopper, put down here once more
    first = found.records[0]
    expected = [100 * (j + 20.272305) / (3234.3 + 20.272305) for j in first.returns]
    np.testing.assert_allclose(first.scores, expected)
    assert found.records[2].scores == ()  # of a robot of its own, which has no references


def test_records_lie_as_json_and_are_read_again(whole: tuple[Path, Outcome]) -> None:
    out, found = whole
    assert outcome.read(out / "progress.json") == found


def test_results_of_several_machines_make_one_and_contradictions_are_refused() -> None:
    one, other = hand(record("bc", "a", 1.0, 2.0)), hand(record("bc", "b", 3.0, 4.0))
    both = outcome.joined([one, other, one])
    assert [r.task for r in both.records] == ["a", "b"]
    with pytest.raises(UserError, match="bc on a has two results"):
        outcome.joined([one, hand(record("bc", "a", 1.0, 2.5))])
    with pytest.raises(UserError, match="another seeds do not join"):
        outcome.joined([one, replace(other, seeds=(5, 6))])


def test_results_of_a_row_with_other_settings_do_not_join() -> None:
    one, other = (
        replace(record("bc", task, 1.0, 2.0), overrides=(("batch", batch),))
        for task, batch in (("a", "64"), ("b", "32"))
    )
    with pytest.raises(
        UserError, match=r"^bc has other settings on b than elsewhere, batch \('64' there, '32'"
    ):
        outcome.joined([hand(one), hand(other)])
    published = [replace(found, preset="bc-v2") for found in (one, other)]  # one a data set
    assert len(outcome.joined([hand(found) for found in published]).records) == 2
    unknown = replace(other, overrides=None)
    assert len(outcome.joined([hand(one), hand(unknown)]).records) == 2


def test_table_says_what_was_set_in_which_rows() -> None:
    found = hand(
        replace(record("bc", "a", 1.0, 2.0), overrides=(("batch", "64"),)),
        replace(record("bc", "b", 1.0, 2.0), overrides=(("batch", "64"),)),
        replace(record("mopo", "a", 1.0, 2.0), overrides=(("batch", "64"), ("policy.polyak", "1"))),
        replace(record("cql", "a", 1.0, 2.0), overrides=(("batch", "9"),), preset="cql-v2/a"),
        record("sac", "a", 1.0, 2.0),
    )
    (note,) = [note for note in scoreboard.board(found).notes if note.startswith("Set in")]
    assert note == "Set in the rows: bc, mopo: batch=64; mopo: policy.polyak=1."
    plain = hand(replace(record("bc", "a", 1.0, 2.0), overrides=()))
    assert not [note for note in scoreboard.board(plain).notes if note.startswith("Set in")]


def test_records_say_what_was_set(stores: dict[str, str], tmp_path: Path) -> None:
    set_here = (("policy.discount", "0.5"),)
    one = replace(cell(stores, "halfcheetah", TINY_SAC), overrides=set_here)
    absent = replace(one, task="x", dynamics=str(tmp_path / "none.zarr"))
    found = matrix.run(small(stores, one, absent), tmp_path, CPU)
    assert [r.overrides for r in found.records] == [set_here, set_here]
    assert outcome.read(tmp_path / "progress.json") == found


def test_rows_are_picked_in_the_order_asked_for() -> None:
    cells = [(label, task) for task in ("x", "y") for label in ("a", "b", "c")]
    whole = hand(*(record(label, task, 1.0, 2.0) for label, task in cells))
    found = outcome.of_rows(whole, ("c", "a"))
    picked = [(r.label, r.task) for r in found.records]
    assert picked == [("c", "x"), ("c", "y"), ("a", "x"), ("a", "y")]
    with pytest.raises(UserError, match="there is a, b, c"):
        outcome.of_rows(whole, ("d",))


def test_tasks_come_in_the_order_of_table_1() -> None:
    tasks = ("walker2d-medium", "mine", "hopper-medium-replay", "halfcheetah-medium")
    found = benchmark.in_order(hand(*(record("bc", task, 1.0, 2.0) for task in tasks)))
    assert [r.task for r in found.records] == [
        "halfcheetah-medium", "walker2d-medium", "hopper-medium-replay", "mine",
    ]  # fmt: skip


def test_file_of_something_else_is_no_outcome(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    path.write_text('{"title": "x", "colour": "red"}')
    with pytest.raises(UserError, match="no key 'colour'"):
        outcome.read(path)


def test_a_folder_is_named_by_all_that_makes_its_run(
    stores: dict[str, str], tmp_path: Path
) -> None:
    one = cell(stores, "halfcheetah", TINY_SAC)
    plans = [
        small(stores, one),
        replace(small(stores, one), seeds=(0, 5)),
        small(stores, replace(one, overrides=(("policy.discount", "0.5"),))),
    ]
    folders = [matrix.run(plan, tmp_path, CPU).records[0].folder for plan in plans]
    assert len(set(folders)) == 3
    assert all(folder.startswith("sac-halfcheetah-d4rl-") for folder in folders)
    config = runs.read_json(tmp_path / folders[2] / "config.json")
    assert config["row"]["policy"]["discount"] == 0.5
    again = replace(plans[0], title="another title", data="said otherwise")
    assert matrix.run(again, tmp_path, CPU).records[0].folder == folders[0]


def test_cells_share_fitted_parts(
    stores: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting, fitted = BehaviourPrior.fitting, []

    def counted(self: BehaviourPrior, *words: Any) -> Any:
        fitted.append(1)
        return fitting(self, *words)

    monkeypatch.setattr(BehaviourPrior, "fitting", counted)
    other = replace(TINY_BRAC, name="brac-p", policy=replace(POLICY, penalised_backup=False))
    both = (cell(stores, "halfcheetah", row) for row in (TINY_BRAC, other))
    matrix.run(small(stores, *both), tmp_path, CPU)
    assert len(fitted) == 1


def test_two_cells_in_one_place_are_refused(stores: dict[str, str]) -> None:
    with pytest.raises(UserError, match="sac on hopper-d4rl is there twice"):
        small(stores, *(cell(stores, "hopper", TINY_SAC) for _ in range(2)))


# -- skipping and going on -----------------------------------------------------------------------


def test_complete_cells_are_skipped(
    stores: dict[str, str], whole: tuple[Path, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, found = whole
    for part, name in ((Learner, "step"), (BehaviourPrior, "fit"), (EnsembleModel, "fit")):
        monkeypatch.setattr(part, name, refuse)
    assert matrix.run(small(stores), out, CPU) == found


def test_cells_of_an_earlier_version_are_not_trained_again(
    stores: dict[str, str],
    whole: tuple[Path, Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number, record in enumerate(whole[1].records):
        stem, key = record.folder.rsplit("-", 1)
        folder = shutil.copytree(
            whole[0] / record.folder, tmp_path / f"{stem}-{number:0{len(key)}}"
        )
        config = runs.read_json(folder / "config.json")
        del config["row"]["policy"]["critics_first"]  # which changes the hash of the whole
        runs.write_json(folder / "config.json", config)
    monkeypatch.setattr(Learner, "step", refuse)
    found = matrix.run(small(stores), tmp_path, CPU)
    assert [record.returns for record in found.records] == [r.returns for r in whole[1].records]


class Killed(BaseException):
    """The power is gone: nothing is caught and nothing is said."""


def kill(_: Learner) -> None:
    raise Killed


def ask(_: Learner) -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("how", "step", "complete"), [(kill, 2, 0), (kill, 11, 1), (ask, 5, 0), (ask, 16, 2)]
)
def test_interrupted_matrix_ends_like_an_uninterrupted_one(
    stores: dict[str, str],
    whole: tuple[Path, Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: Callable[[Learner], None],
    step: int,
    complete: int,
) -> None:
    at_step(step, how, monkeypatch)
    with pytest.raises(Killed if how is kill else Interrupted):
        matrix.run(small(stores), tmp_path, CPU)
    kept = tmp_path / "progress.json"
    assert (len(outcome.read(kept).records) if kept.is_file() else 0) == complete
    assert matrix.run(small(stores), tmp_path, CPU) == whole[1]
    for record in whole[1].records:
        for name in ("evaluations.jsonl", "policy/policy.safetensors"):
            one, other = whole[0] / record.folder / name, tmp_path / record.folder / name
            assert one.read_bytes() == other.read_bytes()


def test_interruption_says_what_is_done_and_where_it_goes_on(
    stores: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(9, ask, monkeypatch)
    with pytest.raises(
        Interrupted,
        match=r"^Stopped at 2 of 3, brac-v on hopper-d4rl: 1 done\. The same command skips those "
        r"and goes on\. Stopped after 3 updates",
    ):
        matrix.run(small(stores), tmp_path, CPU)


def test_ctrl_c_while_a_part_is_fitted_stops_as_politely(
    stores: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> Any:
        raise KeyboardInterrupt

    one = small(stores, cell(stores, "halfcheetah", TINY_BRAC))

    with monkeypatch.context() as patch:
        patch.setattr(BehaviourPrior, "fitting", asked)
        with pytest.raises(
            Interrupted, match=r"^Stopped at 1 of 1, brac-v on halfcheetah-d4rl: 0 "
        ):
            matrix.run(one, tmp_path, CPU)
    assert not matrix.run(one, tmp_path, CPU).failed


def test_cell_that_another_process_is_at_is_waited_for_after_all_others(
    stores: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner: list[Outcome] = []

    def second() -> None:  # a lock belongs to an opened folder, as of another process
        inner.append(matrix.run(small(stores), tmp_path, CPU))

    other = threading.Thread(target=second)
    at_step(3, lambda _: other.start(), monkeypatch)
    first = matrix.run(small(stores), tmp_path, CPU)
    other.join(timeout=60)
    assert len(first.records) == 3
    assert inner[0].records == first.records


def test_second_training_in_a_folder_is_refused(tmp_path: Path) -> None:
    config = OnlineConfig(env_steps=64, envs=32, warmup=64, rungs=2, episodes=1)
    where = [domains.domain("hopper")]
    with (
        locks.held(tmp_path / "run"),
        pytest.raises(UserError, match="Another process is at work in"),
    ):
        ladders.train(where, config, seed=0, folder=tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
    assert ladders.train(where, config, seed=0, folder=tmp_path / "run")


# -- cells that fail -----------------------------------------------------------------------------


def diverge(learner: Learner) -> None:
    learner.parts.real[:, 11 + 3] = math.nan


def test_divergence_is_a_result_that_is_not_tried_again(
    stores: dict[str, str],
    whole: tuple[Path, Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        at_step(4, diverge, patch)
        found = matrix.run(small(stores), tmp_path, CPU)
    first, *others = found.records
    assert first.diverged
    assert first.failure.startswith("Training diverged: ")
    assert first.returns == ()
    assert tuple(others) == whole[1].records[1:]  # the matrix went on past it
    assert found.failed == []
    monkeypatch.setattr(Learner, "step", refuse)
    assert matrix.run(small(stores), tmp_path, CPU) == found  # nor does it become complete


def test_cell_without_data_fails_with_its_sentence_and_is_tried_again(
    stores: dict[str, str], tmp_path: Path
) -> None:
    there = cell(stores, "halfcheetah", TINY_SAC)
    absent = replace(there, task="x", dynamics="hopper-expert")
    found = matrix.run(small(stores, absent, there), tmp_path, CPU)
    assert [bool(record.failure) for record in found.records] == [True, False]
    assert "collect it with: mabe-transfer collect" in found.failed[0].failure
    mended = replace(absent, dynamics=stores["hopper-d4rl"])
    assert not matrix.run(small(stores, mended, there), tmp_path, CPU).failed


def test_cell_whose_data_another_process_converts_is_waited_for(
    stores: dict[str, str],
    whole: tuple[Path, Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tries: list[tuple[str, str]] = []
    first = ("sac", "hopper-d4rl")

    def converting(row: Algorithm, dynamics: str, prior: str, target: str) -> Any:
        tries.append((row.name, target))
        if tries[-1] == first and tries.count(first) < 4:
            raise Busy("It is being written by another process.")
        return sources(row, dynamics, prior, target)

    monkeypatch.setattr(matrix, "sources", converting)
    monkeypatch.setattr(locks, "LOOK", 0.0)
    assert matrix.run(small(stores), tmp_path, CPU) == whole[1]
    assert tries.count(first) == 4
    assert capsys.readouterr().err.count("another process is at it") == 1


def test_cell_that_breaks_leaves_its_traceback_and_is_tried_again(
    stores: dict[str, str],
    whole: tuple[Path, Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_: Learner) -> None:
        raise RuntimeError("CUDA out of memory")

    at_step(5, broken, monkeypatch)
    found = matrix.run(small(stores), tmp_path, CPU)
    (failed,) = found.failed
    assert failed.failure.startswith("RuntimeError: CUDA out of memory; see ")
    assert "in broken" in (tmp_path / failed.folder / "traceback.txt").read_text()
    assert len(found.records) == 3
    assert matrix.run(small(stores), tmp_path, CPU) == whole[1]


def test_results_are_not_replaced_by_those_of_fewer_cells_or_seeds(tmp_path: Path) -> None:
    spare(tmp_path, coming("a"), (0,), SHORT)
    hand(record("bc", "a", 1.0, 2.0), record("bc", "b", 3.0, 4.0)).write(tmp_path / "records.json")
    kept = read(tmp_path / "records.json").schedule
    spare(tmp_path, coming("a", "b", "c"), (0, 1, 2), kept, "D4RL v0, its own files")
    with pytest.raises(UserError, match=r"holds results of bc on b, which this would replace"):
        spare(tmp_path, coming("a"), (0, 1), kept)
    for seeds in ((0,), (5, 6)):
        other = ", ".join(map(str, seeds))
        with pytest.raises(UserError, match=f"of the seeds 0, 1, which those of {other} would"):
            spare(tmp_path, coming("a", "b"), seeds, kept)
    with pytest.raises(UserError, match="on other data, D4RL v0, its own files, which"):
        spare(tmp_path, coming("a", "b"), (0, 1), kept, "D4RL v2")
    with pytest.raises(UserError, match=r"another training, schedule.updates \(.* 7 asked for"):
        spare(tmp_path, coming("a", "b"), (0, 1), replace(kept, updates=7))


def coming(
    *tasks: str, overrides: Overrides | None = None
) -> dict[tuple[str, str], Overrides | None]:
    return dict.fromkeys([("bc", task) for task in tasks], overrides)


def test_results_are_not_replaced_by_those_of_other_settings(tmp_path: Path) -> None:
    one = (("policy.discount", "0.9"), ("batch", "64"))
    made = replace(record("bc", "a", 1.0, 2.0), overrides=one)
    earlier = record("bc", "b", 3.0, 4.0)  # of a version whose records did not say
    kept = hand(made, earlier)
    kept.write(tmp_path / "records.json")
    for same in (one, one[::-1], None):
        spare(tmp_path, coming("a", "b", overrides=same), (0, 1), kept.schedule)
    for other, difference in (
        ((*one[:1], ("batch", "32")), r"batch \('64' there, '32' asked for\)"),
        (one[:1], r"batch \('64' there, None asked for\)"),
        ((*one, ("policy.polyak", "1")), r"policy.polyak \(None there, '1' asked for\)"),
    ):
        with pytest.raises(UserError, match=f"results of bc with other settings, {difference}"):
            spare(tmp_path, coming("a", "b", overrides=other), (0, 1), kept.schedule)


def test_provenance_keeps_who_began_a_run_and_notes_who_resumed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for commit in ("one", "two", "two"):
        monkeypatch.setattr(runs, "provenance", lambda commit=commit: {"commit": commit})
        folder = runs.RunFolder(tmp_path / "run", {})
    kept = {"commit": "one", "resumed": [{"commit": "two"}]}
    assert runs.read_json(tmp_path / "run" / "provenance.json") == kept
    folder.status("complete")
    monkeypatch.setattr(runs, "provenance", lambda: {"commit": "three"})
    runs.RunFolder(tmp_path / "run", {})
    assert runs.read_json(tmp_path / "run" / "provenance.json") == kept


# -- the table -----------------------------------------------------------------------------------


def record(label: str, task: str, *scores: float, failure: str = "") -> Record:
    returns = tuple(10 * score for score in scores)
    return Record(
        label=label, task=task, row=label, machine="a machine", returns=returns, scores=scores,
        failure=failure, diverged=bool(failure),
    )  # fmt: skip


def hand(*records: Record) -> Outcome:
    return Outcome(
        title="By hand", data="D4RL v0, its own files", seeds=(0, 1), schedule=SHORT,
        records=records,
    )  # fmt: skip


M, R = "halfcheetah-medium", "hopper-medium"
FULL = hand(
    record("mopo", M, 10, 30), record("mopo", R, 0, 0), record("mabe", M, 40, 20),
    record("mabe", R, 6, 10), record("sac", M, 1, 3), record("sac", R, failure="It diverged."),
)  # fmt: skip


def rows_of(board: scoreboard.Board) -> dict[str, dict[str, str]]:
    return {row["task"]: {key: row[key] for key in row if key != "task"} for row in board.rows}


def test_table_gives_mean_and_spread_over_seeds() -> None:
    rows = rows_of(scoreboard.board(FULL))
    assert rows[M] == {"mopo": "20.0 +- 10.0", "mabe": "30.0 +- 10.0", "sac": "2.0 +- 1.0"}
    assert rows[R] == {"mopo": "0.0 +- 0.0", "mabe": "8.0 +- 2.0", "sac": "diverged"}


def test_table_aggregates_over_tasks_and_leaves_no_failure_out() -> None:
    rows = rows_of(scoreboard.board(FULL))
    assert rows["average"] == {"mopo": "10.0", "mabe": "19.0", "sac": "-"}
    # of 6, 10, 20, 40 stay 10 and 20; the extremes are 6 6 20 20 and 10 10 40 40
    assert rows["IQM"]["mabe"] == "15.0 [13.0, 25.0]"
    assert rows["IQM"]["sac"] == "-"


def test_table_says_how_likely_each_row_is_better_than_the_named_one() -> None:
    rows = rows_of(scoreboard.board(FULL))
    # on M: 40 beats 10 and 30, 20 beats 10: 3/4; on R all: (0.75 + 1) / 2
    assert rows["P(better than mopo)"]["mabe"].startswith("0.88 [0.50, 1.00]")
    assert rows["P(better than mopo)"]["mopo"] == ""
    other = rows_of(scoreboard.board(FULL, reference="mabe"))
    assert other["P(better than mabe)"]["mopo"].startswith("0.12 [0.00, 0.50]")
    with pytest.raises(UserError, match="Did you mean 'mabe'"):
        scoreboard.board(FULL, reference="mabi")


def test_table_names_data_budget_seeds_machine_and_every_failure() -> None:
    said = " ".join(scoreboard.board(FULL).notes)
    for fact in ("D4RL v0, its own files", "6 updates for each seed", "Seeds: 0, 1.", "a machine",
                 "sac on hopper-medium: It diverged.", "the last 2 evaluations"):  # fmt: skip
        assert fact in said


def test_returns_stand_where_a_target_has_no_references() -> None:
    bare = hand(*(replace(r, scores=()) for r in FULL.records[:4]))
    board = scoreboard.board(bare, printed=published.table("mabe-table-1"))
    rows = rows_of(board)
    assert rows[M] == {"mopo": "200.0 +- 100.0", "mabe": "300.0 +- 100.0"}
    assert set(rows) == {M, R, "P(better than mopo)"}  # returns of two worlds do not add up
    assert "A number is the return" in " ".join(board.notes)


def test_printed_scores_stand_beside_ours_and_say_their_data() -> None:
    board = scoreboard.board(FULL, printed=published.table("mabe-table-1"))
    rows = rows_of(board)
    assert rows["data"]["MABE (printed)"] == rows["data"]["mabe"] == "D4RL v0"
    assert rows[M]["MABE (printed)"] == "46.8 +- 0.8"
    assert rows[R]["BC (printed)"] == "29.0"
    assert rows["average"]["BC (printed)"] == "32.5"  # of these two tasks
    assert "halfcheetah-medium-expert" not in rows
    assert "other data" not in " ".join(board.notes)
    ours = scoreboard.board(
        replace(FULL, data="collected here"), printed=published.table("mabe-table-1")
    )
    assert "other data than ours" in " ".join(ours.notes)
    assert rows_of(ours)["data"]["mabe"] == "ours"


def test_average_that_is_printed_wrong_is_recomputed() -> None:
    table = published.table("mabe-table-1")
    nine = hand(*(record("mopo", task, 1, 2) for task in table.tasks))
    rows = rows_of(scoreboard.board(nine, printed=table))
    assert rows["average"]["BC (printed)"] == "31.9 (printed 31.7)"
    assert rows["average"]["MABE (printed)"] == "77.5"


def test_csv_has_a_line_for_each_cell(tmp_path: Path) -> None:
    path = scoreboard.tidy(FULL, tmp_path / "t.csv", printed=published.table("mabe-table-1"))
    with path.open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6 + 7 * 2
    assert lines[0] == {
        "method": "mopo", "data": "D4RL v0, its own files", "task": M, "seeds": "0 1",
        "mean": "20.0000", "std": "10.0000", "low": "10.0000", "high": "30.0000", "note": "",
    }  # fmt: skip
    assert (lines[5]["mean"], lines[5]["note"]) == ("", "It diverged.")
    mabe = next(line for line in lines if line["method"] == "MABE")
    assert (mabe["mean"], mabe["std"], mabe["data"]) == ("46.8", "0.8", "D4RL v0")


def test_markdown_has_title_table_and_notes(tmp_path: Path) -> None:
    text = scoreboard.board(FULL).write(tmp_path / "t.md").read_text()
    assert text.startswith("## By hand\n\n| task | mopo | mabe | sac |\n|---|---|---|---|\n")
    assert "\n- Data: D4RL v0, its own files.\n" in text


# -- the budget ----------------------------------------------------------------------------------


def test_row_of_whole_trajectories_takes_its_share_of_the_budget() -> None:
    """A tenth of the usual 100,000 gradient steps is a tenth of the usual 500 steps."""
    given = Schedule(updates=10_000, evaluate_every=500, episodes=3)
    assert given.matched(SAC) == given
    found = given.matched(MOREL)
    assert (found.updates, found.evaluate_every, found.episodes) == (50, 2, 3)
    assert found.log_every == Schedule.of(MOREL).log_every
    assert Schedule().matched(BREMEN) == Schedule.of(BREMEN)
    least = Schedule(updates=10, evaluate_every=5).matched(MOREL)
    assert (least.updates, least.evaluate_every) == (1, 1)


def test_results_of_other_tasks_stand_beside_those_of_one_scale_and_seeds(tmp_path: Path) -> None:
    def record(task: str) -> Record:
        return Record(label="bc", task=task, row="bc", returns=(1.0, 2.0))

    kept = Outcome(
        title="", data="", seeds=(0, 1), schedule=Schedule(), records=(record("a"), record("b"))
    )
    assert others(tmp_path, ("a",), (0, 1), {"updates": 5}) == ()
    kept.write(tmp_path / "records.json")
    runs.write_json(tmp_path / "results.json", {"scale": {"updates": 5}})
    assert others(tmp_path, ("b", "c"), (0, 1), {"updates": 5}) == (record("a"),)
    assert others(tmp_path, ("a", "b"), (7,), {"updates": 5}) == ()  # all of them are made again
    with pytest.raises(UserError, match=r"results of a that share no table .*seeds"):
        others(tmp_path, ("b",), (0, 2), {"updates": 5})
    for tasks in (("b",), ("a", "b")):
        with pytest.raises(UserError, match=r"scale\.updates \(5 there, 9 asked for\)"):
            others(tmp_path, tasks, (0, 1), {"updates": 9})
