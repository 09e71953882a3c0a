"""The worker's half of the conversation, and measures that all sides share; NumPy only."""

from __future__ import annotations

import json
import os
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Handler = Callable[..., Any]
BEST = 5  # members that count, the best on held-out rows


def serve(handlers: dict[str, Handler]) -> None:
    """Answer requests until the input ends; what the peer prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"answer": handlers[request.pop("call")](**request)}
        except Exception as error:  # whatever a peer may do wrong is a reason to skip its row
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(reply), file=answers, flush=True)


def stand_in(name: str, **attributes: Any) -> None:
    """Put a module in place of one that a peer imports and does not need here."""
    module = types.ModuleType(name)
    for key, value in attributes.items():
        setattr(module, key, value)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def load(path: str) -> Arrays:
    """Read the arrays that all contestants share."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def held_out_error(mean: NDArray[Any], held: Arrays, scale: NDArray[Any]) -> float:
    """Mean squared error of the best members on held-out rows, in deviations of the targets.

    Args:
        mean: Each member's mean change of observation and reward in raw units, [M, B, O + 1].
        held: The rows.
        scale: Standard deviation of the training targets, [O + 1].
    """
    change = held["next_observations"] - held["observations"]
    truth = np.concatenate((change, held["rewards"][:, None]), axis=1)
    error = np.square((mean - truth) / scale).mean(axis=(1, 2))
    return float(np.sort(error)[:BEST].mean())


def scale_of(arrays: Arrays) -> NDArray[Any]:
    """Standard deviation of change of observation and reward, [O + 1]."""
    change = arrays["next_observations"] - arrays["observations"]
    targets = np.concatenate((change, arrays["rewards"][:, None]), axis=1)
    found: NDArray[Any] = np.maximum(targets.astype(np.float64).std(axis=0), 1e-6)
    return found
