"""The grammar of domain names, and the facts that a domain states about its robot."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mabe_transfer import catalogue, config
from mabe_transfer.domains import Domain, domain, from_facts, to_facts
from mabe_transfer.errors import UserError
from mabe_transfer.physics import build_model, model_path

NATIVE = {"hopper": "Hopper-v5", "walker2d": "Walker2d-v5", "halfcheetah": "HalfCheetah-v5"}


def extreme_states(name: str, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """States around and far beyond a robot's healthy range, infinities included, [count, O]."""
    rng = np.random.default_rng(0)
    size = len(catalogue.robot(name).observation)
    states = rng.normal(0.0, 0.1, (count, size))
    states[:, 0] += rng.choice([0.0, 0.7, 0.8, 1.2, 2.0], count)
    states[:, 1] += rng.choice([-1.0, -0.2, 0.0, 0.2, 1.0], count)
    extremes = [-np.inf, -1e9, -150.0, -100.0, 100.0, 150.0, 1e9, np.inf]
    rows = rng.choice(count, count // 2, replace=False)
    states[rows, rng.integers(0, size, len(rows))] = rng.choice(extremes, len(rows))
    return states


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("hopper", "hopper"),
        ("hopper-forward", "hopper"),
        ("hopper-ice-backward", "hopper-ice-backward"),
        ("hopper-gravity=.5-friction=0.50", "hopper-friction=0.5-gravity=0.5"),
        ("walker2d-mass=2e0-d4rl-forward", "walker2d-d4rl-mass=2"),
        ("dmc-cheetah-run-ice", "dmc-cheetah-run-ice"),
    ],
)
def test_every_way_to_write_a_domain_has_one_name(written: str, canonical: str) -> None:
    assert domain(written).name == canonical


@pytest.mark.parametrize("name", ["hopper-ice-friction=0.5", "hopper-friction=0.5-ice"])
def test_order_of_shifts_does_not_matter(name: str) -> None:
    assert domain(name) == domain("hopper-friction=0.5-ice")


@given(st.floats(1e-3, 1e3), st.sampled_from(["friction", "gravity", "mass", "damping", "gear"]))
def test_canonical_name_names_the_same_domain(value: float, shift: str) -> None:
    name = domain(f"hopper-{shift}={value:g}-backward").name
    assert domain(name).name == name


def test_name_keeps_every_digit_of_a_factor() -> None:
    written = domain("hopper-friction=0.123456789")
    assert domain(written.name) == written


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hoper-ice", "no robot 'hoper'.* Did you mean 'hopper'?"),
        ("hopper-icy", "no shift or task 'icy'.* Did you mean 'ice'?"),
        ("hopper-bakward", "no shift or task 'bakward'.* Did you mean 'backward'?"),
        ("hopper-backward-ice", "The task comes last in a domain's name: 'backward'"),
        ("hopper-ice-ice", "the shift 'ice' is given twice"),
        ("hopper-friction=0.5-friction=2", "the shift 'friction' is given twice"),
        ("hopper-friction", "'friction' needs a factor above 0, such as friction=0.5"),
        ("hopper-friction=0", "'friction' needs a factor above 0, such as friction=0.5"),
        ("hopper-friction=1.2.3", "'friction' needs a factor above 0, such as friction=0.5"),
        ("hopper-ice=0.5", "The shift 'ice' takes no value; write 'ice'"),
        ("hopper-friction=-1", "cannot read 'friction=-1'"),
        ("hopper--ice", "cannot read '-ice'"),
        ("dmc-cheetah-run-backward", "has no task 'backward'"),
        ("dmc-cheetah-run-d4rl", "D4RL has no data of it"),
        ("nowhere.toml", "nowhere.toml: cannot be read"),
    ],
)
def test_wrong_name_gets_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        domain(name)


@pytest.mark.parametrize("name", catalogue.robots())
def test_every_robot_is_a_domain(name: str) -> None:
    robot = domain(name).robot
    assert robot.name == name
    assert robot.observation
    assert robot.action
    assert all(quantity.unit for quantity in (*robot.observation, *robot.action))


@pytest.mark.parametrize("name", catalogue.shifts())
def test_every_shift_applies_to_the_hopper(name: str) -> None:
    value = "=0.5" if catalogue.shift(name).value == "name" else ""
    assert domain(f"hopper-{name}{value}").suffix == f"{name}{value}"


@pytest.mark.parametrize("name", catalogue.tasks())
def test_every_task_is_named_after_its_file(name: str) -> None:
    assert catalogue.task(name).name == name


def test_user_file_describes_a_domain(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('robot = "hopper"\nshifts = ["ice", "gravity=0.5"]\ntask = "backward"\n')
    assert domain(str(path)) == domain("hopper-gravity=0.5-ice-backward")


def test_user_file_brings_its_own_shift_and_robot(tmp_path: Path) -> None:
    shift = tmp_path / "stiff.toml"
    shift.write_text(
        'name = "stiff"\nsummary = "stiff joints"\nvalue = "robot"\n'
        'edits = [{ model_field = "dof_damping" }]\n'
    )
    robot = tmp_path / "hopper.toml"
    own = (catalogue.folder("envs") / "robots" / "hopper.toml").read_text()
    own = own.replace("[strengths]", "[strengths]\nstiff = 3.0")
    robot.write_text(own)
    with pytest.raises(UserError, match=r"'hopper' is the name of a robot that ships"):
        catalogue.robot(str(robot))
    robot.write_text(own.replace('name = "hopper"', 'name = "leaper"'))
    assert catalogue.robot(str(robot)).references  # of the same model
    other = own.replace('name = "hopper"', 'name = "leaper"').replace("hopper.xml", "walker2d.xml")
    (tmp_path / "other.toml").write_text(other)
    with pytest.raises(UserError, match=r"its \[references\] are those of hopper, another model"):
        catalogue.robot(str(tmp_path / "other.toml"))
    (tmp_path / "other.toml").write_text(own.replace('name = "hopper"', 'name = "my leaper"'))
    with pytest.raises(UserError, match=r"other.toml.*name = 'my leaper': expected letters"):
        catalogue.robot(str(tmp_path / "other.toml"))
    path = tmp_path / "mine.toml"
    path.write_text(f'robot = "{robot}"\nshifts = ["{shift}"]\n')
    assert domain(str(path)).shifts[0].value == 3.0


def test_files_that_a_user_s_file_names_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A robot of one's own, with a model of one's own, used from another folder."""
    place = tmp_path / "mine"
    place.mkdir()
    model = model_path("gymnasium:hopper.xml").read_text()
    (place / "leaper.xml").write_text(model.replace('friction="2.0"', 'friction="1.5"'))
    own = (catalogue.folder("envs") / "robots" / "hopper.toml").read_text()
    own = own.replace('name = "hopper"', 'name = "leaper"').partition("[references")[0]
    (place / "leaper.toml").write_text(own.replace("gymnasium:hopper.xml", "leaper.xml"))
    (place / "there.toml").write_text('robot = "leaper.toml"\ntask = "backward"\n')
    (place / "recipe.toml").write_text(
        '[recipes.mine]\nsummary = "mine"\nenv = "there.toml"\nquality = "random"\n'
    )
    monkeypatch.chdir(tmp_path)
    found = domain("mine/there.toml")
    assert found.name == "leaper-backward"
    assert domain(catalogue.recipe("mine/recipe.toml").env) == found
    monkeypatch.chdir(place)
    assert domain("there.toml") == found
    monkeypatch.chdir("/")
    kept = from_facts(to_facts(found), "a dataset")
    frictions = [build_model(one).geom_friction[4, 0] for one in (domain("hopper"), kept)]
    assert frictions == [2.0, 1.5]
    (place / "leaper.xml").write_text(model)
    with pytest.raises(UserError, match=r"leaper: its model .*leaper.xml was edited since data"):
        build_model(kept)
    assert domain(str(place / "there.toml")) != kept


def test_unknown_key_of_a_user_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('robot = "hopper"\nshift = ["ice"]\n')
    with pytest.raises(UserError, match=r"mine.toml: There is no key 'shift'.*'shifts'"):
        domain(str(path))


@pytest.mark.parametrize("name", ["hopper", "walker2d-ice-backward", "halfcheetah-d4rl-mass=2"])
def test_domain_survives_json(name: str) -> None:
    text = json.dumps(config.to_json(domain(name)))
    assert config.from_json(Domain, json.loads(text), "here") == domain(name)


@pytest.mark.filterwarnings("ignore:compiler attribute")
@pytest.mark.parametrize("name", NATIVE)
def test_termination_is_the_environments_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo logs a deprecation there
    env: Any = gymnasium.make(NATIVE[name]).unwrapped
    states = extreme_states(name, 10_000)
    expected = np.zeros(len(states), dtype=bool)
    if hasattr(env, "is_healthy"):
        for row, state in enumerate(states):
            env.data.qpos[1:], env.data.qvel[:] = np.split(state, [env.model.nq - 1])
            expected[row] = not env.is_healthy
    np.testing.assert_array_equal(domain(name).terminated(states), expected)


@pytest.mark.parametrize("name", NATIVE)
def test_termination_of_tensors_is_that_of_arrays(name: str) -> None:
    states = extreme_states(name, 10_000)
    found = domain(name).terminated(torch.from_numpy(states))
    np.testing.assert_array_equal(found.numpy(), domain(name).terminated(states))


def test_termination_keeps_leading_axes() -> None:
    states = extreme_states("hopper", 24)
    found = domain("hopper").terminated(states.reshape(2, 3, 4, -1))
    np.testing.assert_array_equal(found.ravel(), domain("hopper").terminated(states))


def terms(where: Domain, terminated: bool) -> dict[str, Any]:
    """Reward terms of one step of 0.008 m with an action of twice the torque limit."""
    action = np.full(3, 2.0)
    return where.reward_terms(np.array(1.0), np.array(1.008), action, np.array(terminated))


def test_reward_is_displacement_plus_bonus_minus_cost() -> None:
    hopper = domain("hopper")
    assert hopper.reward(terms(hopper, False)) == pytest.approx(1.0 + 1.0 - 0.012)


def test_fall_earns_no_bonus() -> None:
    assert terms(domain("hopper"), True)["healthy"] == 0.0


def test_backward_task_turns_only_the_forward_term() -> None:
    backward = domain("hopper-backward")
    assert backward.reward(terms(backward, False)) == pytest.approx(-1.0 + 1.0 - 0.012)


def test_d4rl_rewards_clip_the_action_and_pay_the_bonus_on_a_fall() -> None:
    legacy = domain("hopper-d4rl")
    assert legacy.reward(terms(legacy, True)) == pytest.approx(1.0 + 1.0 - 0.003)


def test_score_without_reference_returns_names_the_command_that_measures_them() -> None:
    with pytest.raises(UserError, match=r"envs reference hopper-gravity=0\.77"):
        domain("hopper-gravity=0.77").normalised(1.0)


def test_score_puts_the_expert_at_100_and_random_at_0() -> None:
    reference = domain("hopper-d4rl").reference
    assert reference is not None
    returns = np.array([reference.random, reference.expert])
    np.testing.assert_allclose(domain("hopper-d4rl").normalised(returns), [0.0, 100.0])


SHIFT = 'summary = ""\nvalue = "none"\n'


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("shift", f'name = "ice"\n{SHIFT}edits = [{{ model_field = "a", factor = 0.5 }}]',
         "'ice' is the name of a shift that ships"),
        ("shift", f'name = "mine"\n{SHIFT}edits = []', "the shift 'mine' changes nothing"),
        ("shift", f'name = "mine"\n{SHIFT}edits = [{{ model_field = "a", factor = -1.0 }}]',
         "the factor of a must be 0 or more, not -1.0"),
        ("shift", f'name = "mine"\n{SHIFT}edits = [{{ model_field = "a", factor = nan }}]',
         "must be 0 or more, not nan"),
        ("task", 'name = "backward"\nsummary = ""\nforward = 5.0',
         "'backward' is the name of a task that ships"),
        ("task", 'name = "mine"\nsummary = ""\nhealthy = nan', "healthy must be a finite number"),
        ("robot", 'name = "mine"\ntitle = ""\nmodel = "x.xml"\ncontrol_timestep_s = 0.1\n'
         "frame_skip = 0", "frame_skip must be above 0, not 0"),
        ("robot", 'name = "mine"\ntitle = ""\nmodel = "x.xml"\ncontrol_timestep_s = 0.1\n'
         "frame_skip = 1\nmax_episode_steps = 0", "max_episode_steps must be above 0, not 0"),
        ("recipe", "recipes = 3", "a recipe is a table of its own"),
        ("recipe", '[recipes]\nenv = "hopper"', "a recipe is a table of its own"),
        ("recipe", '[recipes.mine]\nname = "other"\nenv = "hopper"', "drop `name`"),
        ("recipe", '[recipes.a]\nsummary = ""\nenv = "hopper"\nquality = "random"\nseed = -1',
         "seed must be at least 0, not -1"),
        ("recipe", '[recipes.a]\nsummary = ""\nenv = "hopper"\nquality = "random"\n'
         "transitions = 0", "transitions must be at least 1, not 0"),
        ("recipe", '[recipes.a]\nsummary = ""\nenv = "hopper"\nquality = "randon"',
         "no quality 'randon'.*Did you mean 'random'"),
    ],
)  # fmt: skip
def test_own_file_that_makes_no_sense_is_refused_by_its_name(
    kind: str, text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"(?i)own.toml.*{message}"):
        getattr(catalogue, kind)(str(path))


def test_own_domain_with_a_wrong_name_says_in_which_file(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('robot = "hoper"')
    with pytest.raises(UserError, match=r"own.toml: There is no robot 'hoper'.*'hopper'"):
        domain(str(path))


def test_copy_of_what_ships_may_keep_its_name(tmp_path: Path) -> None:
    for kind, folder, name in (("shift", "physics", "ice"), ("robot", "robots", "hopper")):
        path = tmp_path / f"{name}.toml"
        path.write_text((catalogue.folder("envs") / folder / path.name).read_text())
        assert getattr(catalogue, kind)(str(path)) == getattr(catalogue, kind)(name)
