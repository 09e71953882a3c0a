"""What a forecast's numbers mean, in plain language.

How well D1's model predicts D2's steps carries the verdict. It ranked the measured gains of one
robot's grid about as well as the members' agreement did, and unlike that it told robots apart. Part
of that error is the worlds' true difference, which positions hardly feel. Members of an ensemble
can agree where all of them are wrong, and a state can be far from D1's and yet predicted well, so
that these, coverage and rollouts stand beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mabe_transfer.coverage import QUANTILE

KNOWN, PARTLY = 1.5, 2.5
"""Error of a step of D2, in that on D1's other episodes, up to which D2 is known, or partly known.

Set on half cheetah's grid, where MABE gained below, both gained and lost between, and above gained
little or lost much; other pairs agree (`results/matrix/record.md`).
"""

LEARNED = 0.5
"""Error of a step on D1's other episodes, in standard deviations of what is to be predicted, above
which D1's own world is not learned, and no multiple of that error says anything.

With 100,000 transitions it is 0.2 to 0.4; with two episodes of random actions 0.75.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How much of D2 lies where D1 does.

    Attributes:
        states: Share of the states.
        both: Share of the states with their actions.
        distance: Median distance of those to D1, in the radius within which D1 covers.
    """

    states: float
    both: float
    distance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A number on D2, and the same on episodes of D1 that the model did not see."""

    there: float
    home: float

    @property
    def ratio(self) -> float:
        """How many times larger it is on D2."""
        return self.there / max(self.home, 1e-9)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """Free rollouts of the prior in D1's model, from D2's states.

    Attributes:
        horizon: Steps of a rollout.
        reward: Mean predicted reward of a step.
        recorded: Mean reward of a step in D2, earned in the other world, for the target's task.
        left_after: First step after which fewer than half of the rollouts lie where D1 does; none
            where they stay.
        ended: Share that the task's rule ended, or that blew up.
        farthest: The observation that strays farthest from D2's own.
        distance: How far, mean over rollouts at their ends, in standard deviations of D2.
    """

    horizon: int
    reward: float
    recorded: float
    left_after: int | None
    ended: float
    farthest: str
    distance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A word, and the sentences behind it."""

    word: str
    sentences: tuple[str, ...]


def judge(
    coverage: Coverage, disagreement: Pair, shared: Pair | None, error: Pair, drift: Drift
) -> Verdict:
    """Say what to expect.

    Args:
        coverage: Of D2 by D1.
        disagreement: Of the members.
        shared: One-step error of the positions, which the worlds share; none where it is unknown.
        error: One-step error of everything, which carries the verdict.
        drift: The prior in D1's model.
    """
    word, advice = _word(error)
    step = (
        f"One step of D2 is predicted with {error.ratio:.1f} times the error on D1's other "
        f"episodes ({error.there:.2f} and {error.home:.2f} standard deviations): {word}."
    )
    rest = "How much of it is the worlds' true difference, is not known."
    if shared is not None:
        rest = (
            "Positions alone, which follow from velocities much alike in every world, are "
            f"predicted with {shared.ratio:.1f} times the error. A small error in D2's world does "
            "not make it small in the target's."
        )
    covered = (
        f"D1 covers {_percent(coverage.states)} of D2's states, and {_percent(coverage.both)} of "
        f"its states with their actions (of D1's own other episodes {_percent(QUANTILE)}); half of "
        f"those are farther than {coverage.distance:.1f} times D1's own reach."
    )
    members = (
        f"The members disagree {disagreement.ratio:.1f} times as much as on D1's other episodes"
        + ("; that they agree proves nothing." if disagreement.ratio < 2.0 else ".")
    )
    return Verdict(word=word, sentences=(step, advice, rest, covered, members, _drifting(drift)))


def _word(error: Pair) -> tuple[str, str]:
    ratio = error.ratio
    if error.home > LEARNED:
        return "no forecast", (
            "D1's model does not predict D1's own other episodes, so that it does no worse on D2 "
            "says nothing: collect more of D1."
        )
    if ratio <= KNOWN:
        return "known", (
            "D1's model knows what D2 does, so MABE has a model by which to improve on the prior."
        )
    if ratio <= PARTLY:
        return "partly known", (
            "MABE may improve on the prior or lose some of it: compare it with the prior alone, "
            "and with --algo mabe-scaled, which stays near."
        )
    return "not known", (
        "D1's model is wrong where D2 goes, so MABE may lose much of what the prior has: take the "
        "prior alone or --algo mabe-scaled; data of the target's world that go there would help "
        "most."
    )


def _drifting(drift: Drift) -> str:
    where = "stays where D1 does"
    if drift.left_after is not None:
        where = f"leaves D1's states after {drift.left_after} of {drift.horizon} steps"
    return (
        f"Rolled out in D1's model, the prior {where}, earns {drift.reward:.2f} a step (in D2 "
        f"{drift.recorded:.2f}), {_percent(drift.ended)} of the rollouts end early, and "
        f"{drift.farthest} strays farthest, by {drift.distance:.1f} of D2's standard deviations."
    )


def _percent(share: float) -> str:
    return f"{100.0 * share:.0f} %"
