"""Fit a row's model and prior, or find them under the hash of what made them.

Both are fitted once, before the policy. A second run that shares their data, rewards, settings and
seeds loads them from `<data>/fitted/` and starts at once. A fit that is stopped goes on exactly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mabe_transfer import runs, weights
from mabe_transfer.composition import Imitation
from mabe_transfer.config import fingerprint, to_json
from mabe_transfer.errors import Diverged, Interrupted
from mabe_transfer.graphs import BLOCK
from mabe_transfer.learner import Parts
from mabe_transfer.library import data_root
from mabe_transfer.parts.prior import Fit
from mabe_transfer.progress import Work, notice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mabe_transfer.composition import Algorithm
    from mabe_transfer.parts import Fitting
    from mabe_transfer.streams import Sizes
    from mabe_transfer.transfer import Sources
    from mabe_transfer.weights import Tensors

FITS = 6  # to be raised when parts are fitted otherwise: what was fitted before is not found then
CHECKPOINTS = 20  # of a fit, at the least
FACTS = ("likelihood", "effective_share")  # what the fit of a prior says of itself
ALIKE = 0.99  # of a prior's weights that hardly differ: the least effective share


def fit(row: Algorithm, sources: Sources, sizes: Sizes, folder: Path) -> Parts:
    """Load the data and fit the parts that a row has.

    Where the policy is the prior itself, nothing is fitted: it learns in the policy's place, from
    the prior's data.

    Args:
        row: The algorithm.
        sources: Its data and target domain.
        sizes: Seeds, widths and device.
        folder: The run's folder, which gets a copy of what was fitted.

    Raises:
        Interrupted: The user asked to stop; the fit's state is saved.
    """
    imitates = isinstance(row.policy, Imitation)
    taken = sources.prior if imitates and sources.prior is not None else sources.real
    data = sources.data(taken, sizes.device)
    demonstrated, prior, model = None, None, None
    if row.prior is not None and sources.prior is not None:
        shown = data if sources.prior is taken else sources.data(sources.prior, sizes.device)
        demonstrated, prior = shown.rows, row.prior.build(sizes)
        if isinstance(row.prior.fit, Fit):
            facts = _Fit("prior", "updates", folder).run(
                _key(row.prior, sources.prior.content, sources, sizes),
                lambda: prior.fitting(shown),
                prior.policy_state,
                prior.start_from,
            )
            if (share := facts.get("effective_share", 0.0)) > ALIKE:
                notice(
                    f"The prior's weights hardly differ (effective share {share:.4f}): it is as "
                    "good as a flat one. A smaller prior.weighting.temperature tells actions apart."
                )
    if row.dynamics is not None:
        model = row.dynamics.build(sizes)
        _Fit("dynamics", "updates at most", folder).run(
            _key(row.dynamics, sources.real.content, sources, sizes),
            lambda: model.fitting(data.rows),
            model.state,
            model.load_state,
        )
    return Parts(row, sizes, sources.target, data.rows, demonstrated, model, prior, data.ends)


def keep_prior(
    row: Algorithm,
    sources: Sources,
    sizes: Sizes,
    updates: int,
    prior: Tensors,
    metrics: Mapping[str, Sequence[float]],
) -> None:
    """Keep a prior that was the policy where rows look that fit the same one beforehand.

    Either way it makes the same updates on the same batches.

    Args:
        row: Whose policy is its prior.
        sources: Its data.
        sizes: Its seeds.
        updates: How many it made.
        prior: Its policy's tensors.
        metrics: Its last ones, a number a seed, of which those are kept that a fit says of itself.
    """
    assert row.prior is not None
    shown, made = sources.prior or sources.real, row.prior.fit
    fit = Fit(updates=updates, rate=made.rate, batch=row.batch, hidden=made.hidden)
    key = _key(replace(row.prior, fit=fit), shown.content, sources, sizes)
    facts = {name: float(np.mean(metrics[name])) for name in FACTS if name in metrics}
    weights.save(_kept("prior", key), prior, facts)


class _Fit:
    """One part's fit: found, or made with a checkpoint in the run's folder."""

    def __init__(self, name: str, unit: str, folder: Path) -> None:
        self.name, self.unit, self.folder = name, unit, folder / name

    def run(
        self,
        key: str,
        begin: Callable[[], Fitting],
        state: Callable[[], Tensors],
        load_state: Callable[[Tensors], None],
    ) -> dict[str, float]:
        """Load the part from where it was kept under a key, or fit it and keep it there.

        A policy that has begun to learn goes on with the part that lies in the run's folder, whose
        key may have been of another version.

        `state` and `load_state` are of the fitted part alone.

        Returns:
            What the fit says of itself.

        Raises:
            Diverged: Its numbers are none.
            Interrupted: The user asked to stop; the fit's state is saved.
        """
        kept = _kept(self.name, key)
        own = self.folder / f"{self.name}.safetensors"
        if own.is_file() and runs.checkpoint_path(self.folder.parent).is_file():
            tensors, facts = weights.load(own)  # what the policy has learnt with so far
            load_state(tensors)
        elif kept.is_file():
            tensors, facts = weights.load(kept)
            load_state(tensors)
            notice(
                f"Fitted {self.name} found under the hash of its data and settings: {kept.name}."
            )
        else:
            facts = self._fit(key, begin())
            if (bad := weights.not_finite(state())) is not None:
                raise Diverged(f"The fit of the {self.name} diverged: {bad} is not finite.")
            weights.save(kept, state(), facts)
        weights.save(own, state(), facts)
        self._unfinished.unlink(missing_ok=True)
        return facts

    @property
    def _unfinished(self) -> Path:
        return self.folder / "unfinished.safetensors"

    def _fit(self, key: str, fitting: Fitting) -> dict[str, float]:
        if self._unfinished.is_file():
            tensors, facts = weights.load(self._unfinished)
            if facts["key"] == key:  # else it is of other libraries or an older fit
                fitting.load_state(tensors)
        every, shown = max(1, fitting.total // CHECKPOINTS), spacing(fitting.total)
        with (
            runs.interruptible() as stop,
            Work(f"Fitting the {self.name}", fitting.total, self.unit, done=fitting.done) as work,
        ):
            while not fitting.finished:
                left = min(shown - fitting.done % shown, every - fitting.done % every)
                taken = fitting.advance(left)
                work.advance(taken, fitting.note() if fitting.done % shown == 0 else "")
                if stop.asked or fitting.done % every == 0:
                    weights.save(self._unfinished, fitting.state(), {"key": key})
                if stop.asked:
                    raise Interrupted(
                        f"Stopped the fit of the {self.name} after {fitting.done:,} updates; "
                        f"the same command resumes there ({self.folder.parent})."
                    )
        return fitting.facts()


def spacing(total: int) -> int:
    """Steps between two notes on a fit: 500 at the most, whole blocks of a GPU's replays apart."""
    return 1 if total < 500 else -(-total // (500 * BLOCK)) * BLOCK


def _kept(name: str, key: str) -> Path:
    return data_root() / "fitted" / f"{name}-{key}.safetensors"


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
            **({"tf32": True} if runs.tf32() else {}),
        }
    )
