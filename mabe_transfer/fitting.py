"""Fit a row's model and prior, or find them under the hash of what made them.

Both are fitted once, before the policy. A second run that shares their data, rewards, settings and
seeds loads them from `<data>/fitted/` and starts at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mabe_transfer import weights
from mabe_transfer.config import fingerprint, to_json
from mabe_transfer.learner import Fitted, Parts
from mabe_transfer.library import data_root
from mabe_transfer.progress import Work, notice

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from mabe_transfer.algorithms import Algorithm
    from mabe_transfer.networks import Sizes
    from mabe_transfer.parts.dynamics import EnsembleModel
    from mabe_transfer.parts.prior import BehaviourPrior
    from mabe_transfer.transfer import Sources

FITS = 2  # to be raised when parts are fitted otherwise: what was fitted before is not found then


def fit(row: Algorithm, sources: Sources, sizes: Sizes, folder: Path) -> Parts:
    """Load the data and fit the parts that a row has.

    Args:
        row: The algorithm.
        sources: Its data and target domain.
        sizes: Seeds, widths and device.
        folder: The run's folder, which gets a copy of what was fitted.
    """
    real = sources.rows(sources.real, sizes.device)
    demonstrated, prior, model = None, None, None
    if row.prior is not None and sources.prior is not None:
        same = sources.prior is sources.real
        demonstrated = real if same else sources.rows(sources.prior, sizes.device)
        prior = row.prior.build(sizes)
        key = _key(row.prior, sources.prior.content, sources, sizes)
        _fit_or_load("prior", key, prior, _prior_fit(prior, demonstrated), folder)
    if row.dynamics is not None:
        model = row.dynamics.build(sizes)
        key = _key(row.dynamics, sources.real.content, sources, sizes)
        _fit_or_load("dynamics", key, model, _dynamics_fit(model, real), folder)
    return Parts(row, sizes, sources.target, real, demonstrated, model, prior)


def _prior_fit(prior: BehaviourPrior, rows: Tensor) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        with Work("Fitting the prior", prior.config.updates, "updates") as work:
            return prior.fit(rows, work.advance)

    return run


def _dynamics_fit(model: EnsembleModel, rows: Tensor) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        with Work("Fitting the dynamics", model.config.max_epochs, "epochs at most") as work:
            return model.fit(rows, lambda epoch, note: work.advance(1, note))

    return run


def _fit_or_load(
    name: str, key: str, part: Fitted, fit_now: Callable[[], dict[str, float]], folder: Path
) -> None:
    cached = data_root() / "fitted" / f"{name}-{key}.safetensors"
    if cached.is_file():
        tensors, facts = weights.load(cached)
        part.load_state(tensors)
        notice(f"Fitted {name} found under the hash of its data and settings: {cached.name}.")
    else:
        facts = fit_now()
        weights.save(cached, part.state(), facts)
    weights.save(folder / name / f"{name}.safetensors", part.state(), facts)


def _key(config: Any, content: str, sources: Sources, sizes: Sizes) -> str:
    """Hash of what makes a fitted part: settings, data, rewards, seeds, libraries."""
    return fingerprint(
        {
            "config": to_json(config),
            "data": content,
            "rewards": sources.target.weights,
            "seeds": list(sizes.seeds),
            "torch": torch.__version__,
            "device": sizes.device.type,
            "fits": FITS,
        }
    )
