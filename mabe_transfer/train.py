"""Train a row on its data: fit the parts, then one loop for every row (MABE Alg. 1).

A run is a folder (see `runs`). Fitted models and priors are kept under the hash of what made them,
so that a second run that shares them starts at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mabe_transfer import evaluate, fitting, runs, weights
from mabe_transfer.composition import Imitation
from mabe_transfer.domains import Domain, to_facts, unmeasured
from mabe_transfer.errors import Diverged, Interrupted
from mabe_transfer.graphs import Stepper, recorder_for
from mabe_transfer.learner import Learner
from mabe_transfer.parts.trajectories import WholeRollouts
from mabe_transfer.progress import Work
from mabe_transfer.streams import Sizes
from mabe_transfer.worlds import world

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mabe_transfer.composition import Algorithm
    from mabe_transfer.transfer import Sources

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
EVALUATION_SEED = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How long to train and how often to look.

    Attributes:
        updates: Steps of each seed's policy: gradient steps, or steps on new trajectories.
        evaluate_every: Updates between evaluations in the target environment.
        episodes: Episodes of an evaluation, for each seed.
        log_every: Updates between rows of metrics.
    """

    updates: int = 100_000
    evaluate_every: int = 5_000
    episodes: int = 10
    log_every: int = 500

    @classmethod
    def of(cls, row: Algorithm) -> Schedule:
        """How long a row usually takes: an on-policy step is worth many gradient steps."""
        if isinstance(row.rollouts, WholeRollouts):
            return cls(updates=500, evaluate_every=25, log_every=1)
        return cls()

    def ahead(self, updates: int) -> int:
        """How many updates there are after so many before there is something to write down."""
        left = (every - updates % every for every in (self.evaluate_every, self.log_every))
        return min(self.updates - updates, *left)

    def matched(self, row: Algorithm) -> Schedule:
        """This budget of gradient steps, as a row counts its steps.

        A row that steps on whole trajectories takes the same share of its usual number of steps,
        and is looked at as often.
        """
        usual, plain = Schedule.of(row), Schedule()
        if usual == plain:
            return self
        updates = max(1, round(self.updates * usual.updates / plain.updates))
        every = max(1, round(updates * self.evaluate_every / self.updates))
        return replace(usual, updates=updates, evaluate_every=every, episodes=self.episodes)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to: the mean of its last evaluations."""

    folder: Path
    row: str
    target: str
    seeds: tuple[int, ...]
    per_seed: Floats  # [S], mean return over the last evaluations
    summary: dict[str, float]
    history: list[tuple[int, float]] = field(default_factory=list)


class Trainer:
    """One resumable run of a row on its data.

    Args:
        row: The algorithm.
        sources: Its data and target domain.
        schedule: How long.
        seeds: One policy a seed, all trained together.
        device: Where.
        folder: The run folder; a matching one resumes.
        preset: Whose settings the row has, for the record.
    """

    def __init__(
        self,
        row: Algorithm,
        sources: Sources,
        schedule: Schedule,
        *,
        seeds: tuple[int, ...],
        device: torch.device,
        folder: Path,
        preset: str = "",
    ) -> None:
        self.row, self.sources, self.schedule = row, sources, schedule
        real = sources.real.store.layout
        self.sizes = Sizes(
            seeds=seeds, observation=real.observation_size, action=real.action_size, device=device
        )
        self.folder = runs.RunFolder(
            folder, identity(row, sources, schedule, seeds=seeds, device=device, preset=preset)
        )
        self.simulation = world(sources.target, len(seeds) * schedule.episodes)

    def run(self) -> Result:
        """Train to the end, resuming what is there.

        Raises:
            Interrupted: The user asked to stop; the state is saved.
            UserError: Training diverged, or the data do not fit the row.
        """
        try:
            self._status("running")
            parts = fitting.fit(self.row, self.sources, self.sizes, self.folder.path)
            self._learn(Learner(parts))
            result = self.result()
            self.folder.status("complete", **result.summary)
        except (Interrupted, KeyboardInterrupt):
            self._status("interrupted")
            raise
        except Exception as error:
            expected = isinstance(error, Diverged)
            self.folder.status("failed", why=str(error), diverged=expected)
            raise
        finally:
            self.folder.close()
            self.simulation.close()
        return result

    def _status(self, state: str) -> None:
        """Say how the run stands, and how far its checkpoint is."""
        known = runs.checkpoint_path(self.folder.path)
        facts = weights.load_facts(known) if known.is_file() else {}
        self.folder.status(state, **facts)

    def result(self) -> Result:
        """Summarise the evaluations so far: the mean of the last ones."""
        return result(self.folder.path, self.row.name, self.sources.target, self.sizes.seeds)

    # -- the loop --------------------------------------------------------------------------------

    def _learn(self, learner: Learner) -> None:
        saved = runs.load_checkpoint(self.folder.path)
        if saved is not None:
            learner.load_state(saved[0], saved[1]["updates"])
        self.folder.truncate(learner.updates)
        schedule = self.schedule
        stepper = Stepper(learner, recorder_for(self.sizes.device))
        seeds = f"{self.sizes.stack} seeds" if self.sizes.stack > 1 else "1 seed"
        title = f"{self.row.name} on {self.sources.target.name}, {seeds}"
        note = ""
        with (
            runs.interruptible() as stop,
            Work(title, schedule.updates, "updates", done=learner.updates) as work,
        ):
            while learner.updates < schedule.updates:
                taken = stepper.advance(schedule.ahead(learner.updates))
                last = learner.updates == schedule.updates
                if learner.updates % schedule.log_every == 0 or last:
                    note = self._log(learner)
                if learner.updates % schedule.evaluate_every == 0 or last:
                    self._require_finite(learner)
                    score = self._evaluate(learner.act, learner.updates)
                    note = f"return {score:,.0f}, {note}"
                    self._checkpoint(learner)
                work.advance(taken, note)
                if stop.asked:
                    self._require_finite(learner)
                    self._checkpoint(learner)
                    raise Interrupted(
                        f"Stopped after {learner.updates:,} updates; the same command resumes "
                        f"there ({self.folder.path})."
                    )
        tensors = learner.policy.policy_state()
        self._save_policy(tensors)
        if isinstance(self.row.policy, Imitation):
            said = runs.read_rows(self.folder.path / "metrics.jsonl")[-1]
            fitting.keep_prior(self.row, self.sources, self.sizes, learner.updates, tensors, said)

    def _log(self, learner: Learner) -> str:
        """Write a row of metrics; gives a short note on how it goes."""
        row = learner.means.take()
        bad = [name for name, values in row.items() if not np.isfinite(values).all()]
        if bad:
            raise runs.diverged(self.folder.path, bad, learner.updates)
        self.folder.log("metrics", learner.updates, row)
        names = ("value", "model_return", "kl", "beta", "entropy", "likelihood", "effective_share")
        shown = [name for name in names if name in row]
        return ", ".join(f"{name} {np.mean(row[name]):.3g}" for name in shown)

    def _require_finite(self, learner: Learner) -> None:
        """Refuse to look at, or to keep, what has diverged since the last row of metrics."""
        if (name := learner.not_finite()) is not None:
            raise runs.diverged(self.folder.path, [name], learner.updates)

    def _evaluate(self, act: evaluate.Act, update: int) -> float:
        """Play whole episodes in the target; log each seed's mean return."""
        seed = EVALUATION_SEED + update * self.schedule.episodes  # no episode is played twice
        returns, lengths = evaluate.returns(
            act, self.simulation, groups=self.sizes.stack, seed=seed
        )
        means = returns.mean(1)
        row: dict[str, Any] = {"returns": [float(value) for value in means]}
        if self.sources.target.reference is not None:
            row["scores"] = [float(value) for value in self.sources.target.normalised(means)]
        row["lengths"] = [float(value) for value in lengths.mean(1)]
        self.folder.log("evaluations", update, row)
        return float(means.mean())

    def _checkpoint(self, learner: Learner) -> None:
        path = runs.checkpoint_path(self.folder.path)
        weights.save(path, learner.state(), {"updates": learner.updates})
        self.folder.status("running", updates=learner.updates)

    def _save_policy(self, actor: dict[str, Tensor]) -> None:
        facts = {
            "kind": "policies",
            "row": self.row.name,
            "head": self.row.head,
            "target": to_facts(self.sources.target),
            "seeds": list(self.sizes.seeds),
        }
        weights.save(self.folder.path / "policy" / "policy.safetensors", actor, facts)


def identity(
    row: Algorithm,
    sources: Sources,
    schedule: Schedule,
    *,
    seeds: tuple[int, ...],
    device: torch.device,
    preset: str = "",
) -> dict[str, Any]:
    """What makes a run that very run, as its folder's `config.json` keeps it."""
    return {
        **({"preset": preset} if preset else {}),
        "row": row,
        "schedule": schedule,
        "seeds": list(seeds),
        "device": device.type,
        "target": unmeasured(sources.target),
        "dynamics": sources.dynamics.name if sources.dynamics else None,
        "prior": sources.prior.name if sources.prior else None,
        "content": {
            "dynamics": sources.dynamics.content if sources.dynamics else None,
            "prior": sources.prior.content if sources.prior else None,
        },
    }


def result(folder: Path, row: str, target: Domain, seeds: tuple[int, ...]) -> Result:
    """What the evaluations in a run's folder come to: the mean of the last ones."""
    rows = runs.read_rows(folder / "evaluations.jsonl")
    history = [(int(row["update"]), float(np.mean(row["returns"]))) for row in rows]
    per_seed = np.array([row["returns"] for row in rows[-evaluate.LAST :]]).mean(0)
    summary = evaluate.summary(per_seed, target)
    return Result(folder, row, target.name, seeds, per_seed, summary, history)
