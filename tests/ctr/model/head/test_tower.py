"""Dice against its formula, and over shares of a batch as over the whole."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ctr.model.head import Dice, Tower

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


def _share(rank, world_size, meeting, result):
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size
    )
    # The last process has one sample, the first all the others.
    part = slice(0, SAMPLES - 1) if rank == 0 else slice(SAMPLES - 1, SAMPLES)
    x = inputs()[part].requires_grad_()
    dice = make()
    out = dice(x)
    (out * out).sum().backward()
    np.savez(f"{result}-{rank}.npz", out=out.detach(), grad=x.grad, var=dice.running_var)
    dist.destroy_process_group()


def test_dice_does_not_depend_on_how_a_batch_is_shared_out(tmp_path):
    mp.spawn(_share, (2, tmp_path / "meeting", tmp_path / "part"), nprocs=2)
    x, dice = inputs().requires_grad_(), make()
    out = dice(x)
    (out * out).sum().backward()
    parts = [np.load(tmp_path / f"part-{rank}.npz") for rank in (0, 1)]
    joined = {n: np.concatenate([part[n] for part in parts]) for n in ("out", "grad")}
    np.testing.assert_allclose(joined["out"], out.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(joined["grad"], x.grad, rtol=1e-4, atol=1e-4)
    for part in parts:
        np.testing.assert_allclose(part["var"], dice.running_var, rtol=1e-5)


@pytest.mark.parametrize("activation", ["dice", "prelu", "relu"])
def test_the_logit_has_no_activation(activation):
    tower = Tower(WIDTH, [8, 4], activation)
    assert isinstance(tower.layers[-1], torch.nn.Linear)
    assert tower(inputs()).shape == (SAMPLES,)
