"""Online SAC: several domains in one stack, a ladder of policies each, and going on exactly."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch

from mabe_transfer import domains
from mabe_transfer.errors import Diverged, Interrupted, UserError
from mabe_transfer.online import OnlineConfig, OnlineSac
from mabe_transfer.parts.sac import Sac

if TYPE_CHECKING:
    from pathlib import Path

    from mabe_transfer.behaviour import Ladder
    from mabe_transfer.domains import Domain

TINY = OnlineConfig(
    sac=Sac(hidden=(16, 16)),
    env_steps=96,
    envs=4,
    env_steps_per_update=2,
    warmup=24,
    batch=16,
    rungs=3,
    episodes=2,
)


def short(name: str) -> Domain:
    """A domain whose episodes end after 18 steps."""
    base = domains.domain(name)
    return replace(base, robot=replace(base.robot, max_episode_steps=18))


HOPPERS = [short("hopper"), short("hopper-backward")]


def training(folder: Path, config: OnlineConfig = TINY, seed: int = 0) -> OnlineSac:
    return OnlineSac(HOPPERS, config, seed=seed, folder=folder)


class Whole(NamedTuple):
    """A finished training."""

    training: OnlineSac
    ladders: list[Ladder]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A training that was never interrupted, with its ladders."""
    found = training(tmp_path_factory.mktemp("online") / "whole")
    return Whole(found, found.run())


def assert_same_ladders(one: list[Ladder], other: list[Ladder]) -> None:
    for left, right in zip(one, other, strict=True):
        assert left.rungs == right.rungs
        assert left.tensors.keys() == right.tensors.keys()
        for name, tensor in left.tensors.items():
            assert torch.equal(tensor, right.tensors[name]), name


def refuse(*_: object, **__: object) -> Any:
    raise AssertionError("this is not to be called")


# -- rungs ---------------------------------------------------------------------------------------


def test_rungs_are_evenly_spaced_and_the_last_is_the_end(whole: Whole) -> None:
    ladders = whole.ladders
    assert [ladder.domain.name for ladder in ladders] == ["hopper", "hopper-backward"]
    for ladder in ladders:
        assert [rung.env_steps for rung in ladder.rungs] == [32, 64, 96]
        assert all(rung.episodes == 2 and rung.std >= 0.0 for rung in ladder.rungs)
        assert ladder.tensors["weights.0"].shape == (3, 11, 16)
        assert ladder.tensors["biases.2"].shape == (3, 1, 6)
    assert ladders[0].provenance["seed"] == 0
    assert ladders[1].provenance["seed"] == 1


@pytest.mark.parametrize(
    ("env_steps", "rungs", "expected"),
    [(180, 4, [12, 23, 34, 45]), (40, 10, list(range(1, 11))), (12, 10, [1, 2, 3])],
)
def test_training_of_any_length_keeps_as_many_rungs_as_it_can(
    tmp_path: Path, env_steps: int, rungs: int, expected: list[int]
) -> None:
    found = training(tmp_path / "run", replace(TINY, env_steps=env_steps, rungs=rungs))
    assert [step for step in range(1, found.total + 1) if found._is_rung(step)] == expected


def test_rungs_of_a_training_differ_and_so_do_its_domains(whole: Whole) -> None:
    one, two = whole.ladders
    first = one.tensors["weights.0"]
    assert not torch.equal(first[1], first[2])
    assert not torch.equal(first, two.tensors["weights.0"])


def test_last_rung_is_the_policy_that_was_learned(whole: Whole) -> None:
    found, ladder = whole.training, whole.ladders[1]
    observation = np.random.default_rng(0).standard_normal((3, 11)).astype(np.float32)
    stacked = torch.from_numpy(observation).expand(2, 3, 11)
    expected = found.learner.act(stacked)[1].numpy()
    acted = ladder.policy(2).act(observation, np.zeros((3, 3)))
    np.testing.assert_allclose(acted, expected, atol=1e-6)


def test_domain_learns_the_same_alone_and_among_two(tmp_path: Path) -> None:
    config = replace(TINY, env_steps=40, rungs=1)
    among = training(tmp_path / "two", config).run()[1]
    (alone,) = OnlineSac([HOPPERS[1]], config, seed=1, folder=tmp_path / "one").run()
    for name, tensor in among.tensors.items():
        torch.testing.assert_close(tensor, alone.tensors[name], atol=1e-4, rtol=1e-3)


# -- what is recorded ----------------------------------------------------------------------------


def test_records_hold_every_step_and_no_row_crosses_an_episode(whole: Whole) -> None:
    for records, domain in zip(whole.training.records, HOPPERS, strict=True):
        observation = records.packed[:, :, :11]
        action = records.packed[:, :, 11:14]
        reward, after = records.packed[:, :, 14], records.packed[:, :, 15:26]
        ended = records.packed[:, :, 26].astype(bool) | records.truncated
        assert ended.any()
        goes_on = ~ended[:-1]
        np.testing.assert_array_equal(observation[1:][goes_on], after[:-1][goes_on])
        assert (np.abs(observation[1:][~goes_on] - after[:-1][~goes_on]) > 1e-6).any(axis=1).all()
        assert np.abs(action).max() <= 1.0
        terms = records.reward_terms.astype(np.float64)
        total = sum(domain.weights[name] * terms[..., k] for k, name in enumerate(records.terms))
        np.testing.assert_allclose(reward, total, atol=1e-5)
        np.testing.assert_allclose(
            observation, domain.observe(records.qpos, records.qvel), atol=1e-6
        )


def test_fall_at_the_end_of_the_clock_is_no_timeout(whole: Whole) -> None:
    for records in whole.training.records:
        assert records.truncated.any()
        assert not (records.truncated & (records.packed[:, :, 26] > 0.5)).any()


def test_updates_begin_after_the_warmup_and_keep_their_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, found = [], training(tmp_path / "run")
    integers = found.sampler.integers

    def bounded(high: int, *shape: int) -> Any:
        assert high == (found.vector_step + 1) * 4  # only what was recorded
        rows.append(found.vector_step)
        return integers(high, *shape)

    monkeypatch.setattr(found.sampler, "integers", bounded)
    found.run()
    # 24 of 96 steps are warmup; then a step of 4 copies earns 2 updates
    assert rows == [step for step in range(6, 24) for _ in range(2)]
    assert found.learner.updates == len(rows)


def test_replayed_updates_are_those_that_are_taken_singly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY, sac=replace(TINY.sac, critics_first=7))  # beyond the first recording
    replayed = training(tmp_path / "replayed", config)
    before = [parameter.clone() for parameter in replayed.learner.actor.parameters()]
    replayed.run()
    monkeypatch.setattr("mabe_transfer.feeding.recorder_for", lambda _: None)
    single = training(tmp_path / "single", config)
    single.run()
    one, other = replayed.learner.state(), single.learner.state()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    moved = replayed.learner.actor.parameters()
    assert not any(torch.equal(old, new) for old, new in zip(before, moved, strict=True))


# -- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 15])
def test_interrupted_training_ends_like_an_uninterrupted_one(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    broken, learn = training(tmp_path / "broken"), OnlineSac._learn

    def failing(self: OnlineSac) -> None:
        if self.vector_step == at:
            raise RuntimeError("the power is gone")
        learn(self)

    with monkeypatch.context() as patch:
        patch.setattr(OnlineSac, "_learn", failing)
        with pytest.raises(RuntimeError, match="the power is gone"):
            broken.run()
    resumed = training(tmp_path / "broken")
    assert resumed.vector_step <= at
    assert_same_ladders(resumed.run(), whole.ladders)
    for one, other in zip(whole.training.records, resumed.records, strict=True):
        np.testing.assert_array_equal(one.packed, other.packed)
        np.testing.assert_array_equal(one.truncated, other.truncated)
        np.testing.assert_array_equal(one.qpos, other.qpos)
        np.testing.assert_array_equal(one.reward_terms, other.reward_terms)
    for name in ("metrics.jsonl", "checkpoint.safetensors", "config.json"):
        left, right = whole.training.folder / name, tmp_path / "broken" / name
        assert left.read_bytes() == right.read_bytes(), name


def test_measurement_that_was_not_kept_is_not_listed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the measurement of a rung and its checkpoint."""
    broken = training(tmp_path / "run")

    def failing(self: OnlineSac) -> None:
        if self.vector_step == 8:
            raise RuntimeError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(OnlineSac, "_checkpoint", failing)
        with pytest.raises(RuntimeError):
            broken.run()
    training(tmp_path / "run").run()
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["env_steps"] for row in rows] == [32, 64, 96]


def test_training_can_stop_on_the_way_and_go_on_to_the_same_end(
    whole: Whole, tmp_path: Path
) -> None:
    partly = training(tmp_path / "run").run(until=70)
    assert [rung.env_steps for rung in partly[0].rungs] == [32, 64]
    assert_same_ladders(training(tmp_path / "run").run(), whole.ladders)


def test_finished_training_gives_its_ladders_again(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnlineSac, "_act", refuse)
    assert_same_ladders(training(whole.training.folder).run(), whole.ladders)


# -- refusals ------------------------------------------------------------------------------------


def test_folder_of_another_training_is_refused_with_the_first_difference(tmp_path: Path) -> None:
    training(tmp_path / "run")
    with pytest.raises(UserError, match=r"holds a run with another seed \(0 there, 1 asked for\)"):
        training(tmp_path / "run", seed=1)
    with pytest.raises(UserError, match=r"another config.batch \(16 there, 17 asked for\)"):
        training(tmp_path / "run", replace(TINY, batch=17))


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("done")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        training(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"envs": 0}, "envs must be at least 1, not 0"),
        ({"rungs": 0}, "rungs must be at least 1, not 0"),
        ({"env_steps_per_update": 0}, "env_steps_per_update must be at least 1"),
        ({"sac": Sac(critics=0)}, "sac.critics must be at least 1, not 0"),
        ({"env_steps": 3}, "env_steps must be at least envs"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        replace(TINY, **changes)


def test_policy_that_diverged_is_no_rung(tmp_path: Path) -> None:
    found = training(tmp_path / "run")
    with torch.no_grad():
        found.learner.actor.body.weights[0][1, 0, 0] = torch.nan
    with pytest.raises(Diverged, match="a policy is not finite after 0 steps"):
        found._keep_rung()
    assert not found.kept


def test_domains_of_different_robots_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be of one robot"):
        OnlineSac([short("hopper"), short("walker2d")], TINY, seed=0, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_same_domain_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must differ"):
        OnlineSac([short("hopper"), short("hopper")], TINY, seed=0, folder=tmp_path / "run")


def test_training_stopped_by_ctrl_c_saves_itself_and_goes_on_exactly(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = training(tmp_path / "stopped")
    learn = stopped._learn

    def learn_and_press() -> None:
        learn()
        if stopped.vector_step == 10:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(stopped, "_learn", learn_and_press)
    with pytest.raises(Interrupted, match="Stopped at 44 steps; the same command resumes there"):
        stopped.run()
    assert_same_ladders(training(tmp_path / "stopped").run(), whole.ladders)
