"""Figure 6: which arms there are, what is written, and that what is complete is skipped."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from mabe_transfer import benchmark, catalogue, domains, figure6, marks, scale, standing
from mabe_transfer.algorithms import ALGORITHMS
from mabe_transfer.composition import Imitation
from mabe_transfer.config import with_overrides
from mabe_transfer.errors import UserError
from mabe_transfer.evaluate import LAST
from mabe_transfer.figure6 import LABELS, MABE, ROBOTS, Data
from mabe_transfer.graphs import Stepper
from mabe_transfer.learner import Learner
from mabe_transfer.marks import Marks
from mabe_transfer.outcome import Outcome, Record
from mabe_transfer.parts.prior import Fit, Network
from mabe_transfer.parts.regulariser import Entropy, ExplicitKl
from mabe_transfer.parts.sac import Sac
from mabe_transfer.scale import CPU, FULL, SHORT, SMOKE

if TYPE_CHECKING:
    from pathlib import Path

    from mabe_transfer.matrix import Matrix

NARROW = (
    ("policy.hidden", "[8,8]"), ("prior.fit.hidden", "[8,8]"), ("dynamics.hidden", "[8]"),
    ("dynamics.members", "2"), ("dynamics.elites", "2"), ("dynamics.batch", "64"),
)  # fmt: skip
TINY = replace(
    SMOKE,
    forward=replace(SMOKE.forward, transitions=200),
    backward=replace(SMOKE.backward, transitions=100),
    updates=4,
    looks=2,
    prior_updates=6,
    prior_looks=2,
    starts=8,
    correction=replace(SMOKE.correction, updates=2),
    overrides=NARROW,
)
NAMES = Data("D1", "D2", "both", "both corrected")


def cells(robot: str = "hopper") -> dict[str, tuple[str, str | None, str | None]]:
    found = figure6.arms(robot, NAMES, FULL)
    return {cell.label: (cell.row.name, cell.dynamics, cell.prior) for cell in found}


def test_arms_are_the_paper_s_four_and_the_controls_it_lacks() -> None:
    assert list(cells().values()) == [
        ("mopo", "D1", None),
        ("mopo", "D2", None),
        ("mopo-from-prior", "D1", "D2"),
        ("mabe", "D1", "D2"),
        ("mabe-scaled", "D1", "D2"),
        ("mabe-no-rl", "D1", "D2"),
        ("mopo", "both", None),
        ("mabe", "both", None),
        ("mopo", "both corrected", None),
    ]
    assert {cell.target for cell in figure6.arms("hopper", NAMES, FULL)} == {"hopper-backward"}


def test_prior_alone_is_deployed_once_it_is_fitted_for_as_many_episodes_as_others() -> None:
    found = {cell.label: cell for cell in figure6.arms("hopper", NAMES, FULL)}
    alone = found["prior alone, zero-shot"]
    assert alone.schedule is not None
    assert alone.schedule.updates == alone.schedule.evaluate_every == FULL.prior_updates
    assert alone.schedule.episodes == LAST * FULL.episodes
    many = CPU.schedule(ALGORITHMS["bc"])  # of which the last ten make the result
    assert (many.updates // many.evaluate_every, many.episodes) == (50, CPU.episodes)


def test_arms_share_the_scale_s_settings_and_the_prior_alone_is_fitted_like_mabe_s() -> None:
    tuned = replace(FULL, kl_target=0.3, horizon=7, prior_start_share=0.8)
    found = {cell.label: cell for cell in figure6.arms("hopper", NAMES, tuned)}
    mabe, alone = found[MABE].algorithm, found["prior alone, zero-shot"].algorithm
    mopo = found[LABELS[0]].algorithm
    assert isinstance(mabe.regulariser, ExplicitKl)
    assert mabe.regulariser.target == 0.3
    assert mabe.rollouts is not None
    assert mopo.rollouts is not None
    assert (mabe.rollouts.horizon, mopo.rollouts.horizon) == (7, 7)
    assert (mabe.rollouts.prior_start_share, mopo.rollouts.prior_start_share) == (0.8, 0.0)
    assert mabe.dynamics == mopo.dynamics
    assert mabe.prior is not None
    assert alone.prior is not None
    assert isinstance(alone.prior.fit, Network)
    assert isinstance(mabe.prior.fit, Fit)
    assert alone.prior.fit.hidden == mabe.prior.fit.hidden
    assert alone.batch == mabe.prior.fit.batch
    schedule = found["prior alone, zero-shot"].schedule
    assert schedule is not None
    assert schedule.updates == mabe.prior.fit.updates == tuned.prior_updates


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_row_takes_what_a_scale_sets(name: str) -> None:
    row = ALGORITHMS[name]
    changed = with_overrides(row, dict(replace(FULL, batch=17).settings(row)))
    assert changed.batch == (row.batch if isinstance(row.policy, Imitation) else 17)
    if changed.dynamics is not None:
        assert changed.dynamics.max_epochs == FULL.epochs


def test_full_scale_is_what_the_recipes_say() -> None:
    for robot in ROBOTS:
        for name, how in (("forward", FULL.forward), ("backward-on-ice", FULL.backward)):
            recipe = catalogue.recipe(f"{robot}-figure6-{name}")
            assert (recipe.quality, recipe.transitions) == (how.quality, how.transitions)


@pytest.mark.parametrize("updates", [1, 7, 100, 5_000, 5_001])
def test_trainings_are_looked_at_as_often_as_wanted_and_at_their_end(updates: int) -> None:
    """Rounded down, 5,000 updates in 15 looks gave one at 4,995 and one at 5,000."""
    every = replace(FULL, updates=updates, looks=15).plan.evaluate_every
    assert -(-updates // every) <= 15
    assert -(-updates // benchmark.looks(updates)) <= 20
    assert every <= -(-updates // 15)


def test_benchmark_takes_the_schedule_that_a_scale_has_for_each_row() -> None:
    """Priors that are the policy were looked at as rarely as policies that climb values."""
    plan = benchmark.Plan(
        algos=("bc", "mopo"), seeds=(0,), schedule=CPU.plan, schedules=CPU.schedule, overrides={}
    )
    found = {cell.label: cell.schedule for cell in benchmark.cells(plan, benchmark.named(plan))}
    assert found["bc"] == CPU.schedule(ALGORITHMS["bc"])
    assert found["mopo"] == CPU.plan
    assert found["bc"].evaluate_every < found["mopo"].evaluate_every


def test_unknown_scale_robot_and_setting_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'smoke'"):
        scale.scale("smok")
    with pytest.raises(UserError, match="Did you mean 'horizon'"):
        scale.scale("full", (("rollouts.horizont", "5"),))
    with pytest.raises(UserError, match="Did you mean 'hopper'"):
        figure6.run(
            ("hoper",), TINY, seeds=1, out=tmp_path, results=tmp_path, device=torch.device("cpu")
        )


def test_robots_that_were_run_before_stay_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside: list[str] = []

    def train(asked: Matrix, *_: object) -> Outcome:
        if beside:  # another process finishes while this one trains
            run(beside.pop())
        return Outcome(
            title=asked.title,
            data=asked.data,
            seeds=asked.seeds,
            schedule=asked.schedule,
            records=tuple(
                record(cell.label, cell.task, float(len(cell.task)), 1.0) for cell in asked.cells
            ),
        )

    monkeypatch.setattr(figure6, "data", lambda *_: NAMES)
    monkeypatch.setattr("mabe_transfer.matrix.run", train)

    def run(robot: str, seeds: int = 2) -> list[dict[str, str]]:
        device = torch.device("cpu")
        return figure6.run(
            (robot,), TINY, seeds=seeds, out=tmp_path / "runs", results=tmp_path, device=device
        ).lines

    assert {line["robot"] for line in run("walker2d")} == {"walker2d"}
    lines = run("hopper")
    assert [line["robot"] for line in lines] == (
        ["hopper"] * 9 + ["walker2d"] * 9 + [standing.ALL] * 9
    )
    assert run("walker2d") == lines
    beside.append("halfcheetah")
    robots = ["halfcheetah", "hopper", "walker2d", standing.ALL]
    assert list(dict.fromkeys(line["robot"] for line in run("hopper"))) == sorted(
        robots, key=[*ROBOTS, standing.ALL].index
    )
    with pytest.raises(UserError, match="results of hopper, halfcheetah that share no table"):
        run("walker2d", seeds=3)


@pytest.mark.slow
def test_run_leaves_numbers_table_and_picture_and_repeated_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    plain = Stepper.advance

    def counted(stepper: Stepper, most: int) -> int:
        if isinstance(stepper.steps, Learner):
            steps.append(1)
        return plain(stepper, most)

    monkeypatch.setattr(Stepper, "advance", counted)
    for _ in range(2):
        made = figure6.run(
            ("hopper",),
            TINY,
            seeds=2,
            out=tmp_path / "runs",
            results=tmp_path / "results",
            device=torch.device("cpu"),
        )
        assert not made.outcome.failed, [record.failure for record in made.outcome.failed]
        assert len(steps) == 8 * 4 + 6
    assert [line["arm"] for line in made.lines] == list(LABELS)
    numbers = json.loads((tmp_path / "results" / "results.json").read_text())
    assert [len(row["returns"]) for row in numbers["standings"]] == [2] * 9
    assert numbers["marks"]["hopper"]["expert"] > numbers["marks"]["hopper"]["random"]
    assert "P(MABE beats it)" in (tmp_path / "results" / "table.md").read_text()
    assert made.files["picture"].stat().st_size > 1000


# -- marks and standings -------------------------------------------------------------------------


def test_marks_are_measured_once_and_beside_them_the_expert_that_was_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[str] = []

    def play(domain: domains.Domain, *_: object, **__: object) -> np.ndarray:
        played.append(domain.name)
        return np.array([10.0, 30.0])

    monkeypatch.setattr(marks, "play", play)
    target, source = (domains.domain(f"hopper{name}-backward") for name in ("", "-ice"))
    for _ in range(2):
        found = marks.measure(target, source, episodes=2, folder=tmp_path)
        assert found is not None
        assert (found.home, found.carried) == (20.0, 20.0)
        assert target.reference is not None
        assert found.expert == target.reference.expert
        assert played == ["hopper-ice-backward", "hopper-backward"]


def test_target_without_references_has_no_marks_where_nothing_is_played(tmp_path: Path) -> None:
    target, source = (domains.domain(name) for name in ("hopper-mass=1.7", "hopper"))
    assert marks.measure(target, source, episodes=0, folder=tmp_path) is None


def record(label: str, task: str, *returns: float, failure: str = "") -> Record:
    return Record(label=label, task=task, row=label, returns=returns, failure=failure)


def test_standings_by_hand() -> None:
    """MABE earns 3 and 5, the other 4 and 1: it wins three of four pairs; 0 and 8 are the marks."""
    records = [record("MABE", "a", 3.0, 5.0), record("other", "a", 4.0, 1.0)]
    found = standing.standings(records, "MABE", {"a": Marks(random=0.0, expert=8.0)})
    assert [row.label for row in found] == ["MABE", "other"]
    assert found[0].beaten is None
    assert found[1].beaten is not None
    assert found[1].beaten.value == 0.75
    assert found[0].earned is not None
    assert (found[0].earned.value, found[0].earned.low, found[0].earned.high) == (4.0, 3.0, 5.0)
    assert found[0].score is not None
    assert found[0].score.value == 50.0
    assert found[0].line("MABE")["+- over seeds"] == "1"


def test_all_robots_stand_together_only_for_arms_that_lack_none() -> None:
    """Scores 10 and 30 make 20; what failed on one robot has no line for all."""
    records = [
        record("MABE", "a", 1.0), record("MABE", "b", 3.0),
        record("other", "a", 0.0), record("other", "b", failure="It fell."),
    ]  # fmt: skip
    mark = Marks(random=0.0, expert=10.0)
    found = standing.standings(records, "MABE", {"a": mark, "b": mark})
    together = [row for row in found if row.task == standing.ALL]
    assert [row.label for row in together] == ["MABE"]
    assert together[0].score is not None
    assert together[0].score.value == 20.0
    failed = next(row for row in found if row.failure)
    assert failed.line("MABE")["return"] == "failed"


def test_favourite_that_failed_beats_nobody() -> None:
    records = [record("MABE", "a", failure="It fell."), record("other", "a", 1.0)]
    found = standing.standings(records, "MABE", {"a": None})
    assert found[1].beaten is None
    assert found[1].score is None


def test_what_a_user_sets_is_added_to_the_settings_of_a_scale() -> None:
    chosen = dict(scale.scale("full", (("policy.discount", "0.9"),)).settings(ALGORITHMS["mabe"]))
    assert chosen["policy.discount"] == "0.9"
    assert chosen["policy.polyak"] == dict(SHORT)["policy.polyak"]


@pytest.mark.parametrize("sized", [FULL, CPU])
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_scale_moves_every_temperature_at_one_rate_and_leaves_the_dual_weight_s(
    name: str, sized: scale.Scale
) -> None:
    """MOPO's had not come near its entropy in the updates that a scale has."""
    row = ALGORITHMS[name]
    regulariser = with_overrides(row, dict(sized.settings(row))).regulariser
    if isinstance(regulariser, Entropy):
        assert (regulariser.initial, regulariser.learning_rate) == (0.2, 1e-3)
    elif regulariser is not None:
        assert regulariser.learning_rate == ExplicitKl().learning_rate == 1e-3


def test_critics_go_first_at_a_scale_where_they_do_so_without() -> None:
    firsts = {}
    for name in ("mabe", "mabe-paper", "mopo", "sac", "cql"):
        policy = with_overrides(ALGORITHMS[name], dict(CPU.settings(ALGORITHMS[name]))).policy
        assert isinstance(policy, Sac)
        firsts[name] = policy.critics_first
    assert firsts == {"mabe": 250, "mabe-paper": 0, "mopo": 0, "sac": 0, "cql": 0}


def test_steps_are_a_policy_s_updates_and_not_its_prior_s() -> None:
    shorter = scale.scale("full", updates=500)
    assert shorter == replace(FULL, updates=500)
    assert shorter.prior_updates == FULL.prior_updates
    assert scale.scale("full") == FULL
