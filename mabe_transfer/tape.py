"""Work that a CPU repeats: its operations, written down once and called again on the same memory.

An update of small networks is some 150 operations of microseconds beside a few large products, and
Python, autograd and the allocator need as long as they do to find out anew what is the same at
every update. A tape holds the operations alone, those of the backward pass included, with their
tensors; what only looks at memory in another shape is not called again, nor what is constant. The
operations are those of the work itself, in their order, and so are the results, bit for bit.

What may be written down is what `graphs.Stretch` says: work that does the same operations on
tensors at the same places, and draws from generators. A number that Python has read from a tensor
by `tolist` or `numpy` is not heard, and would stay what it was; by `item` or `if` it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

UNKNOWN = {
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.inplace_view,
}
"""Tags of operations whose result's shape, or whose way on, depends on numbers, and of those that
change the shape of a tensor itself."""
CONSTANT = {
    *("arange", "full", "full_like", "new_full", "new_ones", "new_zeros"),
    *("ones", "ones_like", "scalar_tensor", "zeros", "zeros_like"),
}
"""Operations that give the same numbers every time, by their shapes alone."""
MAKING = {"dtype", "layout", "device", "pin_memory"}
"""What an operation is told of the tensors that it makes, and not where they are there already."""
aten = torch.ops.aten
DIRECT: dict[Any, Callable[..., object]] = {
    aten.add.out: torch.add,
    aten.amin.out: torch.amin,
    aten.baddbmm.out: torch.baddbmm,
    aten.bmm.out: torch.bmm,
    aten.cat.out: torch.cat,
    aten.div.out: torch.div,
    aten.exp.out: torch.exp,
    aten.mean.out: torch.mean,
    aten.mul.out: torch.mul,
    aten.neg.out: torch.neg,
    aten.stack.out: torch.stack,
    aten.sub.out: torch.sub,
    aten.sum.IntList_out: torch.sum,
    aten.tanh.out: torch.tanh,
}
"""Usual operations by their own names, which are called in half the time."""
IN_PLACE: dict[Any, Callable[..., object]] = {
    aten.normal_.default: Tensor.normal_,
    getattr(aten.random_, "from"): Tensor.random_,
}
"""Likewise, of those that change what they are given."""
WITH_NUMBERS: dict[Any, Any] = {
    aten.add.Scalar: aten.add.Tensor,
    aten.add.Tensor: aten.add.Tensor,
    aten.div.Scalar: aten.div.Tensor,
    aten.div.Tensor: aten.div.Tensor,
    aten.mul.Scalar: aten.mul.Tensor,
    aten.mul.Tensor: aten.mul.Tensor,
    aten.rsub.Scalar: aten.sub.Tensor,
    aten.sub.Scalar: aten.sub.Tensor,
    aten.sub.Tensor: aten.sub.Tensor,
}
"""Operations whose plain numbers can be tensors, which every call would make of them. A number less
a tensor is a subtraction with its sides exchanged."""

Operation = torch._ops.OpOverload
Call = Callable[[], object]


class Tape:
    """Calls, in the order in which the work made them.

    Args:
        calls: They, with all that they are given.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls

    def __len__(self) -> int:
        """How many calls a replay makes."""
        return len(self._calls)

    @torch.no_grad()
    def replay(self) -> None:
        """Do the work again."""
        for call in self._calls:
            call()


def record(work: Callable[[], object]) -> Tape | None:
    """Do some work, and give what does it again; none if what it does depends on numbers."""
    with _Listener() as heard:
        work()
    if heard.unknown:
        return None
    written = {place for one in heard.noted for place in _places(one.changed())}
    return Tape([call for one in heard.noted if (call := one.again(written)) is not None])


@dataclass(frozen=True, slots=True)
class _Noted:
    """An operation as it was called, and its result."""

    operation: Operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    def changed(self) -> list[object]:
        """The arguments that it writes to."""
        return [
            self.args[index] if index < len(self.args) else self.kwargs.get(argument.name)
            for index, argument in enumerate(self.operation._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]

    def again(self, written: set[int]) -> Call | None:
        """What has the same effect once more; none where nothing is to be done.

        Args:
            written: Places that operations of the work write to.
        """
        operation, results = self.operation, _tensors(self.result)
        if operation._schema.is_mutable:
            return _in_place(operation, self.args, self.kwargs)
        places = set(_places(self.result))
        if places <= set(_places((self.args, self.kwargs))):  # a view, or no tensor at all
            return None
        name = operation._schema.name.partition("::")[2]
        if name.startswith(("empty", "new_empty")) or (
            name in CONSTANT and places.isdisjoint(written)
        ):
            return None
        args = self.args
        if operation in WITH_NUMBERS and (tensors := _as_tensors(args)):
            args = tensors[::-1] if operation is aten.rsub.Scalar else tensors
            operation = WITH_NUMBERS[operation]
        form = _into(operation)
        if form is None or len(form.outputs) != len(results):
            return partial(_copied, operation, args, self.kwargs, results)
        given = {name: value for name, value in self.kwargs.items() if name in form.given}
        outputs = dict(zip(form.outputs, results, strict=True))
        return partial(DIRECT.get(form.operation, form.operation), *args, **given, **outputs)


class _Listener(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes operations down while they are done, below autograd."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.noted: list[_Noted] = []
        self.unknown = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        given = kwargs or {}
        result = func(*args, **given)
        self.unknown |= not UNKNOWN.isdisjoint(func.tags) and not _picks_rows(func, args)
        self.noted.append(_Noted(func, *tree_map(_bare, (args, given, result))))
        return result


def _picks_rows(operation: Operation, args: tuple[Any, ...]) -> bool:
    """Whether it is an indexing by whole numbers, whose result has a known shape."""
    whole = (torch.int32, torch.int64)
    return operation is aten.index.Tensor and all(
        index is None or index.dtype in whole for index in args[1]
    )


@dataclass(frozen=True, slots=True)
class _Form:
    """The form of an operation that writes into tensors, and what it calls its arguments."""

    operation: Operation
    given: frozenset[str]
    outputs: tuple[str, ...]


@cache
def _into(operation: Operation) -> _Form | None:
    """The form that writes into given tensors, of an operation that makes them."""

    def signature(arguments: Sequence[Any]) -> list[tuple[str, str]]:
        return [(one.name, str(one.type)) for one in arguments if one.name not in MAKING]

    space, _, name = operation._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, space), name)
    for overload in packet.overloads():
        form = getattr(packet, overload)
        outputs = [one for one in form._schema.arguments if one.is_out]
        others = [one for one in form._schema.arguments if not one.is_out]
        if outputs and signature(others) == signature(operation._schema.arguments):
            return _Form(
                form, frozenset(one.name for one in others), tuple(one.name for one in outputs)
            )
    return None


def _as_tensors(args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The arguments with tensors for plain numbers; none where that could change a result."""
    first = next(one for one in args if isinstance(one, Tensor))
    exact = first.dtype in (torch.float32, torch.float64)  # others would round the number
    if not exact or first.dim() == 0 or len(args) != 2:
        return None
    return tuple(
        torch.tensor(one, dtype=first.dtype) if isinstance(one, int | float) else one
        for one in args
    )


def _in_place(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """What changes tensors once more; Adam counts its steps by a list of one scalar."""
    if operation is aten._foreach_add_.Scalar and len(args[0]) == 1 and args[0][0].dim() == 0:
        (count,), more = args
        return partial(Tensor.add_, count, torch.tensor(more, dtype=count.dtype))
    function = IN_PLACE.get(operation, DIRECT.get(operation, operation))
    return partial(function, *args, **kwargs)


def _copied(
    operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], into: list[Tensor]
) -> None:
    """Call an operation that makes tensors, and copy them to where they were."""
    for old, new in zip(into, _tensors(operation(*args, **kwargs)), strict=True):
        old.copy_(new)


def _bare(value: object) -> object:
    """A tensor on the same memory that autograd knows nothing of; others as they are."""
    return value.detach() if isinstance(value, Tensor) else value


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _places(tree: object) -> list[int]:
    """Where the tensors in some arguments begin their memory; they must all be alive."""
    return [tensor.untyped_storage().data_ptr() for tensor in _tensors(tree)]
