"""Compile a domain's MuJoCo model: the robot's own, changed by exactly what its shifts declare.

A shift multiplies fields of the compiled model, so that a factor means the same for every robot;
MuJoCo then recomputes what follows from masses. `certificate` holds the result against that.
"""

from __future__ import annotations

import warnings
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from mabe_transfer.errors import UserError
from mabe_transfer.written import sha256

if TYPE_CHECKING:
    from mabe_transfer.domains import Domain
    from mabe_transfer.entries import Robot

INERTIAL_FIELDS = ("body_mass", "body_inertia", "body_ipos", "body_iquat")


def build_model(domain: Domain) -> mujoco.MjModel:
    """Compile the model of a domain.

    Raises:
        UserError: The model file is missing, MuJoCo refuses it, it is not what the robot's table
            says, or a shift names a field that it lacks.
    """
    legacy = any(applied.shift.legacy_capsule_inertia for applied in domain.shifts)
    spec = _spec(domain.robot, legacy=legacy)
    if legacy:
        _halve_margins(spec, domain.robot)
    model = _compile(spec, domain.robot)
    _require_fit(domain.robot, model)
    if legacy:
        _copy_inertia(model, _compile(_with_cylinders(spec, model), domain.robot))
    apply_shifts(model, domain)
    return model


def apply_shifts(model: mujoco.MjModel, domain: Domain) -> None:
    """Multiply the fields that a domain's shifts name, in a compiled model, in place.

    Raises:
        UserError: A shift names a field that `mujoco.MjModel` lacks.
    """
    for applied in domain.shifts:
        for name, factor in applied.factors:
            try:
                field(model, name)[...] *= factor
            except UserError as error:
                raise UserError(f"The shift {applied.shift.name!r}: {error}") from None
    if domain.shifts:
        mujoco.mj_setConst(model, mujoco.MjData(model))


def field(model: mujoco.MjModel, path: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Give a numeric field of the compiled model by its dotted path, as a view."""
    value: object = model
    for name in path.split("."):
        value = getattr(value, name, None)
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        near = get_close_matches(path, _fields(model), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{path!r} is no array of floats of mujoco.MjModel.{hint}")
    return value


def _fields(model: mujoco.MjModel) -> list[str]:
    """The names of what a shift can multiply."""
    owners: dict[str, object] = {"": model, "opt.": model.opt}
    return [
        prefix + name
        for prefix, owner in owners.items()
        for name in dir(owner)
        if isinstance(value := getattr(owner, name), np.ndarray) and value.dtype.kind == "f"
    ]


def _require_fit(robot: Robot, model: mujoco.MjModel) -> None:
    """Refuse a robot whose table contradicts its model.

    Raises:
        UserError: Another number of observations or actions, or another control period.
    """
    period = model.opt.timestep * robot.frame_skip
    sizes = {"observation": model.nq - 1 + model.nv, "action": model.nu}
    for name, size in sizes.items():
        found = len(getattr(robot, name))
        if found not in (0, size):  # a table may be silent
            raise UserError(f"{robot.name}: {name} has {found} entries, and its model {size}.")
    if not np.isclose(robot.control_timestep_s, period):
        raise UserError(
            f"{robot.name}: control_timestep_s is {robot.control_timestep_s:g}, and its model's "
            f"time step of {model.opt.timestep:g} s, {robot.frame_skip} times, makes {period:g}."
        )


def model_path(source: str) -> Path:
    """Find a model file: `gymnasium:<file>` among Gymnasium's assets, else a path."""
    scheme, _, name = source.rpartition(":")
    if scheme == "gymnasium":
        return Path(str(files("gymnasium.envs.mujoco"))) / "assets" / name
    return Path(source).expanduser()


def _spec(robot: Robot, *, legacy: bool) -> mujoco.MjSpec:
    path = model_path(robot.legacy_model if legacy and robot.legacy_model else robot.model)
    if not path.is_file():
        raise UserError(f"{robot.name}: its model {path} does not exist.")
    if robot.model_sha256 and robot.model_sha256 != sha256(model_path(robot.model)):
        raise UserError(
            f"{robot.name}: its model {robot.model} was edited since data or runs were made with "
            "it; undo that, or give the edited robot, and what is made with it, another name."
        )
    try:
        return mujoco.MjSpec.from_file(str(path))
    except ValueError as error:
        raise UserError(f"{robot.name}: MuJoCo cannot load {path} ({error}).") from None


def _compile(spec: mujoco.MjSpec, robot: Robot) -> mujoco.MjModel:
    """Compile without the warning and the log file that `settotalmass` (half cheetah) costs.

    Raises:
        UserError: MuJoCo refuses the model.
    """
    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "compiler attribute 'settotalmass'")
            return spec.compile()
    except ValueError as error:
        why = " ".join(str(error).split())
        raise UserError(f"{robot.name}: MuJoCo cannot compile {robot.model} ({why}).") from None
    finally:
        mujoco.set_mju_user_warning(handler)


def _halve_margins(spec: mujoco.MjSpec, robot: Robot) -> None:
    """Give every contact the margin that it had before MuJoCo 3.5.

    Of two geoms' margins MuJoCo took the larger one until then, and their sum since. Where all
    geoms have the same margin, as in every robot that D4RL has data of, half of it is exact.

    Raises:
        UserError: Two geoms have different margins.
    """
    if len({geom.margin for geom in spec.geoms}) > 1:
        raise UserError(
            f"{robot.name}: its geoms have different contact margins, so MuJoCo before 3.5 cannot "
            "be replayed with it."
        )
    for geom in spec.geoms:
        geom.margin /= 2.0


def _with_cylinders(spec: mujoco.MjSpec, model: mujoco.MjModel) -> mujoco.MjSpec:
    """Replace every capsule by a cylinder longer by half a radius at each end.

    That is how MuJoCo computed a capsule's mass and inertia before version 2.1.1.
    """
    spec = spec.copy()
    for index, geom in enumerate(spec.geoms):
        if model.geom_type[index] == mujoco.mjtGeom.mjGEOM_CAPSULE:
            radius, half_length, _ = model.geom_size[index]
            geom.fromto = np.full(6, np.nan)
            geom.pos, geom.quat = model.geom_pos[index], model.geom_quat[index]
            geom.type = mujoco.mjtGeom.mjGEOM_CYLINDER
            geom.size = np.array([radius, half_length + radius / 2, 0.0])
    return spec


def _copy_inertia(model: mujoco.MjModel, source: mujoco.MjModel) -> None:
    for name in INERTIAL_FIELDS:
        getattr(model, name)[...] = getattr(source, name)
    mujoco.mj_setConst(model, mujoco.MjData(model))
