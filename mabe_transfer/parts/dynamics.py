"""The dynamics model: an ensemble of Gaussian networks for [change of observation, reward].

MABE Eq. 2, in MOPO's form (arXiv 2005.13239): each of M members predicts mean and log variance;
rollouts sample from the elites, the best on held-out transitions. Every seed has its own ensemble.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mabe_transfer import losses, weights
from mabe_transfer.batches import at, bootstraps
from mabe_transfer.descent import decayed_adam, descend, set_rate
from mabe_transfer.errors import UserError
from mabe_transfer.graphs import Repeated, recorder_for
from mabe_transfer.networks import StackedMlp
from mabe_transfer.stopping import Best
from mabe_transfer.streams import Sizes, Streams, generator

if TYPE_CHECKING:
    from mabe_transfer.imagination import Moments


@dataclass(frozen=True, kw_only=True, slots=True)
class Ensemble:
    """How the model is built and fitted.

    Differs from MOPO: ten times its rate, falling at the end, and twice its batch. Its own settings
    (`rate=1e-3 cooldown=0 batch=256`) leave a multiple of the error after as many epochs.

    Attributes:
        members: M, networks in a seed's ensemble.
        elites: Members that rollouts sample from, the best on held-out data.
        hidden: Widths of the hidden layers.
        rate: Adam's learning rate.
        cooldown: Share of `max_epochs`, the last of them, over which the rate falls to zero.
        batch: Transitions of an update.
        weight_decay: Factor of half the squared weights in the loss, one for each layer; layers
            beyond the last factor take that one.
        holdout: Share of transitions held out, 1,000 at the most.
        patience: Epochs without improvement before the fit ends.
        improvement: Relative gain in held-out error that counts as one.
        max_epochs: Upper bound of epochs.
        epoch_rows: Most transitions of an epoch, drawn anew for each; 0 for all.
    """

    members: int = 7
    elites: int = 5
    hidden: tuple[int, ...] = (200, 200, 200, 200)
    rate: float = 1e-2
    cooldown: float = 0.4
    batch: int = 512
    weight_decay: tuple[float, ...] = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
    holdout: float = 0.2
    patience: int = 5
    improvement: float = 0.01
    max_epochs: int = 30
    epoch_rows: int = 0

    def __post_init__(self) -> None:
        """Refuse elites that are no members, and a share that holds out none or all."""
        if not 1 <= self.elites <= self.members:
            raise UserError(f"dynamics.elites must lie in 1..{self.members}, not {self.elites}.")
        if not 0.0 < self.holdout < 1.0:
            raise UserError(f"dynamics.holdout must lie between 0 and 1, not {self.holdout}.")

    def build(self, sizes: Sizes) -> EnsembleModel:
        """Make an unfitted model."""
        return EnsembleModel(self, sizes)


class EnsembleModel(nn.Module):
    """S ensembles of M networks that predict the next observation and the reward.

    Inputs and targets are standardised with statistics of the training data; predictions are in
    raw units.

    Differs from MOPO: targets are standardised too, so that no dimension dominates the likelihood.
    """

    input_mean: Tensor
    input_std: Tensor
    target_mean: Tensor
    target_std: Tensor
    elites: Tensor

    def __init__(self, config: Ensemble, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        inputs, self.targets = sizes.observation + sizes.action, sizes.observation + 1
        self.body = StackedMlp(
            (inputs, *config.hidden, 2 * self.targets),
            [
                generator(seed, f"dynamics/weights/{member}", sizes.device)
                for seed in sizes.seeds
                for member in range(config.members)
            ],
            activation=nn.functional.silu,
        )
        shape = (sizes.stack * config.members, 1, self.targets)
        self.max_log_variance = nn.Parameter(torch.full(shape, 0.5, device=sizes.device))
        self.min_log_variance = nn.Parameter(torch.full(shape, -10.0, device=sizes.device))
        self.register_buffer("input_mean", torch.zeros(inputs, device=sizes.device))
        self.register_buffer("input_std", torch.ones(inputs, device=sizes.device))
        self.register_buffer("target_mean", torch.zeros(self.targets, device=sizes.device))
        self.register_buffer("target_std", torch.ones(self.targets, device=sizes.device))
        first = torch.arange(config.elites, device=sizes.device)
        self.register_buffer("elites", first.repeat(sizes.stack, 1))

    def fitting(self, rows: Tensor) -> EnsembleFit:
        """Begin a fit to packed transitions [N, O + A + 1 + O + 1] with the target's reward."""
        return EnsembleFit(self, rows)

    def fit(self, rows: Tensor) -> dict[str, float]:
        """Fit in one go, until held-out error stops falling; gives the fit's facts."""
        fitting = self.fitting(rows)
        while not fitting.finished:
            fitting.advance()
        return fitting.facts()

    def _standardise(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [N, O + A] and targets [N, O + 1], standardised; sets the statistics."""
        width, action = self.sizes.observation, self.sizes.action
        inputs = rows[:, : width + action]
        change = rows[:, width + action + 1 : -1] - rows[:, :width]
        targets = torch.cat((change, rows[:, width + action, None]), dim=1)
        self.input_mean, self.input_std = inputs.mean(0), inputs.std(0).clamp_min(1e-6)
        self.target_mean, self.target_std = targets.mean(0), targets.std(0).clamp_min(1e-6)
        inputs = (inputs - self.input_mean) / self.input_std
        return inputs, (targets - self.target_mean) / self.target_std

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        mean, log_variance = self._evaluate(inputs)
        likelihood = losses.gaussian_nll(mean, log_variance, targets).sum()
        spread = 0.01 * (self.max_log_variance.sum() - self.min_log_variance.sum())
        return likelihood + spread / self.targets

    @torch.no_grad()
    def _held_out(self, inputs: Tensor, targets: Tensor, held: Tensor) -> Tensor:
        """Mean squared error of every member on its seed's held-out rows, [S, M]."""
        picked = held.repeat_interleave(self.config.members, 0)
        mean, _ = self._evaluate(at(inputs, picked))
        error = (mean - at(targets, picked)).square().mean((1, 2))
        return error.view(self.sizes.stack, self.config.members)

    def _evaluate(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised mean and log variance of all members, [S M, B, D]."""
        return self._bounded(self.body.evaluate(inputs), slice(None))

    def _bounded(self, output: Tensor, members: slice | Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = output.chunk(2, dim=-1)
        high, low = self.max_log_variance[members], self.min_log_variance[members]
        log_variance = high - nn.functional.softplus(high - raw)
        return mean, low + nn.functional.softplus(log_variance - low)

    @torch.no_grad()
    def ask(self, observation: Tensor, action: Tensor, members: Tensor) -> Moments:
        """Give means and deviations [S, B, O + 1], by members [S, G] of equal groups of rows."""
        (seeds, batch, _), groups = observation.shape, members.shape[1]
        offset = torch.arange(seeds, device=members.device)[:, None] * self.config.members
        chosen = (members + offset).reshape(-1)
        x = self._inputs(observation, action).view(seeds * groups, batch // groups, -1)
        mean, log_variance = self._bounded(self.body.evaluate(x, chosen), chosen)
        return self._raw(mean, log_variance, (seeds, batch))

    @torch.no_grad()
    def predict(self, observation: Tensor, action: Tensor) -> Moments:
        """Give means and deviations of every member, [S, M, B, O + 1], at [S, B, O], [S, B, A]."""
        x = self._inputs(observation, action).repeat_interleave(self.config.members, 0)
        shape = (self.sizes.stack, self.config.members, x.shape[1])
        return self._raw(*self._evaluate(x), shape)

    def _inputs(self, observation: Tensor, action: Tensor) -> Tensor:
        return (torch.cat((observation, action), -1) - self.input_mean) / self.input_std

    def _raw(self, mean: Tensor, log_variance: Tensor, shape: tuple[int, ...]) -> Moments:
        """Mean and standard deviation in raw units, [*shape, O + 1]."""
        mean, std = (one.view(*shape, self.targets) for one in (mean, (0.5 * log_variance).exp()))
        return mean * self.target_std + self.target_mean, std * self.target_std

    def state(self) -> dict[str, Tensor]:
        """The fitted model as tensors."""
        return dict(self.state_dict())

    def load_state(self, state: weights.Tensors) -> None:
        """Take a fitted model back."""
        self.load_state_dict(state)


class EnsembleFit:
    """The fit of the ensembles, update by update; each member keeps the weights of its best epoch.

    Raises:
        UserError: There are fewer than two rows.
    """

    def __init__(self, model: EnsembleModel, rows: Tensor) -> None:
        sizes, config = model.sizes, model.config
        if len(rows) < 2:
            raise UserError("A dynamics model needs at least 2 transitions, one of them held out.")
        self.model, self.config = model, config
        self.inputs, self.targets = model._standardise(rows)
        self.streams = Streams(sizes, "dynamics/batches")
        self.train, self.held = bootstraps(
            len(rows), self.streams, members=config.members, holdout=config.holdout
        )
        # MOPO's likelihood is not halved, as this one is.
        decays = [factor / 2.0 for factor in config.weight_decay]
        self.adam = decayed_adam(model, list(model.body.weights), decays, config.rate)
        self.best = Best(
            list(model.parameters()),
            sizes.stack,
            config.members,
            patience=config.patience,
            improvement=config.improvement,
        )
        step = partial(_descend, model, self.inputs, self.targets, self.adam)
        self.descent = Repeated(step, recorder_for(rows.device))
        self.rows = min(self.train.shape[1], config.epoch_rows or len(rows))
        self.epoch = -(-self.rows // config.batch)  # updates: once over the rows, in a new order
        self.total, self.done, self.finished = config.max_epochs * self.epoch, 0, False
        self._begin()

    def advance(self, most: int = 1) -> int:
        """Take one update; after the last one the model takes its best weights and its elites."""
        del most  # updates are long
        start = self.done % self.epoch * self.config.batch
        self._cool(start)
        picked = self.order[:, start : start + self.config.batch]
        self.descent(self.train.gather(1, picked.repeat_interleave(self.config.members, 0)))
        self.done += 1
        if self.done % self.epoch == 0:
            self._look()
        return 1

    def _begin(self) -> None:
        """Put the rows of an epoch in order."""
        self._before = self.streams.state()
        self.order = self.streams.permutation(self.train.shape[1])[:, : self.rows]

    def _cool(self, start: int) -> None:
        """Set the learning rate as it is after so many rows of the epoch at hand."""
        epochs = self.done // self.epoch + start / self.rows
        left = 1.0 - epochs / self.config.max_epochs
        factor = min(1.0, left / self.config.cooldown) if self.config.cooldown else 1.0
        set_rate(self.adam, self.config.rate * factor)

    def _look(self) -> None:
        """Ask after an epoch whether held-out error still falls; begin the next, or end."""
        self.best.offer(self.model._held_out(self.inputs, self.targets, self.held))
        self.finished = self.done >= self.total or self.best.over
        if self.finished:
            self.best.restore()
            elites = self.best.error.argsort(dim=1)[:, : self.config.elites]
            self.model.elites = elites.contiguous()
        else:
            self._begin()

    def note(self) -> str:
        """How well the members predicted after the last epoch."""
        known = self.done >= self.epoch
        return f"held-out error {float(self.best.error.mean()):.4f}" if known else ""

    def facts(self) -> dict[str, float]:
        """Give `epochs`, and `holdout`: the elites' mean held-out squared error, standardised."""
        elite = torch.gather(self.best.error, 1, self.model.elites).mean()
        return {"epochs": float(self.done // self.epoch), "holdout": float(elite)}

    def state(self) -> weights.Tensors:
        """Everything needed to go on exactly."""
        return {
            **weights.nested("model", self.model.state()),
            **weights.nested("adam", weights.optimiser_state(self.adam)),
            **weights.nested("streams", self._before),
            **self.best.state(),
            "done": torch.tensor(self.done),
        }

    def load_state(self, state: weights.Tensors) -> None:
        """Go on from what `state` gave."""
        self.model.load_state(weights.under("model", state))
        weights.load_optimiser(self.adam, weights.under("adam", state))
        self.streams.load_state(weights.under("streams", state))
        self._begin()
        self.best.load_state(state)
        self.done = int(state["done"])
        self.finished = self.done >= self.total or self.best.over


def _descend(
    model: EnsembleModel, inputs: Tensor, targets: Tensor, adam: torch.optim.Adam, picked: Tensor
) -> None:
    """Take one step on rows [S M, B]."""
    loss = model._loss(at(inputs, picked), at(targets, picked))
    descend(loss, model.parameters(), adam)
