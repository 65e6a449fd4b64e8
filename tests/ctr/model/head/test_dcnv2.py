"""The cross head against its equations."""

import numpy as np
import pytest
import torch

from ctr.model.head import CrossHead

SAMPLES, WIDTH = 7, 5


def make(activation="relu"):
    torch.manual_seed(0)
    return CrossHead(WIDTH, 3, [8, 4], activation)


def test_the_head_is_its_equations():
    """Equation 1 of arXiv 2008.13535 three times, beside two hidden layers."""
    head, x = make(), torch.randn(SAMPLES, WIDTH)
    p = {n: t.numpy() for n, t in head.state_dict().items()}
    crossed = deep = start = x.numpy()
    for i in range(3):
        crossed = start * (crossed @ p[f"cross.{i}.weight"].T + p[f"cross.{i}.bias"]) + crossed
    for i in (0, 2):
        deep = np.maximum(deep @ p[f"deep.{i}.weight"].T + p[f"deep.{i}.bias"], 0.0)
    expected = np.concatenate([crossed, deep], 1) @ p["logit.weight"][0] + p["logit.bias"]
    np.testing.assert_allclose(head(x).detach(), expected, rtol=1e-4, atol=1e-5)


def test_gradients():
    head = make("dice").double()
    x = torch.randn(SAMPLES, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(head, (x,))


@pytest.mark.parametrize("activation", ["dice", "prelu", "relu"])
@pytest.mark.parametrize("samples", [0, 1, SAMPLES])
def test_any_share_of_a_batch(samples, activation):
    head = make(activation)
    logit = head(torch.randn(samples, WIDTH))
    assert logit.shape == (samples,)
    logit.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
