"""The quadratic head against its equations, with and without dropout, folded and not."""

import numpy as np
import pytest
import torch
from torch import nn

from ctr.model.head import QuadraticHead, fold
from ctr.model.head.dropout import keep_mask
from ctr.model.head.qnn import QuadraticLayer

SAMPLES, WIDTH, ROWS = 30, 6, 3


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SAMPLES, WIDTH, generator=generator)


def make(dropout=0.0, layers=2):
    """A head whose every parameter and statistic matters."""
    torch.manual_seed(0)
    head = QuadraticHead(WIDTH, layers, ROWS, dropout)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    for seed in range(3):
        head(inputs(seed) + 0.5)
    return head


class PlainLayer(nn.Module):
    """The layer word by word: all rows, torch's BatchNorm, masks that are given."""

    def __init__(self, layer):
        super().__init__()
        self.linear, self.activation = layer.linear, layer.activation
        self.norm = nn.BatchNorm1d(WIDTH)
        self.norm.load_state_dict(layer.norm.state_dict(), strict=False)
        self.norm.weight, self.norm.bias = layer.norm.weight, layer.norm.bias
        self.train(layer.training)

    def forward(self, x, row_mask=1.0, out_mask=1.0):
        h = (self.linear(x) * row_mask).view(-1, ROWS, WIDTH)
        return x + self.activation(self.norm(torch.einsum("bd,brd->bd", x, h))) * out_mask


def numpy_head(head, x, training):
    for layer in head.layers:
        p = {n: t.detach().numpy() for n, t in layer.state_dict().items()}
        h = (x @ p["linear.weight"].T + p["linear.bias"]).reshape(-1, ROWS, WIDTH)
        y = (x[:, None] * h).sum(1)
        mean, var = (
            (y.mean(0), y.var(0))
            if training
            else (
                p["norm.running_mean"],
                p["norm.running_var"],
            )
        )
        y = (y - mean) / np.sqrt(var + 1e-5) * p["norm.weight"] + p["norm.bias"]
        x = x + np.where(y > 0, y, p["activation.weight"] * y)
    return x @ head.logit.weight.detach().numpy()[0] + head.logit.bias.item()


@pytest.mark.parametrize("training", [True, False])
def test_the_head_is_its_equations(training):
    head = make().train(training)
    expected = numpy_head(head, inputs(5).numpy(), training)
    np.testing.assert_allclose(head(inputs(5)).detach(), expected, rtol=1e-4, atol=1e-5)


def test_dropout_acts_on_each_row_and_on_the_output():
    p = 0.4
    layer = make(p).layers[0]
    plain = PlainLayer(layer)
    x, y = inputs(5).requires_grad_(), inputs(5).requires_grad_()
    torch.manual_seed(1)
    actual = layer(x)
    torch.manual_seed(1)
    row_mask = keep_mask(torch.empty(SAMPLES, ROWS * WIDTH), p) / (1 - p)
    out_mask = keep_mask(torch.empty(SAMPLES, WIDTH), p) / (1 - p)
    expected = plain(y, row_mask, out_mask)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    # BatchNorm hides the scale of a step, but not from its running statistics.
    torch.testing.assert_close(layer.norm.running_var, plain.norm.running_var)
    names = ["x", *(n for n, _ in layer.named_parameters())]
    mine = torch.autograd.grad(actual.square().sum(), [x, *layer.parameters()])
    theirs = torch.autograd.grad(expected.square().sum(), [y, *layer.parameters()])
    for name, gradient, wanted in zip(names, mine, theirs, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4, msg=name)
    # The parts that are dropped differ from step to step.
    assert not torch.equal(layer(x), actual)


def test_without_dropout_one_matrix_gives_every_row_its_gradient():
    layer = make(0.0).layers[0]
    plain = PlainLayer(layer)
    actual, expected = layer(inputs(5)), plain(inputs(5))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    mine = torch.autograd.grad(actual.square().sum(), [*layer.parameters()])
    theirs = torch.autograd.grad(expected.square().sum(), [*layer.parameters()])
    for gradient, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)


def test_gradients_of_a_layer():
    layer = make().layers[0].double()
    assert torch.autograd.gradcheck(layer, (inputs(5)[:5].double().requires_grad_(),))


def test_evaluation_is_the_unfolded_layers_folded_or_not():
    head = make(0.4).eval()
    x = inputs(5)
    with torch.no_grad():
        expected = x
        for layer in head.layers:
            expected = PlainLayer(layer)(expected)
        expected = head.logit(expected).squeeze(1)
        torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-5)
        assert fold(head) == 2
        torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-5)
        # Evaluation draws nothing.
        assert torch.equal(head(x), head(x))


@pytest.mark.parametrize("rows", [3, 4])
def test_parameters_are_as_many_as_published(rows):
    """Of 27,045,893 and 31,244,293 in all (arXiv 2504.17699, its logs) at R = 3 and 4."""
    count = sum(p.numel() for p in QuadraticHead(1024, 4, rows, 0.1).parameters())
    assert count == 4 * (1024 * 1024 * rows + 1024 * rows) + 4 * 2 * 1024 + 4 + 1024 + 1
    embeddings = (91_718 + 11_740 + 11 + 11) * 128
    attention, content = 3 * 384 * 768 + 768 * 384, 128 * 128
    total = count + embeddings + attention + content
    assert total == {3: 27_045_893, 4: 31_244_293}[rows]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("samples", [0, 1])
def test_a_share_of_no_or_one_sample(samples, dropout):
    head = make(dropout)
    head(inputs()[:samples]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert head.eval()(inputs()[:samples]).shape == (samples,)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_stays_near_float32(dtype, dropout):
    outputs = []
    for enabled in (True, False):
        head, x = make(dropout), inputs(5).to(dtype)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            trained = head(x)
            trained.float().sum().backward()
            outputs.append((trained.detach().float(), head.eval()(x).detach().float()))
        assert all(p.grad.dtype == torch.float32 for p in head.parameters())
    for actual, expected in zip(*outputs, strict=True):
        error = (actual - expected).norm() / expected.norm()
        assert 0 < error < 0.05


def test_the_weights_start_as_published():
    torch.manual_seed(0)
    layer = QuadraticHead(200, 1, 4, 0.1).layers[0]
    assert isinstance(layer, QuadraticLayer)
    assert layer.linear.weight.std().item() == pytest.approx((2 / (5 * 200)) ** 0.5, rel=0.02)
    assert not layer.linear.bias.any()
