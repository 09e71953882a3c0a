"""Copies of a domain stepped together: batched where it is native, one after another where not.

Collection, evaluation and online training ask for a `World` and do not know which they got.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import mujoco
import numpy as np
import torch

from mabe_transfer.batched import Actions, Bools, Floats, Simulation, Step
from mabe_transfer.errors import UserError
from mabe_transfer.suite import SuiteEnv

if TYPE_CHECKING:
    from mabe_transfer.domains import Domain

Indices = np.ndarray[Any, np.dtype[np.intp]]
INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION


class World(Protocol):
    """`size` copies of a domain; see `batched.Simulation` for what each member means."""

    domain: Domain
    size: int
    elapsed: np.ndarray[Any, np.dtype[np.int64]]
    observation_size: int
    action_size: int
    nq: int
    nv: int

    @property
    def observation(self) -> Floats:
        """Observations now, [B, O]."""

    def seed(self, seeds: list[int]) -> None:
        """Give each copy a random stream of its own and reset it from there."""

    def reset(self, which: Indices) -> None:
        """Start new episodes in some copies."""

    def step(self, action: Actions, which: Indices | None = None) -> Step:
        """Advance by one control period, without resetting what ends."""

    def set_state(self, qpos: Floats, qvel: Floats) -> None:
        """Put all copies into given states."""

    def state(self) -> dict[str, torch.Tensor]:
        """The physical states and clocks, enough to go on exactly."""

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what `state` gave."""

    def generators(self) -> list[dict[str, Any]]:
        """The copies' random streams, as JSON."""

    def load_generators(self, states: list[dict[str, Any]]) -> None:
        """Go on from what `generators` gave."""

    def close(self) -> None:
        """Let go of threads."""


def world(domain: Domain, size: int) -> World:
    """Make copies of a domain.

    Raises:
        UserError: The domain's model cannot be built.
    """
    return Simulation(domain, size) if domain.robot.native else LoopedWorld(domain, size)


def sizes(domain: Domain) -> tuple[int, int]:
    """How many numbers an observation and an action have; of the model where a table is silent.

    Raises:
        UserError: The table is silent, and the domain's model cannot be built.
    """
    robot = domain.robot
    if robot.observation and robot.action:
        return len(robot.observation), len(robot.action)
    one = world(domain, 1)
    one.close()
    return one.observation_size, one.action_size


def require_robot(domain: Domain, robot: str, whose: str) -> None:
    """Refuse policies of one robot in a domain of another.

    Args:
        domain: Where they are to act.
        robot: The robot that they are of.
        whose: Where they are from.

    Raises:
        UserError: The domain is another robot's.
    """
    if domain.robot.name != robot:
        raise UserError(f"{whose} holds policies of {robot}; they cannot act in {domain.name}.")


class LoopedWorld:
    """Copies of a dm_control domain, stepped one after another."""

    def __init__(self, domain: Domain, size: int) -> None:
        self.domain, self.size = domain, size
        self.envs = [SuiteEnv(domain) for _ in range(size)]
        first = self.envs[0]
        self.nq, self.nv, self.action_size = first.model.nq, first.model.nv, first.model.nu
        self.observation_size = len(first.observation_names)
        self.elapsed = np.zeros(size, dtype=np.int64)
        self._observation = np.zeros((size, self.observation_size))

    @property
    def observation(self) -> Floats:
        """Observations now, [B, O]."""
        return self._observation.copy()

    def seed(self, seeds: list[int]) -> None:
        """Give each copy a random stream of its own and reset it from there."""
        for index, seed in enumerate(seeds):
            self._observation[index], _ = self.envs[index].reset(seed=seed)
        self.elapsed[:] = 0

    def reset(self, which: Indices) -> None:
        """Start new episodes in some copies, each from its own stream."""
        for index in which:
            self._observation[index], _ = self.envs[index].reset()
        self.elapsed[which] = 0

    def step(self, action: Actions, which: Indices | None = None) -> Step:
        """Advance by one control period, without resetting what ends."""
        rows = np.arange(self.size) if which is None else which
        before = self._observation[rows].copy()
        qpos = np.stack([self.envs[index].data.qpos.copy() for index in rows])
        qvel = np.stack([self.envs[index].data.qvel.copy() for index in rows])
        reward, terminated = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.bool_)
        for place, index in enumerate(rows):
            after = self.envs[index].step(action[place])
            self._observation[index], reward[place], terminated[place] = after[:3]
        self.elapsed[rows] += 1
        truncated: Bools = self.elapsed[rows] >= self.domain.robot.max_episode_steps
        return Step(
            observation=before,
            action=action,
            next_observation=self._observation[rows].copy(),
            reward=reward,
            terms={"task": reward},
            terminated=terminated,
            truncated=truncated,
            qpos=qpos,
            qvel=qvel,
        )

    def set_state(self, qpos: Floats, qvel: Floats) -> None:
        """Put all copies into given states, at the start of an episode."""
        self.seed([0] * self.size)
        for index, env in enumerate(self.envs):
            env.data.qpos[:], env.data.qvel[:] = qpos[index], qvel[index]
            self._observation[index] = env.observe()

    def state(self) -> dict[str, torch.Tensor]:
        """The physical states and clocks, enough to go on exactly."""
        width = mujoco.mj_stateSize(self.envs[0].model, INTEGRATION.value)
        physics = np.zeros((self.size, width))
        for row, env in zip(physics, self.envs, strict=True):
            mujoco.mj_getState(env.model, env.data, row, INTEGRATION.value)
        return {"physics": torch.from_numpy(physics), "elapsed": torch.from_numpy(self.elapsed)}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what `state` gave."""
        self.seed([0] * self.size)
        for index, env in enumerate(self.envs):
            row = state["physics"][index].numpy()
            mujoco.mj_setState(env.model, env.data, row, INTEGRATION.value)
            self._observation[index] = env.observe()
        self.elapsed[:] = state["elapsed"].numpy()

    def generators(self) -> list[dict[str, Any]]:
        """The copies' random streams, as JSON."""
        return [env.stream() for env in self.envs]

    def load_generators(self, states: list[dict[str, Any]]) -> None:
        """Go on from what `generators` gave."""
        for env, state in zip(self.envs, states, strict=True):
            env.load_stream(state)

    def close(self) -> None:
        """Nothing is held."""
