"""What a training's simulations gave, as arrays on disk that grow in place.

They are memory-mapped, so that a checkpoint need not copy them: what was written after it is
written again, with the same numbers, by the training that resumes from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mabe_transfer.transitions import Transitions

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from mabe_transfer.batched import Step
    from mabe_transfer.worlds import World


class Records:
    """Everything one domain's simulations gave, as arrays on disk: [T, E, ...].

    `packed` is what updates sample from; the rest makes complete rows of a dataset.
    """

    def __init__(self, folder: Path, steps: int, envs: int, simulation: World) -> None:
        observation, action = simulation.observation_size, simulation.action_size
        terms = sorted(simulation.domain.weights)
        self.terms, self.observation, self.action = terms, observation, action
        self.packed = _array(
            folder / "packed.npy", np.float32, (steps, envs, 2 * observation + action + 2)
        )
        self.truncated = _array(folder / "truncated.npy", np.bool_, (steps, envs))
        self.qpos = _array(folder / "qpos.npy", np.float64, (steps, envs, simulation.nq))
        self.qvel = _array(folder / "qvel.npy", np.float64, (steps, envs, simulation.nv))
        self.reward_terms = _array(folder / "terms.npy", np.float32, (steps, envs, len(terms)))
        self._flat = torch.from_numpy(self.packed).view(steps * envs, -1)

    def write(self, index: int, step: Step) -> None:
        """Record one vector step."""
        self.packed[index] = np.concatenate(
            (
                step.observation,
                step.action,
                step.reward[:, None],
                step.next_observation,
                step.terminated[:, None],
            ),
            axis=1,
        )
        self.truncated[index] = step.truncated & ~step.terminated
        self.qpos[index], self.qvel[index] = step.qpos, step.qvel
        self.reward_terms[index] = np.stack([step.terms[name] for name in self.terms], axis=1)

    def rows(self, picked: Tensor) -> Tensor:
        """Packed transitions by their number, [B] -> [B, W]."""
        return self._flat[picked]

    def transitions(self, steps: int) -> Transitions:
        """Complete rows of the first vector steps, copy after copy, so that episodes are whole."""

        def column(array: Any, dtype: type) -> np.ndarray[Any, Any]:
            taken = np.swapaxes(array[:steps], 0, 1)
            return np.ascontiguousarray(taken.reshape(-1, *taken.shape[2:]), dtype=dtype)

        packed = column(self.packed, np.float32)
        act = self.observation + self.action
        terminals = packed[:, -1] > 0.5
        timeouts = column(self.truncated, np.bool_)
        timeouts[steps - 1 :: steps] |= ~terminals[steps - 1 :: steps]  # where each copy was cut
        terms = column(self.reward_terms, np.float32)
        return Transitions(
            observations=packed[:, : self.observation].copy(),
            actions=packed[:, self.observation : act].copy(),
            rewards=packed[:, act].copy(),
            next_observations=packed[:, act + 1 : -1].copy(),
            terminals=terminals,
            timeouts=timeouts,
            qpos=column(self.qpos, np.float64),
            qvel=column(self.qvel, np.float64),
            reward_terms={name: terms[:, k].copy() for k, name in enumerate(self.terms)},
        )

    def flush(self) -> None:
        """Make what was written durable."""
        for array in (self.packed, self.truncated, self.qpos, self.qvel, self.reward_terms):
            array.flush()


def _array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[Any]]:
    """Open an array on disk, made of zeros when it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
