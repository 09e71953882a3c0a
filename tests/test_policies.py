"""Policies read back: what the file says decides of which kind they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from mabe_transfer import domains, policies, weights
from mabe_transfer.actors import DeterministicActor
from mabe_transfer.domains import to_facts
from mabe_transfer.errors import UserError
from mabe_transfer.networks import Actor
from mabe_transfer.streams import Sizes

if TYPE_CHECKING:
    from pathlib import Path

SIZES = Sizes(seeds=(3, 5), observation=11, action=3)
OBSERVATION = np.random.default_rng(0).standard_normal((2, 4, 11)) * 10.0 + 3.0


def written(folder: Path, actor: torch.nn.Module, **facts: Any) -> Path:
    """A run's folder with a policy file."""
    said = {
        "kind": "policies", "row": "x", "seeds": [3, 5],
        "target": to_facts(domains.domain("hopper")), **facts,
    }  # fmt: skip
    weights.save(folder / "policy" / "policy.safetensors", actor.state_dict(), said)
    return folder


def deterministic() -> DeterministicActor:
    actor = DeterministicActor(SIZES, (16, 8), "policy")
    actor.standardise(torch.from_numpy(OBSERVATION.reshape(-1, 11)).float())
    return actor


def modes(actor: Actor | DeterministicActor) -> Any:
    with torch.no_grad():
        return actor.mode(torch.from_numpy(OBSERVATION).float()).numpy()


def test_deterministic_policy_is_read_back_with_its_statistics(tmp_path: Path) -> None:
    actor = deterministic()
    found = policies.load(written(tmp_path, actor, head="deterministic"))
    np.testing.assert_array_equal(found.act(OBSERVATION), modes(actor))
    plain = DeterministicActor(SIZES, (16, 8), "policy")
    assert not np.allclose(found.act(OBSERVATION), modes(plain), atol=0.05)
    one = found.act_one(5)(OBSERVATION[1, 2])
    np.testing.assert_allclose(one, modes(actor)[1, 2], atol=1e-6)


@pytest.mark.parametrize("facts", [{"head": "squashed-normal"}, {}], ids=["said", "older file"])
def test_squashed_normal_policy_is_read_back(tmp_path: Path, facts: dict[str, str]) -> None:
    actor = Actor(SIZES, (16, 8), "policy")
    found = policies.load(written(tmp_path, actor, **facts))
    np.testing.assert_array_equal(found.act(OBSERVATION), modes(actor))


def test_policy_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    run = written(tmp_path, deterministic(), head="determinstic")
    with pytest.raises(UserError, match=r"no kind of policy 'determinstic'.*'deterministic'"):
        policies.load(run)


def test_file_of_something_else_is_refused(tmp_path: Path) -> None:
    run = written(tmp_path, deterministic(), kind="behaviour ladder")
    with pytest.raises(UserError, match="holds no policies but 'behaviour ladder'"):
        policies.load(run)


def test_tensors_of_another_kind_than_the_file_says_are_refused(tmp_path: Path) -> None:
    run = written(tmp_path, Actor(SIZES, (16,), "policy"), head="deterministic")
    with pytest.raises(UserError, match="its tensors are not those of a deterministic policy"):
        policies.load(run)


def test_deterministic_policies_play_whole_episodes(tmp_path: Path) -> None:
    found = policies.load(written(tmp_path, deterministic(), head="deterministic"))
    returns, lengths = policies.play(found, domains.domain("hopper-ice"), episodes=2, seed=0)
    assert returns.shape == lengths.shape == (2, 2)
    assert (lengths > 1).all()
