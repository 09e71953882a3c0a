"""A dataset of a training's own replay: whole rows, whole episodes, no seam between copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mabe_transfer import ladders
from mabe_transfer.acquire import Request, _climb, acquire
from mabe_transfer.behaviour import load_ladder, shipped
from mabe_transfer.domains import Domain, domain
from mabe_transfer.errors import UserError
from mabe_transfer.library import open_dataset
from mabe_transfer.online import OnlineConfig, OnlineSac
from mabe_transfer.parts.sac import Sac
from mabe_transfer.replay import resimulate
from mabe_transfer.shipping import publish, vacant
from mabe_transfer.store import StoreWriter
from mabe_transfer.verify import verify

TINY = OnlineConfig(
    sac=Sac(hidden=(8, 8)), env_steps=240, envs=4, warmup=200, batch=8, rungs=2, episodes=1
)


def test_medium_replay_passes_every_check_and_replays() -> None:
    request = Request(domain=domain("hopper-gravity=0.9"), quality="medium-replay")
    store = acquire(request, TINY)
    assert store.rows in {120, 240}  # up to the first rung or to the second, 4 copies
    found = open_dataset("hopper-gravity=0.9-medium-replay").domain
    findings = verify(store, replay=resimulate(found), sample=60)
    assert [finding for finding in findings if not finding.passed] == []


def test_replay_whose_writing_was_stopped_at_the_end_is_not_written_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All rows are safe by then; of 70 rows the last episode is cut."""
    request = Request(domain=domain("hopper-gravity=0.9"), quality="medium-replay", transitions=70)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "_write_episodes", stop)
        with pytest.raises(KeyboardInterrupt):
            acquire(request, TINY)
    store = acquire(request, TINY)
    whole = acquire(replace(request, out="whole"), TINY)
    assert store.rows == 70
    assert store.content_hash() == whole.content_hash()


def test_nothing_is_collected_in_a_world_whose_shift_changes_nothing(tmp_path: Path) -> None:
    shift = tmp_path / "slick.toml"
    shift.write_text(
        'name = "slick"\nsummary = "none"\nvalue = "none"\n'
        'edits = [{ model_field = "dof_frictionloss", factor = 0.5 }]\n'
    )
    mine = tmp_path / "mine.toml"
    mine.write_text('robot = "hopper"\nshifts = ["slick.toml"]\n')
    with pytest.raises(UserError, match="'slick' changes nothing"):
        acquire(Request(domain=domain(str(mine)), quality="random", transitions=10))


def test_more_transitions_than_a_replay_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"--transitions 241: the replay of hopper-gravity=0.9"):
        acquire(
            Request(domain=domain("hopper-gravity=0.9"), quality="medium-replay", transitions=241),
            TINY,
        )


def test_another_command_s_ladder_is_not_written_over(tmp_path: Path) -> None:
    made = load_ladder(shipped(domain("hopper")) or Path())
    path = publish(made, tmp_path, "behaviour train hopper --seed 0")
    kept = path.read_bytes()
    assert vacant(tmp_path, made.domain, "behaviour train hopper --seed 0") == path
    with pytest.raises(UserError, match="is another training's; choose another --out"):
        publish(made, tmp_path, "behaviour train hopper --seed 1")
    assert path.read_bytes() == kept


def test_policies_of_a_domain_that_was_edited_do_not_act_in_it(tmp_path: Path) -> None:
    def clay(factor: float) -> Domain:
        """The user's domain `hopper-clay`, after an edit of its shift."""
        place = tmp_path / str(factor)
        place.mkdir()
        (place / "clay.toml").write_text(
            'name = "clay"\nsummary = "none"\nvalue = "none"\n'
            f'edits = [{{ model_field = "geom_friction", factor = {factor} }}]\n'
        )
        (place / "mine.toml").write_text('robot = "hopper"\nshifts = ["clay.toml"]\n')
        return domain(str(place / "mine.toml"))

    known = load_ladder(shipped(domain("hopper")) or Path())
    before, after = clay(0.5), clay(0.4)
    assert before.name == after.name
    kept = ladders.folder(before) / "ladder.safetensors"
    kept.parent.mkdir(parents=True)
    replace(known, domain=before).save(kept)
    assert ladders.ladder(before).domain == before
    with pytest.raises(
        UserError, match=r"holds policies of a hopper-clay with another .*factor \(0.5 there, 0.4"
    ):
        ladders.ladder(after)
    request = Request(domain=after, quality="expert", transitions=10)
    with pytest.raises(UserError, match="holds policies of a hopper-clay with another"):
        acquire(request)


def test_ladder_climbs_from_uniform_actions_over_every_rung() -> None:
    store = acquire(Request(domain=domain("hopper"), quality="ladder", transitions=100))
    found = load_ladder(shipped(domain("hopper")) or Path())
    rungs = found.rungs
    shares = store.attributes["behaviour"]["shares"]
    assert shares[0] == "uniform actions"
    assert [share.split()[0] for share in shares[1:]] == [str(r.env_steps) for r in rungs]
    assert store.rows == 100
    assert [share.transitions for share in _climb(found, 100)] == [33, 12, 11, 11, 11, 11, 11]


def test_medium_replay_is_of_the_training_that_made_the_shipped_policies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = domain("hopper-gravity=0.9")
    training = OnlineSac([where], TINY, seed=5, folder=tmp_path / "training")
    (made,) = training.run()
    path = publish(made, tmp_path, "a command")
    monkeypatch.setattr("mabe_transfer.acquire.shipped", lambda _: path)
    store = acquire(Request(domain=where, quality="medium-replay"))
    steps = made.medium_rung.env_steps // TINY.envs
    met = training.records[0].transitions(steps)
    np.testing.assert_array_equal(store.load().actions, met.actions)
    assert store.attributes["behaviour"]["training"]["seed"] == 5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"quality": "medium-replay", "seed": 1}, "whose seed is theirs"),
        ({"quality": "medium-replay", "policy": "mine.safetensors"}, "no policy can be chosen"),
        ({"quality": "random", "policy": "mine.safetensors"}, "no policy can be chosen"),
    ],
)
def test_options_that_would_do_nothing_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        acquire(Request(**{"domain": domain("hopper"), **changes}))
