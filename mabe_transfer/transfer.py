"""What is learned from which data: D1 gives the world, D2 the behaviour, both give the target.

The target domain follows from the data: D1's robot and physics with D2's task. D1 was rewarded for
its own task, so its rewards are relabelled from their stored terms before anything is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from mabe_transfer import domains
from mabe_transfer.batches import Data
from mabe_transfer.composition import Imitation
from mabe_transfer.domains import Domain, unmeasured
from mabe_transfer.errors import UserError
from mabe_transfer.library import Dataset, open_dataset
from mabe_transfer.transitions import relabel

if TYPE_CHECKING:
    from mabe_transfer.composition import Algorithm


@dataclass(frozen=True, slots=True)
class Sources:
    """The datasets of a run and the domain that it learns for."""

    dynamics: Dataset | None
    prior: Dataset | None
    target: Domain

    @property
    def real(self) -> Dataset:
        """Whose transitions the critics see: D1, or D2 where there is no D1."""
        found = self.dynamics or self.prior
        assert found is not None
        return found

    def data(self, dataset: Dataset, device: torch.device) -> Data:
        """Packed transitions with the target task's rewards, and where their episodes end.

        Read block by block, so that nothing but the result and one block is ever in memory.
        """
        store, weights = dataset.store, self.target.weights
        same = dataset.domain.weights == weights
        width = 2 * store.layout.observation_size + store.layout.action_size + 2
        packed = torch.empty(store.rows, width, device=device)
        ends = torch.zeros(store.rows, dtype=torch.bool, device=device)
        start = 0
        for block in store.stream(states=False, terms=not same):
            rewarded = block if same else relabel(block, weights)
            packed[start : start + len(block)] = torch.from_numpy(rewarded.packed())
            ends[start : start + len(block)] = torch.from_numpy(block.terminals | block.timeouts)
            start += len(block)
        ends[-1:] = True  # an open last episode ends there as well
        return Data(packed, ends)

    def describe(self, row: Algorithm) -> list[str]:
        """What follows from the data, and what a row makes of them, in sentences for the user."""
        lines = [f"Target domain: {self.target.name}."]
        imitated = isinstance(row.policy, Imitation) and self.prior is not None
        ones = (
            ("D1", self.dynamics, "world", imitated and self.prior is not self.dynamics),
            ("D2", self.prior, "task", row.prior is None and self.dynamics is not None),
        )
        for letter, dataset, kept, idle in ones:
            if dataset is not None:
                changed = dataset.domain.weights != self.target.weights
                note = f", relabelled for the {self.target.task.name} task" if changed else ""
                rows = f"{dataset.store.rows:,} transitions"
                if idle:
                    note = f"; {row.name} takes its {kept} for the target, and none of its rows"
                lines.append(f"{letter}: {dataset.name}, {rows} of {dataset.domain.name}{note}.")
        if self.dynamics is not None and self.prior is not None:
            one, other = (unmeasured(d.domain).robot for d in (self.dynamics, self.prior))
            apart = [f.name for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)]
            if apart:
                lines.append(
                    f"Two robots have the name {one.name}: D2's differs from D1's in "
                    f"{', '.join(apart)}."
                )
        return lines


def sources(row: Algorithm, dynamics: str | None, prior: str | None, target: str | None) -> Sources:
    """Open the datasets that a row needs and find the target domain.

    Args:
        row: The algorithm.
        dynamics: Name of D1: data of the world to act in.
        prior: Name of D2: data of the wanted behaviour.
        target: A domain's name, where the data do not say it.

    Raises:
        UserError: Data that the row needs is missing, or D1 and D2 are of different robots.
    """
    if row.dynamics is not None and dynamics is None:
        raise UserError(f"{row.name} fits a dynamics model: name its data with --dynamics.")
    if row.prior is not None and prior is None and dynamics is None:
        raise UserError(f"{row.name} fits a behaviour prior: name its data with --prior.")
    if dynamics is None and prior is None:
        raise UserError(f"{row.name} needs data: name it with --dynamics.")
    one = open_dataset(dynamics) if dynamics else None
    other = open_dataset(prior) if prior else None
    if row.prior is not None and other is None:
        other = one
    world, behaviour = one or other, other or one
    assert world is not None
    assert behaviour is not None
    if world.domain.robot.name != behaviour.domain.robot.name:
        raise UserError(
            f"--dynamics {world.name} is of {world.domain.robot.name}, --prior {behaviour.name} of "
            f"{behaviour.domain.robot.name}; a policy moves between worlds, not between robots."
        )
    found = domains.domain(target) if target else world.domain.with_task(behaviour.domain.task)
    if found.robot.name != world.domain.robot.name:
        raise UserError(f"--target {found.name} is another robot than {world.name}'s.")
    return Sources(dynamics=one, prior=other, target=found)
