"""cosine_topk and category_topk against their references, bit for bit where arithmetic is exact."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import category_topk, cosine_topk, walk
from kernels.category_topk.reference import category_topk_reference
from kernels.cosine_topk.reference import cosine_topk_reference


def make_case(seed, lengths, queries_per_user, width=16, dtype=torch.int8, rows=40):
    """A jagged batch with ties (few rows), rows without vectors and queries without one."""
    g = torch.Generator().manual_seed(seed)
    table = torch.randint(-127, 128, (rows, width), generator=g).to(dtype)
    inv_norm = 1.0 / table.double().norm(dim=1).clamp(min=1e-9)
    inv_norm[torch.randint(0, rows, (rows // 8,), generator=g)] = 0.0
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    history = torch.randint(0, rows, (int(offsets[-1]),), generator=g, dtype=torch.int32)
    user = torch.arange(len(lengths)).repeat_interleave(torch.tensor(queries_per_user))
    query_rows = torch.randint(0, rows, (len(user),), generator=g)
    length = offsets.diff()[user]
    begin = (torch.rand(len(user), generator=g) * (length + 1)).long()
    end = begin + (torch.rand(len(user), generator=g) * (length - begin + 1)).long()
    return table, inv_norm.float(), history, offsets, user, query_rows, begin, end


@pytest.mark.parametrize("length", [0, 1, 63, 1000, 4097])
@pytest.mark.parametrize("k", [1, 50, 128])
def test_int8_equals_reference_bit_for_bit(length, k):
    table, inv, history, offsets, user, rows, _, _ = make_case(3, [length, 5, 0, length], [2] * 4)
    args = (table, inv, history, offsets)
    expected = cosine_topk_reference(*args, rows, user, k)
    actual = cosine_topk(*args, user, k, query_rows=rows)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(0, 10_000),
    st.sampled_from([8, 64, 1 << 18]),
)
def test_windows_and_piece_sizes_do_not_matter(users, k, seed, piece_scores):
    lengths, queries = [u[0] for u in users], [u[1] for u in users]
    table, inv, history, offsets, user, rows, begin, end = make_case(seed, lengths, queries)
    args = (table, inv, history, offsets)
    expected = cosine_topk_reference(*args, rows, user, k, begin, end)
    kept = walk.SCORES_PER_PIECE
    walk.SCORES_PER_PIECE = piece_scores
    try:
        actual = cosine_topk(*args, user, k, query_rows=rows, query_begin=begin, query_end=end)
        category = (history % 5).int()
        same = category_topk(category, offsets, rows % 5, user, k, query_begin=begin, query_end=end)
    finally:
        walk.SCORES_PER_PIECE = kept
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])
    assert torch.equal(
        same, category_topk_reference(category, offsets, rows % 5, user, k, begin, end)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("width", [16, 32, 100, 256])
def test_float_tables_agree_within_rounding(dtype, width):
    table, inv, history, offsets, user, rows, begin, end = make_case(
        7, [200, 31], [3, 4], width, dtype, rows=150
    )
    args = (table, inv, history, offsets)
    expected = cosine_topk_reference(*args, rows, user, 20, begin, end)
    actual = cosine_topk(*args, user, 20, query_rows=rows, query_begin=begin, query_end=end)
    torch.testing.assert_close(actual[1], expected[1], atol=2e-6, rtol=0)
    assert ((actual[0] == -1) == (expected[0] == -1)).all()


def test_query_vectors_equal_query_rows():
    table, inv, history, offsets, user, rows, _, _ = make_case(5, [90, 120], [3, 3])
    inv = 1.0 / table.double().norm(dim=1)
    rows = rows.clamp(min=1)
    by_row = cosine_topk(table, inv.float(), history, offsets, user, 9, query_rows=rows)
    by_vector = cosine_topk(
        table, inv.float(), history, offsets, user, 9, query_vectors=table[rows]
    )
    assert torch.equal(by_row[0], by_vector[0])
    torch.testing.assert_close(by_row[1], by_vector[1], atol=1e-6, rtol=0)


def test_nothing_is_picked_without_vectors():
    table, inv, history, offsets, user, rows, _, _ = make_case(1, [30], [2])
    positions, scores = cosine_topk(
        table, torch.zeros_like(inv), history, offsets, user, 4, query_rows=rows
    )
    assert (positions == -1).all()
    assert (scores == 0).all()


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"k": 0}, "k"),
        ({"table": torch.zeros(40, 16, dtype=torch.int32)}, "table"),
        ({"table": torch.zeros(16, 40, dtype=torch.int8).t()}, "table"),
        ({"inv_norm": torch.zeros(3)}, "inv_norm"),
        ({"history_rows": torch.full((8,), 40, dtype=torch.int32)}, "history_rows"),
        ({"history_rows": torch.zeros(8)}, "history_rows"),
        ({"history_offsets": torch.tensor([0, 6, 3, 8])}, "history_offsets"),
        ({"history_offsets": torch.tensor([0, 3, 6, 7])}, "history_offsets"),
        ({"query_user": torch.tensor([2, 0])}, "query_user"),
        ({"query_user": torch.tensor([0, 3])}, "query_user"),
        ({"query_end": torch.tensor([9, 1])}, "query_end"),
        ({"query_begin": torch.tensor([0])}, "query_begin"),
        ({"query_rows": torch.tensor([0, 40])}, "query_rows"),
        ({"query_vectors": torch.zeros(2, 16, dtype=torch.int8)}, "query_vectors"),
    ],
)
def test_bad_arguments_are_named(change, argument):
    case = {
        "table": torch.ones(40, 16, dtype=torch.int8),
        "inv_norm": torch.ones(40),
        "history_rows": torch.ones(8, dtype=torch.int32),
        "history_offsets": torch.tensor([0, 3, 6, 8]),
        "query_user": torch.tensor([0, 2]),
        "k": 3,
        "query_rows": torch.tensor([1, 2]),
    }
    with pytest.raises(ValueError, match=argument):
        cosine_topk(**{**case, **change})
