"""Deterministic policies, and policies of either kind read back from their tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mabe_transfer.errors import UserError, unknown
from mabe_transfer.networks import Actor, StackedMlp
from mabe_transfer.streams import Sizes, generator

if TYPE_CHECKING:
    from collections.abc import Mapping

SQUASHED_NORMAL, DETERMINISTIC = "squashed-normal", "deterministic"
"""The kinds of policy that a file can hold, by the name of what its network gives."""
SMALLEST_STD = 1e-3
"""Added to the deviations of observations, as TD3+BC does."""


class DeterministicActor(nn.Module):
    """S policies without noise: a perceptron of the standardised observation, squashed by tanh.

    The statistics of the observations are part of the policy and are kept with it; until
    `standardise` is called they change nothing.
    """

    observation_mean: Tensor
    observation_std: Tensor

    def __init__(self, sizes: Sizes, hidden: tuple[int, ...], component: str) -> None:
        super().__init__()
        self.body = StackedMlp(
            (sizes.observation, *hidden, sizes.action),
            [generator(seed, f"{component}/weights", sizes.device) for seed in sizes.seeds],
        )
        width = sizes.observation
        self.register_buffer("observation_mean", torch.zeros(width, device=sizes.device))
        self.register_buffer("observation_std", torch.ones(width, device=sizes.device))

    def standardise(self, observation: Tensor) -> None:
        """Take mean and deviation of the data's observations, [N, O]."""
        self.observation_mean = observation.mean(0)
        self.observation_std = observation.std(0, correction=0) + SMALLEST_STD

    def standardised(self, observation: Tensor) -> Tensor:
        """Observations as the network sees them, [..., O] -> [..., O]."""
        return (observation - self.observation_mean) / self.observation_std

    def mode(self, observation: Tensor) -> Tensor:
        """Actions at [S, B, O], [S, B, A], with gradient."""
        return torch.tanh(self.body.evaluate(self.standardised(observation)))


AnyActor = Actor | DeterministicActor
"""S policies, of either kind."""


def read(head: str, tensors: Mapping[str, Tensor], seeds: tuple[int, ...], where: str) -> AnyActor:
    """Rebuild policies from their tensors.

    Args:
        head: The kind of policy, `squashed-normal` or `deterministic`.
        tensors: What the policies' `state_dict` gave.
        seeds: One policy each.
        where: The file, for messages.

    Raises:
        UserError: There is no such kind, or the tensors are not those of one.
    """
    if head not in (SQUASHED_NORMAL, DETERMINISTIC):
        sentence = unknown("kind of policy", head, (SQUASHED_NORMAL, DETERMINISTIC))
        raise UserError(f"{where}: {sentence}")
    count = sum(name.startswith("body.weights.") for name in tensors)
    try:
        shapes = [tensors[f"body.weights.{index}"].shape for index in range(count)]
        hidden = tuple(shape[2] for shape in shapes[:-1])
        squashed = head == SQUASHED_NORMAL
        outputs = shapes[-1][2]
        sizes = Sizes(
            seeds=seeds,
            observation=shapes[0][1],
            action=outputs // 2 if squashed else outputs,
        )
        kind = Actor if squashed else DeterministicActor
        actor = kind(sizes, hidden, "policy")
        actor.load_state_dict(dict(tensors))
    except (IndexError, KeyError, RuntimeError) as error:
        raise UserError(f"{where}: its tensors are not those of a {head} policy.") from error
    return actor
