"""One deterministic policy as plain numbers: what is left of it when the toolkit is not there.

Every row's policy fits: a squashed Gaussian gives the half of its last layer that holds the mean, a
deterministic policy all of it, and one that normalises its observations brings their mean and std.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mabe_transfer import __version__
from mabe_transfer.config import Json
from mabe_transfer.errors import UserError, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from mabe_transfer.networks import Activation as Function

KIND = "exported policy"
FORMAT_VERSION = 1
"""Raised when a reader of an exported file would have to change."""

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Activation(Enum):
    """What stands between two layers, by the name that both torch and ONNX give it."""

    RELU = "relu"
    TANH = "tanh"


@dataclass(frozen=True, slots=True)
class Layer:
    """An affine layer, y = weight x + bias: [out, in] and [out]."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Observations enter as (observation - mean) / std, both [O]."""

    mean: Floats
    std: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainPolicy:
    """A policy from observation [B, O] to action [B, A], in float32.

    Attributes:
        layers: The perceptron, first to last.
        activation: After every layer but the last.
        squash: Whether tanh follows the last layer, so that actions lie in (-1, 1).
        normalisation: Of the observations, if the policy was trained with one.
        facts: Whose policy it is, as JSON.

    Raises:
        UserError: The sizes do not fit together, a number is not finite, or a std is not above 0.
    """

    layers: tuple[Layer, ...]
    activation: Activation
    squash: bool = True
    normalisation: Normalisation | None = None
    facts: Json

    def __post_init__(self) -> None:
        """Refuse what no file should carry away."""
        if not self.layers:
            raise UserError("A policy without layers cannot be exported.")
        sizes = [layer.weight.shape[::-1] for layer in self.layers]
        for (_, given), (taken, _) in itertools.pairwise(sizes):
            if given != taken:
                raise UserError(f"A layer that takes {taken} numbers follows one of {given}.")
        for name, values in self.tensors().items():
            if not np.isfinite(values).all():
                raise UserError(f"{name} is not finite; such a policy cannot be exported.")
        for layer in self.layers:
            assert layer.bias.shape == layer.weight.shape[:1]
        found = self.normalisation
        if found is not None:
            if not found.mean.shape == found.std.shape == (self.sizes[0],):
                raise UserError(f"The normalisation is not of {self.sizes[0]} observations.")
            if not (found.std > 0.0).all():
                raise UserError("A std of the observations is not above 0.")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Observation, hidden layers and action."""
        return (self.layers[0].weight.shape[1], *(len(layer.bias) for layer in self.layers))

    def tensors(self) -> dict[str, Floats]:
        """Every number by its name in an exported file.

        `observation.mean` and `observation.std`, [O], where the policy normalises; then for each
        layer, from 0, `layers.<i>.weight`, [out, in], and `layers.<i>.bias`, [out].
        """
        found: dict[str, Floats] = {}
        if self.normalisation is not None:
            found["observation.mean"] = self.normalisation.mean
            found["observation.std"] = self.normalisation.std
        for index, layer in enumerate(self.layers):
            found[f"layers.{index}.weight"] = layer.weight
            found[f"layers.{index}.bias"] = layer.bias
        return found

    def metadata(self) -> Json:
        """The JSON object that an exported file carries: the facts, and how to evaluate."""
        return {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "toolkit": f"mabe-transfer {__version__}",
            **self.facts,
            "dtype": "float32",
            "sizes": list(self.sizes),
            "activation": self.activation.value,
            "squash": "tanh" if self.squash else None,
            "normalised": self.normalisation is not None,
            "action_bounds": [-1.0, 1.0] if self.squash else None,
        }


def mean_head(weights: Iterable[Tensor], biases: Iterable[Tensor]) -> tuple[Layer, ...]:
    """Layers of a squashed Gaussian policy, the last one cut down to the mean.

    Args:
        weights: One a layer, [in, out]; the last gives means, then as many log stds.
        biases: One a layer, [1, out].
    """
    *hidden, last = plain_layers(weights, biases)
    size = len(last.bias) // 2
    return (*hidden, Layer(last.weight[:size], last.bias[:size]))


def plain_layers(weights: Iterable[Tensor], biases: Iterable[Tensor]) -> tuple[Layer, ...]:
    """Layers from the weights, [in, out], and biases, [1, out], of one slice of a stack."""
    return tuple(
        Layer(_array(weight.T), _array(bias[0]))
        for weight, bias in zip(weights, biases, strict=True)
    )


def activation_of(function: Function) -> Activation:
    """The name of a stack's activation.

    Raises:
        UserError: It has none in exported files.
    """
    known: Mapping[Function, Activation] = {
        torch.relu: Activation.RELU,
        torch.tanh: Activation.TANH,
    }
    if function not in known:
        name = getattr(function, "__name__", str(function))
        raise unknown("activation in exported files", name, [a.value for a in Activation])
    return known[function]


def _array(tensor: Tensor) -> Floats:
    found: Floats = np.ascontiguousarray(tensor.detach().float().cpu().numpy())
    return found
