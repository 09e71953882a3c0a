"""Which numbers a setting may have: fields of one name mean the same in every part, so one table.

What depends on several fields, as that elites are members, is checked where they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from mabe_transfer.errors import UserError


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from `low` to `high`; without `low` itself where it is `open`."""

    low: float
    high: float = math.inf
    open: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether a number lies within; what is no number does not."""
        return self.low <= value <= self.high and not (self.open and value == self.low)

    def __str__(self) -> str:
        """How a sentence says it, after "must"."""
        if self.high < math.inf:
            return f"lie in {self.low:g}..{self.high:g}"
        return f"be above {self.low:g}" if self.open else f"be at least {self.low:g}"


COUNT, AMOUNT, POSITIVE, SHARE = Range(1), Range(0), Range(0, open=True), Range(0, 1)
RANGES = {
    **dict.fromkeys(
        ("batch", "updates", "critics", "members", "max_epochs", "patience", "hidden", "every",
         "iterations", "tries", "samples", "actions", "horizon", "starts", "kept",
         "env_steps", "envs", "env_steps_per_update", "rungs", "episodes"),
        COUNT,
    ),
    **dict.fromkeys(
        ("rate", "policy_rate", "critic_rate", "dual_rate", "learning_rate", "weight", "target",
         "weight_decay", "noise", "noise_clip", "policy_penalty", "critic_penalty", "critics_first",
         "damping", "initial", "inverse_temperature", "trust_weight", "epoch_rows", "warmup"),
        AMOUNT,
    ),
    **dict.fromkeys(
        ("temperature", "clip", "cap", "initial_std", "delta",
         "step", "trust", "value_weight", "return_range", "shift", "stiffness"),
        POSITIVE,
    ),
    **dict.fromkeys(
        ("discount", "polyak", "policy_polyak", "expectile", "trace", "mix", "shrink", "cooldown"),
        SHARE,
    ),
}  # fmt: skip


def check(config: Any, path: str = "") -> None:
    """Refuse numbers out of range in a configuration and in the parts that it is made of.

    Raises:
        UserError: One is; it is named as `--set` would reach it.
    """
    for field in fields(config):
        value, name = getattr(config, field.name), f"{path}{field.name}"
        if is_dataclass(value):
            check(value, f"{name}.")
        elif field.name in RANGES and value is not None:
            allowed = RANGES[field.name]
            for number in value if isinstance(value, tuple) else (value,):
                if number not in allowed:
                    raise UserError(f"{name} must {allowed}, not {number:g}.")
