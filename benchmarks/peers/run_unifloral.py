"""Unifloral's side of each measurement: `python run_unifloral.py FOLDER THREADS`.

Its files are programs: they import gym, d4rl, wandb and tyro for their command line, which none of
what is measured uses, so empty modules stand in for them. They were written for an older jax, whose
`jax.tree_map` is `jax.tree.map` today. Its networks have three hidden layers; the number is changed
to two while its file is read, so that all contestants do the same work.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

FOLDER, THREADS = Path(sys.argv[1]), int(sys.argv[2])
# XLA takes a thread for every core it sees, and has no option for fewer.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import serving  # noqa: E402

if not hasattr(jax, "tree_map"):
    jax.tree_map = jax.tree.map
for absent in ("d4rl", "gym", "wandb", "tyro"):
    serving.stand_in(absent)
sys.path.insert(0, str(FOLDER / "algorithms"))
FLAGS = os.environ.get("XLA_FLAGS")

import dynamics as peer  # noqa: E402
from termination_fns import get_termination_fn  # noqa: E402


def narrowed(name: str) -> Any:
    """Its module `name` with two hidden layers in place of three."""
    path = FOLDER / "algorithms" / f"{name}.py"
    text = path.read_text("utf-8")
    if text.count("in range(3)") != 2:
        raise ValueError(f"{path} is not as expected: its networks' depth is not found")
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(text.replace("in range(3)", "in range(2)"), str(path), "exec"), vars(module))
    return module


mopo = narrowed("mopo")
if FLAGS is None:
    os.environ.pop("XLA_FLAGS", None)  # the peer's is for GPUs


class Side:
    """Its learner, model and buffer, as its program builds them."""

    def build(
        self,
        data: str,
        robot: str,
        *,
        seed: int = 0,
        seeds: int = 1,
        starts: int = 50_000,
        horizon: int = 5,
        penalty: float = 1.0,
        rate: float = 1e-3,
        batch: int = 256,
        **unused: Any,
    ) -> None:
        """Make everything anew; the pool is full of noise."""
        self.arrays, self.seeds, self.robot = serving.load(data), seeds, robot
        self.starts, self.horizon, self.penalty = starts, horizon, penalty
        self.observation = self.arrays["observations"].shape[1]
        self.action = self.arrays["actions"].shape[1]
        self.data = self._transitions()
        self.args = mopo.Args(num_critics=2, rollout_interval=10**9, rollout_length=horizon)
        self.fitting = peer.Args(lr=rate, batch_size=batch)
        self.net = peer.EnsembleDynamicsModel(
            obs_dim=self.observation,
            action_dim=self.action,
            num_ensemble=self.fitting.num_ensemble,
            n_layers=self.fitting.n_layers,
            layer_size=self.fitting.layer_size,
        )
        self.key = jax.random.key(seed)
        self.actor = mopo.TanhGaussianActor(self.action)
        self.critics, self.temperature = mopo.VectorQ(2), mopo.EntropyCoef()
        draws = np.random.default_rng(seed)
        pool = jax.tree.map(
            lambda x: jnp.asarray(
                draws.standard_normal((starts * horizon * 5, *x.shape[1:]), dtype=np.float32)
            ),
            self.data,
        )
        self.pool = pool._replace(done=jnp.zeros(len(pool.reward)))
        keys = jax.random.split(self._next(), seeds)
        agents = jax.vmap(self._agent)(keys) if seeds > 1 else self._agent(keys[0])
        # Without weak types, which would be compiled for anew after the first call.
        self.agents = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), agents)
        self.scans: dict[int, Any] = {}
        self.rollout_fn = self.roller = None

    def _next(self) -> Any:
        self.key, found = jax.random.split(self.key)
        return found

    def _transitions(self) -> Any:
        a = self.arrays
        return peer.Transition(
            obs=jnp.asarray(a["observations"]),
            action=jnp.asarray(a["actions"]),
            reward=jnp.asarray(a["rewards"]),
            next_obs=jnp.asarray(a["next_observations"]),
            next_action=jnp.roll(jnp.asarray(a["actions"]), -1, axis=0),
            done=jnp.asarray(a["terminals"], jnp.float32),
        )

    def _agent(self, key: Any) -> Any:
        one, two, three = jax.random.split(key, 3)
        state, action = jnp.zeros(self.observation), jnp.zeros(self.action)
        make = mopo.create_train_state
        return mopo.AgentTrainState(
            actor=make(self.args, one, self.actor, [state]),
            vec_q=make(self.args, two, self.critics, [state, action]),
            vec_q_target=make(self.args, two, self.critics, [state, action]),
            alpha=make(self.args, three, self.temperature, []),
        )

    def update(self, count: int) -> float:
        """Take policy updates on sampled batches, jitted as one; gives seconds."""
        if count not in self.scans:
            step = mopo.make_train_step(
                self.args,
                self.actor.apply,
                self.critics.apply,
                self.temperature.apply,
                self.data,
                lambda key, policy, pool: pool,
            )

            def run(key: Any, agent: Any, pool: Any) -> Any:
                # The pool is updated by rollouts alone, so it goes in and does not come out.
                (_, agent, _), losses = jax.lax.scan(step, (key, agent, pool), None, count)
                return agent, losses["critic_loss"][-1]

            many = jax.vmap(run, in_axes=(0, 0, None)) if self.seeds > 1 else run
            self.scans[count] = jax.jit(many)
            self._scan(count)  # compiles
        start = time.perf_counter()
        self._scan(count)
        return time.perf_counter() - start

    def _scan(self, count: int) -> None:
        keys = jax.random.split(self._next(), self.seeds)
        key = keys if self.seeds > 1 else keys[0]
        self.agents, loss = self.scans[count](key, self.agents, self.pool)
        jax.block_until_ready(loss)

    def fit(self, epochs: int) -> float:
        """Fit the model a little, so that rollouts are possible; gives seconds."""
        start = time.perf_counter()
        state, elites = self._train(epochs, lambda *_: None)
        rule = get_termination_fn(self.robot)
        model = peer.EnsembleDynamics(self.net, state.params, np.asarray(elites), rule)
        model.dataset = self.data
        self.rollout_fn = model.make_rollout_fn(
            batch_size=self.starts,
            rollout_length=self.horizon,
            step_penalty_coef=self.penalty,
        )
        return time.perf_counter() - start

    def rollout(self, starts: int) -> float:
        """Roll out once and write the buffer; gives transitions per second, ended ones too."""
        assert starts == self.starts
        if self.roller is None:

            def roll(key: Any, params: Any, pool: Any) -> Any:
                def act(observation: Any, noise: Any) -> Any:
                    return self.actor.apply(params, observation).sample(seed=noise)

                return self.rollout_fn(key, act, pool)

            self.roller = jax.jit(roll)
            self._roll()  # compiles
        start = time.perf_counter()
        self._roll()
        return starts * self.horizon / (time.perf_counter() - start)

    def _roll(self) -> None:
        assert self.roller is not None
        found = self.roller(self._next(), self.agents.actor.params, self.pool)
        jax.block_until_ready(found.obs)
        self.pool = found

    def epoch(self, starts: int, updates: int) -> float:
        """One rollout and so many updates; gives seconds."""
        count = starts * self.horizon
        return count / self.rollout(starts) + self.update(updates)

    def batches(self, count: int, size: int) -> float:
        """Seconds a batch of an epoch of the ensemble's training, its small validation included."""
        self.fitting.batch_size = size
        rows = len(self.arrays["rewards"])
        if rows > count * size * 5 // 4:
            self.arrays = {k: a[: count * size * 5 // 4] for k, a in self.arrays.items()}
            self.data = self._transitions()
        marks: list[float] = []
        self._train(2, lambda seconds, *_: marks.append(seconds))
        trained = int(0.8 * len(self.arrays["rewards"])) // size
        return (marks[-1] - marks[-2]) / trained

    def curve(self, held: str, batch: int, epochs: int, enough: float = 0.0) -> dict[str, Any]:
        """Fit; held-out error after each epoch, and when that was, until it is low enough."""
        self.fitting.batch_size = batch
        rows, scale = serving.load(held), serving.scale_of(self.arrays)
        inputs = jnp.concatenate((rows["observations"], rows["actions"]), axis=1)
        predict = jax.jit(lambda params: self.net.apply(params, inputs)[0])
        points: list[list[float]] = []

        def look(seconds: float, state: Any) -> bool:
            mean = np.asarray(predict(state.params))
            points.append([seconds, serving.held_out_error(mean, rows, scale)])
            return points[-1][1] <= enough

        self._train(epochs, look)
        return {"points": points, "stop": points[-1][0], "final": points[-1][1]}

    def _train(self, epochs: int, look: Any) -> tuple[Any, Any]:
        """Its training, epoch by epoch: its loop is replaced by one that stops to look.

        Compilation and looks do not count; `look` gets the seconds and the state, and may end it.
        """
        self.fitting.num_epochs = epochs
        rows = jnp.zeros(self.observation + self.action)
        state = peer.create_train_state(self.fitting, self._next(), self.net, rows)

        def loop(first: int, last: int, body: Any, carry: Any) -> Any:
            step = jax.jit(body).lower(first, carry).compile()
            seconds = 0.0
            for index in range(first, last):
                start = time.perf_counter()
                carry = jax.block_until_ready(step(index, carry))
                seconds += time.perf_counter() - start
                if look(seconds, carry[1]):
                    break
            return carry

        own = peer.jax
        peer.jax = Proxy(jax, lax=Proxy(jax.lax, fori_loop=loop))
        try:
            return peer.train_dynamics_model(state, self.fitting, self.data, self._next())
        finally:
            peer.jax = own


class Proxy:
    """A module with some names replaced."""

    def __init__(self, module: Any, **replaced: Any) -> None:
        self.__dict__.update(replaced, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def versions() -> dict[str, str]:
    """What it runs on."""
    return {"jax": jax.__version__, "devices": str(jax.devices())}


def main() -> None:
    """Serve."""
    side = Side()
    serving.serve(
        {
            "versions": versions,
            "build": side.build,
            "update": side.update,
            "fit": side.fit,
            "rollout": side.rollout,
            "epoch": side.epoch,
            "batches": side.batches,
            "curve": side.curve,
        }
    )


if __name__ == "__main__":
    main()
