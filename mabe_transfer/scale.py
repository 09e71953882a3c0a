"""How much of an experiment is done: data, updates and the settings of its arms, in one place.

Every arm of an experiment is a row of the algorithm table with these settings wherever it has them,
so that arms differ by their parts and by nothing else. To tune is to change a `Scale`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mabe_transfer.acquire import provide
from mabe_transfer.algorithms import ALGORITHMS
from mabe_transfer.composition import Imitation
from mabe_transfer.config import Overrides, has_field, with_overrides
from mabe_transfer.errors import unknown
from mabe_transfer.evaluate import LAST
from mabe_transfer.parts.correction import Correction
from mabe_transfer.parts.regulariser import PriorKl
from mabe_transfer.parts.sac import Sac
from mabe_transfer.parts.trajectories import WholeRollouts
from mabe_transfer.train import Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mabe_transfer.composition import Algorithm
    from mabe_transfer.entries import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """How a dataset is collected: whose behaviour, and how many transitions; none for all."""

    quality: str
    transitions: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Sizes and settings of an experiment; none leaves a setting as the row has it.

    Attributes:
        name: `full`, `cpu` or `smoke`; results of all but the full one are kept apart.
        forward: D1, in the target's physics.
        backward: D2, in the other physics.
        updates: Of each policy.
        looks: Evaluations along it; the last ten make the result.
        prior_updates: Of a prior's fit, and of the prior alone.
        prior_looks: Evaluations along the training of the prior alone; with one it is deployed when
            it is fitted, for as many episodes as the last ten looks of a policy have together.
        episodes: Of an evaluation, for each seed.
        batch: Transitions of an update.
        epochs: Of the dynamics model, at the most.
        model_batch: Transitions of an update of the dynamics.
        starts: Rollouts at a time.
        horizon: Steps of a rollout.
        real_share: Of a batch.
        penalty: Weight of the model's uncertainty, where a row pays for it.
        kl_target: Divergence from the prior that the dual weight aims at, nats.
        critics_first: Updates of the critics alone, where a row has such.
        prior_start_share: Share of rollouts from D2's states, where a row pays for the divergence.
        correction: Of D2's rewards, in the control that corrects them.
        reference_episodes: Episodes by which random, expert and the source's expert are measured; 0
            measures nothing.
        first_seed: Seeds count from here; what was tuned was tuned on others.
        overrides: `part.field` and value for every row that has it, as `--set` takes them.
    """

    name: str
    forward: Gathered
    backward: Gathered
    updates: int
    looks: int = 20
    prior_updates: int
    prior_looks: int
    episodes: int
    batch: int = 256
    epochs: int
    model_batch: int | None = None
    starts: int
    horizon: int | None = None
    real_share: float | None = None
    penalty: float | None = None
    kl_target: float | None = None
    critics_first: int | None = None
    prior_start_share: float | None = None
    correction: Correction = Correction()
    reference_episodes: int = 100
    first_seed: int = 100
    overrides: Overrides = ()

    def gather(self, recipe: Recipe, how: Gathered) -> str:
        """Collect a recipe's domain in this scale's way, unless it is there; gives the name.

        Raises:
            UserError: A dataset of that name was made otherwise.
            Interrupted: The user asked to stop; the same command goes on.
        """
        name = recipe.name + self.suffix
        provide(replace(recipe, quality=how.quality, transitions=how.transitions), name)
        return name

    @property
    def suffix(self) -> str:
        """What the names of its data and results end with."""
        return "" if self.name == "full" else f"-{self.name}"

    def seeds(self, count: int) -> tuple[int, ...]:
        """So many seeds."""
        return tuple(range(self.first_seed, self.first_seed + count))

    def schedule(self, row: Algorithm) -> Schedule:
        """How long a row is trained: where it is a prior, as long as a prior is fitted."""
        if isinstance(row.policy, Imitation):
            episodes = self.episodes * LAST // min(LAST, self.prior_looks)
            return _schedule(self.prior_updates, self.prior_looks, episodes)
        return self.plan.matched(row)

    @property
    def plan(self) -> Schedule:
        """The schedule of rows that take gradient steps on a policy."""
        return _schedule(self.updates, self.looks, self.episodes)

    def shared(self) -> dict[str, str]:
        """Settings that mean the same for every row that has them."""
        given = {
            "batch": self.batch,
            "prior.fit.updates": self.prior_updates,
            "dynamics.max_epochs": self.epochs,
            "dynamics.batch": self.model_batch,
            "rollouts.starts": self.starts,
            "rollouts.horizon": self.horizon,
            "rollouts.real_share": self.real_share,
            "uncertainty.weight": self.penalty,
        }
        return {path: str(value) for path, value in given.items() if value is not None}

    def settings(self, row: Algorithm) -> Overrides:
        """What is set in a row, those of its fields that a scale speaks of.

        Raises:
            UserError: A setting does not go with the row.
        """
        own = {"regulariser.target": self.kl_target}
        if isinstance(row.regulariser, PriorKl):
            own["rollouts.prior_start_share"] = self.prior_start_share
        if isinstance(row.policy, Sac) and row.policy.critics_first:
            own["policy.critics_first"] = self.critics_first
        given = self.shared() | {k: str(v) for k, v in own.items() if v is not None}
        if isinstance(row.policy, Imitation):
            given.pop("batch")  # a prior alone learns from the batches by which it is fitted
        if isinstance(row.rollouts, WholeRollouts):  # whose trajectories are few and long
            given.pop("rollouts.starts")
            given.pop("rollouts.horizon", None)
        given |= dict(self.overrides)
        found = tuple((path, text) for path, text in given.items() if has_field(row, path))
        with_overrides(row, dict(found))
        return found


SHORT: Overrides = (
    ("dynamics.members", "5"),
    ("rollouts.every", "500"),
    ("prior.evaluation.hidden", "[64,64]"),
    # Critics that learn fast, and do not look far.
    ("policy.critic_rate", "1e-3"),
    ("policy.polyak", "0.02"),
    ("policy.discount", "0.98"),
    # A temperature that gets where the entropy should be within them.
    ("regulariser.initial", "0.2"),
    ("regulariser.learning_rate", "1e-3"),
)
"""For trainings of thousands of updates, not of hundreds of thousands; chosen for the main job."""
FULL = Scale(
    name="full",
    forward=Gathered(quality="medium-replay"),
    backward=Gathered(quality="expert", transitions=100_000),
    updates=8_000,
    prior_updates=6_000,
    prior_looks=1,
    episodes=3,
    batch=128,
    epochs=12,
    starts=2_000,
    horizon=20,
    prior_start_share=0.8,
    overrides=(*SHORT, ("dynamics.epoch_rows", "100000")),  # a replay may have many times as many
)
"""The main job's settings with more updates and epochs."""
MINUTES = replace(FULL, name="short", updates=5_000, epochs=8, overrides=SHORT)
"""The main job's settings, for minutes of two cores."""
CPU = replace(
    FULL,
    name="cpu",
    updates=5_000,
    prior_updates=5_000,
    prior_looks=50,
    batch=256,
    epochs=10,
    horizon=None,
    real_share=0.5,
    prior_start_share=None,
    critics_first=250,
    first_seed=0,
    overrides=(
        ("dynamics.members", "5"),
        ("dynamics.elites", "3"),
        ("dynamics.epoch_rows", "100000"),
        ("rollouts.every", "250"),
        ("policy.hidden", "[64,64]"),
        ("policy.critic_rate", "1e-3"),
        ("policy.policy_rate", "1e-3"),
        ("policy.polyak", "0.02"),
        ("policy.discount", "0.98"),
        ("regulariser.initial", "0.2"),
        ("regulariser.learning_rate", "1e-3"),
        ("prior.discount", "0.98"),
        ("prior.evaluation.hidden", "[64,64]"),
        ("prior.evaluation.rate", "1e-3"),
        ("prior.evaluation.polyak", "0.02"),
        ("prior.fit.hidden", "[64,64]"),
        ("prior.fit.rate", "1e-3"),
    ),
)
"""For two cores: small networks, few updates, and the same rates for every row, since those of
print are for two hundred times as many. Nothing was tuned, for no row."""
SMOKE = Scale(
    name="smoke",
    forward=Gathered(quality="random", transitions=2_000),
    backward=Gathered(quality="random", transitions=1_000),
    updates=40,
    prior_updates=40,
    prior_looks=1,
    episodes=1,
    batch=64,
    epochs=1,
    starts=200,
    correction=Correction(updates=40, batch=64),
    reference_episodes=0,
)
SCALES = {scale.name: scale for scale in (FULL, SMOKE)}
TRAININGS = {scale.name: scale for scale in (MINUTES, CPU)}
"""Of a single training, beside the row as the table of algorithms has it."""


def scale(
    name: str,
    overrides: Overrides = (),
    known: Mapping[str, Scale] = SCALES,
    *,
    updates: int | None = None,
) -> Scale:
    """Look a scale up by its name, with overrides of its rows, which win over its own.

    Args:
        name: Which.
        overrides: `part.field` and value.
        known: Where to look.
        updates: Of each policy, instead of the scale's own.

    Raises:
        UserError: There is no such scale, or an override reaches no row of the table or does not
            parse.
    """
    if name not in known:
        raise unknown("--scale", name, known)
    for path, text in overrides:
        rows = [row for row in ALGORITHMS.values() if has_field(row, path)]
        with_overrides(rows[0] if rows else ALGORITHMS["mabe"], {path: text})  # says what is wrong
    found = known[name]
    return replace(
        found, updates=updates or found.updates, overrides=(*found.overrides, *overrides)
    )


def apart(out: Path, scale: Scale) -> Path:
    """Where a scale's results go: those of another than the full one do not replace results."""
    return out / scale.name if scale.suffix else out


def _schedule(updates: int, looks: int, episodes: int) -> Schedule:
    return Schedule(
        updates=updates,
        evaluate_every=-(-updates // looks),  # the last look is the trained policy's
        episodes=episodes,
        log_every=max(1, min(500, updates // 100)),
    )
