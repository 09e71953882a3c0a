"""Frozen dataclasses as configuration: from mappings, to JSON, with dotted overrides.

A configuration is a frozen dataclass of numbers, strings and further such dataclasses, so that
mypy sees every field. This module turns one into plain JSON and back, applies `part.field=value`
overrides, gives each a fingerprint, and says where one differs from what an earlier version kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from mabe_transfer.errors import UserError, unknown

T = TypeVar("T")

Json = dict[str, Any]
Overrides = tuple[tuple[str, str], ...]
"""`part.field` and value as typed, of every field that is set in a configuration."""


def to_json(value: Any) -> Any:
    """Turn a configuration into plain JSON; a dataclass carries its class name under `type`."""
    if is_dataclass(value) and not isinstance(value, type):
        body = {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **body}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinities
    return value


def fingerprint(value: Any) -> str:
    """Hash what a configuration says: SHA-256 over its sorted JSON, first 16 hex digits."""
    text = json.dumps(to_json(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(kept: Any, asked: Any, path: str = "") -> str:
    """Name the first place where JSON that was kept says something else than a configuration.

    A field that a class has gained since the JSON was written has its default there. So whoever
    adds a field to a configuration gives it the default under which everything stays as it was.

    Args:
        kept: JSON, perhaps of an earlier version.
        asked: A configuration, or mappings and lists of such.
        path: Where both lie.

    Returns:
        The dotted name with both values; empty where they agree.
    """
    if isinstance(kept, Mapping):
        if is_dataclass(asked) and kept.get("type") == type(asked).__name__:
            return _part_difference(kept, asked, path)
        if isinstance(asked, Mapping):  # what is None may be left out
            pairs = {key: (kept.get(key), asked.get(key)) for key in sorted({*kept, *asked})}
            return _first_difference(pairs, path)
    if isinstance(kept, list) and isinstance(asked, (list, tuple)) and len(kept) == len(asked):
        numbered = enumerate(zip(kept, asked, strict=True))
        return _first_difference({str(index): pair for index, pair in numbered}, path)
    new = to_json(asked)
    return "" if kept == new else f"{path} ({_brief(kept)} there, {_brief(new)} asked for)"


def _part_difference(kept: Mapping[str, Any], asked: Any, path: str) -> str:
    """The first difference in a part of the same class, perhaps of an earlier version of it."""
    known = {f.name: f for f in fields(asked)}
    for name in sorted({*kept, *known} - {"type"}):
        full = f"{path}.{name}" if path else name
        if name not in known:
            return f"{full} ({_brief(kept[name])} there, and this version has no such field)"
        if name in kept:
            found = difference(kept[name], getattr(asked, name), full)
        else:
            old, new = to_json(_default(known[name])), to_json(getattr(asked, name))
            values = f"{_brief(old)} there by default, {_brief(new)} asked for"
            found = "" if old == new else f"{full} ({values})"
        if found:
            return found
    return ""


def _first_difference(pairs: Mapping[str, tuple[Any, Any]], path: str) -> str:
    for name, (kept, asked) in pairs.items():
        found = difference(kept, asked, f"{path}.{name}" if path else name)
        if found:
            return found
    return ""


def _default(field: Field[Any]) -> Any:
    """What a field is where nothing is said; None where something must be said."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _brief(value: Any) -> str:
    """A value in a sentence: a part by its class."""
    return str(value["type"]) if isinstance(value, Mapping) and "type" in value else repr(value)


def from_mapping(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build a dataclass from a TOML or JSON table, strictly.

    Args:
        cls: A dataclass whose fields are scalars, tuples, unions of those, or dataclasses.
        table: The table; keys are field names.
        where: The file and table, for messages.

    Raises:
        UserError: A key is unknown or missing, or a value has another type.
    """
    hints = get_type_hints(cls)
    names = [f.name for f in fields(cast("Any", cls)) if f.init]
    if "type" not in names and table.get("type") == cls.__name__:  # as `to_json` writes it
        table = {key: item for key, item in table.items() if key != "type"}
    for key in table:
        if key not in names:
            raise UserError(f"{where}: {unknown('key', key, names)}")
    values = {key: _cast(item, hints[key], f"{where}: {key}") for key, item in table.items()}
    try:
        return cls(**values)
    except TypeError as error:
        missing = [name for name in names if f"'{name}'" in str(error)]
        raise UserError(f"{where}: missing {', '.join(missing) or error}.") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def from_json(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Rebuild a dataclass from what `to_json` made of it."""
    return from_mapping(cls, table, where)


def with_overrides(config: T, overrides: Mapping[str, str]) -> T:
    """Apply `part.field=value` overrides to a nested frozen dataclass.

    Args:
        config: The configuration.
        overrides: Dotted field names to values as typed on the command line.

    Raises:
        UserError: A field does not exist, belongs to a part this configuration lacks, or the
            value does not parse as the field's type.
    """
    tree: dict[str, Any] = {}
    for path, text in overrides.items():
        *parts, name = path.split(".")
        branch = tree
        for part in parts:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):
                raise UserError(f"--set {path}: {part} is set as a whole as well.")
        branch[name] = text
    return _override(config, tree, "")


def has_field(config: Any, path: str) -> bool:
    """Whether a configuration has a field of this dotted name, so that an override reaches it."""
    for name in path.split("."):
        if not is_dataclass(config) or name not in {f.name for f in fields(config)}:
            return False
        config = getattr(config, name)
    return True


def _override(config: T, tree: Mapping[str, Any], path: str) -> T:
    """Replace all of a part's fields at once, so that what must agree may change together."""
    names = [f.name for f in fields(cast("Any", config))]
    hints = get_type_hints(type(config))
    changed = {}
    for name, value in tree.items():
        full = f"{path}{name}"
        if name not in names:
            raise UserError(f"--set {full}: {unknown('field', name, names)}")
        current = getattr(config, name)
        if isinstance(value, Mapping):
            if not is_dataclass(current):
                field = next(iter(value))
                why = f"{name} is {current!r} here and has no field {field!r}"
                if current is None:
                    why = f"there is no {name} here whose {field!r} could be set"
                raise UserError(f"--set {full}.{field}: {why}.")
            changed[name] = _override(current, value, f"{full}.")
        elif is_dataclass(current):
            inner = ", ".join(f"{full}.{f.name}" for f in fields(cast("Any", current)))
            raise UserError(f"--set {full}: this is a part; set one of its fields: {inner}.")
        else:
            changed[name] = _parse(value, hints[name], f"--set {full}")
    return cast("T", replace(cast("Any", config), **changed))


def _untyped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _untyped(item) for key, item in value.items() if key != "type"}
    return [_untyped(item) for item in value] if isinstance(value, list) else value


def _parse(text: str, hint: Any, where: str) -> Any:
    """Read a command-line value as the field's type."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None if text.lower() == "none" else text
    if isinstance(value, str) and value in {"True", "False"}:
        value = value == "True"
    if isinstance(value, float) and "e" in text.lower() and value.is_integer():
        value = int(value)  # 1e6 is a count as people write it
    return _cast(value, hint, where)


def _cast(value: Any, hint: Any, where: str) -> Any:
    """Check a value against a type hint, turning lists into tuples and ints into floats."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _cast_union(value, args, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: expected a list such as [1,2], got {value!r}.")
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(kinds) != len(value):
            raise UserError(f"{where}: expected {len(kinds)} values, got {len(value)}.")
        return tuple(_cast(v, k, where) for v, k in zip(value, kinds, strict=True))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected a table, got {value!r}.")
        return {key: _cast(item, args[1], f"{where}.{key}") for key, item in value.items()}
    if is_dataclass(hint) and isinstance(value, Mapping):
        return from_mapping(cast("type[Any]", hint), value, where)
    if hint is float and (value in ("inf", "-inf", "nan") or type(value) is int):
        return float(value)
    if hint is Any or (
        isinstance(value, hint) and (hint is not int or not isinstance(value, bool))
    ):
        return value
    raise UserError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}.")


def _cast_union(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    named = value.get("type") if isinstance(value, Mapping) else None
    meant = [kind for kind in kinds if named and getattr(kind, "__name__", "") == named]
    refusals = []
    for kind in meant or kinds:
        if kind is not type(None):
            try:
                return _cast(value, kind, where)
            except UserError as error:
                refusals.append(error)
    raise refusals[0]
