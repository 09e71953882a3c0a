"""How fast policies are rolled out in their models, and how long an epoch takes.

A rollout is everything: starts drawn from the data, the policy's samples, the model's, the robot's
termination rule, and the write into the pool. `mabe` pays for no uncertainty, so a transition costs
it one network; both peers' MOPO evaluate all of theirs for the penalty. All models are fitted to
the same rows for as many epochs, and policies are new. Ours counts kept transitions and so does
OfflineRL-Kit; unifloral rolls on after a termination, and all of its transitions count.

An epoch is one rollout and 1,000 updates; `--quick` takes a fifth of both.

    python benchmarks/rollouts.py [--robot hopper] [--quick] [--json FILE]
        [--peer-offlinerlkit FOLDER] [--peer-unifloral FOLDER --python-unifloral PYTHON]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import peers
import rounds
import torch
import trials
from peers import Peer, PeerError
from rounds import ORK, UNIFLORAL, Comparison

from mabe_transfer.algorithms import MABE, MOPO

ROW = "mabe"


def fitted(peer: Peer | str, data: Path, robot: str, starts: int, epochs: int) -> Peer | str:
    """A peer whose model is fitted, or why it is not."""
    ready = peers.built(peer, data, robot, starts=starts)
    if isinstance(ready, str):
        return ready
    try:
        ready.ask("fit", epochs=epochs)
    except PeerError as error:
        ready.close()
        return str(error)
    return ready


def main() -> None:
    """Measure, print and perhaps write."""
    parser = rounds.options(__doc__)
    parser.add_argument("--robot", default="hopper")
    given = rounds.parse(parser)
    torch.set_num_threads(given.threads)
    starts = 500 if given.smoke else 10_000 if given.quick else 50_000
    updates = 5 if given.smoke else 200 if given.quick else 1_000
    epochs = 1 if given.smoke else 3
    trial = trials.simulated(given.robot, 2_000 if given.smoke else 50_000)
    assert MABE.dynamics is not None
    model = trials.fitted(MABE.dynamics, trial, epochs)
    rolls = {ROW: trials.rolling(ROW, trial, model, starts)}
    turns = {ROW: trials.epochs(ROW, trial, model, starts, updates)}
    rolls["mopo"] = trials.rolling(MOPO.name, trial, model, starts)
    absent, running = {}, list[Peer]()
    with tempfile.TemporaryDirectory() as folder:
        data = trial.save(Path(folder) / "data.npz")
        for name, start in ((ORK, peers.offlinerlkit), (UNIFLORAL, peers.unifloral)):
            peer = fitted(start(given), data, given.robot, starts, epochs)
            if isinstance(peer, str):
                absent[name] = peer
                continue
            rolls[name] = asked(peer, "rollout", starts=starts)
            turns[name] = asked(peer, "epoch", starts=starts, updates=updates)
            running.append(peer)
        rates = rounds.alternate(rolls, given.rounds)
        seconds = rounds.alternate(turns, given.rounds)
    for peer in running:
        peer.close()
    rows = []
    for name in (ORK, UNIFLORAL):
        for key, found, unit in (("rollout", rates, "transitions/s"), ("epoch", seconds, "s")):
            rows.append(
                Comparison(
                    key=key,
                    against=name,
                    unit=unit,
                    ours=found[ROW],
                    theirs=found.get(name, ()),
                    less_is_better=key == "epoch",
                    skipped=absent.get(name, ""),
                    note=f"{starts:,} x 5 rollout, {updates:,} updates an epoch",
                )
            )
        rows.append(
            Comparison(
                key="rollouts of `mopo`, which pays for uncertainty",
                against=name,
                unit="transitions/s",
                ours=rates["mopo"],
                theirs=rates.get(name, ()),
                skipped=absent.get(name, ""),
            )
        )
    settings = {"robot": given.robot, "starts": starts, "horizon": 5, "updates": updates}
    rounds.finish("rollouts", given, rows, settings)


def asked(peer: Peer, call: str, **work: int) -> rounds.Play:
    """What a peer measures of itself."""
    return lambda: float(peer.ask(call, **work))


if __name__ == "__main__":
    main()
