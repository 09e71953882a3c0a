"""Natural gradients: the solver against a direct one, the Fisher product against the Hessian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mabe_transfer import losses, natural
from mabe_transfer.networks import Actor
from mabe_transfer.streams import Sizes


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def positive(seed: int, stack: int, size: int) -> Tensor:
    """Symmetric positive matrices, [stack, size, size]."""
    root = normal(seed, stack, size, size)
    return root @ root.transpose(1, 2) + torch.eye(size)


def times(matrix: Tensor) -> natural.Product:
    return lambda vector: (matrix @ vector[..., None])[..., 0]


# -- conjugate gradients -------------------------------------------------------------------------


def test_conjugate_gradients_solve_every_seed_s_system() -> None:
    matrix, right = positive(0, 3, 6).double(), normal(1, 3, 6).double()
    found = natural.conjugate_gradient(times(matrix), right, 20)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right), rtol=1e-4, atol=1e-4)


def test_as_many_iterations_as_parameters_are_enough() -> None:
    matrix, right = positive(2, 2, 4).double(), normal(3, 2, 4).double()
    exact = torch.linalg.solve(matrix, right)
    three, four = (natural.conjugate_gradient(times(matrix), right, n) for n in (3, 4))
    assert float((three - exact).abs().max()) > 1e-3
    torch.testing.assert_close(four, exact, rtol=1e-6, atol=1e-6)


def test_first_iteration_goes_down_the_residual_as_far_as_it_helps() -> None:
    matrix = torch.tensor([[[2.0, 0.0], [0.0, 8.0]]])
    found = natural.conjugate_gradient(times(matrix), torch.tensor([[1.0, 1.0]]), 1)
    # r'r / r'Ar = 2 / 10
    assert found[0].tolist() == pytest.approx([0.2, 0.2])


def test_seed_that_is_solved_early_ends_as_it_does_alone() -> None:
    matrix = positive(4, 2, 5)
    matrix[0] = 3.0 * torch.eye(5)  # solved in one iteration
    right = normal(5, 2, 5)
    both = natural.conjugate_gradient(times(matrix), right, 10)
    alone = natural.conjugate_gradient(times(matrix[:1]), right[:1], 10)
    assert torch.equal(both[:1], alone)
    torch.testing.assert_close(both[0], right[0] / 3.0)


def test_seed_without_a_right_side_has_the_solution_zero() -> None:
    right = torch.cat((torch.zeros(1, 4), normal(7, 1, 4)))
    found = natural.conjugate_gradient(times(positive(6, 2, 4)), right, 10)
    assert found[0].tolist() == [0.0] * 4
    assert bool(found[1].isfinite().all())
    assert float(found[1].abs().max()) > 0.0


# -- parameters as vectors -----------------------------------------------------------------------


def test_vector_of_parameters_goes_back_to_where_it_came_from() -> None:
    size = Sizes(seeds=(0, 1), observation=2, action=1)
    one, other = Actor(size, (3,), "one"), Actor(size, (3,), "other")
    vector = natural.flat(one.parameters())
    assert vector.shape == (2, 2 * 3 + 3 + 3 * 2 + 2)
    natural.assign(other, vector)
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


# -- the Fisher matrix ---------------------------------------------------------------------------


def explicit(actor: Actor, observation: Tensor, alive: Tensor) -> Tensor:
    """Hessians of every seed's mean divergence from itself, by second differences, [S, P, P]."""
    start, step = natural.flat(actor.parameters()).detach().clone(), 1e-4
    with torch.no_grad():
        old = actor.distribution(observation)

    @torch.no_grad()
    def divergence(change: Tensor) -> Tensor:
        natural.assign(actor, start + change)
        each = losses.gaussian_kl(old, actor.distribution(observation))
        return (each * alive).sum(1) / alive.sum(1)

    count = start.shape[1]
    found = torch.zeros(len(start), count, count).double()
    ways = step * torch.eye(count).double()
    for i, one in enumerate(ways):
        for j, other in enumerate(ways[: i + 1]):
            bend = divergence(one + other) - divergence(one - other)
            bend += divergence(-one - other) - divergence(other - one)
            found[:, i, j] = found[:, j, i] = bend / (4.0 * step**2)
    natural.assign(actor, start)
    return found


def test_fisher_product_is_the_explicit_hessian_of_the_divergence() -> None:
    size = Sizes(seeds=(0, 1), observation=2, action=1)
    actor = Actor(size, (3,), "policy").double()
    observation = normal(0, 2, 8, 2).double()
    alive = torch.ones(2, 8, dtype=torch.bool)
    alive[1, 5:] = False
    product = natural.fisher_product(actor, observation, alive, damping=0.0)
    count = natural.flat(actor.parameters()).shape[1]
    columns = [product(row.expand(2, -1)) for row in torch.eye(count).double()]
    matrix = torch.stack(columns, 2)
    torch.testing.assert_close(matrix, explicit(actor, observation, alive), rtol=1e-4, atol=1e-6)
    assert float(matrix.abs().amax((1, 2)).min()) > 0.1


def test_damping_is_added_times_the_vector() -> None:
    size = Sizes(seeds=(0,), observation=2, action=1)
    actor, observation = Actor(size, (3,), "policy"), normal(0, 1, 8, 2)
    alive = torch.ones(1, 8, dtype=torch.bool)
    vector = normal(1, *natural.flat(actor.parameters()).shape)
    plain, damped = (
        natural.fisher_product(actor, observation, alive, damping)(vector) for damping in (0.0, 0.3)
    )
    torch.testing.assert_close(damped, plain + 0.3 * vector)
