"""SimTier's Triton kernels against the reference: on a GPU, or interpreted on the CPU."""

import math

import pytest
import torch

from kernels.simtier.reference import simtier_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORMS = [("equal", 1), ("equal", 10), ("tenths", 22), ("equal", 50)]


@pytest.fixture
def kernel(poisoned, device):
    pytest.importorskip("triton")
    from kernels.simtier import kernel

    return kernel


def make_case(shape, seed=0):
    """Similarities a bit beyond [-1, 1], edges of tiers and a NaN among them; a third is hidden."""
    g = torch.Generator().manual_seed(seed)
    similarity = torch.rand(shape, generator=g) * 2.2 - 1.1
    edges = torch.randint(-10, 11, shape, generator=g) / 10
    similarity = torch.where(torch.rand(shape, generator=g) < 0.3, edges, similarity)
    similarity.view(-1)[:1] = float("nan")
    return similarity, torch.rand(shape, generator=g) < 0.67


@pytest.mark.parametrize(("tiers", "bins"), FORMS)
@pytest.mark.parametrize(
    ("rows", "picks"),
    [(0, 50), (1, 0), (1, 1), (1, 50), (63, 1), (63, 50), (63, 128)],
)
def test_counts_and_features_equal_reference(kernel, tiers, bins, rows, picks):
    similarity, mask = make_case((rows, picks))
    scale = torch.rand(bins)
    expected = simtier_reference(similarity, mask, bins, tiers=tiers)
    on_device = similarity.to(DEVICE), mask.to(DEVICE)
    counts = kernel.simtier_counts_cuda(*on_device, bins, tiers == "tenths")
    assert torch.equal(counts.cpu(), expected)
    features, counts = kernel.simtier_scaled_cuda(*on_device, scale.to(DEVICE), tiers == "tenths")
    assert torch.equal(counts.cpu(), expected)
    expected = simtier_reference(similarity, mask, bins, tiers=tiers, scale=scale)
    torch.testing.assert_close(features.cpu(), expected, atol=1e-6, rtol=1e-6)


def test_a_training_batch(kernel):
    similarity, mask = make_case((1000, 50))
    counts = kernel.simtier_counts_cuda(similarity.to(DEVICE), mask.to(DEVICE), 22, True)
    assert torch.equal(counts.cpu(), simtier_reference(similarity, mask, 22, tiers="tenths"))


def test_more_bins_than_a_program_counts(kernel):
    similarity, mask = make_case((9, 50))
    counts = kernel.simtier_counts_cuda(similarity.to(DEVICE), mask.to(DEVICE), 300, False)
    assert torch.equal(counts.cpu(), simtier_reference(similarity, mask, 300))


def test_views_and_leading_dimensions(kernel):
    similarity, mask = make_case((50, 6, 4))
    views = similarity.permute(2, 1, 0), mask.permute(2, 1, 0)
    counts = kernel.simtier_counts_cuda(views[0].to(DEVICE), views[1].to(DEVICE), 9, False)
    assert torch.equal(counts.cpu(), simtier_reference(*views, 9))


@pytest.mark.parametrize("rows", [0, 1, 63, 1000])
@pytest.mark.parametrize("bins", [1, 22, 300])
@pytest.mark.parametrize("most_partials", [5, 1024])
def test_gradient_of_the_scale(kernel, monkeypatch, rows, bins, most_partials):
    monkeypatch.setattr(kernel, "_MOST_PARTIALS", most_partials)
    g = torch.Generator().manual_seed(1)
    counts = torch.randint(0, 50, (rows, bins), generator=g).float()
    grad = torch.randn(rows, bins, generator=g)
    given = grad.to(DEVICE), counts.to(DEVICE)
    actual = kernel.simtier_scale_grad_cuda(*given)
    expected = (grad.double() * counts.double().log1p()).sum(dim=0)
    torch.testing.assert_close(actual.cpu().double(), expected, atol=1e-3, rtol=1e-5)
    assert torch.equal(kernel.simtier_scale_grad_cuda(*given), actual)


def test_gradient_takes_an_expanded_one(kernel):
    counts = torch.ones(5, 3, 22)
    grad = torch.tensor(2.0).expand(5, 3, 22)
    actual = kernel.simtier_scale_grad_cuda(grad.to(DEVICE), counts.to(DEVICE))
    torch.testing.assert_close(actual.cpu(), torch.full((22,), 30 * math.log(2)))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_op_on_a_gpu_equals_the_cpu():
    from kernels import simtier

    similarity, mask = make_case((1000, 50))
    scale = torch.rand(22)
    results = []
    for device in ("cpu", "cuda"):
        leaf = scale.to(device).requires_grad_()
        given = similarity.to(device), mask.to(device)
        features = simtier(*given, 22, tiers="tenths", scale=leaf)
        (grad,) = torch.autograd.grad(features.square().sum(), leaf)
        results.append((features.detach().cpu(), grad.cpu()))
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-5)
