"""Gradient steps that move some parameters and give no others a gradient."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mabe_transfer.rectified import Pass


PIECE = 16_384  # numbers that a GPU steps as one tensor


def adam(module: nn.Module, rate: float) -> torch.optim.Adam:
    """Make an Adam for all of a module's parameters, which move into one tensor.

    One tensor is one step of Adam instead of one a layer; a GPU, which gives a tensor's every
    65,536 numbers to one of its many processors, gets it in smaller pieces. Every parameter stays
    what it was, a view now, and has a gradient to be written into.
    """
    parameters = list(module.parameters())
    together = torch.cat([parameter.detach().flatten() for parameter in parameters])
    together.grad = torch.zeros_like(together)
    sizes = [parameter.numel() for parameter in parameters]
    values, slopes = torch.split(together, sizes), torch.split(together.grad, sizes)
    for parameter, value, slope in zip(parameters, values, slopes, strict=True):
        parameter.data = value.view_as(parameter)
        parameter.grad = slope.view_as(parameter)
    return fused(_pieces(together) if together.is_cuda else [together], rate)


def _pieces(tensor: Tensor) -> list[Tensor]:
    """Views of a tensor, each with its part of the gradient."""
    assert tensor.grad is not None
    pieces = list(torch.split(tensor, PIECE))
    for piece, slope in zip(pieces, torch.split(tensor.grad, PIECE), strict=True):
        piece.grad = slope
    return pieces


def decayed_adam(
    module: nn.Module, layers: Sequence[Tensor], decays: Sequence[float], rate: float
) -> torch.optim.Adam:
    """Make an Adam that adds `decay / 2` times a layer's squared weights to its loss.

    Args:
        module: Whose parameters are stepped; those that are no layers are not decayed.
        layers: The weights of its layers, in order.
        decays: A factor for each; layers beyond the last factor take that one.
        rate: The learning rate.
    """
    factors = itertools.chain(decays, itertools.repeat(decays[-1] if decays else 0.0))
    groups: list[dict[str, Any]] = [
        {"params": [layer], "weight_decay": factor}
        for layer, factor in zip(layers, factors, strict=False)
    ]
    known = {id(layer) for layer in layers}
    others = [parameter for parameter in module.parameters() if id(parameter) not in known]
    return fused([*groups, {"params": others}], rate)


def fused(parameters: Sequence[Tensor] | Sequence[dict[str, Any]], rate: float) -> torch.optim.Adam:
    """Make an Adam that steps all its parameters in one operation, which can be replayed."""
    first = parameters[0]
    tensor = first if isinstance(first, Tensor) else first["params"][0]
    # As a tensor `set_rate` reaches a recorded step too; as a double it is the number it was given.
    dtype = torch.float32 if tensor.is_cuda else torch.float64
    set_later = torch.tensor(rate, dtype=dtype, device=tensor.device)
    return torch.optim.Adam(parameters, lr=set_later, fused=True, capturable=tensor.is_cuda)


def set_rate(optimiser: torch.optim.Adam, rate: float) -> None:
    """Set the learning rate, also of a step that was recorded."""
    for group in optimiser.param_groups:
        group["lr"].fill_(rate)


def descend(loss: Tensor, parameters: Iterable[Tensor], optimiser: torch.optim.Adam) -> None:
    """Step parameters down a loss.

    A fused Adam takes for granted that a gradient lies in memory as its parameter does, and is
    silently wrong where it does not; that of a second derivative may be transposed.

    Args:
        loss: Of each seed, [S], which share no parameter; or its sum.
        parameters: All that the optimiser holds.
        optimiser: Theirs.
    """
    moved = list(parameters)
    found = torch.autograd.grad(loss, moved, torch.ones_like(loss))
    for parameter, gradient in zip(moved, found, strict=True):
        if parameter.grad is None:
            parameter.grad = torch.empty_like(parameter)
        parameter.grad.copy_(gradient)
    optimiser.step()


def descend_run(
    loss: Tensor,
    run: Pass,
    parameters: Iterable[Tensor],
    optimiser: torch.optim.Adam,
    *,
    learned: int,
    first: int = 0,
) -> Tensor:
    """Step parameters down a loss of a pass through them, and of whatever else they gave.

    Args:
        loss: Of each seed, [S]; its graph is kept.
        run: The pass; its own part of the gradient is written out, other parts are autograd's.
        parameters: All that the optimiser holds.
        optimiser: Theirs, by `adam`.
        learned: How many of the pass's rows they learn from, the first ones.
        first: Columns of the inputs whose gradient is not asked for.

    Returns:
        The gradient, before the step, of the other rows' inputs, [K, B - learned, in - first].
    """
    moved = list(parameters)
    slope, *others = torch.autograd.grad(
        loss, (run.output, *moved), torch.ones_like(loss), allow_unused=True, retain_graph=True
    )
    of_inputs = run.back(slope, learned, first)
    for parameter, other in zip(moved, others, strict=True):
        if other is not None:
            assert parameter.grad is not None
            parameter.grad.add_(other)
    optimiser.step()
    return of_inputs
