"""The batched simulation: the single environment's trajectories, many at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from mabe_transfer import envs
from mabe_transfer.batched import BatchedEnv, Simulation
from mabe_transfer.domains import domain
from mabe_transfer.errors import UserError

NAMES = ["hopper-ice-backward", "walker2d-d4rl", "halfcheetah"]


def actions(steps: int, count: int, size: int) -> Any:
    """Actions that let robots fall sooner or later, [steps, count, size]."""
    draws = np.random.default_rng(0)
    return draws.uniform(-1.0, 1.0, (steps, count, size)).astype(np.float32)


@pytest.fixture(params=NAMES)
def batch(request: pytest.FixtureRequest) -> Iterator[BatchedEnv]:
    """Three copies of a domain on one thread."""
    env = BatchedEnv(request.param, 3, threads=1)
    yield env
    env.close()


def test_copies_follow_the_single_environment(batch: BatchedEnv) -> None:
    where = batch.simulation.domain
    singles = [envs.make(where) for _ in range(3)]
    seen, _ = batch.reset(seed=5)
    firsts = [env.reset(seed=5 + i)[0] for i, env in enumerate(singles)]
    np.testing.assert_array_equal(seen, firsts)
    steps = 1100 if where.robot.name == "halfcheetah" else 300  # the one that never falls
    ends = 0
    for action in actions(steps, 3, len(where.robot.action)):
        seen, reward, terminated, truncated, info = batch.step(action)
        for i, env in enumerate(singles):
            single = env.step(action[i])
            ended = single[2] or single[3]
            final = info["final_obs"][i] if ended else seen[i]
            np.testing.assert_array_equal(final, single[0])
            assert reward[i] == single[1]
            paid = {name: value for name, value in single[4].items() if name.startswith("reward_")}
            assert paid == {name: info[name][i] for name in info if name.startswith("reward_")}
            assert (terminated[i], truncated[i]) == single[2:4]
            if ended:
                ends += 1
                np.testing.assert_array_equal(seen[i], env.reset()[0])
    assert ends >= 3


def test_one_step_from_the_same_state_is_the_single_environments(batch: BatchedEnv) -> None:
    where = batch.simulation.domain
    single: Any = envs.make(where).unwrapped
    single.reset(seed=0)
    batch.reset(seed=5)
    for action in actions(100, 3, len(where.robot.action)):
        single.set_state(batch.simulation.qpos[0], batch.simulation.qvel[0])
        found, expected = batch.simulation.step(action), single.step(action[0])
        np.testing.assert_allclose(found.next_observation[0], expected[0], rtol=1e-8, atol=1e-8)
        assert found.reward[0] == pytest.approx(expected[1], rel=1e-8, abs=1e-8)
        batch.simulation.reset(np.flatnonzero(found.terminated))


def test_ended_copy_shows_its_last_state_and_starts_again() -> None:
    env = BatchedEnv("hopper", 4, threads=1)
    env.reset(seed=0)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    falls = 0
    for action in actions(200, 4, 3):
        seen, _, terminated, truncated, info = env.step(action)
        ended = terminated | truncated
        if not ended.any():
            assert "final_obs" not in info
            continue
        falls += 1
        np.testing.assert_array_equal(info["_final_obs"], ended)
        last = np.stack([info["final_obs"][i] for i in np.flatnonzero(ended)])
        assert env.simulation.domain.terminated(last).all()
        np.testing.assert_allclose(seen[ended, 0], 1.25, atol=0.006)
        assert (env.simulation.elapsed[ended] == 0).all()
    env.close()
    assert falls > 3


def test_no_transition_joins_two_episodes() -> None:
    simulation = Simulation(domain("hopper"), 4, threads=1)
    simulation.seed([0, 1, 2, 3])
    before = None
    for action in actions(100, 4, 3):
        step = simulation.step(action)
        if before is not None:
            np.testing.assert_array_equal(step.observation, before)
        np.testing.assert_array_equal(
            step.observation, simulation.domain.observe(step.qpos, step.qvel)
        )
        moved = np.abs(step.next_observation - step.observation)[:, 1:5].max()
        assert moved < 0.2  # of the joint angles, within 8 ms; rad
        simulation.reset(np.flatnonzero(step.terminated | step.truncated))
        before = simulation.observation
    simulation.close()


def test_clock_truncates_after_the_robots_time() -> None:
    simulation = Simulation(domain("halfcheetah"), 1, threads=1)
    simulation.seed([0])
    still = np.zeros((1, 6), dtype=np.float32)
    found = [simulation.step(still).truncated[0] for _ in range(1000)]
    simulation.close()
    assert found == [False] * 999 + [True]


@pytest.mark.parametrize("name", NAMES)
def test_trajectory_does_not_depend_on_the_batch(name: str) -> None:
    where = domain(name)
    size = len(where.robot.action)
    trails = []
    for count, threads in ((5, 2), (2, 1)):
        simulation = Simulation(where, count, threads=threads)
        simulation.seed(list(range(count)))
        steps = [simulation.step(action[:count]) for action in actions(40, 5, size)]
        trails.append(np.stack([step.next_observation[:2] for step in steps]))
        simulation.close()
    np.testing.assert_array_equal(trails[0], trails[1])


def test_copies_that_are_left_out_stand_still() -> None:
    simulation = Simulation(domain("hopper"), 3, threads=1)
    simulation.seed([0, 1, 2])
    before = simulation.observation
    simulation.step(actions(1, 1, 3)[0], np.array([1]))
    moved = np.abs(simulation.observation - before).max(axis=1) > 0
    simulation.close()
    assert moved.tolist() == [False, True, False]


def test_same_seed_starts_the_same_episodes_again(batch: BatchedEnv) -> None:
    first, _ = batch.reset(seed=11)
    again, _ = batch.reset(seed=11)
    np.testing.assert_array_equal(first, again)
    other, _ = batch.reset()
    assert np.abs(other - first).max() > 1e-6


def test_copies_differ_from_one_another(batch: BatchedEnv) -> None:
    seen, _ = batch.reset(seed=11)
    assert len(np.unique(seen, axis=0)) == 3


def test_consecutive_observations_share_no_memory(batch: BatchedEnv) -> None:
    first, _ = batch.reset(seed=0)
    kept = first.copy()
    second = batch.step(actions(1, 3, len(batch.simulation.domain.robot.action))[0])[0]
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)


def test_suite_robot_has_no_batched_simulation() -> None:
    with pytest.raises(UserError, match="dmc-cheetah-run is a dm_control task"):
        Simulation(domain("dmc-cheetah-run"), 2)
