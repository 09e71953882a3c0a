"""Every setting of a configuration by its dotted name, with what its class says that it means."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADING = "Attributes:"
INDENT = 4


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting, or a part that holds some.

    Attributes:
        path: Dotted name, as `--set` takes it.
        value: What it is; the class's name where it is a part.
        meaning: From the docstring of the class that has it.
        part: Whether it is a part, whose settings follow.
    """

    path: str
    value: Any
    meaning: str
    part: bool


def settings(config: Any, before: str = "") -> Iterator[Setting]:
    """Every setting of a dataclass and of the dataclasses in it, in their order.

    Args:
        config: An instance.
        before: What dotted names begin with.
    """
    known = meanings(type(config))
    for field in fields(config):
        path, value = before + field.name, getattr(config, field.name)
        part = is_dataclass(value)
        shown = type(value).__name__ if part else value
        yield Setting(path, shown, known.get(field.name, ""), part)
        if part:
            yield from settings(value, f"{path}.")


def meanings(cls: type) -> dict[str, str]:
    """Field -> what the docstring's section of attributes says of it; inherited ones too."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        found |= _attributes(inspect.cleandoc(each.__doc__ or ""))
    return found


def _attributes(text: str) -> dict[str, str]:
    """Read the lines `name: meaning` below the heading, with those that go on."""
    found: dict[str, str] = {}
    _, _, below = text.partition(f"{HEADING}\n")
    name = ""
    for line in below.splitlines():
        depth = len(line) - len(line.lstrip())
        if line.strip() and depth < INDENT:
            break  # another section
        if depth == INDENT:
            name, _, meaning = line.strip().partition(": ")
            found[name] = meaning
        elif line.strip() and name:
            found[name] += f" {line.strip()}"
    return found
