"""The tower against its formula."""

import numpy as np
import pytest
import torch

from ctr.model.head import Dice, Tower

WIDTH = 6


@pytest.mark.parametrize("activation", ["dice", "prelu", "relu"])
def test_the_logit_has_no_activation(activation):
    tower = Tower(WIDTH, [8, 4], activation)
    assert isinstance(tower.layers[-1], torch.nn.Linear)
    assert tower(torch.randn(5, WIDTH)).shape == (5,)


def test_the_tower_is_its_formula():
    tower = Tower(WIDTH, [8, 4], "relu")
    x = torch.randn(5, WIDTH)
    h = x.numpy()
    *hidden, logit = (m for m in tower.layers if isinstance(m, torch.nn.Linear))
    for linear in hidden:
        h = np.maximum(h @ linear.weight.detach().numpy().T + linear.bias.detach().numpy(), 0.0)
    expected = h @ logit.weight.detach().numpy()[0] + logit.bias.item()
    np.testing.assert_allclose(tower(x).detach(), expected, rtol=1e-5, atol=1e-6)


def test_names_of_weights_and_statistics_stay():
    """A checkpoint of version 0.1 holds these."""
    names = set(Tower(WIDTH, [8], "dice").state_dict())
    assert names == {
        *("layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"),
        *("layers.1.alpha", "layers.1.running_mean", "layers.1.running_var"),
    }
    assert isinstance(Tower(WIDTH, [8], "dice").layers[1], Dice)
