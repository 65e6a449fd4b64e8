"""SimTier against plain numpy of its two forms, masks included, and its gradients."""

import numpy as np
import pytest
import torch

from ctr.model.esu import SimTier


def test_simtier_code_form():
    tier = SimTier("code", 22)
    similarity = torch.tensor([[-1.0, -0.95, 0.0, 0.05, 0.1, 1.0, 0.3]])
    mask = torch.tensor([[True, True, True, True, True, True, False]])
    counts = np.zeros(22)
    for r in similarity[0, :6].tolist():
        counts[int(np.ceil(np.float32(10.0) * np.float32(r))) + 10] += 1
    expected = np.log(counts + 1) * tier.scale.detach().numpy()
    np.testing.assert_allclose(tier(similarity, mask)[0].detach().numpy(), expected, rtol=1e-6)
    tier(similarity, mask).sum().backward()
    np.testing.assert_allclose(tier.scale.grad.numpy(), np.log(counts + 1), rtol=1e-6)


@pytest.mark.parametrize("bins", [1, 4, 20])
def test_simtier_paper_form(bins):
    torch.manual_seed(0)
    similarity = torch.rand(3, 2, 40) * 2 - 1
    similarity[0, 0, :2] = torch.tensor([-1.0, 1.0])
    mask = torch.rand(3, 2, 40) < 0.7
    actual = SimTier("paper", bins)(similarity, mask)
    edges = np.linspace(-1, 1, bins + 1)
    for i in range(3):
        for j in range(2):
            kept = similarity[i, j][mask[i, j]].numpy()
            assert actual[i, j].tolist() == np.histogram(kept, edges)[0].tolist()
    assert actual.sum() == mask.sum()


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("lead", [(6,), (3, 4)])
def test_simtier_equals_plain_torch_bit_for_bit(form, lead):
    """Under autocast too: tiers and their gradient must not depend on the precision."""
    torch.manual_seed(4)
    tier = SimTier(form, 22)
    similarity, mask = torch.rand(*lead, 50) * 2 - 1, torch.rand(*lead, 50) < 0.8
    if form == "code":
        number = torch.ceil(similarity * 10.0) + 10.0
    else:
        number = torch.floor((similarity + 1.0) * 11.0)
    one_hot = torch.nn.functional.one_hot(number.clamp(0, 21).long(), 22)
    expected = (one_hot * mask[..., None]).sum(dim=-2).float()
    if tier.scale is not None:
        expected = torch.log1p(expected) * tier.scale
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            actual = tier(similarity, mask)
        assert actual.dtype == torch.float32
        assert torch.equal(actual, expected)
        if tier.scale is not None:
            grad = torch.randn_like(expected)
            (actual_grad,) = torch.autograd.grad(actual, tier.scale, grad)
            (expected_grad,) = torch.autograd.grad(expected, tier.scale, grad, retain_graph=True)
            assert torch.equal(actual_grad, expected_grad)
