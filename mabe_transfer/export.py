"""Files in which a policy leaves the toolkit: ONNX, TorchScript, or plain layers in safetensors.

Each takes observations [B, O] and gives actions [B, A], float32, with the normalisation inside, and
carries the JSON object of `PlainPolicy.metadata` under the name `facts`. Action and control are
one: what the policy gives is what the toolkit's own environments take, without scaling.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.numpy import save as safetensors_bytes
from torch import Tensor, nn

from mabe_transfer import __version__
from mabe_transfer import weights as files
from mabe_transfer.errors import UserError, unknown
from mabe_transfer.plain import KIND, Activation, Floats, PlainPolicy

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

FACTS = "facts"
OPSET = 17
"""Of 2022: the newest operators used are of opset 14, and older runtimes are spared a refusal."""
IR_VERSION = 8
"""The file format that came with that opset."""


class Format(Protocol):
    """A kind of file."""

    @property
    def ending(self) -> str:
        """How the name of such a file ends by default; the last suffix is the kind's."""

    def encode(self, policy: PlainPolicy) -> bytes:
        """The whole file."""


class Onnx:
    """An ONNX graph of Gemm, the activation and Tanh: `observation` [batch, O] to `action`.

    The graph is written node by node: it is short, stays the same whatever torch does, and needs
    neither onnxscript nor torch's TorchScript-based exporter, which is deprecated.
    """

    ending = ".onnx"

    def encode(self, policy: PlainPolicy) -> bytes:
        """The serialised model.

        Raises:
            UserError: The extra `onnx` is not installed.
        """
        try:
            from onnx import TensorProto, helper, numpy_helper
        except ImportError:
            raise UserError("An ONNX file needs: pip install 'mabe-transfer[onnx]'.") from None
        graph = helper.make_graph(
            _nodes(policy),
            "policy",
            [helper.make_tensor_value_info("observation", TensorProto.FLOAT, _batch(policy, 0))],
            [helper.make_tensor_value_info("action", TensorProto.FLOAT, _batch(policy, -1))],
            [numpy_helper.from_array(value, name) for name, value in policy.tensors().items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="mabe-transfer",
            producer_version=__version__,
        )
        helper.set_model_props(model, {FACTS: json.dumps(policy.metadata())})
        found: bytes = model.SerializeToString(deterministic=True)
        return found


class TorchScript:
    """A TorchScript module for `torch.jit.load`, also of C++: [O] or [B, O] to [A] or [B, A].

    `facts` is an extra file of the archive. torch 2.13 deprecates `torch.jit` as a whole and still
    reads and writes such files; its warning is for the authors of new code, so it is kept from
    those who export.
    """

    ending = ".pt"

    def encode(self, policy: PlainPolicy) -> bytes:
        """The archive."""
        parts: list[nn.Module] = []
        if policy.normalisation is not None:
            parts.append(_Normalise(policy.normalisation.mean, policy.normalisation.std))
        for index, layer in enumerate(policy.layers):
            if index:
                parts.append(_MODULES[policy.activation]())
            linear = nn.Linear(*layer.weight.shape[::-1])
            linear.load_state_dict(
                {"weight": torch.from_numpy(layer.weight), "bias": torch.from_numpy(layer.bias)}
            )
            parts.append(linear)
        if policy.squash:
            parts.append(nn.Tanh())
        module = nn.Sequential(*parts).eval().requires_grad_(False)
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
            traced = torch.jit.trace(module, torch.zeros(1, policy.sizes[0]))  # type: ignore[no-untyped-call]
            extra = {FACTS: json.dumps(policy.metadata())}
            torch.jit.save(traced, buffer, _extra_files=extra)
        return buffer.getvalue()


class Layers:
    """Plain layers in safetensors, named as `PlainPolicy.tensors` says; `facts` is in the header.

    x = (observation - observation.mean) / observation.std where the two are there; then for each
    layer x = x @ weight.T + bias, with the activation between layers and tanh after the last, as
    `facts` says.
    """

    ending = ".layers.safetensors"

    def encode(self, policy: PlainPolicy) -> bytes:
        """The whole file."""
        found: bytes = safetensors_bytes(
            policy.tensors(), metadata={FACTS: json.dumps(policy.metadata())}
        )
        return found


def format_named(name: str) -> Format:
    """Look a format up.

    Raises:
        UserError: There is none of that name.
    """
    known: dict[str, Format] = {
        "onnx": Onnx(),
        "torchscript": TorchScript(),
        "safetensors": Layers(),
    }
    if name not in known:
        raise unknown("format", name, known)
    return known[name]


def write(policy: PlainPolicy, kind: Format, path: Path, *, force: bool = False) -> None:
    """Write a policy's file in one move.

    Args:
        policy: What leaves.
        kind: The format.
        path: The file; its suffix is the format's.
        force: Replace an earlier export. Weights of a run or a ladder are never replaced.

    Raises:
        UserError: The suffix is another format's, the file exists, or an extra is missing.
    """
    suffix = f".{kind.ending.rsplit('.', 1)[-1]}"
    if path.is_dir():
        raise UserError(f"--out {path}: is a folder, and a file is to be written.")
    if path.suffix != suffix:
        raise UserError(f"--out {path}: {type(kind).__name__} is written as {suffix}.")
    if path.exists():
        if _holds_weights(path):
            raise UserError(f"{path} holds weights of this toolkit; choose another --out.")
        if not force:
            raise UserError(f"{path} exists; choose another --out, or replace it with --force.")
    content = kind.encode(policy)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written ({error.strerror}).") from None


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Normalise(nn.Module):
    """(observation - mean) / std."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Floats, std: Floats) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("std", torch.from_numpy(std))

    def forward(self, observation: Tensor) -> Tensor:
        """Normalise [..., O]."""
        return (observation - self.mean) / self.std


_MODULES: dict[Activation, type[nn.Module]] = {Activation.RELU: nn.ReLU, Activation.TANH: nn.Tanh}
_OPERATORS = {Activation.RELU: "Relu", Activation.TANH: "Tanh"}


def _nodes(policy: PlainPolicy) -> list[onnx.NodeProto]:
    """The graph's nodes, first to last; the last one gives `action`."""
    rows: list[tuple[str, tuple[str, ...], dict[str, Any]]] = []
    if policy.normalisation is not None:
        rows += [("Sub", ("observation.mean",), {}), ("Div", ("observation.std",), {})]
    for index in range(len(policy.layers)):
        if index:
            rows.append((_OPERATORS[policy.activation], (), {}))
        given = (f"layers.{index}.weight", f"layers.{index}.bias")
        rows.append(("Gemm", given, {"transB": 1}))
    if policy.squash:
        rows.append(("Tanh", (), {}))
    return _chain(rows)


def _chain(rows: list[tuple[str, tuple[str, ...], dict[str, Any]]]) -> list[onnx.NodeProto]:
    """Operators one after another, from `observation` to `action`."""
    from onnx import helper

    nodes, before = [], "observation"
    for index, (operator, given, attributes) in enumerate(rows):
        after = "action" if index == len(rows) - 1 else f"step.{index}"
        nodes.append(helper.make_node(operator, [before, *given], [after], **attributes))
        before = after
    return nodes


def _batch(policy: PlainPolicy, end: int) -> tuple[str, int]:
    return ("batch", policy.sizes[end])


def _holds_weights(path: Path) -> bool:
    """Whether a file is one of this project's that is no export: a run's weights, a ladder."""
    try:
        return files.load_facts(path).get("kind") != KIND
    except UserError:
        return False
