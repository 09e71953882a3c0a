"""Whether what makes updates fast changes what is learned.

The same row is trained thrice on each data set, from the same seeds: by the plain path, in which
gradients are all autograd's and Adam steps tensor by tensor; by the fast one; and by the fast one
with hidden layers in bfloat16. Dynamics and prior are fitted once and found again. Gradients of the
first two are the same up to rounding (that is a test; Adam's plain form asks for its step, so that
the plain path is also taken update by update), but a training amplifies rounding, so scores
are compared: a fast path's mean over seeds is to lie within the bootstrap 95 % interval of the
plain path's.

    python benchmarks/equal_scores.py --data hopper-d4rl-medium --data halfcheetah-d4rl-medium
        [--row mabe] [--seeds 5] [--json FILE]
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import rounds
import torch
from to_score import tiny
from torch import Tensor, nn

from mabe_transfer import rectified, statistics, transfer
from mabe_transfer.algorithms import algorithm
from mabe_transfer.config import with_overrides
from mabe_transfer.parts import sac
from mabe_transfer.scale import CPU, SMOKE, Scale
from mabe_transfer.train import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mabe_transfer.evaluate import Floats

Json = dict[str, Any]


class PlainPass:
    """What `rectified.Pass` is, by autograd."""

    def __init__(
        self, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, halved: bool
    ) -> None:
        assert not halved
        self.parameters = [*weights, *biases]
        self.x = x.detach().requires_grad_()
        with torch.enable_grad():
            self.whole = rectified.plain(self.x, weights, biases)
        self.output = self.whole.detach().requires_grad_()

    def to_parameters(self, slope: Tensor, start: int = 0) -> None:
        """Write the gradient of every weight and bias into its `grad`."""
        del start  # the slope of the rows before it is zero
        found = torch.autograd.grad(self.whole, self.parameters, slope, retain_graph=True)
        for parameter, gradient in zip(self.parameters, found, strict=True):
            parameter.grad = gradient

    def back(self, slope: Tensor, learned: int, first: int = 0) -> Tensor:
        """Do that by the first rows, and give the gradient of the others' inputs."""
        (found,) = torch.autograd.grad(self.whole, (self.x,), slope, retain_graph=True)
        slope = slope.clone()
        slope[:, learned:] = 0.0
        self.to_parameters(slope)
        return found[:, learned:, first:]


def plain_perceptrons(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, halved: bool
) -> Tensor:
    """What `rectified.perceptrons` is, by autograd."""
    assert not halved
    return rectified.plain(x, weights, biases)


def plain_adam(module: nn.Module, rate: float) -> torch.optim.Adam:
    """Make an Adam that steps tensor by tensor."""
    return torch.optim.Adam(module.parameters(), lr=rate, foreach=False)


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Let updates of policies and critics go the plain path."""
    with (
        mock.patch.object(rectified, "perceptrons", plain_perceptrons),
        mock.patch.object(rectified, "Pass", PlainPass),
        mock.patch.object(sac, "adam", plain_adam),
    ):
        yield


def scores(
    row: str, name: str, scale: Scale, seeds: int, folder: Path, *, halved: bool = False
) -> tuple[Floats, float]:
    """Final score of every seed [S] (the return, where there is none), and the seconds it took."""
    settings = dict(scale.settings(algorithm(row)))
    if halved:
        settings["policy.bfloat16"] = "true"
    found = with_overrides(algorithm(row), settings)
    prior = name if found.prior is not None else None
    sources = transfer.sources(found, name, prior, None)
    trainer = Trainer(
        found,
        sources,
        scale.schedule(found),
        seeds=tuple(range(seeds)),
        device=torch.device("cpu"),
        folder=folder,
    )
    start = time.perf_counter()
    ended = trainer.run()
    target = sources.target
    value = ended.per_seed if target.reference is None else target.normalised(ended.per_seed)
    return value, time.perf_counter() - start


def compared(row: str, name: str, scale: Scale, seeds: int, folder: Path) -> Json:
    """All paths on one data set; the first one fits what the others find."""
    fast, fast_seconds = scores(row, name, scale, seeds, folder / "fast")
    with plainly():
        plain, plain_seconds = scores(row, name, scale, seeds, folder / "plain")
    half, half_seconds = scores(row, name, scale, seeds, folder / "half", halved=True)
    wanted = statistics.mean_interval(plain)
    return {
        "data": name,
        "row": row,
        "plain": plain.tolist(),
        "plain mean": wanted.value,
        "plain interval": [wanted.low, wanted.high],
        "seconds": {"fast, with fits": fast_seconds, "plain": plain_seconds, "half": half_seconds},
        **{
            path: {
                "scores": found.tolist(),
                "mean": float(found.mean()),
                "within": bool(wanted.low <= found.mean() <= wanted.high),
            }
            for path, found in (("fast", fast), ("half", half))
        },
    }


def main() -> None:
    """Train, print and perhaps write."""
    parser = rounds.options(__doc__)
    parser.add_argument("--data", action="append", default=[], help="a data set, once or more")
    parser.add_argument("--row", action="append", default=[], help="once or more; mabe if none")
    parser.add_argument("--seeds", type=int, default=5)
    given = rounds.parse(parser)
    torch.set_num_threads(given.threads)
    scale = replace(SMOKE if given.smoke else CPU, overrides=CPU.overrides)
    found: list[Json] = []
    with tempfile.TemporaryDirectory() as folder:
        names = given.data or [tiny(Path(folder))]
        for index, name in enumerate(names):
            for row in given.row or ["mabe"]:
                place = Path(folder) / f"{index}-{row}"
                found.append(compared(row, name, scale, given.seeds, place))
                print(sentence(found[-1]), flush=True)
    rounds.finish("equal_scores", given, [], {"seeds": given.seeds}, scores=found)


def sentence(found: Json) -> str:
    """What was found on one data set."""
    low, high = found["plain interval"]
    beside = ", ".join(
        f"{path} {found[path]['mean']:.2f} ({'within' if found[path]['within'] else 'OUTSIDE'})"
        for path in ("fast", "half")
    )
    return (
        f"{found['row']} on {found['data']}: plain {found['plain mean']:.2f} "
        f"[{low:.2f}, {high:.2f}], {beside}"
    )


if __name__ == "__main__":
    main()
