"""Rows with a scale's settings, and what stands beside MABE: its prior alone, and a clone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mabe_transfer.algorithms import algorithm
from mabe_transfer.config import with_overrides
from mabe_transfer.parts.prior import Fit, Network, Unweighted

if TYPE_CHECKING:
    from mabe_transfer.composition import Algorithm
    from mabe_transfer.scale import Scale


def scaled(name: str, scale: Scale) -> Algorithm:
    """A row of the algorithm table with a scale's settings.

    Raises:
        UserError: There is no such row, or a setting does not go with it.
    """
    row = algorithm(name)
    return with_overrides(row, dict(scale.settings(row)))


def prior_alone(mabe: Algorithm) -> Algorithm:
    """The prior of a row as the policy, with the settings by which that row fits it."""
    assert mabe.prior is not None
    fit = mabe.prior.fit
    assert isinstance(fit, Fit)
    prior = replace(mabe.prior, fit=Network(rate=fit.rate, hidden=fit.hidden))
    return replace(algorithm("mabe-no-rl"), prior=prior, batch=fit.batch)


def clone_alone(mabe: Algorithm) -> Algorithm:
    """A clone of what a row's prior is fitted to, unweighted, with that fit's settings."""
    alone = prior_alone(mabe)
    assert alone.prior is not None
    return replace(algorithm("bc"), prior=Unweighted(fit=alone.prior.fit), batch=alone.batch)
