"""A tape does what the work did: from the same memory, bit for bit, and no more than is needed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from mabe_transfer.descent import adam, descend, fused, set_rate
from mabe_transfer.networks import StackedMlp
from mabe_transfer.streams import generator
from mabe_transfer.tape import DIRECT, Tape, _copied, _Listener, record

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")


def recorded(work: Callable[[], object]) -> Tape:
    tape = record(work)
    assert tape is not None
    return tape


def test_recording_does_the_work_once_and_each_replay_once_more() -> None:
    total = torch.zeros(3)
    tape = recorded(lambda: total.add_(torch.ones(3)))
    assert total.tolist() == [1.0] * 3
    for count in (2.0, 3.0):
        tape.replay()
        assert total.tolist() == [count] * 3


def test_replay_reads_what_lies_in_memory_now() -> None:
    given, found = torch.tensor([1.0, 2.0]), torch.zeros(2)
    tape = recorded(lambda: found.copy_((given * 3.0 + 1.0).exp().log()))
    given.copy_(torch.tensor([5.0, -2.0]))
    tape.replay()
    assert found.tolist() == pytest.approx([16.0, -5.0], rel=1e-6)


@pytest.mark.parametrize("form", DIRECT, ids=str)
def test_names_of_operations_stand_for_their_forms(form: Any) -> None:
    """`torch.mul` with an output is the very operation that it is written down for."""
    matrix, bias = torch.rand(2, 3, 3), torch.rand(2, 1, 3)
    name = str(form).split(".")[1]
    args: dict[str, tuple[Any, ...]] = {
        "baddbmm": (bias, matrix, matrix),
        "cat": ([matrix, matrix], 1),
        "stack": ([matrix, matrix],),
        **dict.fromkeys(("amin", "mean", "sum"), (matrix, [1], True)),
        **dict.fromkeys(("add", "bmm", "div", "mul", "sub"), (matrix, matrix)),
    }
    given = args.get(name, (matrix,))
    found = torch.empty_like(getattr(torch, name)(*given))
    with _Listener() as heard:
        DIRECT[form](*given, out=found)
    assert [one.operation for one in heard.noted] == [form]
    assert torch.equal(found, getattr(torch, name)(*given))


def test_operations_in_place_go_on_as_the_work_does() -> None:
    """Draws from a stream, a list of counters, and a number less a tensor."""

    def run(times: int, repeat: bool) -> list[Tensor]:
        stream, counts = generator(3, "tape", CPU), [torch.tensor(4.0)]
        drawn, whole, left = torch.zeros(5), torch.zeros(3, dtype=torch.int64), torch.zeros(3, 5)

        def work() -> None:
            drawn.normal_(generator=stream)
            whole.random_(0, 1000, generator=stream)
            torch._foreach_add_(counts, 2)
            left[0] = 1.5 - drawn
            left[1] = torch.rsub(drawn, 1.5, alpha=2.0)
            left[2, :3] = 7 - whole

        again = recorded(work).replay if repeat else work
        for _ in range(times - repeat):
            again()
        return [drawn, whole, left, *counts]

    one, other = run(4, True), run(4, False)
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    assert float(one[-1]) == 12.0


def test_views_and_constants_are_not_made_again() -> None:
    given, found = torch.arange(6.0), torch.zeros(3)

    def work() -> None:
        rows = given.view(2, 3).mT.flip(1)[:, 0]  # flip is the one that moves numbers
        found.copy_(rows + torch.ones(3))

    tape = recorded(work)
    assert len(tape) == 3  # flip, add, copy
    given.mul_(10.0)
    tape.replay()
    assert found.tolist() == [31.0, 41.0, 51.0]


def test_zeros_that_the_work_adds_to_are_zeros_again() -> None:
    given, found = torch.ones(2), torch.zeros(2)

    def work() -> None:
        start = torch.zeros(2)
        start[0] += given[0]
        start.add_(given)
        found.copy_(start)

    tape = recorded(work)
    for _ in range(2):
        tape.replay()
        assert found.tolist() == [2.0, 1.0]


def test_results_that_no_form_writes_in_place_are_copied() -> None:
    given, found = torch.rand(2, 3, requires_grad=True), torch.zeros(2, 3)

    def slope() -> Tensor:
        normed = torch.nn.functional.layer_norm(given, (3,))
        return torch.autograd.grad(normed.square().sin().sum(), given)[0]

    tape = recorded(lambda: found.copy_(slope()))
    assert any(isinstance(call, partial) and call.func is _copied for call in tape._calls)
    with torch.no_grad():
        given.copy_(torch.tensor([[7.0, 8.0, 1.0], [0.0, 5.0, -3.0]]))
    tape.replay()
    assert found.abs().sum() > 0.0
    assert torch.equal(found, slope())


def test_operations_with_several_results_are_repeated() -> None:
    given, best = torch.tensor([[3.0, 1.0], [2.0, 5.0]]), torch.zeros(2)
    places = torch.zeros(2, dtype=torch.int64)

    def work() -> None:
        value, index = given.max(1)
        best.copy_(value)
        places.copy_(index)

    tape = recorded(work)
    given.copy_(given.flip(1))
    tape.replay()
    assert best.tolist() == [3.0, 5.0]
    assert places.tolist() == [1, 0]


def test_random_numbers_go_on_in_their_stream() -> None:
    one, other = (generator(3, "x", CPU) for _ in range(2))
    normal, rows = torch.zeros(40), torch.zeros(5, dtype=torch.int64)

    def work(stream: torch.Generator) -> None:
        normal.copy_(torch.randn(40, generator=stream))
        rows.copy_(torch.randint(1_000, (5,), generator=stream))

    tape, wanted = recorded(lambda: work(one)), list[tuple[Tensor, Tensor]]()
    for _ in range(3):
        work(other)
        wanted.append((normal.clone(), rows.clone()))
    for expected in wanted[1:]:
        tape.replay()
        assert torch.equal(normal, expected[0])
        assert torch.equal(rows, expected[1])


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: float(x.sum()),
        lambda x: x[x > 0.0],
        lambda x: torch.nonzero(x),
        lambda x: bool((x > 0.0).all()),
        lambda x: (x + 1.0).unsqueeze_(0),
    ],
)
def test_work_that_asks_for_numbers_is_done_and_not_recorded(
    asks: Callable[[Tensor], object],
) -> None:
    given, done = torch.tensor([1.0, -1.0]), list[object]()
    assert record(lambda: done.append(asks(given))) is None
    assert len(done) == 1


def test_rows_picked_by_whole_numbers_are_recorded() -> None:
    table, picked, found = torch.arange(8.0).view(4, 2), torch.tensor([3, 1]), torch.zeros(2, 2)
    tape = recorded(lambda: found.copy_(table[picked]))
    picked.copy_(torch.tensor([0, 2]))
    tape.replay()
    assert found.tolist() == [[0.0, 1.0], [4.0, 5.0]]


def test_descent_by_tape_is_the_descent_also_at_another_rate() -> None:
    made = []
    for taped in (False, True):
        net = StackedMlp((3, 8, 1), [generator(k, "net", CPU) for k in range(2)])
        optimiser, stream = adam(net, 1e-2), generator(0, "batches", CPU)

        def work(
            net: StackedMlp = net,
            optimiser: torch.optim.Adam = optimiser,
            stream: torch.Generator = stream,
        ) -> None:
            x = torch.randn(2, 16, 3, generator=stream)
            descend(
                (net.evaluate(x) - x.sum(-1, keepdim=True)).square().mean(),
                net.parameters(),
                optimiser,
            )

        work()
        tape = recorded(work) if taped else None
        if tape is None:
            work()
        for rate in (1e-2, 1e-3):
            set_rate(optimiser, rate)
            for _ in range(5):
                work() if tape is None else tape.replay()
        made.append([parameter.detach().clone() for parameter in net.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


def test_rate_of_an_adam_is_the_number_it_was_given() -> None:
    mine, plain = (torch.zeros(3) for _ in range(2))
    for parameter in (mine, plain):
        parameter.grad = torch.tensor([1.0, -2.0, 0.5])
    optimiser = fused([mine], 3e-4)
    assert float(optimiser.param_groups[0]["lr"]) == 3e-4
    optimiser.step()
    torch.optim.Adam([plain], lr=3e-4, fused=True).step()
    assert torch.equal(mine, plain)
