"""Natural gradients of a stack of policies: Fisher-vector products and conjugate gradients.

Every seed solves a system of its own, all of them as one: a vector is [S, P], P parameters of each
seed's policy, and no seed's numbers reach another's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mabe_transfer import advantages, losses
from mabe_transfer.squashed import SquashedNormal

if TYPE_CHECKING:
    from mabe_transfer.networks import Actor

Product = Callable[[Tensor], Tensor]
"""A symmetric positive matrix of every seed, as its product with vectors [S, P]."""

CLOSE = 1e-10
"""A system counts as solved where the squared residual fell to this share of the right side's."""


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Lay stacked tensors [S, ...] side by side, [S, P]."""
    return torch.cat([tensor.reshape(len(tensor), -1) for tensor in tensors], 1)


@torch.no_grad()
def assign(module: nn.Module, vector: Tensor) -> None:
    """Give a module of stacked parameters the numbers that `flat` laid side by side, [S, P]."""
    used = 0
    for parameter in module.parameters():
        size = parameter[0].numel()
        parameter.copy_(vector[:, used : used + size].view_as(parameter))
        used += size
    assert used == vector.shape[1]


def conjugate_gradient(product: Product, right: Tensor, iterations: int) -> Tensor:
    """Solve product(x) = right, each seed for itself (Hestenes and Stiefel 1952).

    A seed that is solved stands still while the others go on, so that it ends as it would alone.

    Args:
        product: The matrices.
        right: [S, P].
        iterations: At the most.

    Returns:
        [S, P].
    """
    solution, residual = torch.zeros_like(right), right
    direction, squared = residual, _dot(residual, residual)
    enough = CLOSE * squared
    for _ in range(iterations):
        going = squared > enough
        if not bool(going.any()):
            break
        image = product(direction)
        rate = torch.where(going, squared / _dot(direction, image), 0.0)
        solution = solution + rate * direction
        residual = residual - rate * image
        left = _dot(residual, residual)
        direction = torch.where(going, residual + left / squared * direction, direction)
        squared = torch.where(going, left, squared)
    return solution


def fisher_product(actor: Actor, observation: Tensor, alive: Tensor, damping: float) -> Product:
    """The Fisher matrix of every seed's policy, as its product with a vector.

    The Fisher matrix is the Hessian of the mean of KL(pi || pi_theta) at theta = pi
    (arXiv 1502.05477 App. C), here differentiated twice, without the matrix. Under the tanh that
    old and new policy share, the divergence is that of the Gaussians before it.

    Args:
        actor: The policies; their parameters must stay while the product is used.
        observation: [S, N, O].
        alive: Which of the N states count, booleans, [S, N].
        damping: Added times the vector.
    """
    parameters = list(actor.parameters())
    policy = actor.distribution(observation)
    fixed = SquashedNormal(policy.mean.detach(), policy.log_std.detach())
    divergence = advantages.masked_mean(losses.gaussian_kl(fixed, policy), alive)
    gradient = flat(torch.autograd.grad(divergence.sum(), parameters, create_graph=True))

    def product(vector: Tensor) -> Tensor:
        along = (gradient * vector).sum()
        second = torch.autograd.grad(along, parameters, retain_graph=True)
        return flat(second) + damping * vector

    return product


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner product of every seed, [S, 1]."""
    return (one * other).sum(-1, keepdim=True)
