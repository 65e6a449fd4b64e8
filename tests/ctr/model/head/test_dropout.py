"""The keep mask: its share, its shapes, where its numbers come from."""

import pytest
import torch

from ctr.model.head.dropout import dropped, keep_mask


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9])
def test_each_number_is_dropped_with_the_probability_asked_for(p):
    torch.manual_seed(0)
    drop = (~keep_mask(torch.empty(4000, 25, 4), p)).double()
    # Five standard deviations, of the whole and of each place of the last dimension; neighbours
    # come from one random number, and must not know of each other.
    for share, count in [(drop.mean(), 400_000), (drop.mean((0, 1)), 100_000)]:
        assert (share - p).abs().max() < 5 * (p * (1 - p) / count) ** 0.5
    centred = drop.reshape(-1, 2) - p
    correlation = centred.prod(1).mean() / (p * (1 - p))
    assert correlation.abs() < 5 / 200_000**0.5


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (0, 4), (2, 3, 4)])
def test_any_shape(shape):
    mask = keep_mask(torch.empty(shape), 0.5)
    assert mask.shape == shape
    assert mask.dtype == torch.bool


def test_the_state_of_torchs_generator_brings_a_mask_back():
    x = torch.ones(50, 3)
    state = torch.get_rng_state()
    first, second = dropped(x, 0.5), dropped(x, 0.5)
    torch.set_rng_state(state)
    assert torch.equal(dropped(x, 0.5), first)
    assert not torch.equal(first, second)


def test_what_is_kept_makes_up_for_what_is_dropped():
    x = torch.full((1000,), 3.0)
    out = dropped(x, 0.25)
    assert sorted(out.unique().tolist()) == [0.0, 4.0]
    assert dropped(x, 0.0) is x
