"""What an export of ours carries beside the arrays, so that bringing it in again loses nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from mabe_transfer.config import Json, from_mapping
from mabe_transfer.errors import UserError
from mabe_transfer.store import Layout
from mabe_transfer.store.format import GIVEN

OWN = "metadata/mabe_transfer"
SEEDS = "metadata/episode_seeds"
MAX_STATES = 256


def to_text(layout: Layout, attributes: Json) -> str:
    """What an export carries so that `read_own` can take it back."""
    return json.dumps({"layout": asdict(layout), "attributes": attributes}, allow_nan=False)


def facts_of(text: str, where: str) -> Json:
    """Read what `to_text` wrote.

    Raises:
        UserError: It is damaged.
    """
    try:
        facts: Any = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    attributes = facts.get("attributes") if isinstance(facts, dict) else None
    layout = facts.get("layout") if isinstance(facts, dict) else None
    known = attributes.keys() if isinstance(attributes, dict) else set()
    if not isinstance(layout, dict) or set(GIVEN) - known:
        raise UserError(f"{where} is damaged: it holds no attributes of a data set.")
    found: Json = facts
    return found


def layout_of(facts: Json, where: str) -> Layout:
    """The sizes that the attributes of an export of ours name.

    Raises:
        UserError: They are impossible.
    """
    try:
        layout = from_mapping(Layout, facts["layout"], "layout")
    except UserError as error:
        raise UserError(f"{where} is damaged: {error}") from None
    sizes = (layout.observation_size, layout.action_size, layout.nq, layout.nv)
    weighted = facts["attributes"]["terms"]
    fits = isinstance(weighted, dict) and sorted(weighted) == sorted(layout.terms)
    if not fits or max(sizes) > MAX_STATES or bool(layout.nq) != bool(layout.nv):
        raise UserError(f"{where} is damaged: it names impossible arrays.")
    return layout
