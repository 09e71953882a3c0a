"""Policies that leave the toolkit: the same actions elsewhere, and files that say whose."""

from __future__ import annotations

import io
import json
import math
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import checker
from safetensors import safe_open
from safetensors.numpy import load as load_safetensors
from typer.testing import CliRunner

from mabe_transfer import __version__, behaviour, choice, domains, policies, weights
from mabe_transfer.batched import Simulation
from mabe_transfer.cli import app
from mabe_transfer.errors import UserError
from mabe_transfer.export import FACTS, Format, Layers, Onnx, TorchScript, format_named, write
from mabe_transfer.networks import Actor
from mabe_transfer.plain import (
    KIND,
    Activation,
    Layer,
    Normalisation,
    PlainPolicy,
    activation_of,
    mean_head,
    plain_layers,
)
from mabe_transfer.streams import Sizes

if TYPE_CHECKING:
    from pathlib import Path

Floats = np.ndarray[Any, np.dtype[Any]]
Act = Callable[[Floats], Floats]
Reader = Callable[[bytes], Act]
SEEDS = (0, 4, 7)
TOLERANCE = 1e-5


def by_onnxruntime(content: bytes) -> Act:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def act(observation: Floats) -> Floats:
        (action,) = session.run(["action"], {"observation": observation})
        found: Floats = action
        return found

    return act


def load_torchscript(content: bytes) -> tuple[Any, dict[str, Any]]:
    extra = {FACTS: ""}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.load`", DeprecationWarning)
        module = torch.jit.load(io.BytesIO(content), _extra_files=extra)  # type: ignore[no-untyped-call]
    return module, json.loads(extra[FACTS])


def by_torchscript(content: bytes) -> Act:
    module, _ = load_torchscript(content)

    def act(observation: Floats) -> Floats:
        found: Floats = module(torch.from_numpy(observation)).numpy()
        return found

    return act


def by_layers(content: bytes) -> Act:
    """Evaluate plain layers with NumPy alone, as their documentation says."""
    tensors, facts = load_safetensors(content), facts_of_layers(content)
    last = len(facts["sizes"]) - 2

    def act(observation: Floats) -> Floats:
        x = observation
        if facts["normalised"]:
            x = (x - tensors["observation.mean"]) / tensors["observation.std"]
        for index in range(last + 1):
            x = x @ tensors[f"layers.{index}.weight"].T + tensors[f"layers.{index}.bias"]
            if index < last:
                x = np.tanh(x) if facts["activation"] == "tanh" else np.maximum(x, 0.0)
        return np.tanh(x) if facts["squash"] == "tanh" else x

    return act


def facts_of_layers(content: bytes) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    found: dict[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][FACTS])
    return found


def facts_of_onnx(content: bytes) -> dict[str, Any]:
    model = onnx.load_model_from_string(content)
    found: dict[str, Any] = json.loads({p.key: p.value for p in model.metadata_props}[FACTS])
    return found


READERS = [
    pytest.param(Onnx(), by_onnxruntime, id="onnx"),
    pytest.param(TorchScript(), by_torchscript, id="torchscript"),
    pytest.param(Layers(), by_layers, id="safetensors"),
]
FACTS_OF = [
    pytest.param(Onnx(), facts_of_onnx, id="onnx"),
    pytest.param(TorchScript(), lambda content: load_torchscript(content)[1], id="torchscript"),
    pytest.param(Layers(), facts_of_layers, id="safetensors"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of three seeds: seed 0 was the best early, seed 4 in the last ten looks."""
    folder = tmp_path / "run"
    sizes = Sizes(seeds=SEEDS, observation=11, action=3)
    facts = {
        "kind": "policies",
        "row": "mabe",
        "target": domains.to_facts(domains.domain("hopper-ice-backward")),
        "seeds": list(SEEDS),
    }
    actor = Actor(sizes, (32, 24), "policy")
    weights.save(policies.path(folder), actor.state_dict(), facts)
    looks = [[9000.0, 0.0, 0.0]] * 2 + [[10.0, 30.0, 20.0]] * 9 + [[10.0, 40.0, 20.0]]
    rows = [{"update": index, "returns": returns} for index, returns in enumerate(looks)]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def numbers(values: Any) -> Floats:
    return np.array(values, dtype=np.float32)


def by_hand(activation: Activation, *, squash: bool, normalised: bool = True) -> PlainPolicy:
    """Observation 5 becomes 2; the hidden layer gives 2.5 and -2."""
    return PlainPolicy(
        layers=(
            Layer(numbers([[1.0], [-1.0]]), numbers([0.5, 0.0])),
            Layer(numbers([[2.0, 3.0]]), numbers([-4.0])),
        ),
        activation=activation,
        squash=squash,
        normalisation=Normalisation(numbers([1.0]), numbers([2.0])) if normalised else None,
        facts={},
    )


def call(*words: str) -> Any:  # typer has a click of its own
    return CliRunner().invoke(app, list(words))


def refusal(*words: str) -> str:
    """The sentence of a refused command, which ends with exit code 2 and no traceback."""
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


# -- the same actions ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize(("kind", "read"), READERS)
def test_exported_run_acts_as_the_run_does(
    run: Path, kind: Format, read: Reader, batch: int
) -> None:
    found = policies.load(run)
    draws = np.random.default_rng(3)
    observation = (4.0 * draws.standard_normal((batch, 11))).astype(np.float32)
    expected = found.act(np.tile(observation, (len(SEEDS), 1, 1)))
    action = read(kind.encode(choice.of_run(run, 4).policy))(observation)
    assert action.shape == (batch, 3)
    assert action.dtype == np.float32
    np.testing.assert_allclose(action, expected[1], rtol=0.0, atol=TOLERANCE)
    for other in (0, 2):  # a mix-up of seeds would be seen
        assert np.abs(expected[other] - expected[1]).max() > 100.0 * TOLERANCE


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize(("kind", "read"), READERS)
def test_exported_expert_acts_as_the_expert_where_it_runs(
    kind: Format, read: Reader, batch: int
) -> None:
    act = read(kind.encode(choice.choose("halfcheetah-backward").policy))
    where = domains.domain("halfcheetah-backward")
    path = behaviour.shipped(where)
    assert path is not None
    ladder = behaviour.load_ladder(path)
    expert = ladder.policy(ladder.expert)
    simulation = Simulation(where, batch)
    simulation.seed(list(range(batch)))
    reward = 0.0
    for _ in range(20):
        observation = simulation.observation.astype(np.float32)
        action = act(observation)
        expected = expert.act(observation, np.zeros((batch, 6)))
        np.testing.assert_allclose(action, expected, rtol=0.0, atol=TOLERANCE)
        reward += float(simulation.step(action).reward.mean())
    simulation.close()
    assert (
        reward > 10.0
    )  # 256 episodes begin with 16.6 on average, those of random actions with -3.4


def test_torchscript_takes_a_single_observation(run: Path) -> None:
    found = policies.load(run)
    module, _ = load_torchscript(TorchScript().encode(choice.of_run(run, 7).policy))
    observation = np.linspace(-1.0, 1.0, 11, dtype=np.float32)
    action = module(torch.from_numpy(observation)).numpy()
    assert action.shape == (3,)
    np.testing.assert_allclose(action, found.act_one(7)(observation), rtol=0.0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("activation", "raw"),
    [
        (Activation.RELU, 2.0 * 2.5 + 3.0 * 0.0 - 4.0),
        (Activation.TANH, 2.0 * math.tanh(2.5) + 3.0 * math.tanh(-2.0) - 4.0),
    ],
)
@pytest.mark.parametrize(("kind", "read"), READERS)
def test_normalisation_activation_and_squash_are_inside_the_file(
    kind: Format, read: Reader, activation: Activation, raw: float
) -> None:
    observation = numbers([[5.0]])
    plain = read(kind.encode(by_hand(activation, squash=False)))(observation)
    assert plain.item() == pytest.approx(raw, abs=TOLERANCE)
    squashed = read(kind.encode(by_hand(activation, squash=True)))(observation)
    assert squashed.item() == pytest.approx(math.tanh(raw), abs=TOLERANCE)
    bare = by_hand(activation, squash=False, normalised=False)
    already = read(kind.encode(bare))(numbers([[2.0]]))
    assert already.item() == pytest.approx(raw, abs=TOLERANCE)


# -- what a policy is described by ---------------------------------------------------------------


def test_mean_head_is_the_first_half_and_a_deterministic_policy_keeps_all() -> None:
    hidden = (torch.ones(2, 3), torch.zeros(1, 3))
    last = (torch.arange(12.0).reshape(3, 4), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    _, mean = mean_head([hidden[0], last[0]], [hidden[1], last[1]])
    assert mean.weight.tolist() == [[0.0, 4.0, 8.0], [1.0, 5.0, 9.0]]
    assert mean.bias.tolist() == [1.0, 2.0]
    _, whole = plain_layers([hidden[0], last[0]], [hidden[1], last[1]])
    assert whole.weight.shape == (4, 3)
    assert whole.bias.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_activation_without_a_name_in_files_is_refused() -> None:
    assert activation_of(torch.tanh) is Activation.TANH
    with pytest.raises(UserError, match="no activation in exported files 'silu'; there is relu"):
        activation_of(torch.nn.functional.silu)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"layers": ()}, "without layers"),
        ({"layers": (by_hand(Activation.RELU, squash=True).layers[0],) * 2}, "takes 1 numbers"),
        (
            {"layers": (Layer(numbers([[math.nan]]), numbers([0.0])),)},
            r"layers\.0\.weight is not finite",
        ),
        (
            {"normalisation": Normalisation(np.zeros(2, np.float32), np.ones(2, np.float32))},
            "is not of 1 observations",
        ),
        ({"normalisation": Normalisation(numbers([0.0]), numbers([0.0]))}, "not above 0"),
    ],
)
def test_description_that_makes_no_sense_is_refused(change: Any, sentence: str) -> None:
    good = by_hand(Activation.RELU, squash=True)
    parts = {"layers": good.layers, "normalisation": None, **change}
    with pytest.raises(UserError, match=sentence):
        PlainPolicy(activation=Activation.RELU, facts={}, **parts)


# -- what a file says ----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "facts_of"), FACTS_OF)
def test_file_says_whose_policy_it_is(
    run: Path, kind: Format, facts_of: Callable[[bytes], dict[str, Any]]
) -> None:
    facts = facts_of(kind.encode(choice.of_run(run).policy))
    assert facts["kind"] == KIND
    assert facts["format_version"] == 1
    assert facts["toolkit"] == f"mabe-transfer {__version__}"
    assert (facts["robot"], facts["target"]) == ("hopper", "hopper-ice-backward")
    assert (facts["algorithm"], facts["seed"], facts["return"]) == ("mabe", 4, 31.0)
    assert facts["observation"][0] == {"name": "torso height", "unit": "m"}
    assert len(facts["observation"]) == 11
    assert len(facts["action"]) == 3
    assert facts["sizes"] == [11, 32, 24, 3]
    assert facts["action_bounds"] == [-1.0, 1.0]
    assert facts["normalised"] is False


def test_ladder_says_which_training_made_it() -> None:
    facts = choice.choose("halfcheetah-ice-backward").policy.metadata()
    assert facts["target"] == "halfcheetah-ice-backward"
    assert (facts["algorithm"], facts["seed"]) == ("sac", 1)
    assert facts["return"] == facts["rung"]["mean"]


def test_onnx_graph_is_valid_and_its_batch_is_free(run: Path) -> None:
    model = onnx.load_model_from_string(Onnx().encode(choice.of_run(run).policy))
    checker.check_model(model, full_check=True)
    (given,), (taken,) = model.graph.input, model.graph.output
    assert (given.name, taken.name) == ("observation", "action")
    for value, size in ((given, 11), (taken, 3)):
        batch, width = value.type.tensor_type.shape.dim
        assert (batch.dim_param, width.dim_value) == ("batch", size)


def test_same_policy_gives_the_same_onnx_and_safetensors_bytes(run: Path) -> None:
    for kind in (Onnx(), Layers()):
        assert kind.encode(choice.of_run(run).policy) == kind.encode(choice.of_run(run).policy)


# -- which policy --------------------------------------------------------------------------------


def test_seed_is_the_best_of_the_last_ten_evaluations(run: Path) -> None:
    chosen = choice.of_run(run)
    best = "Seed 4, the best of 0, 4, 7 by its last evaluations: mean return 31.0."
    assert chosen.reason == best
    assert choice.of_run(run, 7).reason == "Seed 7, as asked: mean return 20.0."


def test_run_without_evaluations_asks_for_a_seed(run: Path) -> None:
    (run / "evaluations.jsonl").unlink()
    with pytest.raises(UserError, match="name one with --seed"):
        choice.of_run(run)
    assert choice.of_run(run, 0).policy.facts["return"] is None


def test_ladder_is_found_by_its_domain_however_written() -> None:
    name = "halfcheetah-friction=0.10-backward"
    assert str(choice.choose(name).place) == "exports/halfcheetah-friction=0.1-backward"


# -- the command ---------------------------------------------------------------------------------


def test_command_writes_each_format_beside_the_weights(run: Path) -> None:
    before = policies.path(run).read_bytes()
    for kind in ("onnx", "torchscript", "safetensors"):
        made = call("export", str(run), "--format", kind)
        assert made.exit_code == 0, made.output
        assert "Seed 4, the best of 0, 4, 7" in made.output
    names = {path.name for path in (run / "policy").iterdir()}
    exports = {"policy.onnx", "policy.pt", "policy.layers.safetensors"}
    assert names == {"policy.safetensors", *exports}
    assert policies.path(run).read_bytes() == before
    with safe_open(run / "policy" / "policy.layers.safetensors", "np") as file:
        assert "layers.2.bias" in set(file.keys())


def test_command_exports_a_shipped_policy_into_a_folder_of_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = call("export", "halfcheetah-backward")
    assert made.exit_code == 0, made.output
    assert "The expert of halfcheetah-backward.safetensors" in made.output
    facts = facts_of_onnx((tmp_path / "exports" / "halfcheetah-backward.onnx").read_bytes())
    assert facts["target"] == "halfcheetah-backward"
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "exports"}


def test_export_is_replaced_only_by_force(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "mine.onnx"
    words = ("export", str(run), "--out", str(out))
    assert call(*words).exit_code == 0
    assert "--force" in refusal(*words, "--seed", "7")
    assert facts_of_onnx(out.read_bytes())["seed"] == 4
    assert call(*words, "--seed", "7", "--force").exit_code == 0
    assert facts_of_onnx(out.read_bytes())["seed"] == 7
    assert [path.name for path in out.parent.iterdir()] == ["mine.onnx"]


def test_weights_of_a_run_are_not_replaced_even_by_force(run: Path) -> None:
    before = policies.path(run).read_bytes()
    words = ("--format", "safetensors", "--out", str(policies.path(run)), "--force")
    assert "holds weights of this toolkit" in refusal("export", str(run), *words)
    assert policies.path(run).read_bytes() == before


def test_export_in_safetensors_is_replaced_by_force(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    for force in (False, True):
        write(choice.of_run(run).policy, Layers(), path, force=force)


def test_file_that_cannot_be_written_is_said(run: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    out = str(tmp_path / "taken" / "policy.onnx")
    assert "cannot be written" in refusal("export", str(run), "--out", out)
    (tmp_path / "folder.onnx").mkdir()
    assert "is a folder" in refusal("export", str(run), "--out", str(tmp_path / "folder.onnx"))


def test_what_cannot_be_exported_is_said_in_a_sentence(run: Path, tmp_path: Path) -> None:
    assert "holds no run" in refusal("export", str(tmp_path))
    assert "Did you mean 'halfcheetah'?" in refusal("export", "halfcheta")
    assert "shipped policy 'hopper-mass=0.9'" in refusal("export", "hopper-mass=0.9")
    assert "there is no such file" in refusal("export", str(tmp_path / "none.safetensors"))
    assert "expected a ladder of behaviour policies" in refusal("export", str(policies.path(run)))
    assert "has no seed '3'; it has 0, 4, 7." in refusal("export", str(run), "--seed", "3")
    assert "no --seed" in refusal("export", "halfcheetah", "--seed", "0")
    assert "Did you mean 'onnx'?" in refusal("export", str(run), "--format", "onxx")
    words = ("--format", "torchscript", "--out", str(tmp_path / "policy.onnx"))
    assert "TorchScript is written as .pt" in refusal("export", str(run), *words)


def test_unfinished_run_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "holds an unfinished run" in refusal("export", str(tmp_path))


def test_missing_extra_is_said_and_only_onnx_needs_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install 'mabe-transfer[onnx]'" in refusal("export", str(run))
    assert not (run / "policy" / "policy.onnx").exists()
    for kind in ("torchscript", "safetensors"):
        assert call("export", str(run), "--format", kind).exit_code == 0


def test_formats_are_known_by_name() -> None:
    for name, kind in (("onnx", Onnx), ("torchscript", TorchScript), ("safetensors", Layers)):
        assert isinstance(format_named(name), kind)
