"""How fast environments step: our batch, Gymnasium's vector environments and EnvPool.

Every contestant plays the same robot with uniformly random actions and starts an episode anew when
one ends; each is timed once a round, in turn, and the median of the rounds counts. The yardstick is
open loop: the physics alone, five control periods at a time, from the very states that our batch
passed through, on as many threads. What our batch adds to that is observations, rewards, ends and
resets.

    python benchmarks/environments.py [--rounds 5] [--steps 300] [--envs 64] [--quick] [--json FILE]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from mujoco.rollout import Rollout
from numpy.typing import NDArray
from rounds import Comparison, machine

from mabe_transfer.batched import BatchedEnv

ROBOTS = {"hopper": "Hopper-v5", "walker2d": "Walker2d-v5", "halfcheetah": "HalfCheetah-v5"}
OPEN_LOOP, OURS = "mujoco.rollout, open loop", "mabe-transfer, batched"
TARGET = 0.85  # of the open-loop rate
PERIODS = 5  # control periods that open loop runs at a time

Actions = NDArray[np.float32]
Round = Callable[[], float]  # plays some steps and gives steps per second


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much each contestant plays in a round."""

    envs: int
    steps: int
    rounds: int
    threads: int


def draw(size: Size, count: int, width: int) -> Actions:
    """Random actions, [steps, count, width]; fewer copies play longer, a quarter of the work."""
    steps = size.steps * max(1, size.envs // (4 * count))
    draws = np.random.default_rng(0)
    return draws.uniform(-1.0, 1.0, (steps, count, width)).astype(np.float32)


def rate(step: Callable[[Any], object], actions: Actions) -> float:
    """Play actions and give environment steps per second."""
    start = time.perf_counter()
    for action in actions:
        step(action)
    return float(actions.shape[0] * actions.shape[1] / (time.perf_counter() - start))


def ours(name: str, size: Size) -> Round:
    """Our batched environment."""
    env = BatchedEnv(name, size.envs, threads=size.threads)
    env.reset(seed=0)
    actions = draw(size, size.envs, env.simulation.model.nu)
    return lambda: rate(env.step, actions)


def open_loop(name: str, size: Size) -> Round:
    """The physics alone, from states that our batch passed through."""
    env = BatchedEnv(name, size.envs, threads=size.threads)
    env.reset(seed=0)
    simulation = env.simulation
    model, frames = simulation.model, simulation.domain.robot.frame_skip
    actions = draw(size, size.envs, model.nu)
    starts, controls = [], []
    for step, action in enumerate(actions):
        if step % PERIODS == 0:
            still = np.zeros((size.envs, 1))
            starts.append(np.concatenate((still, simulation.qpos, simulation.qvel), axis=1))
            ahead = actions[step : step + PERIODS].swapaxes(0, 1).astype(np.float64)
            controls.append(np.repeat(ahead, frames, axis=1))
        env.step(action)
    data = [mujoco.MjData(model) for _ in range(size.threads)]
    pool = Rollout(nthread=size.threads if size.threads > 1 else 0)
    states, control = np.concatenate(starts), np.concatenate(controls)
    found = np.empty((len(states), PERIODS * frames, states.shape[1]))
    sensors = np.empty((len(states), PERIODS * frames, model.nsensordata))

    def play() -> float:
        start = time.perf_counter()
        pool.rollout(
            [model] * len(states),
            data,
            states,
            control,
            skip_checks=True,
            nstep=PERIODS * frames,
            initial_warmstart=np.zeros((len(states), model.nv)),
            state=found,
            sensordata=sensors,
        )
        return len(states) * PERIODS / (time.perf_counter() - start)

    return play


def single(name: str, size: Size) -> Round:
    """Gymnasium's environment, one at a time."""
    env = gymnasium.make(ROBOTS[name])
    env.reset(seed=0)
    actions = draw(size, 1, *(env.action_space.shape or ()))

    def step(action: Actions) -> None:
        _, _, terminated, truncated, _ = env.step(action[0])
        if terminated or truncated:
            env.reset()

    return lambda: rate(step, actions)


def vector(kind: type[SyncVectorEnv | AsyncVectorEnv], count: int) -> Callable[[str, Size], Round]:
    """One of Gymnasium's vector environments."""

    def contestant(name: str, size: Size) -> Round:
        env = kind([lambda: gymnasium.make(ROBOTS[name])] * count)
        env.reset(seed=0)
        actions = draw(size, count, *(env.single_action_space.shape or ()))
        return lambda: rate(env.step, actions)

    return contestant


def envpool(name: str, size: Size) -> Round:
    """EnvPool, with as many threads."""
    import envpool as peer

    env = peer.make_gymnasium(ROBOTS[name], num_envs=size.envs, num_threads=size.threads, seed=0)
    env.reset()
    actions = draw(size, size.envs, *env.action_space.shape).astype(env.action_space.dtype)
    return lambda: rate(env.step, actions)


def contestants(size: Size) -> dict[str, Callable[[str, Size], Round]]:
    """Everyone who can play here, by name."""
    workers = 2 * size.threads
    found: dict[str, Callable[[str, Size], Round]] = {
        OPEN_LOOP: open_loop,
        OURS: ours,
        "Gymnasium, single": single,
        f"Gymnasium, Sync x {size.envs}": vector(SyncVectorEnv, size.envs),
        f"Gymnasium, Async x {workers}": vector(AsyncVectorEnv, workers),
    }
    try:
        import envpool as peer
    except ImportError as error:
        print(f"EnvPool is left out: {error}", file=sys.stderr)
        return found
    if set(ROBOTS.values()) <= set(peer.list_all_envs()):
        found[f"EnvPool {version('envpool')} x {size.envs}"] = envpool
    return found


def measure(name: str, size: Size) -> dict[str, list[float]]:
    """Steps per second of each contestant in each round."""
    rounds = {who: enter(name, size) for who, enter in contestants(size).items()}
    rates: dict[str, list[float]] = {who: [] for who in rounds}
    for turn in range(size.rounds + 1):
        for who, play in rounds.items():
            found = play()
            if turn:  # the first one warms up
                rates[who].append(found)
    return rates


def summary(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Median, range and share of open loop, by contestant."""
    yardstick = statistics.median(rates[OPEN_LOOP])
    return {
        who: {
            "median": statistics.median(found),
            "lowest": min(found),
            "highest": max(found),
            "of_open_loop": statistics.median(found) / yardstick,
        }
        for who, found in rates.items()
    }


def compared(name: str, rates: dict[str, list[float]]) -> list[Comparison]:
    """One robot's rows of the table that `report.py` prints."""
    pool = next((who for who in rates if who.startswith("EnvPool")), "")
    sides = (("`mujoco.rollout`, open loop", OPEN_LOOP), ("EnvPool", pool))
    return [
        Comparison(
            key="environments",
            against=against,
            unit="steps/s",
            ours=tuple(rates[OURS]),
            theirs=tuple(rates.get(who, ())),
            skipped="" if who else "EnvPool is not installed or lacks a robot",
            case=name,
        )
        for against, who in sides
    ]


def show(name: str, rows: dict[str, Any]) -> None:
    """Print one robot's table."""
    print(f"\n{name:28} steps/s      (lowest .. highest)  of open loop")
    for who, row in rows.items():
        spread = f"({row['lowest']:,.0f} .. {row['highest']:,.0f})"
        print(f"{who:28} {row['median']:>7,.0f} {spread:>24} {row['of_open_loop']:>13.2f}")


def main() -> None:
    """Measure, print a table and perhaps write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="steps of each copy in a round")
    parser.add_argument("--envs", type=int, default=64, help="copies in a batch")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="60 steps a round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.rounds < 5:
        parser.error("a median takes at least 5 rounds")
    steps = 60 if given.quick else given.steps
    size = Size(envs=given.envs, steps=steps, rounds=given.rounds, threads=given.threads)
    target = given.json.resolve() if given.json else None
    robots, rates = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # MuJoCo logs a deprecation there
        for name in ROBOTS:
            rates[name] = measure(name, size)
            robots[name] = summary(rates[name])
            show(name, robots[name])
        os.chdir("/")
    short = [name for name in ROBOTS if robots[name][OURS]["of_open_loop"] < TARGET]
    print(
        f"\nTarget, {TARGET} of open loop: " + (f"missed by {', '.join(short)}" if short else "met")
    )
    if target:
        rows = [row.to_json() for name in ROBOTS for row in compared(name, rates[name])]
        facts = {
            "script": "environments",
            "rows": rows,
            "rounds": size.rounds,
            **machine(),
            "versions": {p: version(p) for p in ("mujoco", "gymnasium", "numpy")},
            "size": {"envs": size.envs, "steps": size.steps, "rounds": size.rounds},
            "threads": size.threads,
            "robots": robots,
        }
        target.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
