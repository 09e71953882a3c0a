"""OfflineRL-Kit's side of each measurement: `python run_offlinerlkit.py FOLDER THREADS`.

Its modules import `gym`, which is not installed and not needed: of its old interface, only `Env`
and `Space` appear in annotations, and one unused class names a MuJoCo environment.
"""

from __future__ import annotations

import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import serving
import torch

FOLDER, THREADS = Path(sys.argv[1]), int(sys.argv[2])


class Nothing:
    """What a peer names and never uses."""


serving.stand_in("gym", Env=Nothing, spaces=types.SimpleNamespace(Space=Nothing))
serving.stand_in("gym.envs")
serving.stand_in("gym.envs.mujoco")
serving.stand_in("gym.envs.mujoco.mujoco_env", MujocoEnv=Nothing)
sys.path.insert(0, str(FOLDER))

from offlinerlkit.buffer import ReplayBuffer  # noqa: E402
from offlinerlkit.dynamics import EnsembleDynamics  # noqa: E402
from offlinerlkit.modules import (  # noqa: E402
    ActorProb,
    Critic,
    EnsembleDynamicsModel,
    TanhDiagGaussian,
)
from offlinerlkit.nets import MLP  # noqa: E402
from offlinerlkit.policy import MOPOPolicy  # noqa: E402
from offlinerlkit.policy_trainer import MBPolicyTrainer  # noqa: E402
from offlinerlkit.utils.logger import Logger  # noqa: E402
from offlinerlkit.utils.scaler import StandardScaler  # noqa: E402
from offlinerlkit.utils.termination_fns import get_termination_fn  # noqa: E402

HIDDEN = [256, 256]
DYNAMICS = [200, 200, 200, 200]
DECAY = [2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4]
BATCH, REAL = 256, 12


class Side:
    """Its policy, model and buffers, as its example builds them."""

    def build(
        self,
        data: str,
        robot: str,
        *,
        seed: int = 0,
        starts: int = 50_000,
        horizon: int = 5,
        penalty: float = 1.0,
        rate: float = 1e-3,
        device: str = "cpu",
    ) -> None:
        """Make everything anew; the pool is full of noise."""
        np.random.seed(seed)  # noqa: NPY002 - the peer draws from NumPy's global stream
        torch.manual_seed(seed)
        self.arrays, self.device, self.horizon = serving.load(data), device, horizon
        observation = self.arrays["observations"].shape[1]
        action = self.arrays["actions"].shape[1]
        self.dynamics = dynamics(observation, action, robot, penalty, rate, device)
        self.policy = policy(self.dynamics, observation, action, device)
        self.real = buffer(len(self.arrays["rewards"]), observation, action, device)
        self.real.load_dataset(self.arrays)
        self.pool = buffer(starts * horizon * 5, observation, action, device)
        draws = np.random.default_rng(seed)
        for name in ("observations", "next_observations", "actions", "rewards"):
            array = getattr(self.pool, name)
            array[:] = draws.standard_normal(array.shape, dtype=np.float32)
        self.pool._size = len(self.pool.rewards)

    def update(self, count: int) -> float:
        """Take policy updates on sampled batches; gives seconds."""
        start = time.perf_counter()
        for _ in range(count):
            real, model = self.real.sample(REAL), self.pool.sample(BATCH - REAL)
            self.policy.learn({"real": real, "fake": model})
        return time.perf_counter() - start

    def fit(self, epochs: int) -> float:
        """Fit the model a little, so that rollouts are possible; gives seconds."""
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            logger = Logger(folder, {})
            self.dynamics.train(self.real.sample_all(), logger, max_epochs=epochs)
        return time.perf_counter() - start

    def rollout(self, starts: int) -> float:
        """Roll out once and write the buffer; gives transitions per second."""
        start = time.perf_counter()
        count = self._roll(starts)
        return count / (time.perf_counter() - start)

    def epoch(self, starts: int, updates: int) -> float:
        """One rollout and so many updates; gives seconds."""
        start = time.perf_counter()
        self._roll(starts)
        self.update(updates)
        return time.perf_counter() - start

    def _roll(self, starts: int) -> int:
        observations = self.real.sample(starts)["observations"].cpu().numpy()
        transitions, facts = self.policy.rollout(observations, self.horizon)
        self.pool.add_batch(**transitions)
        return int(facts["num_transitions"])

    def batches(self, count: int, size: int) -> float:
        """Train the ensemble on batches; gives seconds a batch."""
        inputs, targets = self.dynamics.format_samples_for_training(self._columns())
        self.dynamics.scaler.fit(inputs)
        inputs = self.dynamics.scaler.transform(inputs)
        members = self.dynamics.model.num_ensemble
        picked = np.random.default_rng(0).integers(len(inputs), size=(members, count * size))
        inputs, targets = inputs[picked], targets[picked]
        start = time.perf_counter()
        self.dynamics.learn(inputs, targets, size)
        return (time.perf_counter() - start) / count

    def curve(self, held: str, batch: int, epochs: int) -> dict[str, Any]:
        """Fit until it stops by itself; held-out error after each epoch, and when that was.

        Its own check after an epoch is where we look; our look does not count as its time.
        """
        rows, scale = serving.load(held), serving.scale_of(self.arrays)
        inputs = np.concatenate((rows["observations"], rows["actions"]), axis=1)
        points: list[list[float]] = []
        own, paused, start = self.dynamics.validate, 0.0, time.perf_counter()

        @torch.no_grad()
        def error(members: Any) -> float:
            mean, _ = self.dynamics.model(self.dynamics.scaler.transform(inputs))
            return serving.held_out_error(mean.cpu().numpy()[members], rows, scale)

        def validate(*given: Any) -> Any:
            nonlocal paused
            found = own(*given)
            now = time.perf_counter()
            points.append([now - start - paused, error(slice(None))])
            paused += time.perf_counter() - now
            return found

        self.dynamics.validate = validate
        with tempfile.TemporaryDirectory() as folder:
            self.dynamics.train(
                self._columns(), Logger(folder, {}), max_epochs=epochs, batch_size=batch
            )
        stop = time.perf_counter() - start - paused
        self.dynamics.validate = own
        elites = self.dynamics.model.elites.data.cpu().numpy()
        return {"points": points, "stop": stop, "final": error(elites)}

    def train(self, domain: str, epochs: int, fit_epochs: int | None) -> dict[str, Any]:
        """Its whole run, from the model's fit to the last evaluation, by its own trainer."""
        played = Played(domain)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            logger = Logger(folder, {})
            self.dynamics.train(self.real.sample_all(), logger, max_epochs=fit_epochs)
            self.pool._size = self.pool._ptr = 0
            rollouts = (1000, self.pool._max_size // self.horizon // 5, self.horizon)
            trainer = MBPolicyTrainer(
                policy=self.policy,
                eval_env=played,
                real_buffer=self.real,
                fake_buffer=self.pool,
                logger=logger,
                rollout_setting=rollouts,
                epoch=epochs,
                step_per_epoch=1000,
                batch_size=BATCH,
                real_ratio=0.05,
                eval_episodes=10,
            )
            played.looked_at(trainer, started)
            trainer.train()
        return {"points": played.points, "stop": time.perf_counter() - started}

    def _columns(self) -> dict[str, Any]:
        return {**self.arrays, "rewards": self.arrays["rewards"].reshape(-1, 1)}


class Played:
    """An environment of ours in gym's old clothes, and a note of every evaluation in it."""

    def __init__(self, domain: str) -> None:
        from mabe_transfer.envs import make

        self.env, self.points = make(domain), list[list[float]]()
        self.episodes = 0

    def reset(self) -> Any:
        """Begin an episode."""
        self.episodes += 1
        return self.env.reset(seed=1_000_000 + self.episodes)[0].astype(np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        """Take a step."""
        found, reward, terminated, truncated, _ = self.env.step(action)
        return found.astype(np.float32), float(reward), terminated or truncated, {}

    def get_normalized_score(self, value: float) -> float:
        """Returns stay returns."""
        return float(value)

    def looked_at(self, trainer: Any, started: float) -> None:
        """Note the mean return of every evaluation and when it was there."""
        own = trainer._evaluate

        def evaluate() -> Any:
            found = own()
            mean = float(np.mean(found["eval/episode_reward"]))
            self.points.append([time.perf_counter() - started, mean])
            return found

        trainer._evaluate = evaluate


def dynamics(
    observation: int, action: int, robot: str, penalty: float, rate: float, device: str
) -> Any:
    """Its model."""
    model = EnsembleDynamicsModel(
        obs_dim=observation,
        action_dim=action,
        hidden_dims=DYNAMICS,
        num_ensemble=7,
        num_elites=5,
        weight_decays=DECAY,
        device=device,
    )
    adam = torch.optim.Adam(model.parameters(), lr=rate)
    rule = get_termination_fn(task=robot)
    return EnsembleDynamics(model, adam, StandardScaler(), rule, penalty_coef=penalty)


def policy(dynamics: Any, observation: int, action: int, device: str) -> Any:
    """Its MOPO with the temperature learned."""
    critics = [Critic(MLP(observation + action, HIDDEN), device) for _ in range(2)]
    body = MLP(observation, HIDDEN)
    head = TanhDiagGaussian(body.output_dim, action, unbounded=True, conditioned_sigma=True)
    actor = ActorProb(body, head, device)
    temperature = torch.zeros(1, requires_grad=True, device=device)
    return MOPOPolicy(
        dynamics,
        actor,
        *critics,
        torch.optim.Adam(actor.parameters(), lr=1e-4),
        *(torch.optim.Adam(critic.parameters(), lr=3e-4) for critic in critics),
        alpha=(-action, temperature, torch.optim.Adam([temperature], lr=1e-4)),
    )


def buffer(rows: int, observation: int, action: int, device: str) -> Any:
    """One of its buffers."""
    return ReplayBuffer(rows, (observation,), np.float32, action, np.float32, device)


def main() -> None:
    """Serve."""
    torch.set_num_threads(THREADS)
    side = Side()
    serving.serve(
        {
            "versions": lambda: {"torch": torch.__version__, "numpy": np.__version__},
            "build": side.build,
            "update": side.update,
            "fit": side.fit,
            "rollout": side.rollout,
            "epoch": side.epoch,
            "batches": side.batches,
            "curve": side.curve,
            "train": side.train,
        }
    )


if __name__ == "__main__":
    main()
