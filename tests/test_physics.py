"""A domain's compiled model: what shifts change in it, and whether it replays recordings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from mabe_transfer import catalogue, certificate, domains, physics
from mabe_transfer.domains import domain
from mabe_transfer.errors import UserError

Recording = dict[str, Any]
NATIVE = [name for name, robot in catalogue.robots().items() if robot.native]
SHIFTS = [f"{s.name}=0.5" if s.value == "name" else s.name for s in catalogue.shifts().values()]


def recording(folder: Path, robot: str) -> Recording:
    """Transitions of a robot that others recorded, with `last` for the last row of an episode."""
    with np.load(folder / f"public_{robot}.npz") as file:
        rows = {name: file[name] for name in file.files}
    ends = np.flatnonzero(np.diff(rows["source"]) | np.diff(rows["episode"]))
    rows["last"] = np.zeros(len(rows["actions"]), dtype=bool)
    rows["last"][[*ends, -1]] = True
    return rows


def replay_errors(name: str, rows: Recording, which: Any, margin: float = 1.0) -> Any:
    """Largest error of each replayed next observation, with contact margins scaled, [n]."""
    where = domain(name)
    model = physics.build_model(where)
    model.geom_margin *= margin
    data = mujoco.MjData(model)
    errors = []
    for row in which:
        mujoco.mj_resetData(model, data)
        state = rows["observations"][row].astype(np.float64)
        data.qpos[1:], data.qvel[:] = np.split(state, [model.nq - 1])
        data.ctrl[:] = np.clip(rows["actions"][row], -1.0, 1.0)
        mujoco.mj_step(model, data, where.robot.frame_skip)
        found = where.observe(data.qpos, data.qvel)
        errors.append(np.abs(found - rows["next_observations"][row]).max())
    return np.array(errors)


def sample(mask: Any) -> Any:
    """At most 1,500 row numbers of a mask, evenly spread."""
    rows = np.flatnonzero(mask)
    return rows[:: len(rows) // 1500 + 1]


def own_shift(tmp_path: Path, model_field: str) -> domains.Domain:
    """The hopper with a user's own shift, which doubles one field."""
    shift = tmp_path / "own.toml"
    shift.write_text(
        'name = "own"\nsummary = "own"\nvalue = "name"\n'
        f'edits = [{{ model_field = "{model_field}" }}]\n'
    )
    applied = domains.AppliedShift(shift=catalogue.shift(str(shift)), value=2.0)
    return domains.compose(catalogue.robot("hopper"), [applied], catalogue.task("forward"))


def certify_by_hand(name: str, change: Any) -> certificate.Certificate:
    """Certify a domain's model after a change of it by hand."""
    base, model = physics.build_model(domain("hopper")), physics.build_model(domain(name))
    change(model)
    return certificate.examine(domain(name), base, base, model)


@pytest.mark.filterwarnings("ignore:compiler attribute")
@pytest.mark.parametrize("name", NATIVE)
def test_robot_without_shifts_is_its_model_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo logs a deprecation there
    path = physics.model_path(catalogue.robot(name).model)
    expected = certificate.numbers(mujoco.MjModel.from_xml_path(str(path)))
    found = certificate.numbers(physics.build_model(domain(name)))
    assert [key for key in expected if not np.array_equal(expected[key], found[key])] == []


@pytest.mark.parametrize("name", [*NATIVE, "halfcheetah-d4rl"])
def test_building_a_model_warns_of_nothing_and_writes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    physics.build_model(domain(name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NATIVE)
def test_control_period_is_that_of_the_model(name: str) -> None:
    robot = domain(name).robot
    step = physics.build_model(domain(name)).opt.timestep
    assert step * robot.frame_skip == robot.control_timestep_s


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("robot", NATIVE)
def test_shift_changes_what_it_declares_and_nothing_else(robot: str, shift: str) -> None:
    found = certificate.certify(domain(f"{robot}-{shift}"))
    assert found.problems == ()
    assert any(change.declared for change in found.changes)


@pytest.mark.parametrize("robot", NATIVE)
def test_ice_is_felt_under_every_foot(robot: str) -> None:
    found = certificate.certify(domain(f"{robot}-ice"))
    assert [row.geom for row in found.frictions] == list(catalogue.robot(robot).foot_geoms)
    for row in found.frictions:
        assert row.ratio == pytest.approx(catalogue.robot(robot).strengths["ice"])


def test_shifts_multiply() -> None:
    found = certificate.certify(domain("hopper-friction=0.5-ice-mass=2"))
    factors = {change.field: change.factor for change in found.changes if change.declared}
    assert factors == {"geom_friction": 0.125, "body_mass": 2.0, "body_inertia": 2.0}
    assert found.frictions[0].ratio == pytest.approx(0.125)


def test_d4rl_gives_the_walker_the_feet_that_d4rl_had() -> None:
    right, left = certificate.certify(domain("walker2d-d4rl-friction=0.5")).frictions
    assert (right.shifted, left.shifted) == pytest.approx((0.45, 0.95))


def test_friction_of_the_floor_alone_is_found_to_do_nothing() -> None:
    def slippery_floor(model: mujoco.MjModel) -> None:
        model.geom_friction[1:] /= 0.5

    found = certify_by_hand("hopper-friction=0.5", slippery_floor)
    assert found.frictions[0].ratio == 1.0
    with pytest.raises(UserError, match="geom_friction did not change by the declared factor"):
        found.require()
    assert "takes the larger friction of its two geoms" in found.problems[1]


def test_undeclared_change_is_found() -> None:
    def stiffen(model: mujoco.MjModel) -> None:
        model.jnt_stiffness[3] = 1.0

    found = certify_by_hand("hopper-gravity=0.5", stiffen)
    assert found.problems == (
        "hopper-gravity=0.5: jnt_stiffness changed, which no shift declares.",
    )


def test_derived_field_that_changes_on_its_own_is_found() -> None:
    def speed_up(model: mujoco.MjModel) -> None:
        model.actuator_acc0[:] *= 2.0

    found = certify_by_hand("hopper-gravity=0.5", speed_up)
    assert found.problems == (
        "hopper-gravity=0.5: actuator_acc0 changed, which no shift declares.",
    )


def test_shift_of_a_field_that_is_zero_changes_nothing(tmp_path: Path) -> None:
    found = certificate.certify(own_shift(tmp_path, "dof_frictionloss"))
    with pytest.raises(UserError, match="'own=2' changes nothing: dof_frictionloss of hopper is 0"):
        found.require()


def test_factor_of_one_changes_nothing() -> None:
    found = certificate.certify(domain("hopper-mass=1"))
    with pytest.raises(UserError, match="'mass=1' changes nothing: its factor is 1"):
        found.require()


@pytest.mark.parametrize("model_field", ["geom_fricton", "opt.gravty", "nq", "opt"])
def test_shift_of_a_field_that_does_not_exist_is_refused(tmp_path: Path, model_field: str) -> None:
    with pytest.raises(UserError, match=f"'{model_field}' is no array of floats of mujoco.MjModel"):
        physics.build_model(own_shift(tmp_path, model_field))


def test_robot_whose_model_does_not_exist_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "robot.toml"
    own = (catalogue.folder("envs") / "robots" / "hopper.toml").read_text()
    own = own.replace('name = "hopper"', 'name = "leaper"').partition("[references")[0]
    path.write_text(own.replace("gymnasium:hopper.xml", "gymnasium:hoper.xml"))
    where = domains.compose(catalogue.robot(str(path)), [], catalogue.task("forward"))
    with pytest.raises(UserError, match=r"leaper: its model .*hoper.xml does not exist"):
        physics.build_model(where)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('joint="foot_joint"', 'joint="fot_joint"', "MuJoCo cannot compile .*'fot_joint'"),
        ("</mujoco>", "</mujoc>", "MuJoCo cannot load"),
    ],
)
def test_model_that_mujoco_refuses_gets_one_sentence(
    tmp_path: Path, old: str, new: str, why: str
) -> None:
    text = physics.model_path("gymnasium:hopper.xml").read_text()
    assert old in text
    (tmp_path / "model.xml").write_text(text.replace(old, new))
    robot = replace(catalogue.robot("hopper"), name="leaper", model=str(tmp_path / "model.xml"))
    where = domains.compose(robot, [], catalogue.task("forward"))
    with pytest.raises(UserError, match=f"^leaper: {why}"):
        physics.build_model(where)


@pytest.mark.parametrize(
    ("robot", "largest"),
    # Half a unit in the last place of the recorded float32 state explains all of each error:
    # replays of states within it spread as far. Contacts of the cheetah magnify it the most.
    [("hopper", 2e-6), ("walker2d", 1e-4), ("halfcheetah", 1e-3)],
)
def test_d4rl_physics_replays_recordings_of_mujoco_py(
    robot: str, largest: float, shared_data: Path
) -> None:
    rows = recording(shared_data, robot)
    wanted = rows["legacy_engine"] & rows["replay_exact"]
    # Their last next states were not recorded; somebody simulated them, with MuJoCo since 3.5.
    wanted &= ~rows["last"]
    if robot == "halfcheetah":
        # Its contacts come from yet another engine: median error 4e-5, in the air 5e-7.
        wanted &= rows["source_names"][rows["source"]] != "drex"
    errors = replay_errors(f"{robot}-d4rl", rows, sample(wanted))
    assert np.median(errors) < 1e-6
    assert errors.max() < largest


@pytest.mark.parametrize(("robot", "median"), [("hopper", 5e-3), ("halfcheetah", 0.05)])
def test_modern_physics_does_not_replay_recordings_of_mujoco_py(
    robot: str, median: float, shared_data: Path
) -> None:
    rows = recording(shared_data, robot)
    wanted = sample(rows["legacy_engine"] & rows["replay_exact"])[::10]
    assert np.median(replay_errors(robot, rows, wanted)) > median


@pytest.mark.parametrize(("margin", "replayed"), [(0.5, 1.0), (1.0, 0.75)])
def test_modern_hopper_replays_recordings_before_mujoco_3_5_with_half_the_margin(
    margin: float, replayed: float, shared_data: Path
) -> None:
    rows = recording(shared_data, "hopper")
    wanted = sample(~rows["legacy_engine"] & rows["replay_exact"])
    errors = replay_errors("hopper", rows, wanted, margin)
    assert np.mean(errors < 2e-6) == pytest.approx(replayed, abs=0.05)


def test_d4rl_refuses_a_robot_of_unequal_margins(tmp_path: Path) -> None:
    model = tmp_path / "model.xml"
    text = physics.model_path("gymnasium:hopper.xml").read_text()
    model.write_text(text.replace('name="floor"', 'name="floor" margin="0.003"'))
    path = tmp_path / "robot.toml"
    own = (catalogue.folder("envs") / "robots" / "hopper.toml").read_text()
    own = own.replace('name = "hopper"', 'name = "leaper"').partition("[references")[0]
    path.write_text(own.replace("gymnasium:hopper.xml", str(model)))
    where = tmp_path / "mine.toml"
    where.write_text(f'robot = "{path}"\nshifts = ["d4rl"]\n')
    with pytest.raises(UserError, match="different contact margins"):
        physics.build_model(domain(str(where)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("control_timestep_s = 0.008", "control_timestep_s = 0.02", r"is 0.02, .* makes 0.008"),
        ("frame_skip = 4", "frame_skip = 5", r"is 0.008, .* 5 times, makes 0.01"),
    ],
)
def test_robot_whose_table_contradicts_its_model_is_refused(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    own = (catalogue.folder("envs") / "robots" / "hopper.toml").read_text()
    own = own.replace('name = "hopper"', 'name = "leaper"').partition("[references")[0]
    assert old in own
    path = tmp_path / "robot.toml"
    path.write_text(own.replace(old, new))
    where = domains.compose(catalogue.robot(str(path)), [], catalogue.task("forward"))
    with pytest.raises(UserError, match=f"leaper: control_timestep_s {message}"):
        physics.build_model(where)


@pytest.mark.parametrize(("name", "size"), [("observation", 11), ("action", 3)])
def test_robot_whose_table_names_too_few_is_refused(name: str, size: int) -> None:
    robot = catalogue.robot("hopper")
    fewer = replace(robot, **{name: getattr(robot, name)[1:]})
    where = domains.compose(fewer, [], catalogue.task("forward"))
    with pytest.raises(UserError, match=f"{name} has {size - 1} entries, and its model {size}"):
        physics.build_model(where)


def test_shift_of_a_misspelt_field_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The shift 'own'.*Did you mean 'geom_friction'"):
        physics.build_model(own_shift(tmp_path, "geom_frction"))
    with pytest.raises(UserError, match="'geom_type' is no array of floats"):
        physics.build_model(own_shift(tmp_path, "geom_type"))
