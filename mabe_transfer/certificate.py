"""The physics certificate: a domain's model differs from its robot's as declared, and in effect.

Two checks that an edit of a model file cannot give. The compiled models of the robot and of the
domain are compared field by field: only what the shifts declare may differ, by the declared factor,
and what MuJoCo derives from it. Then the robot is dropped on the ground, and the friction of the
contacts under its feet is read: the contact of two geoms takes the larger of their frictions, so
that an edit of one of them can do nothing at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from mabe_transfer import physics, suite
from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mabe_transfer.domains import Domain


Numbers = np.ndarray[Any, np.dtype[Any]]

FRICTION = "geom_friction"
SETTLE_S = 5.0
_INERTIA = frozenset({*physics.INERTIAL_FIELDS, "dof_armature"})
_SHAPE = frozenset({"geom_size", "geom_pos", "geom_quat"})

# What MuJoCo computes itself, and from which fields.
DERIVED: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "body_invweight0",
            "body_subtreemass",
            "cam_poscom0",
            "dof_M0",
            "dof_invweight0",
            "dof_length",
            "light_poscom0",
            "stat.meaninertia",
            "stat.meanmass",
            "tendon_invweight0",
        ),
        _INERTIA,
    ),
    **dict.fromkeys(("geom_aabb", "geom_rbound"), _SHAPE),
    "actuator_acc0": _INERTIA | {"actuator_gear"},
    "body_margin": frozenset({"geom_margin"}),
    "bvh_aabb": _INERTIA | _SHAPE,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A field of the compiled model that differs: the entries that do, before and after.

    `factor` is the one number that turns every entry of the field into the shifted one, if there
    is such a number.
    """

    field: str
    base: tuple[float, ...]
    shifted: tuple[float, ...]
    factor: float | None
    declared: bool
    derived: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class FootFriction:
    """Sliding friction of the contact between a foot and the ground, as MuJoCo computes it."""

    geom: str
    base: float
    shifted: float
    expected: float

    @property
    def ratio(self) -> float:
        """Effective friction in units of the robot's own."""
        return self.shifted / self.base if self.base else math.nan


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What a domain's shifts changed, and whether that is what they declare."""

    domain: str
    changes: tuple[Change, ...]
    frictions: tuple[FootFriction, ...]
    problems: tuple[str, ...]

    def require(self) -> None:
        """Insist that the domain's physics is what its name says.

        Raises:
            UserError: It is not; the sentence is the first problem.
        """
        if self.problems:
            raise UserError(self.problems[0])


def certify(domain: Domain) -> Certificate:
    """Compile a domain's model and the robot's own, and compare them.

    Raises:
        UserError: One of the models cannot be built.
    """
    legacy = tuple(item for item in domain.shifts if item.shift.legacy_capsule_inertia)
    base = _model(replace(domain, shifts=()))
    engine = _model(replace(domain, shifts=legacy)) if legacy else base
    return examine(domain, base, engine, _model(domain))


def examine(
    domain: Domain, base: mujoco.MjModel, engine: mujoco.MjModel, shifted: mujoco.MjModel
) -> Certificate:
    """Hold a shifted model against what a domain's shifts declare.

    Args:
        domain: The domain whose shifts are certified.
        base: The robot's own model.
        engine: The same with another engine's inertia (`d4rl`), which the factors multiply.
        shifted: The model under examination.
    """
    before, after = numbers(base), numbers(shifted)
    if {name: item.shape for name, item in before.items()} != {
        name: item.shape for name, item in after.items()
    }:
        problem = f"{domain.name}: the shifted model has other parts than the robot's own."
        return Certificate(domain=domain.name, changes=(), frictions=(), problems=(problem,))
    expected = _expected(domain, base, engine)
    declared = {name for name in expected if not np.array_equal(expected[name], before[name])}
    changes = tuple(
        _change(name, before[name], after[name], declared)
        for name in before
        if not np.array_equal(before[name], after[name], equal_nan=True)
    )
    frictions, unsettled = _frictions(domain, base, engine, shifted)
    problems = (
        *_idle(domain, base, engine),
        *_unexpected(domain, changes, expected, after),
        *unsettled,
        *_slips(domain, frictions),
    )
    return Certificate(domain=domain.name, changes=changes, frictions=frictions, problems=problems)


def numbers(model: mujoco.MjModel) -> dict[str, Numbers]:
    """Every number of a compiled model, its options and statistics included, by dotted path."""
    found: dict[str, Numbers] = {}
    for prefix, holder in (("", model), ("opt.", model.opt), ("stat.", model.stat)):
        for name in dir(holder):
            value = None if name.startswith("_") else getattr(holder, name)
            if isinstance(value, (np.ndarray, int, float)):
                found[prefix + name] = np.asarray(value)
    return found


def _model(domain: Domain) -> mujoco.MjModel:
    build = physics.build_model if domain.robot.native else suite.build_model
    return build(domain)


def _edits(domain: Domain) -> Iterator[tuple[str, float]]:
    for applied in domain.shifts:
        yield from applied.factors


def _expected(domain: Domain, base: mujoco.MjModel, engine: mujoco.MjModel) -> dict[str, Numbers]:
    """What the declared fields must hold: the engine's values, times the shifts' factors."""
    expected: dict[str, Numbers] = {}
    if engine is not base:
        names = [*physics.INERTIAL_FIELDS, "geom_margin"]
        names += [FRICTION] if domain.robot.legacy_model else []
        expected = {name: physics.field(engine, name).copy() for name in names}
        expected["geom_margin"] = base.geom_margin / 2.0
    for name, factor in _edits(domain):
        expected[name] = expected.get(name, physics.field(engine, name)) * factor
    return expected


def _change(name: str, base: Numbers, shifted: Numbers, declared: set[str]) -> Change:
    differs = base != shifted
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(f"{(shifted / base)[differs][0]:.12g}")
        uniform = np.allclose(base * ratio, shifted, rtol=1e-11, atol=0.0)
    return Change(
        field=name,
        base=tuple(float(value) for value in base[differs]),
        shifted=tuple(float(value) for value in shifted[differs]),
        factor=ratio if uniform else None,
        declared=name in declared,
        derived=name not in declared and not declared.isdisjoint(DERIVED.get(name, frozenset())),
    )


def _unexpected(
    domain: Domain,
    changes: tuple[Change, ...],
    expected: Mapping[str, Numbers],
    after: Mapping[str, Numbers],
) -> Iterator[str]:
    """Changes that no shift declares, and declared ones that are not exact."""
    for change in changes:
        if not (change.declared or change.derived):
            yield f"{domain.name}: {change.field} changed, which no shift declares."
    for name, value in expected.items():
        if not np.array_equal(value, after[name]):
            yield f"{domain.name}: {name} did not change by the declared factor everywhere."


def _idle(domain: Domain, base: mujoco.MjModel, engine: mujoco.MjModel) -> Iterator[str]:
    """Shifts, and single edits of shifts, that leave the model as it was."""
    for applied in domain.shifts:
        shift = applied.shift
        sentence = f"{domain.name}: the shift {applied.name!r} changes nothing"
        if not (shift.edits or shift.legacy_capsule_inertia):
            yield f"{sentence}: it has no edits."
        if shift.legacy_capsule_inertia and np.array_equal(base.body_mass, engine.body_mass):
            yield f"{sentence}: {domain.robot.name} has no capsules."
        for name, factor in applied.factors:
            if factor == 1.0:
                yield f"{sentence}: its factor is 1."
            elif not physics.field(engine, name).any():
                yield f"{sentence}: {name} of {domain.robot.name} is 0 everywhere."


def _frictions(
    domain: Domain, base: mujoco.MjModel, engine: mujoco.MjModel, shifted: mujoco.MjModel
) -> tuple[tuple[FootFriction, ...], list[str]]:
    """Effective friction under each foot, and a sentence for each that could not be measured."""
    factor = math.prod(factor for name, factor in _edits(domain) if name == FRICTION)
    feet = domain.robot.foot_geoms
    if not feet and factor != 1.0:
        return (), [f"{domain.name}: its robot names no foot_geoms, so friction is not certified."]
    rows, problems = [], []
    for foot in feet:
        if mujoco.mj_name2id(base, mujoco.mjtObj.mjOBJ_GEOM, foot) < 0:
            problems.append(f"{domain.robot.name}: its model has no geom {foot!r} (foot_geoms).")
            continue
        pose = _standing(base, foot)
        if pose is None:
            problems.append(f"{domain.robot.name}: {foot!r} did not touch the ground.")
            continue
        own, now = _grip(base, pose, foot), _grip(shifted, pose, foot)
        wanted = _grip(engine, pose, foot) * factor / own if own else math.nan
        rows.append(FootFriction(geom=foot, base=own, shifted=now, expected=wanted))
    return tuple(rows), problems


def _slips(domain: Domain, frictions: tuple[FootFriction, ...]) -> Iterator[str]:
    for row in frictions:
        if not math.isclose(row.ratio, row.expected, rel_tol=1e-9):
            yield (
                f"{domain.name}: the contact friction under {row.geom!r} is {row.ratio:g} times "
                f"the robot's own and should be {row.expected:g} times; a contact takes the larger "
                "friction of its two geoms."
            )


def _standing(model: mujoco.MjModel, foot: str) -> Numbers | None:
    """Drop a robot from its initial pose until a foot bears on the ground, [nq]."""
    data = mujoco.MjData(model)
    while data.time < SETTLE_S:
        mujoco.mj_step(model, data)
        if any(contact.dist < -1e-4 for contact in _under(model, data, foot)):
            return np.array(data.qpos)
    return None


def _grip(model: mujoco.MjModel, pose: Numbers, foot: str) -> float:
    """Sliding friction between a foot and the ground in a pose; 0 where contacts cannot slide."""
    data = mujoco.MjData(model)
    data.qpos[:] = pose
    mujoco.mj_forward(model, data)
    frictions = [
        float(contact.friction[0]) if contact.dim > 1 else 0.0
        for contact in _under(model, data, foot)
    ]
    return max(frictions, default=math.nan)


def _under(model: mujoco.MjModel, data: mujoco.MjData, foot: str) -> Iterator[Any]:
    """Contacts between a foot and a geom that is fixed to the world."""
    number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, foot)
    for contact in data.contact:
        pair = {contact.geom1, contact.geom2}
        if number in pair and any(model.geom_bodyid[other] == 0 for other in pair - {number}):
            yield contact
