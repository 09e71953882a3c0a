"""Many copies of one domain, stepped together by MuJoCo's own threads (`mujoco.batch`).

`Simulation` holds the physical states as arrays and knows nothing of Gymnasium; `BatchedEnv` puts
it behind `gymnasium.vector.VectorEnv`. A simulation seeded with `s` starts its i-th copy as the
single environment reset with seed `s + i`.

Trajectories are the single environment's to the bit: a batch keeps the solver's warm start between
steps, which `mujoco.rollout` restarts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from mujoco.batch import Batch

from mabe_transfer import domains
from mabe_transfer.entries import Healthy
from mabe_transfer.errors import UserError
from mabe_transfer.physics import build_model
from mabe_transfer.threads import simulating

if TYPE_CHECKING:
    from mabe_transfer.domains import Domain

Floats = np.ndarray[Any, np.dtype[np.float64]]
Actions = np.ndarray[Any, np.dtype[np.float32]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one control step of B copies gave; every row is complete in itself.

    `qpos` and `qvel` are the state before the step, `observation` is made of them.
    """

    observation: Floats  # [B, O]
    action: Actions  # [B, A]
    next_observation: Floats  # [B, O], the true successor, also where an episode ends
    reward: Floats  # [B]
    terms: dict[str, Floats]  # each [B]
    terminated: Bools  # [B]
    truncated: Bools  # [B]
    qpos: Floats  # [B, nq]
    qvel: Floats  # [B, nv]


class Simulation:
    """The physical states of `size` copies of a domain.

    Args:
        domain: A domain of a native robot.
        size: Number of copies.
        threads: Threads of the pool; by default those that `--threads` allows.

    Raises:
        UserError: The robot comes from dm_control and is stepped by its own environment.
    """

    def __init__(self, domain: Domain, size: int, *, threads: int | None = None) -> None:
        if not domain.robot.native:
            raise UserError(f"{domain.name} is a dm_control task; it has no batched simulation.")
        self.domain = domain
        self.size = size
        self.model = build_model(domain)
        self.nq, self.nv = int(self.model.nq), int(self.model.nv)
        self.observation_size = self.nq - 1 + self.nv
        self.action_size = int(self.model.nu)
        self._batch = Batch(self.model, size, min(threads or simulating(), size))
        self.qpos: Floats = self._batch.bind("qpos")  # [B, nq], live
        self.qvel: Floats = self._batch.bind("qvel")  # [B, nv], live
        self._control: Floats = self._batch.bind("ctrl")  # [B, nu], live
        self._initial = (self.qpos[0].copy(), self.qvel[0].copy())
        self._batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self._cleared = self._batch.state[0].copy()  # all that a copy keeps between two calls
        self.elapsed = np.zeros(size, dtype=np.int64)
        self._generators: list[np.random.Generator] = []

    @property
    def observation(self) -> Floats:
        """Observations now, [B, O]."""
        return self.domain.observe(self.qpos, self.qvel)

    def seed(self, seeds: list[int]) -> None:
        """Give each copy a random stream of its own and reset it from there."""
        self._generators = [seeding.np_random(seed)[0] for seed in seeds]
        self.reset(np.arange(self.size))

    def reset(self, which: np.ndarray[Any, np.dtype[np.intp]]) -> None:
        """Start new episodes in the copies `which`, each from its own random stream."""
        noise, (qpos, qvel) = self.domain.robot.reset, self._initial
        self._clear(which)
        for index in which:
            draw = self._generators[index]
            width = noise.position_uniform
            self.qpos[index] = qpos + draw.uniform(-width, width, size=self.nq)
            if noise.velocity_normal > 0.0:
                self.qvel[index] = qvel + noise.velocity_normal * draw.standard_normal(self.nv)
            else:
                width = noise.velocity_uniform
                self.qvel[index] = qvel + draw.uniform(-width, width, size=self.nv)

    def step(
        self, action: Actions, which: np.ndarray[Any, np.dtype[np.intp]] | None = None
    ) -> Step:
        """Advance by one control period, without resetting what ends.

        Args:
            action: [B, A], or [len(which), A].
            which: The copies to advance, all by default; the others stand still.
        """
        rows: Any = slice(None) if which is None else which
        qpos, qvel = self.qpos[rows].copy(), self.qvel[rows].copy()
        self._control[rows] = action
        self._batch.step(which, nstep=self.domain.robot.frame_skip)
        self.elapsed[rows] += 1
        next_qpos, next_qvel = self.qpos[rows], self.qvel[rows]
        unclipped = np.concatenate((next_qpos[:, 1:], next_qvel), axis=-1)
        terminated = self.domain.terminated(unclipped)
        terms = self.domain.reward_terms(qpos[:, 0], next_qpos[:, 0], action, terminated)
        return Step(
            observation=self.domain.observe(qpos, qvel),
            action=action,
            next_observation=self.domain.observe(next_qpos, next_qvel),
            reward=self.domain.reward(terms),
            terms=terms,
            terminated=terminated,
            truncated=self.elapsed[rows] >= self.domain.robot.max_episode_steps,
            qpos=qpos,
            qvel=qvel,
        )

    def set_state(self, qpos: Floats, qvel: Floats) -> None:
        """Put all copies into given states, [B, nq] and [B, nv], at time 0."""
        self._clear(np.arange(self.size))
        self.qpos[:], self.qvel[:] = qpos, qvel

    def _clear(self, which: np.ndarray[Any, np.dtype[np.intp]]) -> None:
        self._batch.state[which] = self._cleared
        self.elapsed[which] = 0

    def state(self) -> dict[str, torch.Tensor]:
        """The physical states and clocks as tensors, enough to go on exactly."""
        return {
            "physics": torch.from_numpy(self._batch.state.copy()),
            "elapsed": torch.from_numpy(self.elapsed.copy()),
        }

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what `state` gave."""
        self._batch.state[:] = state["physics"].numpy()
        self.elapsed[:] = state["elapsed"].numpy()

    def generators(self) -> list[dict[str, Any]]:
        """The copies' random streams, as JSON."""
        return [dict(g.bit_generator.state) for g in self._generators]

    def load_generators(self, states: list[dict[str, Any]]) -> None:
        """Go on from what `generators` gave."""
        for g, state in zip(self._generators, states, strict=True):
            g.bit_generator.state = state

    def close(self) -> None:
        """Stop the threads."""
        del self._batch


class BatchedEnv(VectorEnv[Floats, Actions, Any]):
    """A domain's batched simulation as a Gymnasium vector environment.

    Autoreset mode SAME_STEP: where an episode ends, the returned observation is the next episode's
    first and `info["final_obs"]` the true successor, so no transition joins two episodes. The
    reward's terms are in `info` as the single environment has them: weighted, adding up to it.

    Args:
        name: A domain, or its name.
        num_envs: Number of copies.
        threads: Simulation threads; by default those that `--threads` allows.
    """

    def __init__(self, name: str | Domain, num_envs: int, *, threads: int | None = None) -> None:
        domain = domains.domain(name) if isinstance(name, str) else name
        self.simulation = Simulation(domain, num_envs, threads=threads)
        task = domain.task
        self._paid = [
            ("reward_forward", "forward", task.forward), ("reward_ctrl", "control", -task.control)
        ]  # fmt: skip
        if domain.robot.healthy != Healthy():
            self._paid.append(("reward_survive", "healthy", task.healthy))
        model = self.simulation.model
        low, high = model.actuator_ctrlrange.astype(np.float32).T
        size = model.nq - 1 + model.nv
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        self.single_action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.single_observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, (size,), dtype=np.float64
        )
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._seeded = False

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Floats, dict[str, Any]]:
        """Start new episodes everywhere; copy i draws from the stream of `seed + i`."""
        if seed is None and self._seeded:
            self.simulation.reset(np.arange(self.num_envs))
            return self.simulation.observation, {}
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        given = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        drawn = np.random.SeedSequence().generate_state(self.num_envs)
        self.simulation.seed(
            [int(d) if s is None else s for s, d in zip(given, drawn, strict=True)]
        )
        self._seeded = True
        return self.simulation.observation, {}

    def step(self, actions: Actions) -> tuple[Floats, Floats, Bools, Bools, dict[str, Any]]:
        """Advance all copies by one control period and restart those whose episode ended."""
        step = self.simulation.step(np.asarray(actions))
        info: dict[str, Any] = {
            name: weight * step.terms[term] for name, term, weight in self._paid
        }
        ended = step.terminated | step.truncated
        if not ended.any():
            return step.next_observation, step.reward, step.terminated, step.truncated, info
        final = np.full(self.num_envs, None, dtype=object)
        for index in np.flatnonzero(ended):
            final[index] = step.next_observation[index]
        info |= {"final_obs": final, "_final_obs": ended}
        self.simulation.reset(np.flatnonzero(ended))
        observation = step.next_observation.copy()
        observation[ended] = self.simulation.observation[ended]
        return observation, step.reward, step.terminated, step.truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the simulation's threads."""
        self.simulation.close()
