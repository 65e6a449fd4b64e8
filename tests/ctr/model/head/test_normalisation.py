"""Statistics of a step: as torch's on one process, over shares of a batch as over the whole."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from ctr.faults import Statistics
from ctr.model.head import BatchNorm, CrossHead, Dice, QuadraticHead
from tests import starter

SAMPLES, WIDTH = 40, 6
VALUES = ("weight", "bias", "alpha")


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SAMPLES, WIDTH, generator=generator) * 3 + 5


def fill(module):
    """Parameters that tell columns apart."""
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            parameter.copy_(torch.linspace(-0.5, 0.5, WIDTH) + VALUES.index(name))
    return module


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_batch_norm_is_torchs_on_one_process():
    ours, torchs = fill(BatchNorm(WIDTH)), fill(nn.BatchNorm1d(WIDTH))
    weight = torch.randn(SAMPLES, WIDTH)
    for step in range(3):
        x, y = inputs(step).requires_grad_(), inputs(step).requires_grad_()
        mine, theirs = ours(x), torchs(y)
        close(mine, theirs)
        (mine * weight).sum().backward()
        (theirs * weight).sum().backward()
        close(x.grad, y.grad)
    for name in ("weight", "bias"):
        close(getattr(ours, name).grad, getattr(torchs, name).grad, 1e-4)
    for name in ("running_mean", "running_var"):
        close(getattr(ours, name), getattr(torchs, name))
    close(ours.eval()(inputs(9)), torchs.eval()(inputs(9)))
    scale, shift = ours.running_map()
    close(inputs(9) * scale + shift, torchs(inputs(9)))


def test_batch_norm_gradients():
    norm = fill(BatchNorm(WIDTH)).double()
    assert torch.autograd.gradcheck(norm, (inputs()[:7].double().requires_grad_(),))


@pytest.mark.parametrize("samples", [0, 1])
def test_a_step_without_a_variance(samples):
    norm = fill(BatchNorm(WIDTH))
    x = inputs()[:samples].requires_grad_()
    out = norm(x)
    out.sum().backward()
    close(out, norm.bias.expand(samples, WIDTH))
    close(x.grad, torch.zeros(samples, WIDTH))
    assert torch.equal(norm.running_var, torch.ones(WIDTH))
    close(norm.running_mean, 0.1 * x.detach().sum(0))


@pytest.mark.parametrize("kind", [BatchNorm, Dice])
def test_bfloat16_inputs_have_float32_statistics(kind):
    # As many samples as bfloat16 cannot count.
    module, x = fill(kind(WIDTH)), inputs().repeat(26, 1)[:1001].bfloat16()
    out = module(x)
    assert out.dtype == torch.float32
    close(out, fill(kind(WIDTH))(x.float()))
    assert module.running_var.dtype == torch.float32


def test_a_skipped_step_leaves_no_trace():
    """A step with a number that is none spoils the running statistics; they are put back."""
    model = nn.Sequential(BatchNorm(WIDTH), Dice(WIDTH))
    model(inputs())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    statistics = Statistics(model)
    statistics.keep()
    model(inputs(1) * float("nan"))
    assert model[0].running_var.isnan().all()
    assert model[1].running_mean.isnan().all()
    statistics.put_back()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# Shares of two processes: one has a single sample, or none.
SHARES = (SAMPLES - 1, SAMPLES)
MODULES = {
    "dice": lambda: fill(Dice(WIDTH)),
    "norm": lambda: fill(BatchNorm(WIDTH)),
    "qnn": lambda: QuadraticHead(WIDTH, 2, 3, 0.0),
    "dcnv2": lambda: CrossHead(WIDTH, 2, [8, 4], "dice"),
}


def _run(x):
    """Outputs, gradients and statistics of all modules on a share of the samples."""
    found = {}
    for kind, make in MODULES.items():
        torch.manual_seed(0)
        module, share = make(), x.clone().requires_grad_()
        out = module(share)
        (out * out).sum().backward()
        found |= {f"rows {kind}.out": out.detach(), f"rows {kind}.grad": share.grad}
        found |= {f"same {kind}.{name}": buffer for name, buffer in module.named_buffers()}
        found |= {f"sums {kind}.{name}": p.grad for name, p in module.named_parameters()}
    return found


def _shares(rank, meeting, result):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    for first in SHARES:
        x = inputs()[:first] if rank == 0 else inputs()[first:]
        np.savez(f"{result}-{first}-{rank}.npz", **_run(x))
    dist.destroy_process_group()


def test_nothing_depends_on_how_a_batch_is_shared_out(tmp_path):
    starter.spawn(_shares, (tmp_path / "meeting", tmp_path / "part"), nprocs=2)
    whole = _run(inputs())
    join = {"rows": np.concatenate, "sums": sum, "same": lambda parts: parts[1]}
    for first in SHARES:
        parts = [np.load(tmp_path / f"part-{first}-{rank}.npz") for rank in (0, 1)]
        for name, expected in whole.items():
            actual = join[name[:4]]([part[name] for part in parts])
            scale = max(1.0, float(expected.abs().max()))
            np.testing.assert_allclose(
                actual / scale, expected / scale, rtol=1e-4, atol=1e-5, err_msg=name
            )
            if name.startswith("same"):
                np.testing.assert_array_equal(parts[0][name], parts[1][name], err_msg=name)
