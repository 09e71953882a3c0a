"""Online SAC on batched environments: where behaviour policies come from.

Several domains of one robot are trained as one stack: domain k is slice k of every tensor, with
replay and simulations of its own. The run folder holds the replay as memory-mapped arrays that
grow in place, so that a checkpoint is small and an interrupted training goes on exactly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mabe_transfer import bounds, runs, weights
from mabe_transfer.behaviour import Ladder, Rung
from mabe_transfer.config import Json, fingerprint, from_json, to_json
from mabe_transfer.domains import unmeasured
from mabe_transfer.errors import Diverged, Interrupted, UserError
from mabe_transfer.feeding import Fed
from mabe_transfer.parts.regulariser import Entropy
from mabe_transfer.parts.sac import Sac
from mabe_transfer.progress import Work
from mabe_transfer.records import Records
from mabe_transfer.streams import Sizes, Streams
from mabe_transfer.worlds import world

if TYPE_CHECKING:
    from pathlib import Path

    from mabe_transfer.domains import Domain

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
CHECKPOINTS = 4  # from one rung to the next


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineConfig:
    """How behaviour policies are trained.

    Attributes:
        sac: The learner; the same part as everywhere.
        entropy: Its regulariser.
        env_steps: Environment steps of each domain.
        envs: Copies of each domain stepped together.
        env_steps_per_update: Environment steps of a domain for each of its gradient steps.
        warmup: Steps of uniformly random actions before the first update.
        batch: Transitions of an update.
        rungs: Policies kept, evenly spaced.
        episodes: Episodes that measure a rung.
    """

    sac: Sac = Sac()
    entropy: Entropy = Entropy(initial=0.2)
    env_steps: int = 320_000
    envs: int = 32
    env_steps_per_update: int = 4
    warmup: int = 6_400
    batch: int = 128
    rungs: int = 10
    episodes: int = 8

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and a training that ends before every copy has moved."""
        bounds.check(self)
        if self.env_steps < self.envs:
            raise UserError(
                f"env_steps must be at least envs, one step of each copy, not {self.env_steps:,} "
                f"of {self.envs:,}."
            )


class OnlineSac:
    """A resumable training of one SAC agent for each of several domains of one robot.

    Whoever makes one holds the folder's lock: files are made, and read, from here on.

    Args:
        domains: Domains of one native robot.
        config: How to train.
        seed: Seeds every stream; domain k uses seed + k.
        folder: The run folder; a matching one resumes.

    Raises:
        UserError: The robots differ, or the folder holds another training.
    """

    def __init__(
        self, domains: list[Domain], config: OnlineConfig, *, seed: int, folder: Path
    ) -> None:
        if len({domain.robot.name for domain in domains}) != 1:
            raise UserError("Domains trained together must be of one robot, so that sizes agree.")
        if len({domain.name for domain in domains}) != len(domains):
            raise UserError("Domains trained together must differ: each has a replay by its name.")
        self.domains, self.config, self.folder = domains, config, folder
        runs.claim(
            folder,
            {
                "domains": [unmeasured(domain) for domain in domains],
                "config": config,
                "seed": seed,
            },
        )
        self.simulations = [world(domain, config.envs) for domain in domains]
        first = self.simulations[0]
        observation, action = first.observation_size, first.action_size
        seeds = tuple(seed + index for index in range(len(domains)))
        self.sizes = Sizes(seeds=seeds, observation=observation, action=action)
        self.learner = config.sac.build(self.sizes, config.entropy.build(self.sizes, None))
        self.descent = Fed(self.learner, self.sizes, config.batch)
        self.sampler = Streams(self.sizes, "replay")
        self.explorer = Streams(self.sizes, "exploration")
        self.vector_step = 0
        self.total = config.env_steps // config.envs
        self.records = [
            Records(folder / "replay" / domain.name, self.total, config.envs, simulation)
            for domain, simulation in zip(domains, self.simulations, strict=True)
        ]
        self.rungs: list[list[Rung]] = [[] for _ in domains]
        self.kept: list[dict[str, Tensor]] = []
        for index, simulation in enumerate(self.simulations):
            start = seeds[index] * 1_000_003
            simulation.seed([start + copy for copy in range(config.envs)])
        if (folder / "checkpoint.safetensors").is_file():
            self._resume()
        runs.forget(folder / "metrics.jsonl", "env_steps", self.vector_step * config.envs)

    def run(self, until: int | None = None) -> list[Ladder]:
        """Train to the end, or to `until` environment steps, and give each domain's ladder.

        Raises:
            Diverged: A policy's numbers are no numbers any more.
            Interrupted: The user asked to stop; the state is saved.
        """
        total = min(self.total, (until or self.config.env_steps) // self.config.envs)
        names = ", ".join(domain.name for domain in self.domains)
        every = max(1, self.total // (self.config.rungs * CHECKPOINTS))
        done = self.vector_step * self.config.envs
        title = f"SAC on {names}"
        with (
            runs.interruptible() as stop,
            Work(title, total * self.config.envs, "steps", done=done) as work,
        ):
            while self.vector_step < total:
                self._act()
                self._learn()
                self.vector_step += 1
                note = ""
                if self._is_rung(self.vector_step):
                    note = "returns " + " ".join(f"{mean:,.0f}" for mean in self._keep_rung())
                if note or stop.asked or self.vector_step % every == 0:
                    self._checkpoint()
                work.advance(self.config.envs, note)
                if stop.asked:
                    raise Interrupted(
                        f"Stopped at {work.done:,} steps; the same command resumes there "
                        f"({self.folder})."
                    )
        self._checkpoint()
        return self.ladders()

    def ladders(self) -> list[Ladder]:
        """The policies kept so far, one ladder a domain."""
        provenance: Json = {"algorithm": "sac", "config": to_json(self.config)}
        names = list(self.kept[0]) if self.kept else []
        return [
            Ladder(
                domain,
                tuple(self.rungs[k]),
                {name: torch.stack([kept[name][k] for kept in self.kept]) for name in names},
                {**provenance, "seed": self.sizes.seeds[k]},
            )
            for k, domain in enumerate(self.domains)
        ]

    def _is_rung(self, step: int) -> bool:
        """Whether a policy is kept after so many vector steps: evenly spaced, the last at the end.

        A training of fewer steps than rungs keeps one a step.
        """
        rungs = self.config.rungs
        return step * rungs // self.total > (step - 1) * rungs // self.total

    def _act(self) -> None:
        """Step every simulation once and record what it gave."""
        envs, action = self.config.envs, self.sizes.action
        noise = self.explorer.normal(envs, action)
        if self.vector_step * envs < self.config.warmup:
            actions = 2.0 * torch.special.ndtr(noise) - 1.0
        else:
            observation = np.stack([s.observation for s in self.simulations])
            actions = self.learner.act(torch.from_numpy(observation).float(), noise)
        for index, simulation in enumerate(self.simulations):
            step = simulation.step(actions[index].numpy())
            self.records[index].write(self.vector_step, step)
            simulation.reset(np.flatnonzero(step.terminated | step.truncated))

    def _learn(self) -> None:
        """Take the gradient steps that this vector step has earned."""
        config = self.config
        if (self.vector_step + 1) * config.envs <= config.warmup:
            return
        for _ in range(max(1, config.envs // config.env_steps_per_update)):
            rows = (self.vector_step + 1) * config.envs
            picked = self.sampler.integers(rows, config.batch)
            batch = torch.stack([r.rows(p) for r, p in zip(self.records, picked, strict=True)])
            self.descent.update(batch)

    def _keep_rung(self) -> list[float]:
        """Measure the policies of now and keep them."""
        actor = {
            name.removeprefix("body."): tensor.detach().clone()
            for name, tensor in self.learner.actor.state_dict().items()
        }
        if weights.not_finite(actor) is not None:
            raise Diverged(
                f"Training diverged: a policy is not finite after "
                f"{self.vector_step * self.config.envs:,} steps ({self.folder})."
            )
        self.kept.append(actor)
        returns = [self._measure(index) for index in range(len(self.domains))]
        for index, measured in enumerate(returns):
            mean, std = float(measured.mean()), float(measured.std())
            steps = self.vector_step * self.config.envs
            self.rungs[index].append(
                Rung(env_steps=steps, mean=mean, std=std, episodes=len(measured))
            )
        with (self.folder / "metrics.jsonl").open("a") as file:
            row = {
                "env_steps": self.vector_step * self.config.envs,
                "returns": {
                    domain.name: float(r.mean())
                    for domain, r in zip(self.domains, returns, strict=True)
                },
            }
            file.write(json.dumps(row) + "\n")
        return [float(r.mean()) for r in returns]

    def _measure(self, index: int) -> Floats:
        """Returns of sampled episodes of one domain's policy, [episodes]."""
        simulation = world(self.domains[index], self.config.episodes)
        simulation.seed([10_000_019 + copy for copy in range(self.config.episodes)])
        generator = np.random.default_rng(self.vector_step)
        returns = np.zeros(self.config.episodes)
        alive = np.arange(self.config.episodes)
        while len(alive):
            noise = generator.standard_normal((self.config.episodes, self.sizes.action))
            observation = np.repeat(simulation.observation[None], len(self.domains), axis=0)
            stacked = np.repeat(noise[None], len(self.domains), axis=0)
            action = self.learner.act(
                torch.from_numpy(observation).float(), torch.from_numpy(stacked).float()
            )[index].numpy()
            step = simulation.step(action[alive], alive)
            returns[alive] += step.reward
            alive = alive[~(step.terminated | step.truncated)]
        simulation.close()
        return returns

    def _checkpoint(self) -> None:
        for records in self.records:
            records.flush()
        tensors = {
            **weights.nested("learner", self.learner.state()),
            **weights.nested("sampler", self.sampler.state()),
            **weights.nested("explorer", self.explorer.state()),
        }
        for index, simulation in enumerate(self.simulations):
            tensors |= weights.nested(f"simulation/{index}", simulation.state())
        for index, kept in enumerate(self.kept):
            tensors |= weights.nested(f"kept/{index}", kept)
        facts = {
            "kind": "online checkpoint",
            "vector_step": self.vector_step,
            "rungs": to_json(self.rungs),
            "generators": [simulation.generators() for simulation in self.simulations],
            "fingerprint": fingerprint(self.config),
        }
        weights.save(self.folder / "checkpoint.safetensors", tensors, facts)

    def _resume(self) -> None:
        tensors, facts = weights.load(self.folder / "checkpoint.safetensors")
        self.vector_step = facts["vector_step"]
        self.learner.load_state(weights.under("learner", tensors))
        self.sampler.load_state(weights.under("sampler", tensors))
        self.explorer.load_state(weights.under("explorer", tensors))
        for index, simulation in enumerate(self.simulations):
            simulation.load_state(weights.under(f"simulation/{index}", tensors))
            simulation.load_generators(facts["generators"][index])
        where = str(self.folder)
        self.rungs = [[from_json(Rung, row, where) for row in rows] for rows in facts["rungs"]]
        self.kept = [weights.under(f"kept/{i}", tensors) for i in range(len(self.rungs[0]))]
