"""Transitions: the one currency in which data moves through this project.

Row `i` is complete in itself: no reader ever looks at row `i + 1` for a next observation, so no
transition can cross from one episode into another.

Letters: `N` rows, `O` observation, `A` action, `E` episodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mabe_transfer.errors import UserError, unknown

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Integers: TypeAlias = NDArray[np.int64]

# Field -> (data type, number of axes), for every field that is one array.
_FORMS: dict[str, tuple[type[np.generic], int]] = {
    "observations": (np.float32, 2),
    "actions": (np.float32, 2),
    "rewards": (np.float32, 1),
    "next_observations": (np.float32, 2),
    "terminals": (np.bool_, 1),
    "timeouts": (np.bool_, 1),
    "qpos": (np.float64, 2),
    "qvel": (np.float64, 2),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Episodes:
    """Where each episode lies in the rows.

    Attributes:
        start: First row, int64 [E].
        length: Number of rows, int64 [E].
    """

    start: Integers
    length: Integers

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def between(cls, ends: Flags) -> Self:
        """Cut rows into episodes after each row that ends one.

        Args:
            ends: True on the last row of an episode, [N]. A last episode without one counts too.
        """
        after = np.flatnonzero(ends).astype(np.int64) + 1
        if len(ends) and not ends[-1]:
            after = np.append(after, len(ends))
        start = np.concatenate([np.zeros(min(1, len(after)), np.int64), after[:-1]])
        return cls(start=start, length=after - start)

    def sums(self, values: Floats) -> Doubles:
        """Add the values of each episode's rows in float64.

        Args:
            values: One number a row, [N].

        Returns:
            One sum an episode, [E].
        """
        if not len(self):
            return np.zeros(0, np.float64)
        return np.asarray(np.add.reduceat(values.astype(np.float64), self.start), np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transitions:
    """What happened, one row a control step.

    Attributes:
        observations: Before the step, in the units of the robot's table, [N, O].
        actions: As given to the environment, [N, A].
        rewards: Of the step, [N].
        next_observations: After the step, [N, O]; at an episode's end the last state it reached.
        terminals: The task ended here: no bootstrap, [N].
        timeouts: The clock or the recording ended here: bootstrap, [N].
        qpos: Generalised positions before the step, m and rad, [N, nq]; None if not recorded.
        qvel: Generalised velocities before the step, m/s and rad/s, [N, nv]; None likewise.
        reward_terms: The terms that make up the reward, unweighted, each [N]; {} if unknown.

    Raises:
        ValueError: A field has another data type, number of axes or length than stated here.
    """

    observations: Floats
    actions: Floats
    rewards: Floats
    next_observations: Floats
    terminals: Flags
    timeouts: Flags
    qpos: Doubles | None = None
    qvel: Doubles | None = None
    reward_terms: dict[str, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.observations)
        for name, (dtype, axes) in _FORMS.items():
            if (array := getattr(self, name)) is not None:
                _check_form(name, array, dtype, axes, rows)
        for name, term in self.reward_terms.items():
            _check_form(f"reward term {name!r}", term, np.float32, 1, rows)
        if self.next_observations.shape != self.observations.shape:
            raise ValueError(
                f"next_observations has shape {self.next_observations.shape}, "
                f"but observations has {self.observations.shape}."
            )

    def __len__(self) -> int:
        return len(self.observations)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array that is there, by name; a term of the reward as `reward_terms/<name>`."""
        plain = {name: getattr(self, name) for name in _FORMS}
        terms = {f"reward_terms/{name}": term for name, term in self.reward_terms.items()}
        return {name: array for name, array in plain.items() if array is not None} | terms

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Put together what `arrays` took apart."""
        prefix = "reward_terms/"
        plain = {name: array for name, array in arrays.items() if not name.startswith(prefix)}
        terms = {name[len(prefix) :]: arrays[name] for name in arrays if name.startswith(prefix)}
        return cls(**plain, reward_terms=terms)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join parts row after row.

        Raises:
            ValueError: There is no part, or the parts do not hold the same arrays.
        """
        if not parts:
            raise ValueError("There is nothing to concatenate.")
        arrays = [part.arrays() for part in parts]
        for other in arrays[1:]:
            if different := sorted(other.keys() ^ arrays[0].keys()):
                raise ValueError(f"Only some of the parts have {', '.join(different)}.")
        return cls.of_arrays({k: np.concatenate([a[k] for a in arrays]) for k in arrays[0]})

    def rows(self, index: slice | Integers | Flags) -> Self:
        """Take some rows: views for a slice, copies for an index."""
        return self.of_arrays({name: array[index] for name, array in self.arrays().items()})

    def episodes(self) -> Episodes:
        """Find the episodes by their ends; an open last one counts."""
        return Episodes.between(self.terminals | self.timeouts)

    def episode_returns(self) -> Doubles:
        """Add up each episode's rewards, undiscounted, in float64, [E]."""
        return self.episodes().sums(self.rewards)

    def with_rewards(self, rewards: Floats) -> Self:
        """Give the same rows other rewards, [N]."""
        return replace(self, rewards=rewards)

    def packed(self) -> Floats:
        """Lay the training fields side by side, so that sampling gathers once and not five times.

        Returns:
            Observation, action, reward, next observation and terminal (0 or 1), [N, O+A+1+O+1].
        """
        columns = (
            self.observations,
            self.actions,
            self.rewards[:, None],
            self.next_observations,
            self.terminals[:, None],
        )
        return np.concatenate(columns, axis=1, dtype=np.float32)


def relabel(transitions: Transitions, weights: Mapping[str, float]) -> Transitions:
    """Re-reward transitions exactly: `sum_k weights[k] * reward_terms[k]`.

    The sum is taken in float64, in the order of the terms' names, and rounded once.

    Args:
        transitions: Rows that carry their reward terms.
        weights: Reward term -> weight; a term that is not named counts nothing.

    Raises:
        UserError: The transitions lack a weighted term.
    """
    terms = transitions.reward_terms
    if not terms:
        raise UserError("These transitions carry no reward terms, so they cannot be relabelled.")
    total = np.zeros(len(transitions), np.float64)
    for name in sorted(weights):
        if name not in terms:
            raise unknown("reward term", name, terms)
        total += weights[name] * terms[name].astype(np.float64)
    return transitions.with_rewards(total.astype(np.float32))


def _check_form(name: str, array: object, dtype: type[np.generic], axes: int, rows: int) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        got = getattr(array, "dtype", type(array).__name__)
        raise ValueError(f"{name} must be {dtype.__name__}, not {got}.")
    if array.ndim != axes or len(array) != rows:
        expected = f"[{rows}, ·]" if axes == 2 else f"[{rows}]"
        raise ValueError(f"{name} has shape {list(array.shape)}, expected {expected}.")
