"""Policies in D4RL's files: rebuilt by hand-worked numbers, and set to collect more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from mabe_transfer import recorded
from mabe_transfer.acquire import Request, acquire
from mabe_transfer.domains import domain
from mabe_transfer.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = {"fc0": (4, 11), "fc1": (4, 4), "last_fc": (3, 4), "last_fc_log_std": (3, 4)}


def write(path: Path, **changes: Any) -> str:
    """A file whose policy sees the first two numbers of an observation, as a D4RL file has it."""
    found: dict[str, Any] = {"nonlinearity": b"relu", "output_distribution": b"tanh_gaussian"}
    for layer, shape in SHAPES.items():
        found[f"{layer}/weight"] = np.zeros(shape, np.float32)
        found[f"{layer}/bias"] = np.zeros(shape[0], np.float32)
    found["fc0/weight"][0, 0] = found["fc0/weight"][1, 1] = 1.0  # relu(o0), relu(o1), 0, 0
    found["fc1/weight"][0, :2] = [2.0, -1.0]  # relu(2 relu(o0) - relu(o1))
    found["last_fc/weight"][:, 0] = [1.0, -0.5, 0.0]
    found["last_fc_log_std/bias"] = np.array([-50.0, 0.0, 50.0], np.float32)  # clipped to -20, 2
    with h5py.File(path, "w") as file:
        for name, value in (found | changes).items():
            file[f"metadata/policy/{name}"] = value
    return str(path)


def test_rebuilt_policy_acts_as_worked_by_hand(tmp_path: Path) -> None:
    policy = recorded.load(write(tmp_path / "a.hdf5"), domain("hopper"))
    observation = np.zeros((2, 11), np.float32)
    observation[0, :2], observation[1, :2] = [0.5, 0.25], [0.5, 3.0]
    mode = policy.act(observation, np.zeros((2, 3)))
    hidden = 2 * 0.5 - 0.25  # and relu(1 - 3) = 0 in the second row
    assert mode[0] == pytest.approx(np.tanh([hidden, -0.5 * hidden, 0.0]), abs=1e-6)
    assert mode[1] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    drawn = policy.act(observation[1:], np.full((1, 3), 0.1))
    deviations = np.exp([-20.0, 0.0, 2.0])
    assert drawn[0] == pytest.approx(np.tanh(0.1 * deviations), abs=1e-6)


def test_rebuilt_policy_collects_in_a_shifted_domain(tmp_path: Path) -> None:
    name = write(tmp_path / "a.hdf5")
    request = Request(
        domain=domain("hopper-ice-d4rl"), quality="medium", transitions=60, policy=name
    )
    store = acquire(request)
    assert store.rows == 60
    assert store.attributes["behaviour"]["policy"] == name
    rows = store.load()
    policy = recorded.load(name, domain("hopper"))
    deviation = np.abs(np.arctanh(rows.actions[:, 0]) - _mean(policy, rows.observations))
    assert deviation.max() < 1e-5  # its first action has next to no noise


def _mean(policy: recorded.RecordedPolicy, observations: Any) -> Any:
    return np.arctanh(policy.act(observations, np.zeros((len(observations), 3)))[:, 0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nonlinearity": b"tanh"}, "of the form tanh, tanh_gaussian"),
        ({"fc1/weight": np.zeros((4, 5))}, "fc1 does not fit the layer before it"),
        ({"fc1/bias": np.zeros(5)}, "fc1 does not fit"),
        ({"last_fc/weight": np.zeros((2, 4)), "last_fc/bias": np.zeros(2)}, "different sizes"),
        ({"fc0/weight": np.full((4, 11), np.nan)}, "is not finite"),
        ({"fc0/weight": b"text"}, "at most 4,194,304 numbers"),
        ({"fc0/weight": np.zeros((4, 17))}, "17 observations and 3 actions; hopper has 11 and 3"),
    ],
)
def test_policy_of_another_form_is_refused(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        recorded.load(write(tmp_path / "a.hdf5", **changes), domain("hopper"))


def test_file_without_a_policy_says_which_have_one(tmp_path: Path) -> None:
    path = tmp_path / "random.hdf5"
    h5py.File(path, "w").close()
    with pytest.raises(UserError, match="medium and expert files of v1 and v2 do"):
        recorded.load(str(path), domain("hopper"))


def test_policy_of_a_medium_set_cannot_act_as_an_expert() -> None:
    request = Request(
        domain=domain("hopper-d4rl"), quality="expert", policy="d4rl:hopper-medium-v2"
    )
    with pytest.raises(UserError, match=r"carries one policy, medium; .* say --quality medium"):
        acquire(request)
