"""A world is the same to its users, whether it is native or of the dm_control suite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mabe_transfer import catalogue, evaluate, references
from mabe_transfer.acquire import Request, acquire
from mabe_transfer.behaviour import RandomPolicy
from mabe_transfer.cli.envs import reference_sentence
from mabe_transfer.domains import compose, domain
from mabe_transfer.errors import UserError
from mabe_transfer.library import open_dataset
from mabe_transfer.replay import resimulate
from mabe_transfer.verify import verify
from mabe_transfer.worlds import World, sizes, world

NAMES = ("hopper-ice-backward", "dmc-cheetah-run-ice")


@pytest.fixture(params=NAMES)
def copies(request: pytest.FixtureRequest) -> World:
    made = world(domain(request.param), 3)
    made.seed([7, 8, 9])
    return made


def actions(copies: World, steps: int) -> np.ndarray:
    draws = np.random.default_rng(0)
    return draws.uniform(-1, 1, (steps, copies.size, copies.action_size)).astype(np.float32)


def test_same_seed_gives_the_same_trajectory(copies: World) -> None:
    first = [copies.step(a).next_observation for a in actions(copies, 20)]
    copies.seed([7, 8, 9])
    again = [copies.step(a).next_observation for a in actions(copies, 20)]
    np.testing.assert_array_equal(first, again)


def test_copies_that_are_left_out_stand_still(copies: World) -> None:
    before = copies.observation
    copies.step(actions(copies, 1)[0][:1], np.array([1]))
    after = copies.observation
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.array_equal(after[1], before[1])
    np.testing.assert_array_equal(copies.elapsed, [0, 1, 0])


def test_reward_is_the_weighted_sum_of_its_terms(copies: World) -> None:
    step = copies.step(actions(copies, 1)[0])
    weights = copies.domain.weights
    total = sum(weights[name] * term for name, term in step.terms.items())
    np.testing.assert_allclose(step.reward, total, atol=1e-12)


def test_saved_state_goes_on_exactly(copies: World) -> None:
    plan = actions(copies, 10)
    for action in plan[:5]:
        copies.step(action)
    kept, streams = copies.state(), copies.generators()
    kept = {name: tensor.clone() for name, tensor in kept.items()}
    first = [copies.step(action).next_observation for action in plan[5:]]
    copies.reset(np.arange(3))
    fresh = copies.observation
    copies.load_state(kept)
    copies.load_generators(streams)
    again = [copies.step(action).next_observation for action in plan[5:]]
    np.testing.assert_allclose(first, again, atol=1e-12)
    copies.reset(np.arange(3))
    np.testing.assert_array_equal(copies.observation, fresh)


@pytest.mark.parametrize(
    "name", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)]
)  # an episode of the suite takes seconds
def test_random_dataset_of_any_world_passes_every_check(name: str) -> None:
    store = acquire(Request(domain=domain(name), quality="random", transitions=150))
    found = open_dataset(f"{name}-random")
    replay = resimulate(found.domain)
    findings = verify(store, replay=replay, sample=40)
    assert [finding for finding in findings if not finding.passed] == []


def test_returns_add_up_whole_episodes_of_every_group() -> None:
    copies = world(domain("hopper"), 4)

    def act(observation: np.ndarray) -> np.ndarray:
        return np.zeros((*observation.shape[:2], copies.action_size))

    returns, lengths = evaluate.returns(act, copies, groups=2, seed=3)
    assert returns.shape == lengths.shape == (2, 2)
    np.testing.assert_array_equal(returns[0], returns[1])  # the same policy from the same starts
    assert (lengths < 1000).all()  # a hopper that does nothing falls


def test_robot_whose_table_is_silent_has_its_model_s_sizes() -> None:
    robot = catalogue.robot("hopper")
    assert sizes(domain("hopper")) == (11, 3)
    silent = replace(robot, name="leaper", observation=(), action=(), max_episode_steps=5)
    where = compose(silent, [], catalogue.task("forward"))
    assert sizes(where) == (11, 3)
    assert references.play(where, RandomPolicy(), episodes=2, seed=0, noisy=True).shape == (2,)


def test_score_is_0_at_random_and_100_at_expert() -> None:
    where = domain("hopper-d4rl")
    reference = where.reference
    assert reference is not None
    assert where.normalised(reference.random) == 0.0
    assert where.normalised(reference.expert) == pytest.approx(100.0)


def test_domain_without_references_says_how_to_measure_them() -> None:
    nameless = domain("hopper-mass=1.25")
    with pytest.raises(UserError, match=r"mabe-transfer envs reference hopper-mass=1\.25"):
        nameless.normalised(0.0)
    assert "envs reference mine.toml" in reference_sentence(nameless, "mine.toml")
