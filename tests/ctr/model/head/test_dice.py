"""Dice against its formula."""

import numpy as np
import torch

from ctr.model.head import Dice

SAMPLES, WIDTH = 40, 6


def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SAMPLES, WIDTH, generator=generator) * 3 + 5


def make():
    dice = Dice(WIDTH)
    with torch.no_grad():
        dice.alpha.copy_(torch.linspace(-0.5, 0.5, WIDTH))
    return dice


def formula(dice, x, mean, var):
    p = 1 / (1 + np.exp(-(x - mean) / np.sqrt(var + 1e-8)))
    return x * (p + dice.alpha.detach().numpy() * (1 - p))


def test_dice_is_its_formula_in_training_and_evaluation():
    dice, x = make(), inputs()
    mean, var = x.numpy().mean(0), x.numpy().var(0)
    actual = dice(x).detach().numpy()
    np.testing.assert_allclose(actual, formula(dice, x.numpy(), mean, var), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dice.running_mean, 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(dice.running_var, 0.9 + 0.1 * var, rtol=1e-5)
    running = dice.running_mean.numpy(), dice.running_var.numpy()
    actual = dice.eval()(x).detach().numpy()
    np.testing.assert_allclose(actual, formula(dice, x.numpy(), *running), rtol=1e-5, atol=1e-5)


def test_dice_gradients():
    dice = make().double()
    assert torch.autograd.gradcheck(dice, (inputs().double().requires_grad_(),))
