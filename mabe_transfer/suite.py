"""Tasks of the dm_control suite as Gymnasium environments, with this project's physics shifts.

`dm_control` is imported when the first such environment is made: it is optional, since it cannot be
installed on Python 3.13 and later. Its tasks keep their own observations, rewards and resets.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.utils import EzPickle

from mabe_transfer import domains, offscreen, physics
from mabe_transfer.errors import UserError, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mabe_transfer.domains import Domain
    from mabe_transfer.entries import Robot


Floats = np.ndarray[Any, np.dtype[np.float64]]
Actions = np.ndarray[Any, np.dtype[np.float32]]

SCHEME = "dm_control:"
FRAME_SIZE = 480  # pixels


class SuiteEnv(gymnasium.Env[Floats, Actions], EzPickle):
    """A task of the dm_control suite whose compiled model carries a domain's physics shifts.

    The observation is every entry of the task's own, flattened in the task's order;
    `observation_names` says which is which. The reward is the task's, and the term `reward_task`
    of `info`. A discount of 0 ends an episode as terminated, the suite's clock as truncated.

    Args:
        name: A domain of a dm_control robot, or its name.
        render_mode: `rgb_array`, or None to draw nothing.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.

    Raises:
        UserError: dm_control is absent or has no such task, or the robot's table contradicts it.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  Gymnasium declares it so
        "render_modes": ["rgb_array"]
    }

    def __init__(
        self,
        name: str | Domain,
        render_mode: str | None = None,
        width: int = FRAME_SIZE,
        height: int = FRAME_SIZE,
    ) -> None:
        EzPickle.__init__(self, name, render_mode, width, height)
        self.domain = domains.domain(name) if isinstance(name, str) else name
        offscreen.prepare(render_mode, ("rgb_array",))
        self.render_mode = render_mode
        self._size = (width, height)
        self._renderer: Any = None
        self._random = np.random.RandomState(0)
        self._seeded = False
        self._task_env = load(self.domain.robot, self._random)
        self._model: mujoco.MjModel | None = None
        self._left: dict[str, Floats] = {}
        self._shift()
        self.metadata = {
            **type(self).metadata,
            "render_fps": round(1.0 / self._task_env.control_timestep()),
        }
        self.observation_names = tuple(_names(self._observation()))
        self.observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, (len(self.observation_names),), dtype=np.float64
        )
        bounds = self._task_env.action_spec()
        self.action_space = gymnasium.spaces.Box(
            bounds.minimum.astype(np.float32), bounds.maximum.astype(np.float32), dtype=np.float32
        )

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled model that is simulated now."""
        return self._task_env.physics.model.ptr

    @property
    def data(self) -> mujoco.MjData:
        """The state that is simulated now."""
        return self._task_env.physics.data.ptr

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Start an episode; the same seed starts the same one."""
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self._random.seed(int(self.np_random.integers(2**32)))
            self._seeded = True
        self._task_env.reset()
        if self._shift():
            self._task_env.physics.forward()
        return _flat(self._observation()), {}

    def step(self, action: Actions) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Advance by one control period."""
        after = self._task_env.step(np.asarray(action, dtype=np.float64))
        terminated = bool(after.last() and after.discount == 0.0)
        reward = float(after.reward)
        info = {"reward_task": reward}
        truncated = bool(after.last()) and not terminated
        return _flat(after.observation), reward, terminated, truncated, info

    def render(self) -> Any:
        """Draw the robot from the task's first camera, which follows it, [height, width, 3]."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

            width, height = self._size
            screen = self.model.vis.global_
            screen.offwidth = max(screen.offwidth, width)
            screen.offheight = max(screen.offheight, height)
            camera = 0 if self.model.ncam else -1
            self._renderer = MujocoRenderer(
                self.model, self.data, width=width, height=height, camera_id=camera
            )
        return self._renderer.render(self.render_mode)

    def observe(self) -> Floats:
        """The observation of the state that is simulated now, after its positions follow, [O]."""
        self._task_env.physics.forward()
        return _flat(self._observation())

    def stream(self) -> dict[str, Any]:
        """The stream that resets are drawn from, as JSON."""
        name, keys, *rest = self._random.get_state()
        return {"name": name, "keys": [int(key) for key in keys], "rest": rest}

    def load_stream(self, state: dict[str, Any]) -> None:
        """Go on from what `stream` gave."""
        keys = np.array(state["keys"], dtype=np.uint32)
        self._random.set_state((state["name"], keys, *state["rest"]))

    def close(self) -> None:
        """Free what drawing holds."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _observation(self) -> dict[str, Any]:
        found: dict[str, Any] = self._task_env.task.get_observation(self._task_env.physics)
        return found

    def _shift(self) -> bool:
        """Put the shifts into the model wherever the task has taken them out.

        A task may compile another model at a reset, or write single entries of it anew.

        Returns:
            Whether anything had to be done.
        """
        paths = {edit.model_field for item in self.domain.shifts for edit in item.shift.edits}
        fresh = self.model is not self._model
        kept = {path: physics.field(self.model, path).copy() for path in paths}
        written = {path: kept[path] != (np.nan if fresh else self._left[path]) for path in paths}
        if not any(mask.any() for mask in written.values()):
            return False
        physics.apply_shifts(self.model, self.domain)
        for path in paths:
            value = physics.field(self.model, path)
            value[...] = np.where(written[path], value, kept[path])
            self._left[path] = value.copy()
        mujoco.mj_setConst(self.model, mujoco.MjData(self.model))
        self._model = self.model
        if fresh:
            self.close()
        return True


def build_model(domain: Domain) -> mujoco.MjModel:
    """Compile the model of a dm_control domain.

    Raises:
        UserError: As for `SuiteEnv`.
    """
    model = load(domain.robot, np.random.RandomState(0)).physics.model.ptr
    physics.apply_shifts(model, domain)
    return model


def load(robot: Robot, random: np.random.RandomState) -> Any:
    """Load a robot's dm_control environment: its model as the suite has it, its clock the table's.

    Args:
        robot: A robot whose model is `dm_control:<domain>/<task>`.
        random: The stream that the task draws its resets from.

    Raises:
        UserError: dm_control is absent or has no such task, or the robot's table contradicts it.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # glfw's, where there is no screen
            from dm_control import suite
    except ImportError as error:
        raise UserError(
            f"{robot.name} needs dm_control, which cannot be imported ({error}); it installs on "
            "Python 3.11 and 3.12 with: pip install dm-control"
        ) from None
    known = {f"{one}/{task}" for one, task in suite.ALL_TASKS}
    task = robot.model.removeprefix(SCHEME)
    if task not in known:
        raise unknown(f"dm_control task for {robot.name}", task, known)
    clock = (robot.max_episode_steps - 0.5) * robot.control_timestep_s  # ends with the last step
    with _without_deprecations():
        env = suite.load(*task.split("/"), task_kwargs={"random": random, "time_limit": clock})
    period, substeps = env.control_timestep(), env.control_timestep() / env.physics.timestep()
    if not np.allclose((robot.control_timestep_s, robot.frame_skip), (period, substeps)):
        raise UserError(
            f"{robot.name}: {task} has control_timestep_s = {period:g} and frame_skip = "
            f"{round(substeps)}."
        )
    return env


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Keep MuJoCo's deprecation of what dm_control's own model files use from the log."""
    log = logging.getLogger("absl")
    names = {"compiler attribute"}

    def wanted(record: logging.LogRecord) -> bool:
        return not any(record.getMessage().startswith(name) for name in names)

    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)


def _flat(observation: dict[str, Any]) -> Floats:
    return np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float64)


def _names(observation: dict[str, Any]) -> Iterator[str]:
    for name, value in observation.items():
        size = np.size(value)
        yield from [name] if np.ndim(value) == 0 else (f"{name}[{i}]" for i in range(size))
