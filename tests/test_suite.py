"""Tasks of the dm_control suite: their own observations, rewards and ends, our physics shifts."""

import pickle
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from mabe_transfer import catalogue, certificate, envs, offscreen, physics, suite
from mabe_transfer.domains import domain
from mabe_transfer.errors import UserError
from mabe_transfer.worlds import LoopedWorld

pytest.importorskip("dm_control", reason="dm_control is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:.*A Box observation space")
NAMES = [name for name, robot in catalogue.robots().items() if not robot.native]


def make(name: str) -> suite.SuiteEnv:
    """The environment of a domain, without its wrappers."""
    env = envs.make(name).unwrapped
    assert isinstance(env, suite.SuiteEnv)
    return env


def play(env: gymnasium.Env[Any, Any], steps: int, seed: int | None = 3) -> list[Any]:
    """What an environment says in some steps."""
    draws = np.random.default_rng(1)
    size = (steps, *(env.action_space.shape or ()))
    actions = draws.uniform(-1.0, 1.0, size).astype(np.float32)
    return [env.reset(seed=seed), *(env.step(action) for action in actions)]


def own_robot(folder: Path, old: str, new: str, shifts: str = "") -> str:
    """A user's domain file, whose robot is the cheetah with a change."""
    own = (catalogue.folder("envs") / "robots" / "dmc-cheetah-run.toml").read_text()
    own = own.replace('name = "dmc-cheetah-run"', 'name = "mine"', 1)
    (folder / "robot.toml").write_text(own.replace(old, new))
    path = folder / "mine.toml"
    path.write_text(f'robot = "{folder / "robot.toml"}"\nshifts = [{shifts}]\n')
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_table_lists_the_tasks_own_spaces(name: str) -> None:
    env = make(name)
    assert env.observation_space.shape == (len(env.domain.robot.observation),)
    assert env.action_space.shape == (len(env.domain.robot.action),)
    assert len(set(env.observation_names)) == len(env.observation_names)


@pytest.mark.parametrize("name", NAMES)
def test_task_is_dm_controls_own(name: str) -> None:
    from dm_control import suite as theirs

    env = make(name)
    said = play(env, 5)
    env.reset(seed=3)
    random = np.random.RandomState(0)
    gymnasium_random, _ = gymnasium.utils.seeding.np_random(3)
    random.seed(int(gymnasium_random.integers(2**32)))
    task = theirs.load(
        *env.domain.robot.model.removeprefix(suite.SCHEME).split("/"),
        task_kwargs={"random": random},
        environment_kwargs={"flat_observation": True},
    )
    np.testing.assert_equal(said[0][0], task.reset().observation["observations"])
    draws = np.random.default_rng(1)
    for step in said[1:]:
        action = draws.uniform(-1.0, 1.0, env.action_space.shape).astype(np.float32)
        theirs_step = task.step(action.astype(np.float64))
        np.testing.assert_equal(step[0], theirs_step.observation["observations"])
        assert step[1] == step[4]["reward_task"] == theirs_step.reward


def test_same_seed_gives_the_same_trajectory() -> None:
    env = make("dmc-walker-walk-ice")
    np.testing.assert_equal(play(env, 20), play(env, 20))


def test_unseeded_resets_differ() -> None:
    env = make("dmc-hopper-hop")
    first, _ = env.reset(seed=3)
    second, _ = env.reset()
    assert np.abs(first - second).max() > 1e-3


def test_environments_without_a_seed_differ() -> None:
    first, second = (make("dmc-hopper-hop").reset()[0] for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


def test_environment_passes_gymnasiums_check() -> None:
    check_env(gymnasium.make("mabe/dmc-cheetah-run-ice-v0").unwrapped, skip_render_check=True)


def test_clock_truncates_after_a_thousand_steps() -> None:
    said = play(make("dmc-cheetah-run"), 1000)
    assert [step[2:4] for step in said[1:]] == [(False, False)] * 999 + [(False, True)]


@pytest.mark.parametrize("limit", [7, 1_003])
def test_clock_is_the_table_s(tmp_path: Path, limit: int) -> None:
    path = own_robot(tmp_path, "max_episode_steps = 1000", f"max_episode_steps = {limit}")
    env = envs.make(path).unwrapped
    env.reset(seed=0)
    still = np.zeros(6, np.float32)
    ends = [env.step(still)[3] for _ in range(limit)]
    assert ends == [False] * (limit - 1) + [True]
    copies = LoopedWorld(domain(path), 1)
    copies.seed([0])
    ends = [bool(copies.step(still[None]).truncated[0]) for _ in range(limit)]
    assert ends == [False] * (limit - 1) + [True]


def test_discount_of_zero_terminates(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("dmc-cheetah-run")
    env.reset(seed=0)
    monkeypatch.setattr(env._task_env.task, "get_termination", lambda physics: 0.0)
    assert env.step(env.action_space.sample())[2:4] == (True, False)


def test_environment_survives_pickling() -> None:
    env = make("dmc-hopper-hop-ice")
    np.testing.assert_equal(play(pickle.loads(pickle.dumps(env)), 3), play(env, 3))


def test_shifts_are_in_the_model_after_every_reset() -> None:
    env = make("dmc-hopper-hop-gravity=0.5-mass=2")
    base = suite.build_model(domain("dmc-hopper-hop"))
    for _ in range(3):
        env.reset()
        np.testing.assert_equal(env.model.opt.gravity, 0.5 * base.opt.gravity)
        np.testing.assert_equal(env.model.body_mass, 2.0 * base.body_mass)


def test_shift_survives_a_task_that_writes_the_field_at_every_reset(tmp_path: Path) -> None:
    path = own_robot(tmp_path, "cheetah/run", "finger/spin", '"damping=2"')
    text = (tmp_path / "robot.toml").read_text()
    text = text.replace("control_timestep_s = 0.01", "control_timestep_s = 0.02")
    (tmp_path / "robot.toml").write_text(text.replace("frame_skip = 1", "frame_skip = 2"))
    env = make(path)
    hinge = env._task_env.physics.named.model.dof_damping
    others = physics.field(env.model, "dof_damping")[:2].copy()
    for _ in range(3):
        env.reset()
        assert hinge["hinge"] == pytest.approx(2 * 0.03)  # the task sets 0.03
        np.testing.assert_equal(env.model.dof_damping[:2], others)


def test_shift_survives_a_task_that_compiles_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from dm_control.suite import cheetah

    env = make("dmc-cheetah-run-gravity=0.5")
    before = env.model
    begin = env._task_env.task.initialize_episode

    def compile_again(physics: Any) -> None:
        physics.reload_from_xml_string(*cheetah.get_model_and_assets())
        begin(physics)

    monkeypatch.setattr(env._task_env.task, "initialize_episode", compile_again)
    env.reset(seed=0)
    assert env.model is not before
    assert env.model.opt.gravity[2] == pytest.approx(-9.81 / 2)


def test_certificate_covers_the_suite() -> None:
    found = certificate.certify(domain("dmc-cheetah-run-ice"))
    assert found.problems == ()
    assert [row.ratio for row in found.frictions] == pytest.approx([0.1, 0.1])


def test_task_that_the_suite_lacks_is_refused(tmp_path: Path) -> None:
    path = own_robot(tmp_path, "cheetah/run", "cheetah/rum")
    with pytest.raises(UserError, match=r"no dm_control task .*'cheetah/rum'.* 'cheetah/run'?"):
        envs.make(path)


def test_table_that_contradicts_the_task_is_refused(tmp_path: Path) -> None:
    path = own_robot(tmp_path, "frame_skip = 1", "frame_skip = 2")
    with pytest.raises(UserError, match=r"control_timestep_s = 0.01 and frame_skip = 1\."):
        envs.make(path)


def test_absence_of_dm_control_gets_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(UserError, match="dmc-cheetah-run needs dm_control"):
        envs.make("dmc-cheetah-run")


def test_frame_shows_something() -> None:
    try:
        offscreen.prepare("rgb_array")
    except UserError as error:
        pytest.skip(str(error))
    env = envs.make("dmc-cheetah-run", render_mode="rgb_array", width=160, height=120)
    env.reset(seed=0)
    frame: Any = env.render()
    env.close()
    assert frame.shape == (120, 160, 3)
    assert frame.std() > 5.0
