"""The single environment: Gymnasium's own robots to the bit, its registration and its frames."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from mabe_transfer import catalogue, envs, offscreen
from mabe_transfer.domains import domain
from mabe_transfer.errors import UserError

NATIVE = {"hopper": "Hopper-v5", "walker2d": "Walker2d-v5", "halfcheetah": "HalfCheetah-v5"}

pytestmark = [
    pytest.mark.filterwarnings("ignore:compiler attribute"),  # Gymnasium's half cheetah
    pytest.mark.filterwarnings("ignore:.*A Box observation space"),  # as unbounded as Gymnasium's
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory of its own, where MuJoCo may log what Gymnasium's model files use."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def drawing() -> None:
    """Skip, with the reason, where no frame can be drawn."""
    try:
        offscreen.prepare("rgb_array")
    except UserError as error:
        pytest.skip(str(error))


def play(env: gymnasium.Env[Any, Any], steps: int) -> list[Any]:
    """Everything that an environment says in some steps of several episodes."""
    draws = np.random.default_rng(1)
    said: list[Any] = [env.reset(seed=7)]
    for _ in range(steps):
        size = env.action_space.shape
        said.append(env.step(draws.uniform(-1.0, 1.0, size).astype(np.float32)))
        if said[-1][2] or said[-1][3]:
            said.append(env.reset())
    env.close()
    return said


@pytest.mark.parametrize(("task", "weight", "steps"), [("", 1.0, 1100), ("-backward", -1.0, 300)])
@pytest.mark.parametrize("robot", NATIVE)
def test_robot_is_gymnasiums_to_the_bit(robot: str, task: str, weight: float, steps: int) -> None:
    ours = play(envs.make(f"{robot}{task}"), steps)
    theirs = play(gymnasium.make(NATIVE[robot], forward_reward_weight=weight), steps)
    episodes = sum(len(said) == 2 for said in ours)
    assert episodes > 1 or steps < 1000  # a half cheetah ends by the clock alone
    np.testing.assert_equal(ours, theirs)


@pytest.mark.parametrize("name", ["hopper-backward", "walker2d-d4rl", "halfcheetah-ice"])
def test_reward_is_the_sum_of_its_terms(name: str) -> None:
    for said in play(envs.make(name), 100):
        if len(said) == 5:
            terms = [value for key, value in said[4].items() if key.startswith("reward_")]
            assert said[1] == pytest.approx(sum(terms), rel=1e-12)


def test_shift_changes_the_course_of_an_episode() -> None:
    course, shifted = play(envs.make("hopper"), 30), play(envs.make("hopper-gravity=0.5"), 30)
    np.testing.assert_equal(shifted[0][0], course[0][0])
    assert np.abs(shifted[30][0] - course[30][0]).max() > 0.01


@pytest.mark.parametrize("name", ["hopper-ice", "walker2d-d4rl-backward", "halfcheetah"])
def test_environment_passes_gymnasiums_check(name: str) -> None:
    check_env(gymnasium.make(f"mabe/{name}-v0").unwrapped, skip_render_check=True)


def test_id_imports_its_module() -> None:
    env: Any = gymnasium.make("mabe_transfer.envs:mabe/hopper-ice-v0").unwrapped
    assert env.domain == domain("hopper-ice")


@pytest.mark.parametrize("robot", NATIVE)
@pytest.mark.parametrize("shift", ["", "-ice", "-d4rl"])
@pytest.mark.parametrize("task", ["", "-backward"])
def test_domain_without_numbers_has_an_id(robot: str, shift: str, task: str) -> None:
    spec = gymnasium.spec(f"mabe/{robot}{shift}{task}-v0")
    assert spec.max_episode_steps == 1000
    assert spec.kwargs == {"name": f"{robot}{shift}{task}"}


def test_every_registered_domain_is_named_canonically() -> None:
    names = [where.name for where in envs.registered()]
    assert names == [domain(name).name for name in names]
    assert {name.split("-d")[0] for name in names} >= set(NATIVE)


def test_any_domain_goes_through_one_id() -> None:
    env: Any = gymnasium.make(envs.ANY_DOMAIN, name="hopper-gravity=0.5-friction=0.5")
    assert env.unwrapped.domain.name == "hopper-friction=0.5-gravity=0.5"
    assert env.spec.max_episode_steps == 1000


def test_wrong_name_gets_one_sentence() -> None:
    with pytest.raises(UserError, match=r"no robot 'hoper'.* Did you mean 'hopper'?"):
        gymnasium.make(envs.ANY_DOMAIN, name="hoper")


@pytest.mark.parametrize("name", ["walker2d-mass=2-backward", "hopper"])
def test_spec_is_json_that_makes_the_same_environment(name: str) -> None:
    spec = envs.make(name).spec
    assert spec is not None
    again: Any = gymnasium.make(EnvSpec.from_json(json.dumps(json.loads(spec.to_json()))))
    assert again.unwrapped.domain == domain(name)


def test_user_file_makes_an_environment_with_its_own_time_limit(tmp_path: Path) -> None:
    robot = tmp_path / "robot.toml"
    own = (catalogue.folder("envs") / "robots" / "halfcheetah.toml").read_text()
    own = own.replace('name = "halfcheetah"', 'name = "brief"')
    robot.write_text(own.replace("max_episode_steps = 1000", "max_episode_steps = 3"))
    path = tmp_path / "mine.toml"
    path.write_text(f'robot = "{robot}"\n')
    env = envs.make(str(path))
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[3] for _ in range(3)] == [False, False, True]


def test_resolved_domain_makes_an_environment() -> None:
    env: Any = envs.make(domain("hopper-ice")).unwrapped
    assert env.domain == domain("hopper-ice")


def test_unknown_render_mode_is_refused() -> None:
    with pytest.raises(UserError, match=r"no render_mode 'rgb'.* Did you mean 'rgb_array'?"):
        envs.make("hopper", render_mode="rgb")


@pytest.mark.usefixtures("drawing")
def test_frame_shows_something() -> None:
    env = envs.make("hopper-ice", render_mode="rgb_array", width=160, height=120)
    env.reset(seed=0)
    frame: Any = env.render()
    env.close()
    assert frame.shape == (120, 160, 3)
    assert frame.std() > 10.0


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("name", ["hopper", "halfcheetah"])
def test_camera_follows_the_robot(name: str) -> None:
    env: Any = envs.make(name, render_mode="rgb_array", width=160, height=120).unwrapped
    env.reset(seed=0)
    skin = []
    for distance in (0.0, 15.0):
        env.set_state(env.data.qpos + distance * np.eye(env.model.nq)[0], env.data.qvel)
        frame = env.render().astype(int)
        skin.append(np.sum(frame[..., 0] - frame[..., 2] > 40))
    env.close()
    assert min(skin) > 50
    assert skin[1] > 0.5 * skin[0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux needs EGL or OSMesa")
def test_machine_that_cannot_draw_gets_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(offscreen.VARIABLE, raising=False)
    monkeypatch.setenv("PYOPENGL_PLATFORM", "none of them")
    with pytest.raises(UserError, match="neither EGL nor OSMesa works"):
        envs.make("hopper", render_mode="rgb_array")


def test_back_end_that_the_user_chose_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(offscreen.VARIABLE, "glfw")
    offscreen.prepare("rgb_array")
    assert os.environ[offscreen.VARIABLE] == "glfw"
