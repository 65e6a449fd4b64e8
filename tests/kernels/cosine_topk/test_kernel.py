"""The Triton kernel against the reference: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.cosine_topk.reference import cosine_topk_reference
from kernels.jagged import check_queries

pytest.importorskip("triton")
launch = pytest.importorskip("kernels.launch")
kernel = pytest.importorskip("kernels.cosine_topk.kernel")

SMALL = launch.ScanConfig(4, 64, stages=2, round_tiles=4, programs=3, least_tiles=2)


@pytest.fixture(scope="module")
def run(device):
    """What the kernel finds, brought back to the CPU."""

    def call(table, inv_norm, case, k, bins=0, config=SMALL):
        there = [
            part.to(device)
            for part in (case.history_offsets, case.query_user, case.query_begin, case.query_end)
        ]
        windows = check_queries(there[0], case.history_rows.numel(), there[1], k, *there[2:])
        inv_norm_Q = inv_norm[case.query_rows].masked_fill(case.query_rows == 0, 0.0)
        found = kernel.cosine_topk_cuda(
            table.to(device),
            inv_norm.to(device),
            case.history_rows.to(device),
            there[0],
            windows,
            k,
            table[case.query_rows].to(device),
            inv_norm_Q.to(device),
            bins,
            config,
        )
        return tuple(part.cpu() for part in found)

    return call


def expect(table, inv_norm, case, k):
    history = case.history_rows, case.history_offsets
    queries = case.query_rows, case.query_user, k, case.query_begin, case.query_end
    return cosine_topk_reference(table, inv_norm, *history, *queries)


def assert_equal(found, expected):
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize(
    ("length", "k", "width"),
    [(0, 1, 32), (1, 50, 128), (63, 128, 16), (1000, 50, 128), (1000, 1, 100), (4097, 9, 256)],
)
def test_int8_equals_reference_bit_for_bit(run, make_table, make_jagged, length, k, width):
    table, inv_norm = make_table(1, 40, width, torch.int8)
    case = make_jagged(2, [length, 5, 0, 70], [2, 1, 2, 1])
    case.query_begin[:2] = 0
    case.query_end[:2] = length
    assert_equal(run(table, inv_norm, case, k), expect(table, inv_norm, case, k))


@settings(max_examples=12)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 6)), min_size=1, max_size=5),
    st.integers(1, 8),
    st.integers(0, 10_000),
    st.sampled_from([(1, 16, 1, 1), (2, 32, 2, 7), (8, 16, 3, 2)]),
)
def test_sizes_and_programs_do_not_matter(run, make_table, make_jagged, users, k, seed, sizes):
    block, tile, rounds, programs = sizes
    config = launch.ScanConfig(block, tile, 4, 2, rounds, programs, 1)
    table, inv_norm = make_table(seed, 30, 16, torch.int8)
    case = make_jagged(seed, [u[0] for u in users], [u[1] for u in users], rows=30)
    found = run(table, inv_norm, case, k, config=config)
    assert_equal(found, expect(table, inv_norm, case, k))


def test_the_launch_is_on_the_device_of_the_tensors(run, make_table, make_jagged, monkeypatch):
    asked, device_of = [], torch.cuda.device_of

    def noted(tensor):
        asked.append(tensor.device.type)
        return device_of(tensor)

    monkeypatch.setattr(torch.cuda, "device_of", noted)
    table, inv_norm = make_table(1, 40, 16, torch.int8)
    run(table, inv_norm, make_jagged(0, [9], [2]), 3)
    assert len(asked) == 1


@pytest.mark.parametrize("users", [0, 2])
def test_nobody_asks(run, make_table, make_jagged, users):
    table, inv_norm = make_table(1, 40, 16, torch.int8)
    case = make_jagged(0, [0, 0], [0, 0])
    case.history_offsets = case.history_offsets[: users + 1]
    positions, scores, histogram = run(table, inv_norm, case, 3, bins=4, config=None)
    assert (positions.shape, scores.shape, histogram.shape) == ((0, 3), (0, 3), (0, 4))


def test_equal_scores_go_to_the_later_position(run, make_jagged):
    table = torch.ones(4, 16, dtype=torch.int8)
    case = make_jagged(0, [300, 20], [2, 1], rows=4)
    case.query_begin[:], case.query_end[:] = 0, torch.tensor([300, 250, 20])
    case.history_rows[:], case.query_rows[:] = 2, 3
    positions, scores, _ = run(table, torch.full((4,), 0.25), case, 7)
    assert positions[:2].tolist() == [list(range(e - 1, e - 8, -1)) for e in (300, 250)]
    assert (scores == 1.0).all()


@pytest.mark.parametrize("rising", [True, False])
def test_scores_that_rise_or_fall_with_age(run, make_jagged, rising):
    """Every behaviour wins against all before it, or none does: lists full, lists empty."""
    length = 400
    table = torch.zeros(length + 2, 16, dtype=torch.int8)
    table[:, 0] = 100
    table[:, 1] = (torch.arange(length + 2) / 4).to(torch.int8)
    inv_norm = 1.0 / table.float().norm(dim=1)
    order = torch.arange(1, length + 1, dtype=torch.int32)
    case = make_jagged(0, [length], [3], rows=4)
    case.history_rows = order if rising else order.flip(0)
    case.query_rows[:] = torch.tensor([1, 200, 400])
    case.query_begin[:], case.query_end[:] = 0, length
    assert_equal(run(table, inv_norm, case, 5), expect(table, inv_norm, case, 5))


def test_without_vectors_or_a_window_nothing_is_found(run, make_table, make_jagged):
    table, inv_norm = make_table(1, 40, 32, torch.int8)
    case = make_jagged(3, [90, 200], [2, 2])
    positions, scores, histogram = run(table, torch.zeros_like(inv_norm), case, 4, bins=5)
    assert (positions == -1).all()
    assert (scores == 0).all()
    assert (histogram == 0).all()
    case.query_begin[:] = case.query_end[:] = 50
    assert (run(table, inv_norm, case, 4)[0] == -1).all()


@pytest.mark.parametrize("bins", [1, 10, 22])
def test_histogram_counts_every_score(run, make_table, make_jagged, bins):
    table, inv_norm = make_table(1, 40, 32, torch.int8)
    case = make_jagged(4, [300, 0, 90], [5, 1, 2])
    positions, scores, histogram = run(table, inv_norm, case, 3, bins)
    # With as many picks as behaviours, the reference returns every score.
    all_positions, all_scores = expect(table, inv_norm, case, 300)
    tier = ((all_scores + 1.0) * (bins / 2.0)).floor().clamp(0, bins - 1).long()
    counted = torch.nn.functional.one_hot(tier, bins) * (all_positions >= 0)[:, :, None]
    assert torch.equal(histogram.long(), counted.sum(dim=1))
    assert torch.equal(positions, all_positions[:, :3])
    assert torch.equal(scores, all_scores[:, :3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("width", [16, 100])
def test_float_tables_agree_within_rounding(run, make_table, make_jagged, dtype, width):
    if dtype == torch.bfloat16 and os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton's interpreter multiplies the bit patterns of bfloat16, not the numbers")
    table, inv_norm = make_table(7, 150, width, dtype)
    case = make_jagged(7, [200, 31], [3, 4], rows=150)
    positions, scores, _ = run(table, inv_norm, case, 20)
    expected = expect(table, inv_norm, case, 20)
    torch.testing.assert_close(scores, expected[1], atol=2e-6, rtol=0)
    assert torch.equal(positions == -1, expected[0] == -1)


def test_the_block_of_float_products_does_not_follow_the_batch():
    """Sums of floats may depend on it, and a score must not depend on who else is in the batch."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        configs = {kernel.choose_config(dtype, 128, q, 0) for q in (1, 11, 1000)}
        assert len(configs) == 1


@pytest.mark.parametrize(("queries", "bins"), [(3, 0), (33, 0), (3, 22)])
def test_the_sizes_chosen_for_a_batch(run, make_table, make_jagged, queries, bins):
    table, inv_norm = make_table(1, 60, 128, torch.int8)
    case = make_jagged(5, [300], [queries], rows=60)
    config = kernel.choose_config(torch.int8, 128, queries, bins)
    # The number of multiprocessors is the GPU's to say.
    config = dataclasses.replace(config, programs=2)
    found = run(table, inv_norm, case, 10, bins, config)
    assert_equal(found, expect(table, inv_norm, case, 10))
