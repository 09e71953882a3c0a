"""Tensors at rest: safetensors files, replaced atomically, and what optimisers keep.

A checkpoint is one flat mapping from names to tensors; numbers that are no tensors travel as JSON
in the file's header. Nothing here can run code on reading.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Tensors = dict[str, Tensor]


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts, replacing the file in one move.

    Raises:
        UserError: The place cannot be written to, be it full or forbidden.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # two runs may fit one part
    contiguous = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(contiguous, partial, metadata={"facts": json.dumps(facts)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be written ({error}).") from None
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read what `save` wrote.

    Raises:
        UserError: There is no such file, or it is no safetensors file of this project.
    """
    facts = load_facts(path)
    return load_file(path), facts


def load_facts(path: Path) -> dict[str, Any]:
    """Read only the JSON facts in the header of a file."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: is no safetensors file of mabe-transfer ({error}).") from None
    if not isinstance(facts, dict):
        raise UserError(f"{path}: its facts are no JSON object.")
    return facts


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor that holds NaN or an infinity, if there is any."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return name
    return None


def nested(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Put a part's tensors under its name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Take a part's tensors out again."""
    start = f"{prefix}/"
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def optimiser_state(optimiser: torch.optim.Optimizer) -> Tensors:
    """What an Adam keeps for each parameter, as tensors."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{key}": value for i, row in state.items() for key, value in row.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an Adam back what `optimiser_state` took.

    An Adam of one group takes it also where the same numbers, in the same order, were cut into
    other tensors: `descent.adam` did not always cut as it does now, and cuts by the device.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = optimiser.state_dict()["param_groups"]
    mine = optimiser.param_groups[0]["params"]
    rows = [state[index] for index in sorted(state)]
    alike = [row["exp_avg"].shape for row in rows] == [parameter.shape for parameter in mine]
    if rows and len(groups) == 1 and not alike:
        state = _cut(rows, mine)
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _cut(rows: list[Tensors], parameters: list[Tensor]) -> dict[int, Tensors]:
    """Cut what was kept for some tensors as other tensors of the same numbers are."""
    sizes = [parameter.numel() for parameter in parameters]
    pieces: dict[int, Tensors] = {i: {"step": rows[0]["step"]} for i in range(len(sizes))}
    for key in rows[0].keys() - {"step"}:
        cut = torch.split(torch.cat([row[key].flatten() for row in rows]), sizes)
        for i, (piece, parameter) in enumerate(zip(cut, parameters, strict=True)):
            pieces[i][key] = piece.view_as(parameter)
    return pieces
