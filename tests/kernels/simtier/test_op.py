"""simtier against its reference: counts exactly, gradients, compilers, arguments."""

import numpy as np
import pytest
import torch
from torch import library

from kernels import simtier
from kernels.simtier.reference import simtier_reference

SHAPES = [(0, 50), (1, 1), (63, 128), (1000, 50), (3, 0), (5, 4, 50), (7,)]
FORMS = [("equal", 1), ("equal", 10), ("equal", 50), ("tenths", 22), ("tenths", 5)]


def make_case(shape, seed=0):
    """Similarities a bit beyond [-1, 1], among them the edges of tiers; a third is hidden."""
    g = torch.Generator().manual_seed(seed)
    similarity = torch.rand(shape, generator=g) * 2.2 - 1.1
    edges = torch.randint(-10, 11, shape, generator=g) / 10
    similarity = torch.where(torch.rand(shape, generator=g) < 0.3, edges, similarity)
    return similarity, torch.rand(shape, generator=g) < 0.67


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("tiers", "bins"), FORMS)
def test_counts_equal_reference(shape, tiers, bins):
    similarity, mask = make_case(shape)
    expected = simtier_reference(similarity, mask, bins, tiers=tiers)
    for given in (similarity, similarity.requires_grad_()):
        actual = simtier(given, mask, bins, tiers=tiers)
        assert torch.equal(actual, expected)
        assert not actual.requires_grad
    assert actual.shape == (*shape[:-1], bins)
    assert actual.sum() == mask.sum()


def test_equal_tiers_are_a_histogram():
    similarity, mask = make_case((40, 50))
    similarity.clamp_(-1, 1)
    actual = simtier(similarity, mask, 8)
    for row in range(40):
        kept = similarity[row][mask[row]].numpy()
        assert actual[row].tolist() == np.histogram(kept, np.linspace(-1, 1, 9))[0].tolist()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("tiers", "bins"), FORMS)
def test_scaled_values_and_gradient_equal_reference(shape, tiers, bins):
    similarity, mask = make_case(shape)
    scale = torch.rand(bins, requires_grad=True)
    expected = simtier_reference(similarity, mask, bins, tiers=tiers, scale=scale)
    actual = simtier(similarity, mask, bins, tiers=tiers, scale=scale)
    assert torch.equal(actual, expected)
    grad = torch.randn_like(expected)
    actual_grad, expected_grad = (
        torch.autograd.grad(features, scale, grad)[0] for features in (actual, expected)
    )
    assert torch.equal(actual_grad, expected_grad)


def test_gradient_equals_finite_differences():
    """Features are linear in the scale, so that a step of any length measures the derivative."""
    similarity, mask = make_case((6, 30))
    scale, grad = torch.rand(22, requires_grad=True), torch.randn(6, 22)

    def loss(scale):
        return (simtier(similarity, mask, 22, tiers="tenths", scale=scale).double() * grad).sum()

    (actual,) = torch.autograd.grad(loss(scale), scale)
    with torch.no_grad():
        steps = torch.stack([loss(scale + row) - loss(scale - row) for row in torch.eye(22)]) / 2
    torch.testing.assert_close(actual, steps.float(), atol=1e-5, rtol=1e-5)


def test_what_is_hidden_or_nan_counts_nowhere():
    nan, inf = float("nan"), float("inf")
    similarity = torch.tensor([[nan, nan, 0.5, inf, -inf, inf, 3e38]])
    mask = torch.tensor([[True, False, True, True, True, False, True]])
    for tiers, expected in (("equal", [1, 0, 0, 3]), ("tenths", [1, 0, 0, 3])):
        assert simtier(similarity, mask, 4, tiers=tiers)[0].tolist() == expected


def test_views_count_as_their_copies():
    similarity, mask = make_case((50, 6, 4))
    views = similarity.permute(2, 1, 0), mask.permute(2, 1, 0)
    copies = [view.contiguous() for view in views]
    assert torch.equal(simtier(*views, 9), simtier(*copies, 9))


def test_operators_equal_the_direct_path():
    """An eager call on a CPU does not go through them; a compiled one does."""
    similarity, mask = make_case((63, 50))
    scale = torch.rand(22, requires_grad=True)
    ops = torch.ops.lifelong_kernels
    direct = simtier(similarity, mask, 22, tiers="tenths", scale=scale)
    features, counts = ops.simtier_scaled(similarity, mask, scale, "tenths")
    assert torch.equal(features, direct)
    assert torch.equal(counts, ops.simtier_counts(similarity, mask, 22, "tenths"))
    grad = torch.randn_like(direct)
    (expected,) = torch.autograd.grad(direct, scale, grad)
    assert torch.equal(torch.autograd.grad(features, scale, grad)[0], expected)


@pytest.mark.parametrize("shape", [(4, 7), (2, 3, 5), (5,), (0, 3)])
def test_operator_contracts(shape):
    similarity, mask = make_case(shape)
    scale = torch.rand(22, requires_grad=True)
    counts, ops = simtier(similarity, mask, 22), torch.ops.lifelong_kernels
    library.opcheck(ops.simtier_counts.default, (similarity, mask, 20, "equal"))
    library.opcheck(ops.simtier_scaled.default, (similarity, mask, scale, "tenths"))
    library.opcheck(ops.simtier_scale_grad.default, (torch.rand_like(counts), counts))


class Histogram(torch.nn.Module):
    def __init__(self, tiers):
        super().__init__()
        self.tiers = tiers
        self.scale = torch.nn.Parameter(torch.rand(22)) if tiers == "tenths" else None

    def forward(self, similarity, mask):
        return simtier(similarity, mask, 22, tiers=self.tiers, scale=self.scale) * 2


@pytest.mark.parametrize("tiers", ["equal", "tenths"])
@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_and_exports_without_a_graph_break(tiers, autocast):
    module, given = Histogram(tiers), make_case((3, 4, 50))
    expected = module(*given)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        actual = compiled(*given)
        exported = torch.export.export(module, given).module()(*given)
    assert torch.equal(actual, expected)
    assert torch.equal(exported, expected)
    if module.scale is not None:
        grad = torch.randn_like(expected)
        actual_grad, expected_grad = (
            torch.autograd.grad(features, module.scale, grad)[0] for features in (actual, expected)
        )
        assert torch.equal(actual_grad, expected_grad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"similarity": torch.zeros(2, 3, dtype=torch.bfloat16)}, "similarity: torch.bfloat16"),
        ({"similarity": torch.zeros(())}, "similarity"),
        ({"mask": torch.ones(2, 3)}, "mask: torch.float32"),
        ({"mask": torch.ones(2, 1, dtype=torch.bool)}, r"mask: torch.bool \(2, 1\)"),
        ({"mask": torch.ones(2, 3, dtype=torch.bool, device="meta")}, "mask: on meta"),
        ({"bins": 0}, "bins: 0"),
        ({"tiers": "thirds"}, "tiers: 'thirds'.*equal, tenths"),
        ({"scale": torch.ones(4)}, r"scale: torch.float32 \(4,\)"),
        ({"scale": torch.ones(5, dtype=torch.float64)}, "scale: torch.float64"),
        ({"scale": torch.ones(5, device="meta")}, "scale: on meta"),
    ],
)
def test_bad_arguments_are_named(change, message):
    case = {"similarity": torch.zeros(2, 3), "mask": torch.ones(2, 3, dtype=torch.bool), "bins": 5}
    with pytest.raises(ValueError, match=message):
        simtier(**{**case, **change})
