"""A domain is a robot, its physics shifts and a task: one definition of its facts.

    domain = robot x physics shifts x task        hopper-ice-backward, walker2d-gravity=0.5

`observe`, `reward_terms` and `terminated` are written once, for any leading axes, and serve the
single environment, the batched one, the relabelling of rewards and the ends of model rollouts.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mabe_transfer import catalogue
from mabe_transfer.config import Json, from_json, to_json
from mabe_transfer.entries import ANYTHING, Interval, Reference, Robot, Shift, Task
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.written import is_path

if TYPE_CHECKING:
    from collections.abc import Mapping

FORWARD = "forward"
_TOKEN = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(?:=(?P<value>[0-9.]+(?:e[+-]?[0-9]+)?))?(?:-|$)")

Array = Any  # np.ndarray or torch.Tensor: only operators that both share are used
FloatArray = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class AppliedShift:
    """A shift together with its factor; `None` where the shift has none."""

    shift: Shift
    value: float | None = None

    @property
    def name(self) -> str:
        """The shift as it is written in a domain's name."""
        if self.shift.value != "name":
            return self.shift.name
        return f"{self.shift.name}={repr(self.value).removesuffix('.0')}"

    @property
    def factors(self) -> tuple[tuple[str, float], ...]:
        """Each edited field of the compiled model with what it is multiplied by."""
        own = 1.0 if self.value is None else self.value
        return tuple(
            (edit.model_field, own if edit.factor is None else edit.factor)
            for edit in self.shift.edits
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """A world to act in: everything that its name says, resolved."""

    robot: Robot
    shifts: tuple[AppliedShift, ...] = ()
    task: Task

    @property
    def name(self) -> str:
        """The canonical name: shifts in alphabetical order, the forward task unwritten."""
        return "-".join((self.robot.name, *self._suffixes()))

    @property
    def suffix(self) -> str:
        """The name without the robot, as references are keyed: `forward`, `ice-backward`."""
        return "-".join(self._suffixes()) or FORWARD

    @property
    def legacy_rewards(self) -> bool:
        """Whether rewards follow gym v2, as D4RL's do: see the `d4rl` shift."""
        return any(applied.shift.legacy_rewards for applied in self.shifts)

    @property
    def reference(self) -> Reference | None:
        """Random and expert return of this very domain, if they were measured."""
        return self.robot.references.get(self.suffix)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each stored reward term in this domain's reward."""
        if not self.robot.native:
            return {"task": 1.0}
        return {
            "forward": self.task.forward,
            "healthy": self.task.healthy,
            "control": -self.task.control,
        }

    def _suffixes(self) -> list[str]:
        words = [applied.name for applied in self.shifts]
        return words + ([] if self.task.name == FORWARD else [self.task.name])

    def with_task(self, task: Task) -> Domain:
        """The same robot and physics with another task."""
        return replace(self, task=task)

    def normalised(self, returns: Array) -> Array:
        """Expert-normalised score, 100 (J - J_random) / (J_expert - J_random).

        Args:
            returns: Undiscounted episode returns in this domain, any shape.

        Raises:
            UserError: The domain has no reference returns.
        """
        reference = self.reference
        if reference is None:
            raise UserError(
                f"{self.name} has no reference returns under [references.{self.suffix}] of its "
                f"robot; measure them with: mabe-transfer envs reference {self.name}"
            )
        return 100.0 * (returns - reference.random) / (reference.expert - reference.random)

    def observe(self, qpos: FloatArray, qvel: FloatArray) -> FloatArray:
        """What the policy sees: positions without x, and clipped velocities.

        Args:
            qpos: Generalised positions, [..., nq].
            qvel: Generalised velocities, [..., nv].

        Returns:
            Observations, [..., nq - 1 + nv].
        """
        clip = self.robot.velocity_clip
        bounded = math.isfinite(clip)  # numpy's own clip takes several times as long
        velocity = np.minimum(np.maximum(qvel, -clip), clip) if bounded else qvel
        return np.concatenate((qpos[..., 1:], velocity), axis=-1)

    def clip(self, observation: Array) -> Array:
        """Clip the velocities of observations as `observe` does, [..., O], NumPy or torch.

        A native robot is planar with as many velocities as positions, of which x is not observed.
        """
        clip = self.robot.velocity_clip
        if not np.isfinite(clip):
            return observation
        first = observation.shape[-1] // 2
        clipped = observation[..., first:].clip(-clip, clip)
        if isinstance(observation, np.ndarray):
            return np.concatenate((observation[..., :first], clipped), axis=-1)
        out = observation.clone()
        out[..., first:] = clipped
        return out

    def terminated(self, state: Array) -> Array:
        """Whether the episode ends by the task's own rule (a fall), never by the clock.

        Args:
            state: NumPy or torch, [..., O]: height, pitch, the other positions, velocities. The
                simulator passes unclipped velocities, a model rollout its predicted observation.

        Returns:
            Booleans, [...].
        """
        healthy = self.robot.healthy
        alive = _within(state[..., 0], healthy.height_m) & _within(state[..., 1], healthy.pitch_rad)
        return ~(alive & _within(state[..., 1:], healthy.state).all(-1))

    def reward_terms(
        self, x_before: FloatArray, x_after: FloatArray, action: Array, terminated: Array
    ) -> dict[str, FloatArray]:
        """The terms of one control step's reward, each unweighted by the task.

        The forward term is the displacement over the control period, not a velocity.

        Args:
            x_before: Position along the track before the step, m, [...].
            x_after: The same after it, [...].
            action: The action as the policy gave it, [..., A].
            terminated: Whether the step ended in a fall, [...].

        Returns:
            `forward`, `healthy` and `control` (a cost, so >= 0), each [...].
        """
        reward = self.robot.reward
        if self.legacy_rewards:
            action = np.clip(action, -1.0, 1.0)
        alive = np.ones_like(terminated) if self.legacy_rewards else ~terminated
        forward = reward.forward_per_m_s * ((x_after - x_before) / self.robot.control_timestep_s)
        control: FloatArray = reward.control_cost * np.sum(np.square(action), axis=-1)
        return {"forward": forward, "healthy": alive * reward.healthy_bonus, "control": control}

    def reward(self, terms: Mapping[str, FloatArray]) -> FloatArray:
        """Weigh reward terms by the task, in the order that Gymnasium adds them, [...]."""
        task = self.task
        gains: FloatArray = task.forward * terms["forward"] + task.healthy * terms["healthy"]
        return gains - task.control * terms["control"]


def domain(name: str) -> Domain:
    """Resolve a domain's name, or the path of a TOML file that describes one.

    Raises:
        UserError: A word is no robot, shift or task, or a shift's value is wrong.
    """
    if is_path(name):
        row = catalogue.domain_row(name)
        try:
            robot, task = catalogue.robot(row.robot), catalogue.task(row.task)
            return compose(robot, [_applied(word, robot) for word in row.shifts], task)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    robot, rest = _split_robot(name)
    words = _words(rest, name)
    last = words.pop() if words and words[-1] in catalogue.tasks() else FORWARD
    return compose(robot, [_applied(word, robot) for word in words], catalogue.task(last))


def compose(robot: Robot, applied: list[AppliedShift], task: Task) -> Domain:
    """Put a domain together; shifts are sorted by name, so that every order is one domain.

    Raises:
        UserError: A shift is given twice, or the robot does not know the task.
    """
    ordered = tuple(sorted(applied, key=lambda item: item.shift.name))
    for one, other in itertools.pairwise(ordered):
        if one.shift.name == other.shift.name:
            raise UserError(f"{robot.name}: the shift {one.shift.name!r} is given twice.")
    if not robot.native and task.name != FORWARD:
        raise UserError(f"{robot.name} is a dm_control task; it has no task {task.name!r}.")
    if not robot.native and any(item.shift.legacy_rewards for item in ordered):
        raise UserError(f"{robot.name} is a dm_control task; D4RL has no data of it.")
    return Domain(robot=robot, shifts=ordered, task=task)


def to_facts(domain: Domain) -> Json:
    """A resolved domain as JSON, to write beside what was made in it."""
    return dict(to_json(unmeasured(domain)))


def unmeasured(domain: Domain) -> Domain:
    """A domain without its reference returns, which are measured later and are no part of it."""
    return replace(domain, robot=replace(domain.robot, references={}))


def from_facts(facts: Mapping[str, Any], where: str) -> Domain:
    """Rebuild a domain from its facts, with the references that the catalogue has by now."""
    found = from_json(Domain, facts, where)
    known = catalogue.robots().get(found.robot.name)
    if known is None or replace(known, references={}) != found.robot:
        return found
    return replace(found, robot=known)


def _within(value: Array, interval: Interval) -> Array:
    if interval == ANYTHING:  # also of an infinity, as Gymnasium has it
        return value == value
    low, high = interval
    return (low < value) & (value < high)


def _split_robot(name: str) -> tuple[Robot, str]:
    known = catalogue.robots()
    matches = [key for key in known if name == key or name.startswith(f"{key}-")]
    if not matches:
        raise unknown("robot", name.split("-")[0], known)
    robot = max(matches, key=len)
    return known[robot], name[len(robot) + 1 :]


def _words(text: str, name: str) -> list[str]:
    words, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            form = "<robot>[-<shift>[=<value>]]...[-<task>], such as hopper-friction=0.5-backward"
            raise UserError(f"Domain {name!r}: cannot read {text[position:]!r}; write {form}.")
        words.append(match.group(0).removesuffix("-"))
        position = match.end()
    return words


def _applied(word: str, robot: Robot) -> AppliedShift:
    name, _, text = (word, "", "") if is_path(word) else word.partition("=")
    if name in catalogue.tasks():
        raise UserError(f"The task comes last in a domain's name: {name!r} stands before a shift.")
    if not is_path(name) and name not in catalogue.shifts():
        raise unknown("shift or task", name, {*catalogue.shifts(), *catalogue.tasks()})
    shift = catalogue.shift(name)
    if shift.value != "name" and text:
        raise UserError(f"The shift {name!r} takes no value; write {name!r}.")
    if shift.value == "none":
        return AppliedShift(shift=shift)
    if shift.value == "robot":
        if shift.name not in robot.strengths:
            raise UserError(f"{robot.name} has no strength for the shift {shift.name!r}.")
        return AppliedShift(shift=shift, value=robot.strengths[shift.name])
    value = float(text) if re.fullmatch(r"[0-9]*\.?[0-9]+(e[+-]?[0-9]+)?|[0-9]+\.", text) else 0.0
    if not 0.0 < value < float("inf"):
        raise UserError(f"The shift {name!r} needs a factor above 0, such as {name}=0.5.")
    return AppliedShift(shift=shift, value=value)
