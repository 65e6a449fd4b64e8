"""Checks, packed keys, tiers and scratch memory that the top-K ops share."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.jagged import (
    NO_KEY,
    best_keys,
    check_queries,
    check_rows,
    ordered_bits,
    pack_keys,
    reads_data,
    scans_with_triton,
    scores_of_bits,
    unpack_keys,
)
from kernels.scratch import MOST_BYTES, scratch
from kernels.tiers import equal_tier

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_values_are_checked_on_a_gpu_only_where_asked(monkeypatch):
    monkeypatch.delenv("LIFELONG_KERNELS_CHECK", raising=False)
    assert reads_data(CPU)
    assert not reads_data(CUDA)
    monkeypatch.setenv("LIFELONG_KERNELS_CHECK", "0")
    assert reads_data(CPU)
    assert not reads_data(CUDA)
    monkeypatch.setenv("LIFELONG_KERNELS_CHECK", "1")
    assert reads_data(CUDA)


def test_no_value_is_read_where_values_are_not_checked():
    # A tensor on "meta" has no values: reading one raises.
    there = {"dtype": torch.int64, "device": "meta"}
    offsets, user = torch.zeros(4, **there), torch.zeros(5, **there)
    windows = check_queries(offsets, 9, user, 3, user, user)
    assert windows.user_Q.shape == windows.begin_Q.shape == windows.end_Q.shape == (5,)
    assert windows.first_query_U.shape == (4,)
    check_rows("rows", user, 9)
    with pytest.raises(ValueError, match="query_end: on cpu"):
        check_queries(offsets, 9, user, 3, user, torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="query_begin"):
        check_queries(offsets, 9, user, 3, torch.zeros(4, **there), user)


def test_triton_scans_on_a_gpu_up_to_its_most_picks(monkeypatch):
    assert not scans_with_triton(CPU, 1)
    monkeypatch.setattr("kernels.jagged.find_spec", lambda name: object())
    assert not scans_with_triton(CPU, 1)
    assert scans_with_triton(CUDA, 1)
    assert not scans_with_triton(CUDA, 1 << 20)
    monkeypatch.setattr("kernels.jagged.find_spec", lambda name: None)
    assert not scans_with_triton(CUDA, 1)


def test_windows_are_filled_in_and_queries_counted():
    offsets, user = torch.tensor([0, 4, 4, 9]), torch.tensor([0, 0, 2])
    windows = check_queries(offsets.int(), 9, user.int(), 3, None, None)
    assert windows.begin_Q.tolist() == [0, 0, 0]
    assert windows.end_Q.tolist() == [4, 4, 5]
    assert windows.first_query_U.tolist() == [0, 2, 2, 3]
    parts = windows.user_Q, windows.begin_Q, windows.end_Q, windows.first_query_U
    assert all(part.dtype == torch.int64 for part in parts)


def test_an_error_says_which_window():
    offsets, user = torch.tensor([0, 4, 9]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"window \[1, 6\) of query 1, must lie in the 5"):
        check_queries(offsets, 9, user, 3, torch.tensor([0, 1]), torch.tensor([4, 6]))


FLOATS = st.floats(width=32, allow_nan=False)


@given(st.lists(st.tuples(FLOATS, st.integers(0, 2**31 - 1)), min_size=2, max_size=9))
def test_keys_order_by_score_and_then_position(pairs):
    scores = torch.tensor([pair[0] for pair in pairs], dtype=torch.float32)
    positions = torch.tensor([pair[1] for pair in pairs])
    keys = pack_keys(scores, positions)
    assert (keys > NO_KEY).all()
    order = sorted(range(len(pairs)), key=lambda i: (scores[i].item(), pairs[i][1]))
    assert keys[order].tolist() == sorted(keys.tolist())
    back = unpack_keys(keys)
    assert torch.equal(back[0].long(), positions)
    # Equal, not identical: a key does not tell -0.0 from 0.0.
    assert torch.equal(back[1], scores)
    assert torch.equal(scores_of_bits(ordered_bits(scores)), scores)


def test_best_keys_are_the_largest_padded_with_none():
    keys = torch.tensor([[3, 9, 1, 7]])
    assert sorted(best_keys(keys, 2)[0].tolist()) == [7, 9]
    assert sorted(best_keys(keys, 6)[0].tolist()) == [NO_KEY, NO_KEY, 1, 3, 7, 9]
    positions, scores = unpack_keys(torch.tensor([NO_KEY]))
    assert positions.tolist() == [-1]
    assert scores.tolist() == [0.0]


@pytest.mark.parametrize("bins", [1, 2, 3, 22])
def test_tiers_cover_all_cosines(bins):
    scores = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0000001])
    tiers = equal_tier(scores, bins)
    expected = [min(max(int((s + 1) * (bins / 2) // 1), 0), bins - 1) for s in scores.tolist()]
    assert tiers.dtype == torch.int32
    assert tiers.tolist() == expected


def test_scratch_is_kept_by_name_and_thread_and_within_bounds():
    first = scratch("test", (3, 4), torch.float32, CPU)
    assert scratch("test", (2, 5), torch.int32, CPU).data_ptr() == first.data_ptr()
    assert scratch("other", (3, 4), torch.float32, CPU).data_ptr() != first.data_ptr()
    theirs = []
    there = threading.Thread(
        target=lambda: theirs.append(scratch("test", (3, 4), torch.float32, CPU))
    )
    there.start()
    there.join()
    assert theirs[0].data_ptr() != first.data_ptr()
    assert scratch("test", (0, 4), torch.float32, CPU).shape == (0, 4)
    large = scratch("test", (MOST_BYTES + 1,), torch.int8, CPU)
    assert large.data_ptr() != first.data_ptr()
    assert scratch("test", (3, 4), torch.float32, CPU).data_ptr() == first.data_ptr()
