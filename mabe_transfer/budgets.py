"""How much of the D4RL benchmark is done: as the table of algorithms has it, or sized for less.

A scale of `scale.py` sets sizes and rates of every row alike. The full one sets none, so that a row
is what `algorithms show` prints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mabe_transfer import benchmark, catalogue
from mabe_transfer.benchmark import Plan, as_tabled
from mabe_transfer.d4rl_tasks import SOURCES, Named, Ours, Source
from mabe_transfer.errors import UserError
from mabe_transfer.scale import CPU, FULL, SMOKE, Scale
from mabe_transfer.train import Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping

SCALES = {
    "cpu": CPU,
    "full": replace(FULL, updates=100_000, episodes=10, first_seed=0, overrides=()),
    "smoke": replace(SMOKE, forward=replace(SMOKE.forward, transitions=1_000)),
}
"""Of the full one, rows take the schedule and the overrides alone."""


@dataclass(frozen=True, slots=True)
class Sample(Ours):
    """Random actions in the place of every dataset of ours: to see that it works.

    Attributes:
        scale: How many.
    """

    scale: Scale = SCALES["smoke"]

    def names(self) -> dict[str, Named]:
        """Every dataset by its name, and by its task; on disk they have names of their own."""
        found = Ours.names(self)
        return {
            name: replace(named, dataset=named.dataset + self.scale.suffix)
            for name, named in found.items()
        }

    def prepare(self, named: Named) -> None:
        """Collect random actions unless they are there."""
        recipe = catalogue.recipe(named.dataset.removesuffix(self.scale.suffix))
        self.scale.gather(recipe, self.scale.forward)

    def data(self, version: str) -> str:
        """What a table says of the data."""
        del version
        return "random actions, to see that it works"


def resized(scale: Scale, *, updates: int | None = None, episodes: int | None = None) -> Scale:
    """A scale with another number of updates, of imitation too, or of episodes a look."""
    return replace(
        scale,
        updates=updates or scale.updates,
        prior_updates=updates or scale.prior_updates,
        episodes=episodes or scale.episodes,
    )


def plan(
    scale: Scale,
    rows: tuple[str, ...],
    datasets: tuple[str, ...],
    seeds: tuple[int, ...],
    *,
    source: Source = SOURCES["ours"],
    overrides: Mapping[str, str] | None = None,
    presets: tuple[str, ...] = (),
) -> Plan:
    """What a benchmark of a scale runs.

    Args:
        scale: How much, and with what sizes and rates.
        rows: Of the algorithm table.
        datasets: Names or tasks; the nine of Table 1 if there is none.
        seeds: Of every cell.
        source: Where the data are from; that of a smoke test is random actions.
        overrides: `part.field` and value, which win over all else.
        presets: Published settings, which win over the scale's.

    Raises:
        UserError: A smoke test was asked of data by others.
    """
    whole, smoke = scale.name == FULL.name, scale.name == SMOKE.name
    if smoke and source != Ours():
        raise UserError("--scale smoke collects random actions: it goes with --source ours alone.")
    given = dict(scale.overrides if whole else ()) | dict(overrides or {})
    length = Schedule(
        updates=scale.updates,
        evaluate_every=benchmark.looks(scale.updates),
        episodes=scale.episodes,
    )
    return Plan(
        algos=rows,
        datasets=datasets,
        source=Sample(scale) if smoke else source,
        seeds=seeds,
        schedule=length if whole else scale.plan,
        schedules=None if whole else scale.schedule,
        overrides=given,
        settings=as_tabled if whole else scale.settings,
        presets=presets,
    )
