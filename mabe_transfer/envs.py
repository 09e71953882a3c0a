"""One domain as a Gymnasium environment: `make`, and the names registered with Gymnasium.

    make("hopper-friction=0.5-backward")                              any domain, or a TOML file
    gymnasium.make("mabe_transfer.envs:mabe/hopper-ice-v0")           a domain without numbers
    gymnasium.make("mabe_transfer.envs:mabe/Domain-v0", name="hopper-friction=0.5")   any domain

Gymnasium allows no `=` in an id, so a domain with a number in its name has none of its own and goes
through `mabe/Domain-v0`. All three give the same environment, cut off after the robot's
`max_episode_steps` (`mabe/Domain-v0`: 1000).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import EzPickle

from mabe_transfer import catalogue, domains, offscreen, physics
from mabe_transfer.domains import FORWARD, Domain
from mabe_transfer.entries import Healthy, Robot, Shift
from mabe_transfer.suite import FRAME_SIZE, SuiteEnv

if TYPE_CHECKING:
    from collections.abc import Iterator


Floats = np.ndarray[Any, np.dtype[np.float64]]
Actions = np.ndarray[Any, np.dtype[np.float32]]

ANY_DOMAIN = "mabe/Domain-v0"


class LocomotorEnv(MujocoEnv, EzPickle):
    """A native robot's domain; without shifts bit for bit Gymnasium's environment of that robot.

    Observation: the positions without x, then the velocities (clipped where the robot says so), as
    `domain.robot.observation` lists them with their units. Reward, per control step:
    forward displacement / period + healthy bonus - control cost, each times the task's weight;
    `info` holds the three as `reward_forward`, `reward_survive` and `reward_ctrl`, and they sum to
    the reward. A fall terminates; Gymnasium's `TimeLimit` truncates.

    Args:
        name: A domain of a native robot, or its name.
        render_mode: `human`, `rgb_array`, `depth_array`, `rgbd_tuple`, or None to draw nothing.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.

    Raises:
        UserError: There is no such domain, its model cannot be built, or nothing can be drawn.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  Gymnasium declares it so
        "render_modes": list(offscreen.RENDER_MODES)
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
        offscreen.prepare(render_mode)
        self._compiled = physics.build_model(self.domain)
        robot = self.domain.robot
        tracking = mujoco.mj_name2id(self._compiled, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        MujocoEnv.__init__(
            self,
            str(physics.model_path(robot.model).resolve()),
            robot.frame_skip,
            observation_space=None,
            render_mode=render_mode,
            width=width,
            height=height,
            camera_id=max(tracking, 0) if self._compiled.ncam else -1,
            default_camera_config={"trackbodyid": 1, "distance": 4.0, "elevation": -20.0},
        )
        self.metadata = {**type(self).metadata, "render_fps": round(1.0 / self.dt)}
        sizes = {"skipped_qpos": 1, "qpos": self.model.nq - 1, "qvel": self.model.nv}
        self.observation_structure = sizes
        self.observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, (sizes["qpos"] + sizes["qvel"],), dtype=np.float64
        )
        self._can_fall = robot.healthy != Healthy()

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        screen = self._compiled.vis.global_
        screen.offwidth = max(screen.offwidth, self.width)
        screen.offheight = max(screen.offheight, self.height)
        return self._compiled, mujoco.MjData(self._compiled)

    def step(self, action: Actions) -> tuple[Floats, np.float64, bool, bool, dict[str, Any]]:
        """Advance by one control period."""
        x_before = self.data.qpos[0]
        self.do_simulation(action, self.frame_skip)
        x_after = self.data.qpos[0]
        state = np.concatenate((self.data.qpos[1:], self.data.qvel))
        terminated = self.domain.terminated(state)
        terms = self.domain.reward_terms(x_before, x_after, action, terminated)
        task = self.domain.task
        info = {
            **self._get_reset_info(),
            "x_velocity": (x_after - x_before) / self.dt,
            "reward_forward": task.forward * terms["forward"],
            "reward_ctrl": -task.control * terms["control"],
        }
        if self._can_fall:
            info["reward_survive"] = task.healthy * terms["healthy"]
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
        reward = np.float64(self.domain.reward(terms))
        return self._observation(), reward, bool(terminated), False, info

    def reset_model(self) -> Floats:
        """Draw an initial state around the model's own."""
        noise = self.domain.robot.reset
        width = noise.position_uniform
        qpos = self.init_qpos + self.np_random.uniform(-width, width, size=self.model.nq)
        if noise.velocity_normal > 0.0:
            draws = self.np_random.standard_normal(self.model.nv)
            qvel = self.init_qvel + noise.velocity_normal * draws
        else:
            width = noise.velocity_uniform
            qvel = self.init_qvel + self.np_random.uniform(-width, width, size=self.model.nv)
        self.set_state(qpos, qvel)  # type: ignore[no-untyped-call]
        return self._observation()

    def _observation(self) -> Floats:
        return np.asarray(self.domain.observe(self.data.qpos, self.data.qvel), dtype=np.float64)

    def _get_reset_info(self) -> dict[str, Any]:
        info = {"x_position": self.data.qpos[0]}
        if self._can_fall:
            info["z_distance_from_origin"] = self.data.qpos[1] - self.init_qpos[1]
        return info


def make(
    name: str | Domain,
    *,
    render_mode: str | None = None,
    width: int = FRAME_SIZE,
    height: int = FRAME_SIZE,
) -> gymnasium.Env[Floats, Actions]:
    """Make the environment of a domain, with its time limit.

    Args:
        name: A domain's name, the path of a TOML file that describes one, or a resolved domain.
            With the first two, `env.spec` is plain JSON and makes the same environment again.
        render_mode: `rgb_array` draws frames without a screen.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.

    Raises:
        UserError: There is no such domain, its model cannot be built, or nothing can be drawn.
    """
    domain = domains.domain(name) if isinstance(name, str) else name
    offscreen.prepare(render_mode, _kind(domain).metadata["render_modes"])
    spec = _spec(ANY_DOMAIN, domain, name=name, width=width, height=height)
    return gymnasium.make(spec, render_mode=render_mode, disable_env_checker=True)


def by_name(name: str | Domain, **kwargs: Any) -> gymnasium.Env[Floats, Actions]:
    """Make the environment of a domain without its time limit: what `mabe/Domain-v0` enters by.

    Raises:
        UserError: As for `make`.
    """
    domain = domains.domain(name) if isinstance(name, str) else name
    return _kind(domain)(name, **kwargs)


def registered() -> Iterator[Domain]:
    """Every domain that has an id of its own: robots, shifts without numbers, and tasks."""
    for robot in catalogue.robots().values():
        shifts = [shift.name for shift in catalogue.shifts().values() if _fits(shift, robot)]
        tasks = [
            task for task in catalogue.tasks().values() if robot.native or task.name == FORWARD
        ]
        for name in (robot.name, *(f"{robot.name}-{shift}" for shift in shifts)):
            domain = domains.domain(name)
            yield from (domain.with_task(task) for task in tasks)


def _fits(shift: Shift, robot: Robot) -> bool:
    if shift.value == "name" or (shift.legacy_rewards and not robot.native):
        return False
    return shift.value == "none" or shift.name in robot.strengths


def _kind(domain: Domain) -> type[LocomotorEnv | SuiteEnv]:
    return LocomotorEnv if domain.robot.native else SuiteEnv


def _spec(identity: str, domain: Domain, **kwargs: Any) -> EnvSpec:
    kind = _kind(domain)
    return EnvSpec(
        id=identity,
        entry_point=f"{kind.__module__}:{kind.__name__}",
        max_episode_steps=domain.robot.max_episode_steps,
        kwargs=kwargs,
    )


def _register() -> None:
    for domain in registered():
        identity = f"mabe/{domain.name}-v0"
        gymnasium.registry[identity] = _spec(identity, domain, name=domain.name)
    entry_point = f"{__name__}:{by_name.__name__}"
    gymnasium.registry[ANY_DOMAIN] = EnvSpec(
        id=ANY_DOMAIN, entry_point=entry_point, max_episode_steps=1000
    )


_register()
