"""Gradient steps that move some parameters and give no others a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable


def adam(module: nn.Module, rate: float) -> torch.optim.Adam:
    """Make an Adam for all of a module's parameters."""
    return torch.optim.Adam(module.parameters(), lr=rate, fused=True)


def descend(loss: Tensor, parameters: Iterable[Tensor], optimiser: torch.optim.Adam) -> None:
    """Step parameters down a loss.

    A fused Adam takes for granted that a gradient lies in memory as its parameter does, and is
    silently wrong where it does not; that of a second derivative may be transposed.

    Args:
        loss: A scalar, summed over seeds, which share no parameter.
        parameters: All that the optimiser holds.
        optimiser: Theirs.
    """
    moved = list(parameters)
    for parameter, gradient in zip(moved, torch.autograd.grad(loss, moved), strict=True):
        alike = gradient.stride() == parameter.stride()
        parameter.grad = gradient if alike else torch.empty_like(parameter).copy_(gradient)
    optimiser.step()
