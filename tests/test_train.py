"""From two datasets to a run's folder: what is learned, what is kept, and how it goes on."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import pytest
import torch

from mabe_transfer import collect as collecting
from mabe_transfer import domains, evaluate, fitting, policies, runs, weights
from mabe_transfer.algorithms import (
    BC,
    BRAC_V,
    BREMEN,
    COMBO,
    EDAC,
    MABE,
    MOBILE,
    MOPO,
    MOREL,
    SAC,
    TD3_BC,
)
from mabe_transfer.baseline import Baseline
from mabe_transfer.batched import Simulation
from mabe_transfer.behaviour import RandomPolicy
from mabe_transfer.cli.training import lengths
from mabe_transfer.errors import Diverged, Interrupted, UserError
from mabe_transfer.graphs import Stepper
from mabe_transfer.learner import Learner
from mabe_transfer.parts.dynamics import Ensemble, EnsembleFit, EnsembleModel
from mabe_transfer.parts.prior import Adaptive, BehaviourPrior, Fit, Network, PriorFit, Unweighted
from mabe_transfer.parts.rollouts import Rollouts
from mabe_transfer.parts.sac import Sac
from mabe_transfer.parts.td3 import Td3
from mabe_transfer.parts.trajectories import WholeRollouts
from mabe_transfer.parts.trust_region import Npg, Solver, Trpo
from mabe_transfer.streams import Sizes
from mabe_transfer.train import Result, Schedule, Trainer
from mabe_transfer.transfer import Sources, sources
from mabe_transfer.transitions import relabel
from mabe_transfer.values import InSample
from mabe_transfer.weighting import NormalisedAdvantage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mabe_transfer.composition import Algorithm
    from mabe_transfer.domains import Domain

FIT = Fit(updates=10, batch=32, hidden=(16, 16))
TINY: dict[str, Any] = {"policy": Sac(hidden=(16, 16)), "batch": 16}
MODEL: dict[str, Any] = {
    "dynamics": Ensemble(members=3, elites=2, hidden=(16,), batch=128, max_epochs=2),
    "rollouts": Rollouts(horizon=2, starts=20, every=4, kept=2),
}
TINY_SAC = replace(SAC, **TINY)
TINY_BC = replace(BC, prior=Unweighted(fit=Network(hidden=(16, 16))), batch=16)
TINY_BRAC = replace(BRAC_V, prior=Unweighted(fit=FIT), **TINY)
TINY_TD3 = replace(TD3_BC, policy=Td3(hidden=(16, 16), critic_penalty=0.1), batch=16)
TINY_MOPO = replace(MOPO, **TINY, **MODEL)
TINY_MABE = replace(MABE, prior=Adaptive(fit=FIT), **TINY, **MODEL)
TINY_COMBO = replace(COMBO, **TINY, **MODEL)
TINY_MOBILE = replace(MOBILE, **TINY, **MODEL)
TINY_EDAC = replace(EDAC, **TINY)
BASELINE = Baseline(hidden=(16,), updates=3, batch=32)
SOLVER = Solver(iterations=3)
WHOLE = {"dynamics": MODEL["dynamics"], "rollouts": WholeRollouts(horizon=5, starts=20)}
TINY_BREMEN = replace(
    BREMEN,
    prior=Unweighted(fit=FIT),
    policy=Trpo(hidden=(16, 16), baseline=BASELINE, solver=SOLVER),
    **WHOLE,
)
TINY_MOREL = replace(MOREL, policy=Npg(hidden=(16, 16), baseline=BASELINE, solver=SOLVER), **WHOLE)
TINY_ROWS = [
    TINY_SAC,
    TINY_BRAC,
    TINY_MOPO,
    TINY_MABE,
    TINY_COMBO,
    TINY_MOBILE,
    TINY_EDAC,
    TINY_BREMEN,
    TINY_MOREL,
]
SHORT = Schedule(updates=12, evaluate_every=5, episodes=2, log_every=4)


def short(name: str) -> Domain:
    """A domain whose episodes end after 30 steps."""
    base = domains.domain(name)
    return replace(base, robot=replace(base.robot, max_episode_steps=30))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Datasets of a random policy, by the name of their domain."""
    root = tmp_path_factory.mktemp("stores")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "BLOCK", 8)
        for name in ("hopper", "hopper-ice-backward", "halfcheetah"):
            store = collecting.collect(
                short(name),
                [collecting.Share(RandomPolicy(), 300, "random")],
                seed=3,
                location=root / f"{name}-random.zarr",
                facts={"quality": "random", "behaviour": {}, "recipe": {}},
                title=name,
            )
            found[name] = store.location
    return found


def found(stores: dict[str, str], row: Algorithm) -> Sources:
    """The sources of a transfer from hopper to ice and backwards."""
    prior = stores["hopper-ice-backward"] if row.prior is not None else None
    return sources(row, stores["hopper"], prior, None)


def trainer(stores: dict[str, str], row: Algorithm, folder: Path, **changes: Any) -> Trainer:
    return Trainer(
        row,
        found(stores, row),
        replace(SHORT, **changes),
        seeds=(0, 4),
        device=torch.device("cpu"),
        folder=folder,
    )


def train(stores: dict[str, str], row: Algorithm, folder: Path, **changes: Any) -> Result:
    return trainer(stores, row, folder, **changes).run()


@pytest.fixture(scope="module")
def finished(
    stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Algorithm], Result]:
    """Trains a row once for all tests, to the end and without a stop; nobody changes its folder."""
    root = tmp_path_factory.mktemp("finished")

    @cache
    def run(row: Algorithm) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MABE_TRANSFER_DATA", str(root / "data"))
            return train(stores, row, root / row.name)

    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- the target ----------------------------------------------------------------------------------


def test_target_is_the_robot_and_physics_of_d1_with_the_task_of_d2(stores: dict[str, str]) -> None:
    target = found(stores, MABE).target
    assert target.name == "hopper-backward"
    assert target.robot.max_episode_steps == 30


def test_user_is_told_what_follows_from_the_data(stores: dict[str, str]) -> None:
    first, one, two = found(stores, MABE).describe(MABE)
    assert first == "Target domain: hopper-backward."
    assert one.endswith("300 transitions of hopper, relabelled for the backward task.")
    assert two.endswith("300 transitions of hopper-ice-backward.")


def test_user_is_told_whose_rows_are_not_used(stores: dict[str, str]) -> None:
    given = sources(MABE, stores["hopper"], stores["hopper-ice-backward"], None)
    _, one, two = given.describe(SAC)
    assert one.endswith("300 transitions of hopper, relabelled for the backward task.")
    assert two.endswith("; sac takes its task for the target, and none of its rows.")
    _, one, two = given.describe(BC)
    assert one.endswith("of hopper; bc takes its world for the target, and none of its rows.")
    assert two.endswith("300 transitions of hopper-ice-backward.")
    alone = sources(BC, stores["hopper"], None, None)
    assert "none of its rows" not in " ".join(alone.describe(BC))


def test_two_robots_of_one_name_are_told_apart(stores: dict[str, str]) -> None:
    given = found(stores, MABE)
    assert given.prior is not None
    own = replace(given.prior.domain.robot, model="elsewhere/hopper.xml", references={})
    changed = replace(given.prior, domain=replace(given.prior.domain, robot=own))
    *_, last = replace(given, prior=changed).describe(MABE)
    assert last == "Two robots have the name hopper: D2's differs from D1's in model."


def test_target_can_be_given(stores: dict[str, str]) -> None:
    given = sources(MABE, stores["hopper"], stores["hopper-ice-backward"], "hopper-ice")
    assert given.target.name == "hopper-ice"


def test_prior_is_fitted_to_d1_where_there_is_no_d2(stores: dict[str, str]) -> None:
    given = sources(MABE, stores["hopper"], None, None)
    assert given.prior is given.dynamics
    assert given.target.name == "hopper"


def test_policy_learns_from_d2_where_there_is_no_d1(stores: dict[str, str]) -> None:
    given = sources(BRAC_V, None, stores["hopper-ice-backward"], None)
    assert given.real is given.prior
    assert given.target.name == "hopper-ice-backward"


def test_data_of_different_robots_is_refused(stores: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"is of hopper, --prior .* of halfcheetah; a policy moves"):
        sources(MABE, stores["hopper"], stores["halfcheetah"], None)


def test_target_of_another_robot_is_refused(stores: dict[str, str]) -> None:
    with pytest.raises(UserError, match="--target walker2d is another robot than"):
        sources(SAC, stores["hopper"], None, "walker2d")


@pytest.mark.parametrize(
    ("row", "prior", "message"),
    [
        (MABE, True, "mabe fits a dynamics model: name its data with --dynamics"),
        (MOPO, False, "mopo fits a dynamics model: name its data with --dynamics"),
        (BC, False, "bc fits a behaviour prior: name its data with --prior"),
        (SAC, False, "sac needs data: name it with --dynamics"),
    ],
)
def test_missing_data_is_named(
    stores: dict[str, str], row: Algorithm, prior: bool, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        sources(row, None, stores["hopper"] if prior else None, None)


# -- relabelling ---------------------------------------------------------------------------------


def test_relabelled_rewards_are_those_of_the_real_backward_environment(
    stores: dict[str, str],
) -> None:
    given = found(stores, MABE)
    data = relabel(given.real.store.load(), given.target.weights)
    assert data.qpos is not None
    assert data.qvel is not None
    env = gymnasium.make("Hopper-v5", forward_reward_weight=-1.0)
    env.reset(seed=0)
    real: Any = env.unwrapped
    for row in range(0, 300, 7):
        real.set_state(data.qpos[row], data.qvel[row])
        _, reward, terminated, _, _ = env.step(data.actions[row])
        # The recorder's solver and this one start from different guesses: equal to rounding.
        assert float(data.rewards[row]) == pytest.approx(reward, abs=1e-5)
        assert bool(data.terminals[row]) == terminated
    env.close()


def test_relabelled_rewards_are_those_of_the_batched_backward_simulation(
    stores: dict[str, str],
) -> None:
    given = found(stores, MABE)
    data = relabel(given.real.store.load(), given.target.weights)
    simulation = Simulation(given.target, len(data))
    assert data.qpos is not None
    assert data.qvel is not None
    simulation.set_state(data.qpos, data.qvel)
    reward = simulation.step(data.actions).reward
    simulation.close()
    np.testing.assert_allclose(data.rewards, reward, rtol=1e-6, atol=1e-6)


def test_data_of_the_target_task_keeps_its_rewards(stores: dict[str, str]) -> None:
    given = found(stores, MABE)
    assert given.prior is not None
    data = given.prior.store.load()
    rows = given.data(given.prior, torch.device("cpu")).rows
    np.testing.assert_array_equal(rows.numpy(), data.packed())
    np.testing.assert_allclose(relabel(data, given.target.weights).rewards, data.rewards, atol=1e-6)


def test_model_and_critics_see_the_relabelled_rewards(stores: dict[str, str]) -> None:
    given = found(stores, MABE)
    rows = given.data(given.real, torch.device("cpu")).rows
    assert rows.shape == (300, 11 + 3 + 1 + 11 + 1)
    data = given.real.store.load()
    relabelled = relabel(data, given.target.weights)
    np.testing.assert_array_equal(rows.numpy(), relabelled.packed())
    assert not np.array_equal(relabelled.rewards, data.rewards)


# -- the run's folder ----------------------------------------------------------------------------


@pytest.mark.parametrize("row", TINY_ROWS, ids=lambda r: r.name)
def test_run_leaves_a_folder_that_says_everything(
    finished: Callable[[Algorithm], Result], row: Algorithm
) -> None:
    result = finished(row)
    folder = result.folder
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    names = {name for name in names if "events.out" not in name}
    expected = {"config.json", "provenance.json", "metrics.jsonl", "evaluations.jsonl"}
    expected |= {"status.json", "policy/policy.safetensors", "checkpoint/state.safetensors"}
    if row.prior is not None:
        expected.add("prior/prior.safetensors")
    if row.dynamics is not None:
        expected.add("dynamics/dynamics.safetensors")
    assert names == expected
    assert [r["update"] for r in lines(folder / "metrics.jsonl")] == [4, 8, 12]
    assert [r["update"] for r in lines(folder / "evaluations.jsonl")] == [5, 10, 12]
    config = runs.read_json(folder / "config.json")
    assert config["row"]["name"] == row.name
    assert config["seeds"] == [0, 4]
    assert runs.read_json(folder / "status.json")["state"] == "complete"
    assert result.per_seed.shape == (2,)
    assert [update for update, _ in result.history] == [5, 10, 12]


def test_evaluation_has_one_return_a_seed(finished: Callable[[Algorithm], Result]) -> None:
    result = finished(TINY_SAC)
    rows = lines(result.folder / "evaluations.jsonl")
    assert all(len(row["returns"]) == len(row["lengths"]) == 2 for row in rows)
    np.testing.assert_allclose(result.per_seed, np.mean([row["returns"] for row in rows], axis=0))


def test_result_is_the_mean_of_the_last_ten_evaluations(
    stores: dict[str, str], tmp_path: Path
) -> None:
    result = train(stores, TINY_SAC, tmp_path / "run", evaluate_every=1, episodes=1)
    rows = lines(tmp_path / "run" / "evaluations.jsonl")
    assert len(rows) == 12
    last = [row["returns"] for row in rows[-10:]]
    np.testing.assert_allclose(result.per_seed, np.mean(last, axis=0))


def test_no_episode_is_played_twice(
    stores: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[int] = []

    def returns(act: Any, simulation: Any, *, groups: int, seed: int) -> tuple[Any, Any]:
        played.extend(seed + episode for episode in range(simulation.size // groups))
        return np.zeros((groups, 1)), np.ones((groups, 1), dtype=np.int64)

    monkeypatch.setattr(evaluate, "returns", returns)
    train(stores, TINY_SAC, tmp_path / "sac", evaluate_every=1, episodes=5)
    assert len(played) == 12 * 5
    assert len(set(played)) == 60


def test_another_configuration_is_refused_with_the_first_difference(
    stores: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    trainer(stores, TINY_SAC, folder)
    before = (folder / "config.json").read_bytes()
    row = replace(TINY_SAC, policy=Sac(hidden=(16, 16), discount=0.9))
    with pytest.raises(UserError, match=r"another row.policy.discount \(0.99 there, 0.9 asked for"):
        trainer(stores, row, folder)
    with pytest.raises(UserError, match=r"another schedule.updates \(12 there, 13 asked for\)"):
        trainer(stores, TINY_SAC, folder, updates=13)
    assert (folder / "config.json").read_bytes() == before


def forget_fields(folder: Path, *names: str) -> None:
    """Let a run be of an earlier version, whose policies lacked fields."""
    config = runs.read_json(folder / "config.json")
    for name in names:
        del config["row"]["policy"][name]
    runs.write_json(folder / "config.json", config)


def test_run_of_an_earlier_version_is_refused_where_a_new_field_is_no_default(
    stores: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    trainer(stores, TINY_SAC, folder)
    forget_fields(folder, "critics_first")
    row = replace(TINY_SAC, policy=Sac(hidden=(16, 16), critics_first=3))
    said = r"another row.policy.critics_first \(0 there by default, 3 asked for\); choose another"
    with pytest.raises(UserError, match=said):
        trainer(stores, row, folder)


def test_run_is_found_under_the_name_that_an_earlier_version_gave_it(tmp_path: Path) -> None:
    usual, older = tmp_path / "mabe-hopper-0ff1ce", tmp_path / "mabe-hopper-c0ffee"
    runs.claim(older, {"row": TINY_MABE, "seeds": (0, 4)})
    config = runs.read_json(older / "config.json")
    del config["row"]["start_from_prior"], config["row"]["policy"]["critics_first"]
    assert MABE.start_from_prior
    runs.write_json(older / "config.json", config)
    runs.claim(tmp_path / "mabe-hopper-decade", {"row": TINY_MOPO, "seeds": (0, 4)})
    (tmp_path / "mabe-hopper-facade").mkdir()
    (tmp_path / "mabe-hopper-facade" / "config.json").write_text("cut sho")
    (tmp_path / "mabe-hopper-mine").mkdir()
    asked = {"row": replace(TINY_MABE, start_from_prior=False), "seeds": (0, 4)}
    assert runs.resumed(usual, asked) == older
    assert runs.resumed(usual, asked | {"seeds": (0, 5)}) == usual
    assert runs.resumed(tmp_path / "mopo-hopper-0ff1ce", asked).name == "mopo-hopper-0ff1ce"
    usual.mkdir()
    assert runs.resumed(usual, asked) == usual


def test_folder_of_something_else_is_refused(stores: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("done")
    with pytest.raises(UserError, match="is not empty and holds no run; choose another folder"):
        trainer(stores, TINY_SAC, tmp_path)
    with pytest.raises(UserError, match="is not empty and holds no run"):
        trainer(stores, TINY_SAC, tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


# -- fitted parts --------------------------------------------------------------------------------


def refuse(*_: object, **__: object) -> Any:
    raise AssertionError("this is not to be called")


def test_folder_that_a_killed_process_left_with_a_part_of_a_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json.123.partial").write_text('{"ro')
    runs.claim(tmp_path / "run", {"row": "mabe"})
    assert runs.read_json(tmp_path / "run" / "config.json") == {"row": "mabe"}


def test_full_disk_is_said_in_a_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_text", full)
    with pytest.raises(UserError, match=r"config.json cannot be written \(No space left"):
        runs.claim(tmp_path / "run", {"row": "mabe"})
    assert not list((tmp_path / "run").iterdir())


def test_second_run_finds_fitted_parts_by_their_hash(
    stores: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(stores, TINY_MABE, tmp_path / "one")
    monkeypatch.setattr(EnsembleModel, "fitting", refuse)
    monkeypatch.setattr(BehaviourPrior, "fitting", refuse)
    train(stores, TINY_MABE, tmp_path / "two")
    for name in ("dynamics/dynamics.safetensors", "prior/prior.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    rows = [lines(tmp_path / run / "metrics.jsonl") for run in ("one", "two")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "change",
    [{"fit": replace(FIT, updates=11)}, {"evaluation": InSample(expectile=0.7)}],
    ids=["fit", "expectile"],
)
def test_prior_with_other_settings_is_fitted_again(
    stores: dict[str, str], tmp_path: Path, data_root: Path, change: dict[str, Any]
) -> None:
    row = replace(TINY_MABE, start_from_prior=False)
    other = replace(row, prior=Adaptive(**{"fit": FIT, **change}))
    sizes = Sizes(seeds=(0, 4), observation=11, action=3)
    for number, one in enumerate((row, other)):
        fitting.fit(one, found(stores, one), sizes, tmp_path / str(number))
    names = sorted(p.name.split("-")[0] for p in (data_root / "fitted").iterdir())
    assert names == ["dynamics", "prior", "prior"]


@pytest.mark.parametrize(("temperature", "said"), [(1e6, True), (1e-6, False)])
def test_prior_whose_weights_do_not_differ_is_said_to_be_flat(
    stores: dict[str, str],
    tmp_path: Path,
    data_root: Path,
    capsys: pytest.CaptureFixture[str],
    temperature: float,
    said: bool,
) -> None:
    weighting = NormalisedAdvantage(temperature=temperature)
    prior = Adaptive(fit=replace(FIT, updates=100), weighting=weighting)
    row = replace(TINY_MABE, prior=prior, start_from_prior=False)
    sizes = Sizes(seeds=(0, 4), observation=11, action=3)
    for number in range(2):  # fitted, and found
        fitting.fit(row, found(stores, row), sizes, tmp_path / str(number))
        sentences = " ".join(capsys.readouterr().err.split())
        assert ("weights hardly differ (effective share 1.0000)" in sentences) == said


# -- going on ------------------------------------------------------------------------------------


RESULTS = (
    "config.json",
    "metrics.jsonl",
    "evaluations.jsonl",
    "policy/policy.safetensors",
    "checkpoint/state.safetensors",
)


def assert_same_run(one: Path, other: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def stop_at(update: int, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first learner be stopped before or after an update, once."""
    advance, left = Stepper.advance, [1]

    def stopping(self: Stepper, most: int) -> int:
        if isinstance(self.steps, Learner) and self.steps.updates == update and left:
            left.clear()
            if how == "error":
                raise RuntimeError("the power is gone")
            os.kill(os.getpid(), signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)
        return advance(self, most)

    monkeypatch.setattr(Stepper, "advance", stopping)


@pytest.fixture(scope="module")
def whole(finished: Callable[[Algorithm], Result]) -> Path:
    """The folder of a run of MABE that was never interrupted."""
    return finished(TINY_MABE).folder


@pytest.mark.parametrize(
    ("how", "update"), [("error", 2), ("error", 7), ("ctrl-c", 2), ("sigterm", 7)]
)
def test_interrupted_run_ends_like_an_uninterrupted_one(
    stores: dict[str, str],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    update: int,
) -> None:
    stop_at(update, how, monkeypatch)
    with pytest.raises(RuntimeError if how == "error" else Interrupted):
        train(stores, TINY_MABE, tmp_path / "broken")
    state = runs.read_json(tmp_path / "broken" / "status.json")["state"]
    assert state == ("failed" if how == "error" else "interrupted")
    result = train(stores, TINY_MABE, tmp_path / "broken")
    assert_same_run(whole, tmp_path / "broken")
    assert runs.read_json(tmp_path / "broken" / "status.json")["state"] == "complete"
    assert [update for update, _ in result.history] == [5, 10, 12]


def test_run_of_an_earlier_version_goes_on_with_the_parts_that_it_has_learnt_with(
    stores: dict[str, str],
    whole: Path,
    tmp_path: Path,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop_at(7, "error", monkeypatch)
    with pytest.raises(RuntimeError):
        train(stores, TINY_MABE, tmp_path / "broken")
    forget_fields(tmp_path / "broken", "polyak", "discount")
    shutil.rmtree(data_root / "fitted")  # as if their hashes had changed
    monkeypatch.setattr(EnsembleModel, "fitting", refuse)
    monkeypatch.setattr(BehaviourPrior, "fitting", refuse)
    train(stores, TINY_MABE, tmp_path / "broken")
    assert_same_run(whole, tmp_path / "broken")


@pytest.mark.parametrize("row", [TINY_BREMEN, TINY_MOREL], ids=lambda r: r.name)
def test_interrupted_on_policy_run_ends_like_an_uninterrupted_one(
    stores: dict[str, str],
    finished: Callable[[Algorithm], Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    row: Algorithm,
) -> None:
    whole = finished(row).folder
    stop_at(7, "error", monkeypatch)
    with pytest.raises(RuntimeError):
        train(stores, row, tmp_path / "broken")
    train(stores, row, tmp_path / "broken")
    assert_same_run(whole, tmp_path / "broken")


def test_on_policy_run_says_how_its_steps_went(finished: Callable[[Algorithm], Result]) -> None:
    said = {"model_return", "model_length", "kl", "gain", "tries", "stepped", "value_error"}
    bremen, morel = (
        lines(finished(row).folder / "metrics.jsonl")[0] for row in (TINY_BREMEN, TINY_MOREL)
    )
    assert said <= bremen.keys()
    assert said | {"halted"} <= morel.keys()
    assert all(kl <= 0.05 for kl in bremen["kl"])


def test_policies_of_an_on_policy_run_are_read_back(
    finished: Callable[[Algorithm], Result],
) -> None:
    found = policies.load(finished(TINY_MOREL).folder)
    assert found.seeds == (0, 4)
    assert found.act(np.zeros((2, 3, 11))).shape == (2, 3, 3)


def test_no_stretch_of_updates_passes_what_is_to_be_written_down() -> None:
    schedule, updates, met = Schedule(updates=1_030, evaluate_every=200, log_every=80), 0, []
    while updates < schedule.updates:
        updates += schedule.ahead(updates)
        met.append(updates)
    wanted = {*range(80, 1_030, 80), *range(200, 1_030, 200), 1_030}
    assert met == sorted(wanted)


def test_notes_on_a_fit_lie_as_far_apart_as_replays() -> None:
    assert [fitting.spacing(total) for total in (1, 12, 499)] == [1, 1, 1]
    assert [fitting.spacing(total) for total in (500, 5_000, 6_000, 50_000)] == [10, 10, 20, 100]


def test_row_has_the_schedule_that_its_kind_of_step_needs() -> None:
    assert Schedule.of(MABE) == Schedule()
    assert Schedule.of(MOREL) == Schedule(updates=500, evaluate_every=25, log_every=1)
    assert lengths(Schedule.of(MOREL), 0, 0) == Schedule.of(MOREL)
    assert lengths(Schedule.of(MABE), 2_000, 0) == Schedule(updates=2_000, evaluate_every=2_000)
    assert lengths(Schedule.of(BREMEN), 0, 50) == Schedule(
        updates=500, evaluate_every=50, log_every=1
    )


def test_interruption_says_where_it_goes_on(
    stores: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(6, "ctrl-c", monkeypatch)
    with pytest.raises(Interrupted, match="Stopped after 7 updates; the same command resumes"):
        train(stores, TINY_SAC, tmp_path / "run")
    status = runs.read_json(tmp_path / "run" / "status.json")
    assert (status["state"], status["updates"]) == ("interrupted", 7)


def test_row_cut_short_by_a_kill_is_written_again(
    stores: dict[str, str],
    finished: Callable[[Algorithm], Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = finished(TINY_SAC).folder
    stop_at(11, "error", monkeypatch)
    with pytest.raises(RuntimeError):
        train(stores, TINY_SAC, tmp_path / "broken")
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"update": 12, "critic_lo')
    train(stores, TINY_SAC, tmp_path / "broken")
    assert_same_run(whole, tmp_path / "broken")


def test_finished_run_gives_its_result_again_without_training(
    stores: dict[str, str],
    finished: Callable[[Algorithm], Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = finished(TINY_MABE)
    shutil.copytree(first.folder, tmp_path / "run")
    monkeypatch.setattr(Learner, "step", refuse)
    again = train(stores, TINY_MABE, tmp_path / "run")
    np.testing.assert_array_equal(first.per_seed, again.per_seed)
    assert first.history == again.history


def test_run_of_one_seed_is_that_seed_s_of_a_run_of_two(
    stores: dict[str, str], finished: Callable[[Algorithm], Result], tmp_path: Path
) -> None:
    given = found(stores, TINY_MABE)
    device = torch.device("cpu")
    alone = Trainer(TINY_MABE, given, SHORT, seeds=(4,), device=device, folder=tmp_path).run()
    both = finished(TINY_MABE)
    assert both.seeds == (0, 4)
    assert float(alone.per_seed[0]) == pytest.approx(float(both.per_seed[1]), rel=1e-3)


# -- fits that are stopped -----------------------------------------------------------------------


def stop_fit(kind: type[Any], at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C in the middle of a fit's step, once."""
    advance, left = kind.advance, [1]

    def stopping(self: Any, most: int) -> int:
        if self.done == at and left:
            left.clear()
            os.kill(os.getpid(), signal.SIGINT)
        return int(advance(self, most))

    monkeypatch.setattr(kind, "advance", stopping)


@pytest.mark.parametrize(
    ("kind", "at", "message"),
    [
        (PriorFit, 3, "Stopped the fit of the prior after 4 updates; the same command resumes"),
        (EnsembleFit, 0, "Stopped the fit of the dynamics after 1 updates"),
        (EnsembleFit, 2, "Stopped the fit of the dynamics after 3 updates"),
    ],
)
def test_fit_that_is_stopped_ends_like_one_that_was_not(
    stores: dict[str, str],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Any],
    at: int,
    message: str,
) -> None:
    stop_fit(kind, at, monkeypatch)
    with pytest.raises(Interrupted, match=message):
        train(stores, TINY_MABE, tmp_path / "broken")
    assert runs.read_json(tmp_path / "broken" / "status.json")["state"] == "interrupted"
    steps: list[int] = []
    advance = kind.advance

    def counting(self: Any, most: int) -> int:
        steps.append(self.done)
        return int(advance(self, most))

    monkeypatch.setattr(kind, "advance", counting)
    train(stores, TINY_MABE, tmp_path / "broken")
    assert steps[0] == at + 1
    assert_same_run(whole, tmp_path / "broken")
    for name in ("dynamics/dynamics.safetensors", "prior/prior.safetensors"):
        assert (whole / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
    assert not list((tmp_path / "broken").rglob("unfinished*"))


@pytest.mark.parametrize(("kind", "last"), [(PriorFit, 9), (EnsembleFit, 3)])
def test_stop_in_a_fit_s_last_update_is_heard_and_no_update_is_taken_twice(
    stores: dict[str, str],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Any],
    last: int,
) -> None:
    stop_fit(kind, last, monkeypatch)
    with pytest.raises(Interrupted, match=f"after {last + 1} updates"):
        train(stores, TINY_MABE, tmp_path / "broken")
    monkeypatch.setattr(kind, "advance", refuse)
    train(stores, TINY_MABE, tmp_path / "broken")
    assert_same_run(whole, tmp_path / "broken")


# -- divergence ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dynamics": replace(MODEL["dynamics"], rate=1e30)}, r"6 of 6 networks never had"),
        (
            {"prior": Adaptive(fit=replace(FIT, rate=1e30))},
            r"fit of the prior diverged: .* is not fi",
        ),
    ],
)
def test_fit_that_diverged_ends_the_run_and_is_not_kept(
    stores: dict[str, str],
    tmp_path: Path,
    data_root: Path,
    change: dict[str, Any],
    sentence: str,
) -> None:
    with pytest.raises(Diverged, match=sentence):
        train(stores, replace(TINY_MABE, **change), tmp_path / "run")
    status = runs.read_json(tmp_path / "run" / "status.json")
    assert (status["state"], status["diverged"]) == ("failed", True)
    assert not list((data_root / "fitted").glob(f"{next(iter(change))}-*"))


def test_loss_that_is_no_number_ends_the_run_and_names_loss_and_step(
    stores: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Stepper.advance

    def diverging(self: Stepper, most: int) -> int:
        if isinstance(self.steps, Learner) and self.steps.updates == 6:
            self.steps.parts.real[:, 14] = math.nan
        return advance(self, most)

    monkeypatch.setattr(Stepper, "advance", diverging)
    folder = tmp_path / "run"
    with pytest.raises(
        UserError,
        match=r"^Training diverged: critic_loss, .*value not finite after 8 updates; the "
        r"last good checkpoint is .*state.safetensors\.$",
    ):
        train(stores, TINY_SAC, folder)
    tensors, facts = weights.load(runs.checkpoint_path(folder))
    assert facts["updates"] == 5
    assert all(bool(t.isfinite().all()) for t in tensors.values() if t.is_floating_point())
    assert [row["update"] for row in lines(folder / "metrics.jsonl")] == [4]
    status = runs.read_json(folder / "status.json")
    assert status["state"] == "failed"
    assert status["why"].startswith("Training diverged: ")


def test_diverged_state_is_neither_evaluated_nor_kept(
    stores: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Stepper.advance

    def diverging(self: Stepper, most: int) -> int:
        taken = advance(self, most)
        if isinstance(self.steps, Learner) and self.steps.updates == 10:
            with torch.no_grad():
                self.steps.policy.policy_state()["body.weights.0"][1, 0, 0] = math.inf
        return taken

    monkeypatch.setattr(Stepper, "advance", diverging)
    folder = tmp_path / "run"
    message = r"diverged: policy/policy/body.weights.0 not finite after 10 updates; the last good"
    with pytest.raises(UserError, match=message):
        train(stores, TINY_SAC, folder, log_every=100)
    assert weights.load_facts(runs.checkpoint_path(folder))["updates"] == 5
    assert [row["update"] for row in lines(folder / "evaluations.jsonl")] == [5]


# -- the prior as the policy ---------------------------------------------------------------------


def test_imitation_is_trained_and_evaluated_by_the_schedule_like_any_row(
    finished: Callable[[Algorithm], Result],
) -> None:
    result = finished(TINY_BC)
    folder = result.folder
    assert [row["update"] for row in lines(folder / "evaluations.jsonl")] == [5, 10, 12]
    metrics = lines(folder / "metrics.jsonl")
    assert [row["update"] for row in metrics] == [4, 8, 12]
    assert metrics[-1]["likelihood"][0] > metrics[0]["likelihood"][0]
    assert result.per_seed.shape == (2,)
    assert not (folder / "prior").exists()
    policy, facts = weights.load(folder / "policy" / "policy.safetensors")
    assert policy["body.weights.0"].shape == (2, 11, 16)
    assert (facts["row"], facts["seeds"]) == ("bc", [0, 4])


def test_interrupted_imitation_ends_like_an_uninterrupted_one(
    stores: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(TINY_BC, prior=Adaptive(fit=Network(hidden=(16, 16))))
    train(stores, row, tmp_path / "whole")
    stop_at(6, "ctrl-c", monkeypatch)
    with pytest.raises(Interrupted, match="Stopped after 7 updates"):
        train(stores, row, tmp_path / "broken")
    train(stores, row, tmp_path / "broken")
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_imitation_fits_its_prior_to_d2(
    stores: dict[str, str], finished: Callable[[Algorithm], Result], tmp_path: Path
) -> None:
    given = sources(TINY_BC, None, stores["hopper-ice-backward"], None)
    Trainer(
        TINY_BC, given, SHORT, seeds=(0, 4), device=torch.device("cpu"), folder=tmp_path / "one"
    ).run()
    folders = (tmp_path / "one", finished(TINY_BC).folder)
    files = [folder / "policy" / "policy.safetensors" for folder in folders]
    one, two = (weights.load(file)[0] for file in files)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_prior_that_was_the_policy_is_found_by_a_row_that_fits_the_same_beforehand(
    stores: dict[str, str], tmp_path: Path, data_root: Path
) -> None:
    row = TINY_MABE
    alone = replace(
        TINY_BC,
        prior=Adaptive(fit=Network(rate=FIT.rate, hidden=FIT.hidden)),
        batch=FIT.batch,
    )
    sizes = Sizes(seeds=(0, 4), observation=11, action=3)
    apart = fitting.fit(row, found(stores, row), sizes, tmp_path / "apart").prior
    assert apart is not None
    for kept in (data_root / "fitted").glob("prior-*"):
        kept.unlink()
    Trainer(
        alone,
        found(stores, alone),
        Schedule(updates=FIT.updates, evaluate_every=FIT.updates, episodes=1, log_every=1),
        seeds=sizes.seeds,
        device=torch.device("cpu"),
        folder=tmp_path / "alone",
    ).run()
    (kept,) = (data_root / "fitted").glob("prior-*")
    tensors, facts = weights.load(kept)
    assert set(facts) == {"likelihood", "effective_share"}
    assert 0.0 < facts["effective_share"] <= 1.0
    weights.save(kept, {name: tensor + 1.0 for name, tensor in tensors.items()}, facts)
    taken = fitting.fit(row, found(stores, row), sizes, tmp_path / "taken").prior
    assert taken is not None
    for name, tensor in apart.policy_state().items():
        assert torch.equal(tensors[name], tensor)
        assert torch.equal(taken.policy_state()[name], tensor + 1.0)


# -- deterministic policies ----------------------------------------------------------------------


def test_deterministic_row_leaves_a_policy_that_acts_as_it_did_in_training(
    stores: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acted: list[Any] = []
    observation = np.random.default_rng(0).standard_normal((2, 3, 11))
    evaluate_ = Trainer._evaluate

    def noting(self: Trainer, act: Any, update: int) -> float:
        acted.append(act(observation))
        return evaluate_(self, act, update)

    monkeypatch.setattr(Trainer, "_evaluate", noting)
    train(stores, TINY_TD3, tmp_path / "run")
    found = policies.load(tmp_path / "run")
    np.testing.assert_array_equal(found.act(observation), acted[-1])
    facts = weights.load_facts(tmp_path / "run" / "policy" / "policy.safetensors")
    assert facts["head"] == "deterministic"


def test_next_actions_stay_within_the_episodes_of_the_store(stores: dict[str, str]) -> None:
    given = sources(TINY_TD3, stores["hopper"], None, None)
    data, recorded = given.data(given.real, torch.device("cpu")), given.real.store.load()
    np.testing.assert_array_equal(data.ends.numpy(), recorded.terminals | recorded.timeouts)
    sizes = Sizes(seeds=(0,), observation=11, action=3)
    action, known = data.next_action(sizes, torch.arange(300)[None])
    following = np.flatnonzero(known[0].numpy())
    np.testing.assert_array_equal(
        recorded.next_observations[following], recorded.observations[following + 1]
    )
    np.testing.assert_array_equal(action[0][following].numpy(), recorded.actions[following + 1])


# -- evaluation ----------------------------------------------------------------------------------


def test_groups_are_played_alike() -> None:
    simulation = Simulation(short("hopper"), 6)

    def act(observation: Any) -> Any:
        assert observation.shape == (2, 3, 11)
        return np.tanh(observation[..., :3])

    returns, lengths = evaluate.returns(act, simulation, groups=2, seed=5)
    simulation.close()
    assert returns.shape == lengths.shape == (2, 3)
    np.testing.assert_array_equal(returns[0], returns[1])
    assert len(set(returns[0].tolist())) == 3


def test_return_is_the_sum_of_rewards_to_the_end_of_the_episode() -> None:
    domain = short("hopper")
    simulation = Simulation(domain, 2)
    returns, lengths = evaluate.returns(lambda o: np.ones((1, 2, 3)), simulation, groups=1, seed=11)
    simulation.seed([11, 12])
    expected, length = np.zeros(2), np.zeros(2, dtype=np.int64)
    alive = np.array([True, True])
    while alive.any():
        step = simulation.step(np.ones((2, 3), dtype=np.float32))
        expected += step.reward * alive
        length += alive
        alive &= ~(step.terminated | step.truncated)
    simulation.close()
    np.testing.assert_allclose(returns[0], expected, rtol=1e-12)
    np.testing.assert_array_equal(lengths[0], length)
    assert length.max() <= 30
