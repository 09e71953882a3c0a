"""The one error a user sees: a sentence that says what is wrong, where, and what was expected.

Beside it stands the stop that a user asked for, which is no error.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can mend; the command line prints it without a traceback and exits 2."""


class Diverged(UserError):
    """A fit or a training whose numbers are no numbers any more: a result, not a mistake."""


class Busy(UserError):
    """Another process is at the same work; what it makes can be waited for."""


class Interrupted(Exception):
    """The work was stopped on request, after its state was saved."""


def unknown(kind: str, name: str, known: Iterable[str], *, owner: str = "") -> UserError:
    """Build the error for a name that does not exist, with the nearest one that does.

    Args:
        kind: What was looked up, as a noun: "robot", "shift", "part".
        name: The name that was not found.
        known: Every valid name.
        owner: Of what, as the subject of the sentence: "The preset mopo-v2".
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    subject, has = (owner, "has") if owner else ("There", "is")
    again = "it has" if owner else "there is"
    valid = ", ".join(names) or "none"
    return UserError(f"{subject} {has} no {kind} {name!r}; {again} {valid}.{hint}")
