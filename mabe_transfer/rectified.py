"""Stacked perceptrons with rectified hidden layers, and their gradient written out.

What nearly all updates of policies and critics spend their time in, made for their shapes. Products
with a side of few numbers, as at the last layer of a critic, run several times faster on a CPU as
their transposes, so those are computed; rectifying happens in place; no gradient is computed that
nobody asks for, and what is asked for is written where the optimiser reads it. `plain` is the same
function in the ordinary way: the reference that the tests hold this to.

With `halved`, what happens between the hidden layers is done in bfloat16, whose products are added
up in float32: half the memory, and where the processor has such products, half the time. First and
last layer, the weights and the optimiser stay float32; a hidden weight's gradient is rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

THIN = 16  # sides up to this are multiplied by their transposes, on a CPU
GIVEN = 3  # what perceptrons are given before their weights
rectify_slope = torch.ops.aten.threshold_backward.grad_input


def plain(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Map [K, B, in] to [K, B, out], rectified after every layer but the last.

    Args:
        x: Inputs.
        weights: Of each layer, [K, fan in, fan out].
        biases: Likewise, [K, 1, fan out].
    """
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = torch.relu(torch.baddbmm(bias, x, weight))
    return torch.baddbmm(biases[-1], x, weights[-1])


def perceptrons(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, halved: bool = False
) -> Tensor:
    """Map as `plain` does, under autograd: any gradient can be asked for, also a second one.

    The gradient of a gradient is float32's.
    """
    result: Tensor = _Perceptrons.apply(x, halved, len(weights), *weights, *biases)  # type: ignore[no-untyped-call]
    return result


class Pass:
    """One pass through perceptrons, and the ways back through it.

    Rows that go different ways back can share a pass: products of more rows are faster, and fewer.

    Args:
        x: Inputs, [K, B, in]; taken as numbers, without their gradient.
        weights: As in `plain`.
        biases: As in `plain`.
        halved: Whether the hidden layers work in bfloat16.

    Attributes:
        output: What came out, [K, B, out]: a leaf to take a loss of.
    """

    def __init__(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        *,
        halved: bool = False,
    ) -> None:
        self._weights, self._biases = weights, biases
        with torch.no_grad():
            self._used = _as_used(weights, halved=halved)
            self._inputs, output = _forward(x.detach(), self._used, biases)
        self.output = output.requires_grad_()

    @torch.no_grad()
    def to_parameters(self, slope: Tensor, start: int = 0) -> None:
        """Write the gradient of every weight and bias into its `grad`.

        Args:
            slope: The loss's gradient at the output, [K, B, out].
            start: The rows before it have no part in the loss and are left out.
        """
        rows = slice(start, None)
        for layer, found in self._slopes(slope[:, rows], rows):
            self._write(layer, found, rows)

    @torch.no_grad()
    def back(self, slope: Tensor, learned: int, first: int = 0) -> Tensor:
        """Write the gradient of weights and biases by some rows; give that of the others' inputs.

        Args:
            slope: The loss's gradient at the output, [K, B, out].
            learned: How many rows the parameters learn from, the first ones.
            first: The columns before it are not asked for.

        Returns:
            [K, B - learned, in - first].
        """
        rows = slice(learned)
        for layer, found in self._slopes(slope, slice(None)):
            self._write(layer, found[:, rows], rows)
            slope = found
        weight = self._weights[0]
        return _product(slope[:, learned:].to(weight.dtype), weight[:, first:].mT)

    def _slopes(self, slope: Tensor, rows: slice) -> Iterator[tuple[int, Tensor]]:
        """The gradient of some rows at every layer's output, last to first."""
        for layer in reversed(range(len(self._used))):
            slope = slope.to(self._used[layer].dtype)
            yield layer, slope
            if layer > 0:
                slope = _through(slope, self._used[layer], self._inputs[layer][:, rows])

    def _write(self, layer: int, slope: Tensor, rows: slice) -> None:
        weight, bias = self._weights[layer], self._biases[layer]
        assert weight.grad is not None
        assert bias.grad is not None
        _multiply(self._inputs[layer][:, rows].mT, slope, weight.grad)
        torch.sum(slope, 1, keepdim=True, out=bias.grad)


class _Perceptrons(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, halved: bool, depth: int, *layers: Tensor) -> Tensor:
        inputs, output = _forward(x, _as_used(layers[:depth], halved=halved), layers[depth:])
        ctx.halved, ctx.depth = halved, depth
        ctx.save_for_backward(x, *inputs[1:], *layers)
        return output

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        depth, saved, wanted = ctx.depth, ctx.saved_tensors, ctx.needs_input_grad
        inputs, weights, biases = saved[:depth], saved[depth : 2 * depth], saved[2 * depth :]
        if torch.is_grad_enabled():  # the gradient is to have a gradient of its own
            return _differentiable(slope, inputs[0], weights, biases, wanted)
        of_weights: list[Tensor | None] = [None] * depth
        of_biases: list[Tensor | None] = [None] * depth
        used = _as_used(weights, halved=ctx.halved)
        for layer in reversed(range(depth)):
            slope = slope.to(used[layer].dtype)
            if wanted[GIVEN + layer]:
                of_weights[layer] = _product(inputs[layer].mT, slope).to(weights[0].dtype)
                of_biases[layer] = slope.sum(1, keepdim=True, dtype=weights[0].dtype)
            if layer > 0:
                slope = _through(slope, used[layer], inputs[layer])
        of_x = _product(slope.to(weights[0].dtype), weights[0].mT) if wanted[0] else None
        return of_x, None, None, *of_weights, *of_biases


def _differentiable(
    slope: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Give the gradients of `plain`, as functions that can be differentiated again."""
    given = (x, x, x, *weights, *biases)  # two stand for flag and depth, which are never wanted
    asked = [tensor for tensor, want in zip(given, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(plain(x, weights, biases), asked, slope, create_graph=True))
    return tuple(next(found) if want else None for want in wanted)


def _as_used(weights: Sequence[Tensor], *, halved: bool) -> Sequence[Tensor]:
    """Give the weights in the precision of their layer's products."""
    if not halved or len(weights) < 3:
        return weights
    first, *hidden, last = weights
    return [first, *(weight.bfloat16() for weight in hidden), last]


def _forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Give the inputs of every layer, in its precision, and the output of the last."""
    inputs = [x]
    for weight, bias, later in zip(weights[:-1], biases[:-1], weights[1:], strict=True):
        hidden = torch.baddbmm(bias.to(weight.dtype), inputs[-1], weight)
        inputs.append(hidden.clamp_min_(0.0).to(later.dtype))
    weight, bias = weights[-1], biases[-1]
    if not _thin(weight):
        return inputs, torch.baddbmm(bias, inputs[-1], weight)
    return inputs, torch.baddbmm(bias.mT, weight.mT, inputs[-1].mT).mT


def _through(slope: Tensor, weight: Tensor, activation: Tensor) -> Tensor:
    """Take a gradient from a layer's output through its weight and the rectifier before it."""
    before = slope * weight.mT if slope.shape[-1] == 1 else torch.bmm(slope, weight.mT)
    rectify_slope(before, activation, 0.0, grad_input=before)
    return before


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Give left @ right, where the result may have few columns."""
    return torch.bmm(right.mT, left.mT).mT if _thin(right) else torch.bmm(left, right)


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Write left @ right into `out`, where it may have few columns."""
    if _thin(right) or right.dtype != out.dtype:
        out.copy_(_product(left, right))
    else:
        torch.bmm(left, right, out=out)


def _thin(right: Tensor) -> bool:
    """Whether a product with this on its right is computed as its transpose."""
    return right.shape[-1] <= THIN and not right.is_cuda
