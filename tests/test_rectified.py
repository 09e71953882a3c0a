"""Perceptrons with a gradient written out are the plain ones, also differentiated twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from mabe_transfer import rectified, weights
from mabe_transfer.descent import PIECE, _pieces, adam, descend, descend_run, fused, set_rate
from mabe_transfer.networks import Critics, StackedMlp
from mabe_transfer.streams import Sizes, generator

if TYPE_CHECKING:
    from collections.abc import Sequence

SHAPES = [(5, 7, 7, 1), (3, 40, 20), (20, 17, 17, 18), (4, 2)]


def stack(widths: Sequence[int], count: int = 3) -> StackedMlp:
    return StackedMlp(widths, [generator(k, "net", torch.device("cpu")) for k in range(count)])


def layers(net: StackedMlp) -> tuple[list[Tensor], list[Tensor]]:
    return list(net.weights), list(net.biases)


def inputs(net: StackedMlp) -> Tensor:
    count, width, _ = net.weights[0].shape
    noise = torch.randn(count, 11, width, generator=torch.Generator().manual_seed(1))
    return noise.requires_grad_()


def close(found: Tensor | None, wanted: Tensor | None) -> bool:
    assert found is not None
    assert wanted is not None
    return torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)


def loss_of(output: Tensor) -> Tensor:
    return (output.square() * torch.linspace(0.1, 1.0, output.numel()).view_as(output)).sum()


@pytest.mark.parametrize("widths", SHAPES)
def test_output_and_every_gradient_are_those_of_the_plain_perceptrons(
    widths: tuple[int, ...],
) -> None:
    net = stack(widths)
    x = inputs(net)
    wanted, found = (f(x, *layers(net)) for f in (rectified.plain, rectified.perceptrons))
    assert close(found, wanted)
    asked = (x, *net.parameters())
    for mine, plain in zip(
        torch.autograd.grad(loss_of(found), asked),
        torch.autograd.grad(loss_of(wanted), asked),
        strict=True,
    ):
        assert close(mine, plain)


@pytest.mark.parametrize("widths", SHAPES)
def test_gradient_of_a_gradient_is_that_of_the_plain_perceptrons(widths: tuple[int, ...]) -> None:
    net = stack(widths)
    x = inputs(net)
    found = []
    for f in (rectified.plain, rectified.perceptrons):
        (slope,) = torch.autograd.grad(loss_of(f(x, *layers(net))), (x,), create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), list(net.weights)))
    for plain, mine in zip(*found, strict=True):
        assert close(mine, plain)
        assert mine.abs().sum() > 0.0


@pytest.mark.parametrize("widths", SHAPES)
def test_pass_writes_the_gradients_of_autograd(widths: tuple[int, ...]) -> None:
    net = stack(widths)
    x = inputs(net)
    wanted = torch.autograd.grad(loss_of(rectified.plain(x, *layers(net))), tuple(net.parameters()))
    adam(net, 1e-3)
    run = net.run(x)
    (slope,) = torch.autograd.grad(loss_of(run.output), (run.output,))
    run.to_parameters(slope)
    for parameter, gradient in zip(net.parameters(), wanted, strict=True):
        assert close(parameter.grad, gradient)


@pytest.mark.parametrize("widths", SHAPES)
@pytest.mark.parametrize("learned", [0, 4, 11])
def test_rows_of_a_pass_go_different_ways_back(widths: tuple[int, ...], learned: int) -> None:
    net = stack(widths)
    x = inputs(net)
    first = loss_of(rectified.plain(x[:, :learned], *layers(net)))
    of_parameters = torch.autograd.grad(first, tuple(net.parameters()))
    second = loss_of(rectified.plain(x[:, learned:], *layers(net)))
    (of_inputs,) = torch.autograd.grad(second, (x,))
    adam(net, 1e-3)
    run = net.run(x)
    both = loss_of(run.output[:, :learned]) + loss_of(run.output[:, learned:])
    (slope,) = torch.autograd.grad(both, (run.output,))
    assert close(run.back(slope, learned), of_inputs[:, learned:])
    assert close(run.back(slope, learned, 1), of_inputs[:, learned:, 1:])
    for parameter, gradient in zip(net.parameters(), of_parameters, strict=True):
        assert close(parameter.grad, gradient)


@pytest.mark.parametrize("widths", SHAPES)
def test_rows_before_the_start_give_the_parameters_nothing(widths: tuple[int, ...]) -> None:
    net = stack(widths)
    x = inputs(net)
    loss = loss_of(rectified.plain(x[:, 4:], *layers(net)))
    wanted = torch.autograd.grad(loss, tuple(net.parameters()))
    adam(net, 1e-3)
    run = net.run(x)
    (slope,) = torch.autograd.grad(loss_of(run.output[:, 4:]), (run.output,))
    run.to_parameters(slope, start=4)
    for parameter, gradient in zip(net.parameters(), wanted, strict=True):
        assert close(parameter.grad, gradient)


def test_inputs_of_a_pass_get_no_gradient_unasked() -> None:
    net = stack((3, 4, 1))
    x = inputs(net)
    assert not net.run(x)._inputs[0].requires_grad


def test_slope_of_the_action_is_the_sum_over_critics() -> None:
    sizes = Sizes(seeds=(0, 1), observation=3, action=2)
    critics = Critics(sizes, (8,), 2, "critics")
    adam(critics, 1e-3)
    draw = torch.Generator().manual_seed(0)
    state = torch.randn(2, 5, 3, generator=draw)
    action = torch.randn(2, 5, 2, generator=draw).requires_grad_()
    (wanted,) = torch.autograd.grad(loss_of(critics.values(state, action)), (action,))
    run = critics.run(state, action)
    assert torch.equal(critics.reading(run.output), critics.values(state, action))
    (slope,) = torch.autograd.grad(loss_of(critics.reading(run.output)), (run.output,))
    assert close(critics.added(run.back(slope, 0, critics.observation)), wanted)


def test_adam_of_one_tensor_steps_as_adam_of_many() -> None:
    mine, other = stack((4, 6, 1)), stack((4, 6, 1))
    together = adam(mine, 0.01)
    apart = torch.optim.Adam(other.parameters(), lr=0.01)
    x = inputs(mine).detach()
    for _ in range(5):
        descend(loss_of(mine.evaluate(x)), mine.parameters(), together)
        apart.zero_grad()
        torch.autograd.backward(loss_of(rectified.plain(x, *layers(other))))
        apart.step()
    for one, two in zip(mine.parameters(), other.parameters(), strict=True):
        assert close(one, two)


def test_adam_of_one_tensor_goes_on_from_what_one_of_many_left() -> None:
    before, whole = stack((4, 6, 1)), stack((4, 6, 1))
    apart = torch.optim.Adam(before.parameters(), lr=0.01, fused=True)
    at_once = adam(whole, 0.01)
    x = inputs(before).detach()
    for _ in range(3):
        descend(loss_of(before.evaluate(x)), before.parameters(), apart)
        descend(loss_of(whole.evaluate(x)), whole.parameters(), at_once)
    after = stack((4, 6, 1), 3)
    after.load_state_dict(before.state_dict())
    together = adam(after, 0.01)
    weights.load_optimiser(together, weights.optimiser_state(apart))
    descend(loss_of(after.evaluate(x)), after.parameters(), together)
    descend(loss_of(whole.evaluate(x)), whole.parameters(), at_once)
    for one, two in zip(after.parameters(), whole.parameters(), strict=True):
        assert close(one, two)


def test_loss_of_a_pass_and_of_other_evaluations_is_descended_whole() -> None:
    mine, other = stack((4, 6, 1)), stack((4, 6, 1))
    x = inputs(mine).detach()
    together, apart = adam(mine, 0.01), adam(other, 0.01)
    for _ in range(3):
        run = mine.run(x)
        loss = loss_of(run.output) + mine.evaluate(-x).sum()
        descend_run(loss, run, mine.parameters(), together, learned=11)
        whole = loss_of(other.evaluate(x)) + other.evaluate(-x).sum()
        descend(whole, other.parameters(), apart)
    for one, two in zip(mine.parameters(), other.parameters(), strict=True):
        assert close(one, two)


def test_loaded_weights_reach_the_tensor_that_adam_steps() -> None:
    net = stack((3, 4, 1))
    optimiser = adam(net, 0.01)
    fresh: nn.Module = stack((3, 4, 1), 3)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.fill_(0.5)
    net.load_state_dict(fresh.state_dict())
    (whole,) = optimiser.param_groups[0]["params"]
    assert bool((whole == 0.5).all())


@pytest.mark.parametrize("widths", [(5, 32, 32, 32, 1), (20, 48, 48, 18), (4, 8, 2), (3, 2)])
def test_half_precision_is_close_and_keeps_float32_outside(widths: tuple[int, ...]) -> None:
    net = stack(widths)
    x = inputs(net)
    asked = (x, *net.parameters())
    output = rectified.plain(x, *layers(net))
    wanted = torch.autograd.grad(loss_of(output), asked)
    net.halved = True
    for found in (net.evaluate(x), net.run(x).output):
        assert found.dtype == torch.float32
        assert near(found, output)
    for mine, plain in zip(
        torch.autograd.grad(loss_of(net.evaluate(x)), asked), wanted, strict=True
    ):
        assert mine.dtype == torch.float32
        assert near(mine, plain)
    adam(net, 1e-3)
    run = net.run(x)
    (slope,) = torch.autograd.grad(loss_of(run.output), (run.output,))
    assert near(run.back(slope, 0), wanted[0])
    run.to_parameters(slope)
    for parameter, gradient in zip(net.parameters(), wanted[1:], strict=True):
        assert near(parameter.grad, gradient)
    wide = len(widths) > 3  # else no layer lies between hidden ones, and nothing changes
    assert torch.equal(run.output, output) != wide


def near(found: Tensor | None, wanted: Tensor) -> bool:
    """Six hundredths off at the most, as a whole; bfloat16 rounds to one part in 256."""
    assert found is not None
    return bool((found - wanted).norm() <= 0.06 * wanted.norm())


def test_what_an_adam_keeps_is_cut_as_the_next_one_s_tensors_are() -> None:
    def made(sizes: list[int]) -> torch.optim.Adam:
        parts = [part.clone() for part in torch.split(torch.arange(12.0), sizes)]
        for part in parts:
            part.grad = part - 5.0
        return fused(parts, 1e-2)

    def squares(adam: torch.optim.Adam) -> list[Tensor]:
        return [adam.state[one]["exp_avg_sq"] for one in adam.param_groups[0]["params"]]

    whole = made([12])
    whole.step()
    for sizes in ([5, 7], [4, 4, 4], [12]):
        cut = made(sizes)
        cut.step()
        for other in ([12], [5, 7], [3, 3, 6]):
            again = made(other)
            weights.load_optimiser(again, weights.optimiser_state(cut))
            assert [len(one) for one in squares(again)] == other
            assert torch.equal(torch.cat(squares(again)), torch.cat(squares(whole)))


def test_pieces_of_a_tensor_are_stepped_as_the_tensor() -> None:
    one, other = (torch.linspace(-1.0, 1.0, PIECE + 10) for _ in range(2))
    for tensor in (one, other):
        tensor.grad = tensor.clone()
    fused([one], 1e-2).step()
    pieces = _pieces(other)
    assert [len(piece) for piece in pieces] == [PIECE, 10]
    adam = fused(pieces, 1.0)
    set_rate(adam, 1e-2)
    adam.step()
    assert torch.equal(one, other)
