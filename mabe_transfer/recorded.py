"""The behaviour policies that D4RL's medium and expert files carry: who recorded the data.

A squashed Gaussian of two hidden layers under `metadata/policy`, as plain arrays. Rebuilt, it can
collect more of its behaviour, in its own domain or in a shifted one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mabe_transfer.bridges import HDF5_SUFFIXES, d4rl
from mabe_transfer.bridges.hdf5 import Hdf5
from mabe_transfer.errors import UserError
from mabe_transfer.squashed import SquashedNormal
from mabe_transfer.worlds import sizes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mabe_transfer.behaviour import Floats
    from mabe_transfer.domains import Domain

GROUP = "metadata/policy"
LAYERS = ("fc0", "fc1", "last_fc", "last_fc_log_std")
LOG_STD_BOUNDS = (-20.0, 2.0)
"""Between which the recorder clipped log standard deviations."""


class RecordedPolicy:
    """A policy rebuilt from its weights, [out, in] and [out] a layer.

    Attributes:
        observation_size: O.
        action_size: A.
        digest: SHA-256 of the weights, first 16 hex digits.
    """

    def __init__(self, weights: dict[str, NDArray[np.float32]]) -> None:
        self._layers = {
            layer: (
                torch.from_numpy(weights[f"{layer}/weight"]),
                torch.from_numpy(weights[f"{layer}/bias"]),
            )
            for layer in LAYERS
        }
        self.observation_size = int(weights["fc0/weight"].shape[1])
        self.action_size = int(weights["last_fc/weight"].shape[0])
        sha = hashlib.sha256()
        for name in sorted(weights):
            sha.update(name.encode() + weights[name].tobytes())
        self.digest = sha.hexdigest()[:16]

    def distribution(self, observation: torch.Tensor) -> SquashedNormal:
        """The policy's distribution at [B, O].

        Differs from the recorder, which added 1e-6 to the standard deviation.
        """
        hidden = observation
        for layer in LAYERS[:2]:
            hidden = torch.relu(self._linear(layer, hidden))
        log_std = self._linear("last_fc_log_std", hidden).clamp(*LOG_STD_BOUNDS)
        return SquashedNormal(self._linear("last_fc", hidden), log_std)

    @torch.no_grad()
    def act(self, observation: Floats, noise: Floats) -> NDArray[np.float32]:
        """Sampled actions [B, A] at observations [B, O]; zero noise gives the mode."""
        inputs = torch.from_numpy(np.asarray(observation, dtype=np.float32))
        drawn = torch.from_numpy(np.asarray(noise, dtype=np.float32))
        action = self.distribution(inputs).sample(drawn).action()
        found: NDArray[np.float32] = action.numpy()
        return found

    def _linear(self, layer: str, inputs: torch.Tensor) -> torch.Tensor:
        weight, bias = self._layers[layer]
        return torch.addmm(bias, inputs, weight.T)


def is_recording(name: str) -> bool:
    """Whether a name given for a policy stands for a file that may carry one."""
    return name.startswith(d4rl.SCHEME) or name.endswith(HDF5_SUFFIXES)


def load(name: str, domain: Domain) -> RecordedPolicy:
    """Rebuild the policy that a D4RL file carries.

    Args:
        name: `d4rl:hopper-medium-v2`, or the path of an HDF5 file.
        domain: Where it is to act; only its robot's sizes matter.

    Raises:
        UserError: The file carries none (random, replay and medium-expert sets do not), or one of
            another form or for another robot.
    """
    path = Path(name)
    if name.startswith(d4rl.SCHEME):
        known = d4rl.parse(name)
        path = d4rl.located(known)
        d4rl.check(known, path)
    with Hdf5(path) as file:
        policy = RecordedPolicy(_weights(file))
    found, expected = (policy.observation_size, policy.action_size), sizes(domain)
    if found != expected:
        raise UserError(
            f"{path} carries a policy of {found[0]} observations and {found[1]} actions; "
            f"{domain.name} has {expected[0]} and {expected[1]}."
        )
    return policy


def _weights(file: Hdf5) -> dict[str, NDArray[np.float32]]:
    kind = [file.text(f"{GROUP}/{name}") for name in ("nonlinearity", "output_distribution")]
    if kind == [None, None]:
        raise UserError(
            f"{file.name} carries no policy; D4RL's medium and expert files of v1 and v2 do."
        )
    if kind != ["relu", "tanh_gaussian"]:
        raise UserError(
            f"{file.name} carries a policy of the form {kind[0]}, {kind[1]}; only relu, "
            "tanh_gaussian is known."
        )
    weights: dict[str, Any] = {
        f"{layer}/{part}": file.tensor(f"{GROUP}/{layer}/{part}")
        for layer in LAYERS
        for part in ("weight", "bias")
    }
    inputs = None
    for layer in LAYERS:
        weight, bias = weights[f"{layer}/weight"], weights[f"{layer}/bias"]
        width = inputs if inputs is not None else (weight.shape[1] if weight.ndim == 2 else -1)
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or weight.shape[1] != width:
            raise UserError(f"{file.name}: {GROUP}/{layer} does not fit the layer before it.")
        if not layer.startswith("last_fc"):
            inputs = weight.shape[0]
    if weights["last_fc/weight"].shape != weights["last_fc_log_std/weight"].shape:
        raise UserError(f"{file.name}: {GROUP}: mean and deviation have different sizes.")
    return weights
