"""Networks with a leading stack axis, so that many small ones are one batched product.

S seeds, and within a seed C critics or M ensemble members, are slices of the same tensors: inputs
are [K, B, in] and outputs [K, B, out], where K counts all slices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mabe_transfer import rectified
from mabe_transfer.squashed import LOG_STD_BOUNDS, SquashedNormal
from mabe_transfer.streams import Sizes, generator

Activation = Callable[[Tensor], Tensor]
BLOCK = 512  # rows through all layers at a time, without gradients: they stay in the cache


class StackedMlp(nn.Module):
    """K multilayer perceptrons of one shape, evaluated together.

    Args:
        widths: Sizes of input, hidden layers and output.
        generators: One generator a slice, for its initial weights.
        activation: Applied after every layer but the last.
        halved: Whether hidden layers work in bfloat16, where they are rectified; see `rectified`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        generators: Sequence[torch.Generator],
        activation: Activation = torch.relu,
        *,
        halved: bool = False,
    ) -> None:
        super().__init__()
        self.activation, self.halved = activation, halved
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(widths):
            bound = 1.0 / math.sqrt(fan_in)
            device = generators[0].device
            weight = torch.stack(
                [
                    torch.empty(fan_in, fan_out, device=device).uniform_(-bound, bound, generator=g)
                    for g in generators
                ]
            )
            bias = torch.stack(
                [
                    torch.empty(1, fan_out, device=device).uniform_(-bound, bound, generator=g)
                    for g in generators
                ]
            )
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))

    def evaluate(self, x: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Map [K, B, in] to [K, B, out], by the `chosen` K of the slices or by all of them."""
        layers = [list(self.weights), list(self.biases)]
        if chosen is not None:
            layers = [[layer[chosen] for layer in kind] for kind in layers]
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.shape[1] <= BLOCK:
            return self._map(x, *layers)
        return torch.cat([self._map(part, *layers) for part in torch.split(x, BLOCK, 1)], 1)

    def _map(self, x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        if self.activation is torch.relu:
            return rectified.perceptrons(x, weights, biases, halved=self.halved)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x = self.activation(torch.baddbmm(bias, x, weight))
        return torch.baddbmm(biases[-1], x, weights[-1])

    def run(self, x: Tensor) -> rectified.Pass:
        """Map likewise, for a gradient of all weights that is written where Adam reads it.

        Only for perceptrons that are rectified, and whose Adam was made by `descent.adam`.
        """
        assert self.activation is torch.relu
        return rectified.Pass(x, list(self.weights), list(self.biases), halved=self.halved)


def relu_and_norm(x: Tensor) -> Tensor:
    """Rectify and standardise over the last axis (layer norm).

    Without a gain and an offset of its own: the next layer's weights have the same effect.
    """
    return nn.functional.layer_norm(torch.relu(x), x.shape[-1:])


class Actor(nn.Module):
    """S policies: a squashed Gaussian whose mean and log std come from a perceptron."""

    def __init__(
        self, sizes: Sizes, hidden: tuple[int, ...], component: str, *, halved: bool = False
    ) -> None:
        super().__init__()
        self.body = StackedMlp(
            (sizes.observation, *hidden, 2 * sizes.action),
            [generator(seed, f"{component}/weights", sizes.device) for seed in sizes.seeds],
            halved=halved,
        )

    def distribution(self, observation: Tensor) -> SquashedNormal:
        """The policies' distributions at [S, B, O]."""
        return self.reading(self.body.evaluate(observation))

    @staticmethod
    def reading(output: Tensor) -> SquashedNormal:
        """The distributions that the perceptron's output [S, B, 2 A] stands for."""
        mean, raw = output.chunk(2, dim=-1)
        low, high = LOG_STD_BOUNDS
        return SquashedNormal(mean, 0.5 * (high - low) * torch.tanh(raw) + 0.5 * (high + low))

    def mode(self, observation: Tensor) -> Tensor:
        """The policies' deterministic actions at [S, B, O]."""
        return self.distribution(observation).mode()


class Critics(nn.Module):
    """C action-value functions for each of S seeds."""

    def __init__(
        self,
        sizes: Sizes,
        hidden: tuple[int, ...],
        count: int,
        component: str,
        activation: Activation = torch.relu,
        *,
        halved: bool = False,
    ) -> None:
        super().__init__()
        self.count, self.observation = count, sizes.observation
        self.body = StackedMlp(
            (sizes.observation + sizes.action, *hidden, 1),
            [
                generator(seed, f"{component}/weights/{index}", sizes.device)
                for seed in sizes.seeds
                for index in range(count)
            ],
            activation,
            halved=halved,
        )

    def values(self, observation: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) of every critic: [S, B, O], [S, B, A] -> [S, C, B]."""
        return self.reading(self.body.evaluate(self._inputs(observation, action)))

    def run(self, observation: Tensor, action: Tensor) -> rectified.Pass:
        """Q(s, a) of every critic as a pass, to be read by `reading`."""
        return self.body.run(self._inputs(observation, action))

    def reading(self, output: Tensor) -> Tensor:
        """The values [S, C, B] that the perceptrons' output [S C, B, 1] stands for."""
        stack, batch, _ = output.shape
        return output.view(stack // self.count, self.count, batch)

    def added(self, slope: Tensor) -> Tensor:
        """A gradient of every critic's inputs [S C, B, W], added up over a seed's critics."""
        stack, batch, width = slope.shape
        return slope.view(stack // self.count, self.count, batch, width).sum(1)

    def _inputs(self, observation: Tensor, action: Tensor) -> Tensor:
        """States and actions for each critic, [S C, B, O + A]."""
        inputs = torch.cat((observation, action), dim=-1)
        return inputs[:, None].expand(-1, self.count, -1, -1).flatten(0, 1)

    def slopes(self, observation: Tensor, action: Tensor) -> Tensor:
        """dQ/da of every critic: [S, B, O], [S, B, A] -> [S, C, B, A].

        It carries a gradient in the critics, so that it can be a loss (a second derivative).
        """
        seeds, batch, width = observation.shape
        states = observation.detach()[:, None].expand(seeds, self.count, batch, width)
        actions = action.detach()[:, None].repeat(1, self.count, 1, 1).requires_grad_()
        value = self.body.evaluate(torch.cat((states, actions), -1).flatten(0, 1))
        (slope,) = torch.autograd.grad(value.sum(), (actions,), create_graph=True)
        return slope


def track(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Move a target network towards its source: target += rate (source - target)."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)
