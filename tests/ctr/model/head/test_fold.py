"""Folded weights: used where they are true, and never where they are not."""

import copy

import pytest
import torch
from torch import nn

from ctr.model.head import Foldable, QuadraticHead, fold
from ctr.model.head.qnn import QuadraticLayer

WIDTH = 6


class Counting(QuadraticLayer):
    """Counts how often it derives."""

    count = 0

    def derive(self):
        self.count += 1
        return super().derive()


def make():
    torch.manual_seed(0)
    layer = Counting(WIDTH, 3, 0.1)
    for seed in range(3):
        layer(torch.randn(20, WIDTH) + seed)
    return layer.eval()


@torch.no_grad()
def evaluate(layer):
    return layer(torch.linspace(-1, 1, 4 * WIDTH).view(4, WIDTH))


def test_fold_finds_modules_at_any_depth_and_derives_once():
    model = nn.ModuleDict({"head": QuadraticHead(WIDTH, 2, 3, 0.1), "other": make()})
    layer = model["other"]
    unfolded = evaluate(layer)
    assert fold(model) == 3
    before = layer.count
    assert torch.equal(evaluate(layer), unfolded)
    assert layer.count == before
    assert fold(nn.Linear(2, 2)) == 0


def test_folded_weights_are_part_of_no_state():
    layer = make()
    names = [*layer.state_dict()], [n for n, _ in layer.named_buffers()]
    layer.fold()
    assert names == ([*layer.state_dict()], [n for n, _ in layer.named_buffers()])


def optimizer_step(layer):
    """torch counts the writes of a fused optimizer as little as those through `.data`."""
    layer(torch.randn(20, WIDTH)).sum().backward()
    for parameter in layer.parameters():
        parameter.data -= parameter.grad


def loaded_in_place(layer):
    """As torch.distributed.checkpoint does."""
    for tensor in layer.state_dict().values():
        tensor.detach().copy_(tensor + 0.5)


def load_state_dict(layer, assign=False):
    layer.load_state_dict({n: t + 0.5 for n, t in layer.state_dict().items()}, assign=assign)


@torch.no_grad()
def replaced(layer):
    """By one that was written to as often."""
    weight = nn.Parameter(layer.linear.weight + 0.5)
    while weight._version < layer.linear.weight._version:
        weight.mul_(1.0)
    layer.linear.weight = weight


def statistics_only(layer):
    layer.norm.running_var.mul_(3.0)


def trained(layer):
    layer.train()
    layer(torch.randn(20, WIDTH) * 5)
    layer.eval()


CHANGES = [
    *(optimizer_step, loaded_in_place, load_state_dict, replaced, statistics_only, trained),
    lambda layer: load_state_dict(layer, assign=True),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_nothing_stale_is_used(change):
    layer, twin = make(), make()
    layer.fold()
    before = evaluate(layer)
    for module in (layer, twin):
        torch.manual_seed(1)
        change(module)
    expected = evaluate(twin)
    assert not torch.allclose(expected, before)
    assert torch.equal(evaluate(layer), expected)


def test_a_copy_knows_nothing_of_the_original():
    layer = make()
    layer.fold()
    evaluate(layer)
    assert copy.deepcopy(layer)._folded is None
    assert layer._folded is not None


class Doubled(Foldable):
    """Has no buffer, which a cast would replace."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def derive(self):
        return (2.0 * self.weight,)


@torch.no_grad()
def test_a_cast_lets_go():
    module = Doubled()
    module.fold()
    assert module.derived()[0].dtype == torch.float32
    assert module.double().derived()[0].dtype == torch.float64


def test_training_lets_go_and_evaluation_keeps():
    layer = make()
    layer.fold()
    assert layer.eval()._folded is not None
    assert layer.train()._folded is None
    layer.fold()
    layer.unfold()
    assert layer._folded is None


def test_gradients_reach_the_weights_of_a_folded_layer():
    layer = make()
    layer.fold()
    layer(torch.randn(4, WIDTH)).sum().backward()
    assert layer.linear.weight.grad.abs().sum() > 0
