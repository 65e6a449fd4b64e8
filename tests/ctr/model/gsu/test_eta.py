"""ETA's picks against Hamming distances of codes made in numpy.

Shape legend: V distinct behaviours, I width of an item, m bits.
"""

import dataclasses

import numpy as np
import pytest
import torch

from ctr.model.build import build_network
from ctr.model.gsu import HashSearch
from ctr.model.gsu.eta import packed
from ctr.model.simhash import SimHash
from tests.ctr.model.histories import LENGTHS, WINDOWS, I, histories, picks

K = 6


def nearest(given, directions_Im, sample):
    """Events of the K least distances, latest first among equals."""
    bits_Vm = given.rows_VE[:, :I].numpy() @ directions_Im > 0
    own_m = given.target_BI[sample].numpy() @ directions_Im > 0
    distance_V = (bits_Vm != own_m).sum(axis=1)
    events = given.seen(sample)
    order = sorted(events, key=lambda event: (distance_V[given.index_T[event]], -event))
    return [int(event) for event in order[:K]]


@pytest.mark.parametrize("bits", [5, 32, 70])
def test_the_picks_are_the_nearest_codes_of_the_embeddings_as_they_are_now(bits):
    search, given = HashSearch(K, I, bits), histories()
    before = search(given.search())
    for seed in (1, 2):
        torch.manual_seed(seed)
        given = dataclasses.replace(given, rows_VE=torch.randn_like(given.rows_VE))
        found = search(given.search())
        for sample in range(len(WINDOWS)):
            expected = nearest(given, search.hash.directions.numpy(), sample)
            assert picks(found, sample) == expected
            assert not found.index_BK[sample][~found.mask_BK[sample]].any()
        assert not torch.equal(found.index_BK, before.index_BK)


def test_the_cases_hold_empty_and_short_histories_and_unknown_items():
    given = histories()
    sizes = {len(given.seen(sample)) for sample in range(len(WINDOWS))}
    assert 0 in sizes
    assert sizes & set(range(1, K))
    assert max(sizes) > K
    assert 0 in LENGTHS
    assert (given.batch.history_item_T == 0).any()


def test_side_columns_change_nothing():
    search, given = HashSearch(K, I, 32), histories()
    expected = search(given.search())
    rows_VE = given.rows_VE.clone()
    rows_VE[:, I:] = -rows_VE[:, I:]
    found = search(dataclasses.replace(given, rows_VE=rows_VE).search())
    assert torch.equal(found.index_BK, expected.index_BK)


@pytest.mark.parametrize("bits", [1, 8, 31, 32, 33, 70, 256])
def test_codes_hold_the_bits_and_nothing_else(bits):
    torch.manual_seed(0)
    bits_Nm = torch.rand(9, bits) < 0.5
    code = packed(bits_Nm)
    assert code.dtype == torch.int32
    assert code.shape == (9, -(-bits // 32))
    unpacked = np.unpackbits(code.numpy().view(np.uint8), axis=1, bitorder="little")
    assert np.array_equal(unpacked[:, :bits].astype(bool), bits_Nm.numpy())
    assert not unpacked[:, bits:].any()


def test_hyperplanes_are_the_same_everywhere_and_leave_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = SimHash(4, 10)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(SimHash(4, 10).directions, first.directions)
    assert not list(first.parameters())


def test_equal_bits_follow_the_angle():
    """P[same bit] = 1 - angle / pi, which the projections of another distribution would break."""
    hashed = SimHash(2, 4096)
    for angle in (0.0, 0.5, 1.5, 3.0):
        pair = torch.tensor([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
        first, second = hashed(pair * torch.tensor([[3.0], [0.01]]))
        assert float((first == second).float().mean()) == pytest.approx(1 - angle / np.pi, abs=0.03)


def test_no_bit_depends_on_the_precision_of_training():
    torch.manual_seed(0)
    hashed, vectors = SimHash(8, 64), torch.randn(1000, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hashed(vectors), vectors.double() @ hashed.directions.double() > 0)


def test_hyperplanes_travel_with_the_network(store, catalog, config):
    model = dataclasses.replace(config.model, gsu="eta", retrieved_attention=["multi_head"])
    network = build_network(store.schema, catalog, model, config.embedding)
    kept = network.state_dict()["gsu.hash.directions"]
    assert kept.shape == (2 * config.embedding.dim, model.hash_bits)
    assert network.gsu.k == model.retrieved
