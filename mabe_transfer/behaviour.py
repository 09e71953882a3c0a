"""Behaviour policies: who acts when data is collected.

A ladder is one safetensors file with the policies met along one SAC training, from the first to
the best, each with its measured return. A quality names a rung: `expert` is the best, `medium` the
one nearest to a third of the way from the ladder's worst to its expert.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mabe_transfer import catalogue, weights
from mabe_transfer.config import Json, from_json, to_json
from mabe_transfer.domains import Domain, from_facts, to_facts
from mabe_transfer.errors import UserError
from mabe_transfer.squashed import LOG_STD_BOUNDS, SquashedNormal

if TYPE_CHECKING:
    from pathlib import Path

MEDIUM_SHARE = 1.0 / 3.0
"""How far `medium` is from random to expert, as in D4RL."""

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


class Policy(Protocol):
    """Something that acts: observations and noise in, actions out."""

    def act(self, observation: Floats, noise: Floats) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Actions [B, A] at observations [B, O], with standard normal noise [B, A]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """A policy met along a training: when, and how good it was.

    `mean` and `std` are over the returns of `episodes` episodes with sampled actions.
    """

    env_steps: int
    mean: float
    std: float
    episodes: int


@dataclass(frozen=True)
class Ladder:
    """The policies of one training; `tensors` hold them stacked, [K, in, out] and [K, 1, out]."""

    domain: Domain
    rungs: tuple[Rung, ...]
    tensors: dict[str, Tensor]
    provenance: Json

    @property
    def expert(self) -> int:
        """Index of the rung with the highest return."""
        return max(range(len(self.rungs)), key=lambda index: self.rungs[index].mean)

    @property
    def medium(self) -> int:
        """Index of the rung nearest to a third of the way from the worst to the expert."""
        low = min(rung.mean for rung in self.rungs)
        goal = low + MEDIUM_SHARE * (self.rungs[self.expert].mean - low)
        return min(range(self.expert + 1), key=lambda index: abs(self.rungs[index].mean - goal))

    @property
    def medium_rung(self) -> Rung:
        """The medium rung's measurements."""
        return self.rungs[self.medium]

    def thinned(self, count: int) -> Ladder:
        """At most `count` > 4 of the policies: worst, medium, expert, and others on the way.

        The others' numbers of steps grow by one factor, since most of what a training meets, and
        little of what its expert does, is met early on.
        """
        steps = np.array([rung.env_steps for rung in self.rungs])
        worst = min(range(len(self.rungs)), key=lambda index: self.rungs[index].mean)
        grid = np.geomspace(steps[0], steps[-1], count - 3)
        spread = np.abs(np.log(steps[:, None] / grid)).argmin(0).tolist()
        kept = sorted({worst, self.medium, self.expert, *spread})
        rungs = tuple(self.rungs[index] for index in kept)
        return replace(self, rungs=rungs, tensors={k: t[kept] for k, t in self.tensors.items()})

    def policy(self, index: int) -> LadderPolicy:
        """The policy of one rung."""
        return LadderPolicy({name: t[index] for name, t in self.tensors.items()})

    def save(self, path: Path) -> None:
        """Write the ladder in half precision; what is read back is what acts."""
        half = {name: tensor.half() for name, tensor in self.tensors.items()}
        facts = {
            "kind": "behaviour ladder",
            "domain": to_facts(self.domain),
            "name": self.domain.name,
            "rungs": to_json(self.rungs),
            "provenance": self.provenance,
        }
        weights.save(path, half, facts)


class LadderPolicy:
    """A squashed Gaussian policy read from a ladder."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        count = len(tensors) // 2
        self._layers = [
            (tensors[f"weights.{i}"].float(), tensors[f"biases.{i}"].float()) for i in range(count)
        ]

    def distribution(self, observation: Tensor) -> SquashedNormal:
        """The policy's distribution at [B, O]."""
        x = observation
        for index, (weight, bias) in enumerate(self._layers):
            x = torch.addmm(bias, x, weight)
            if index < len(self._layers) - 1:
                x = torch.relu(x)
        mean, raw = x.chunk(2, dim=-1)
        low, high = LOG_STD_BOUNDS
        return SquashedNormal(mean, low + 0.5 * (high - low) * (torch.tanh(raw) + 1.0))

    @torch.no_grad()
    def act(self, observation: Floats, noise: Floats) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Sampled actions [B, A] at observations [B, O]; zero noise gives the mode."""
        inputs = torch.from_numpy(np.asarray(observation, dtype=np.float32))
        policy = self.distribution(inputs)
        action = policy.sample(torch.from_numpy(np.asarray(noise, dtype=np.float32))).action()
        return action.numpy()


class RandomPolicy:
    """Uniform actions in [-1, 1], whatever is observed."""

    def act(self, observation: Floats, noise: Floats) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Map standard normal noise to uniform actions through the normal's distribution."""
        del observation
        uniform = torch.special.ndtr(torch.from_numpy(np.asarray(noise, dtype=np.float64)))
        actions: np.ndarray[Any, np.dtype[np.float32]] = (2.0 * uniform - 1.0).float().numpy()
        return actions


def shipped(domain: Domain) -> Path | None:
    """The ladder that ships for a domain, if there is one."""
    path = _policies() / f"{domain.name}.safetensors"
    return path if path.is_file() else None


def shipped_ladders() -> list[Path]:
    """Every ladder that ships, named by its domain."""
    return sorted(_policies().glob("*.safetensors"))


def _policies() -> Path:
    return catalogue.folder("datasets") / "policies"


def load_ladder(path: Path) -> Ladder:
    """Read a ladder.

    Raises:
        UserError: The file is missing, is no safetensors file, or holds no ladder.
    """
    tensors, facts = weights.load(path)
    if facts.get("kind") != "behaviour ladder":
        raise UserError(
            f"{path}: expected a ladder of behaviour policies, found "
            f"{facts.get('kind') or 'other tensors'}; for a run's policies, name the run's folder."
        )
    missing = [name for name in ("rungs", "domain", "provenance") if name not in facts]
    if missing:
        raise UserError(f"{path}: its facts lack {', '.join(missing)}.")
    rungs = tuple(from_json(Rung, row, f"{path}: rungs") for row in facts["rungs"])
    domain = from_facts(facts["domain"], str(path))
    return Ladder(domain, rungs, tensors, facts["provenance"])


def digest(found: Ladder) -> str:
    """SHA-256 of a ladder's weights, first 16 hex digits."""
    sha = hashlib.sha256()
    for name in sorted(found.tensors):
        sha.update(name.encode())
        sha.update(found.tensors[name].half().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]
