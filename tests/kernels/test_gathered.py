"""gathered_dot and gathered_sum against the plain gather, values and gradients."""

import pytest
import torch

from kernels import gathered_dot, gathered_sum
from kernels.gathered.reference import gathered_dot_reference, gathered_sum_reference

SHAPES = [(1, 1, 1, 4), (7, 5, 3, 32), (64, 50, 900, 48), (3, 9, 1, 16)]


def operands(queries, picks, rows, width, dtype=torch.float32):
    torch.manual_seed(0)
    return (
        torch.randn(queries, width, dtype=dtype, requires_grad=True),
        torch.rand(queries, picks, dtype=dtype, requires_grad=True),
        torch.randn(rows, width, dtype=dtype, requires_grad=True),
        torch.randint(0, rows, (queries, picks)),
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("op", "reference", "operand"),
    [(gathered_dot, gathered_dot_reference, 0), (gathered_sum, gathered_sum_reference, 1)],
)
def test_values_and_gradients(shape, op, reference, operand):
    given = operands(*shape)
    left, rows, index = given[operand], given[2], given[3]
    expected = reference(left, rows, index)
    actual = op(left, rows, index)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    grad = torch.randn_like(expected)
    for a, e in zip(
        torch.autograd.grad(actual, (left, rows), grad),
        torch.autograd.grad(expected, (left, rows), grad),
        strict=True,
    ):
        torch.testing.assert_close(a, e, atol=1e-4, rtol=1e-4)


def test_gradcheck_in_double():
    query, weight, rows, index = operands(4, 3, 6, 5, torch.float64)
    assert torch.autograd.gradcheck(lambda q, r: gathered_dot(q, r, index), (query, rows))
    assert torch.autograd.gradcheck(lambda w, r: gathered_sum(w, r, index), (weight, rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_change_nothing(dtype, monkeypatch):
    found = []
    for most in (1 << 20, 7 * 3 * 5, 1):
        monkeypatch.setattr("kernels.gathered.op._PIECE", {"cpu": most})
        query, weight, rows, index = operands(9, 3, 6, 5, dtype)
        dots, sums = gathered_dot(query, rows, index), gathered_sum(weight, rows, index)
        (dots.sum() + sums.square().sum()).backward()
        found.append((dots, sums, query.grad, weight.grad, rows.grad))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)


def test_a_row_that_thousands_pick_gets_all_their_gradients_in_half_precision(monkeypatch):
    # One query a piece: within a piece a CPU adds in float32 whatever it is asked for.
    monkeypatch.setattr("kernels.gathered.op._PIECE", {"cpu": 1})
    queries = 4_000
    query, weight, rows, _ = operands(queries, 2, 3, 8, torch.bfloat16)
    index = torch.ones(queries, 2, dtype=torch.int64)
    for op, left, reference in (
        (gathered_dot, query, gathered_dot_reference),
        (gathered_sum, weight, gathered_sum_reference),
    ):
        grad = torch.full_like(op(left, rows, index), 1e-3)
        (found,) = torch.autograd.grad(op(left, rows, index), rows, grad)
        exact = [part.detach().double().requires_grad_() for part in (left, rows)]
        (expected,) = torch.autograd.grad(reference(*exact, index), exact[1], grad.double())
        torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize(("queries", "picks"), [(0, 5), (3, 0)])
def test_empty(queries, picks):
    index = torch.zeros(queries, picks, dtype=torch.int64)
    rows = torch.randn(4, 8)
    assert gathered_dot(torch.randn(queries, 8), rows, index).shape == (queries, picks)
    summed = gathered_sum(torch.rand(queries, picks), rows, index)
    assert torch.equal(summed, torch.zeros(queries, 8))


def test_bad_arguments_are_named():
    query, weight, rows, index = operands(4, 3, 6, 5)
    with pytest.raises(ValueError, match="query_BD"):
        gathered_dot(query[:, :4], rows, index)
    with pytest.raises(ValueError, match="weight_BK"):
        gathered_sum(weight.double(), rows, index)
    with pytest.raises(ValueError, match="index_BK"):
        gathered_sum(weight, rows, index.int())
