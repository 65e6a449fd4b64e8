"""hamming_topk against its reference, exactly: distances are integers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import library

from kernels import hamming_topk, walk
from kernels.hamming_topk.reference import hamming_topk_reference

DTYPES = [torch.int32, torch.int64]


def make_codes(g, rows, words, dtype):
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max, (rows, words), generator=g, dtype=dtype)


def make_case(seed, lengths, queries, words=2, dtype=torch.int64, rows=40):
    """A jagged batch with ties (few rows), padding in histories, and queries of row 0."""
    g = torch.Generator().manual_seed(seed)
    codes = make_codes(g, rows, words, dtype)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    history = torch.randint(0, rows, (int(offsets[-1]),), generator=g, dtype=torch.int32)
    user = torch.arange(len(lengths)).repeat_interleave(torch.tensor(queries))
    query_rows = torch.randint(0, rows, (len(user),), generator=g)
    length = offsets.diff()[user]
    begin = (torch.rand(len(user), generator=g) * (length + 1)).long()
    end = begin + (torch.rand(len(user), generator=g) * (length - begin + 1)).long()
    window = {"query_begin": begin, "query_end": end}
    return (codes, history, offsets, user), query_rows, window


def assert_same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.int32
        assert torch.equal(a, e)


@pytest.mark.parametrize("length", [0, 1, 63, 1000])
@pytest.mark.parametrize("k", [1, 50, 128])
def test_odd_lengths_equal_reference(length, k):
    args, rows, _ = make_case(3, [length, 5, 0, length], [2] * 4)
    actual = hamming_topk(*args, k, query_rows=rows)
    assert_same(actual, hamming_topk_reference(*args, k, query_rows=rows))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("words", [1, 3, 8])
def test_every_bit_counts(words, dtype):
    """One code for each bit that differs from 0 in that bit alone, the sign bits among them."""
    width = dtype.itemsize * 8
    codes = torch.zeros(words * width + 2, words, dtype=dtype)
    for bit in range(words * width):
        value = 1 << bit % width
        codes[bit + 2, bit // width] = value - (1 << width) if value >> (width - 1) else value
    history = torch.arange(1, len(codes))
    offsets, user = torch.tensor([0, len(history)]), torch.tensor([0, 0])
    queries = torch.stack([torch.zeros_like(codes[0]), torch.full_like(codes[0], -1)])
    _, distances = hamming_topk(codes, history, offsets, user, len(history), query_codes=queries)
    bits = words * width
    assert distances[0].tolist() == [0] + [1] * bits
    assert distances[1].tolist() == [bits - 1] * bits + [bits]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(0, 10_000),
    st.sampled_from(DTYPES),
    st.integers(1, 8),
    st.sampled_from([8, 64, 1 << 18]),
)
def test_jagged_batches_equal_reference(users, k, seed, dtype, words, piece_scores):
    lengths, queries = [u[0] for u in users], [u[1] for u in users]
    args, rows, window = make_case(seed, lengths, queries, words, dtype)
    expected = hamming_topk_reference(*args, k, query_rows=rows, **window)
    kept = walk.SCORES_PER_PIECE
    walk.SCORES_PER_PIECE = piece_scores
    try:
        actual = hamming_topk(*args, k, query_rows=rows, **window)
    finally:
        walk.SCORES_PER_PIECE = kept
    assert_same(actual, expected)


def test_ties_go_to_the_later_position():
    codes = torch.tensor([[0], [5], [5], [4]])
    history = torch.tensor([1, 3, 2, 1, 3, 0])
    positions, distances = hamming_topk(
        codes, history, torch.tensor([0, 6]), torch.tensor([0]), 6, query_codes=codes[1:2]
    )
    assert positions.tolist() == [[3, 2, 0, 4, 1, -1]]
    assert distances.tolist() == [[0, 0, 0, 1, 1, -1]]


def test_query_codes_equal_query_rows_and_int32_indices_equal_int64():
    args, rows, window = make_case(5, [90, 120], [3, 3])
    rows = rows.clamp(min=1).int()
    by_row = hamming_topk(*args, 9, query_rows=rows, **window)
    codes, history, offsets, user = args
    assert_same(hamming_topk(*args, 9, query_codes=codes[rows], **window), by_row)
    small = {name: edge.int() for name, edge in window.items()}
    args = codes, history.long(), offsets.int(), user.int()
    assert_same(hamming_topk(*args, 9, query_rows=rows, **small), by_row)


def test_padding_is_neither_found_nor_searched_for():
    args, rows, _ = make_case(1, [30, 8], [2, 2])
    codes, history, offsets, user = args
    for positions in hamming_topk(*args, 4, query_rows=torch.zeros_like(rows)):
        assert (positions == -1).all()
    empty = codes, torch.zeros_like(history), offsets, user
    for positions in hamming_topk(*empty, 4, query_codes=codes[:4]):
        assert (positions == -1).all()


def test_a_batch_without_queries():
    args, rows, _ = make_case(1, [30, 8], [0, 0])
    positions, distances = hamming_topk(*args, 4, query_rows=rows)
    assert positions.shape == distances.shape == (0, 4)


def test_operator_contract():
    args, rows, window = make_case(2, [20, 9], [2, 1])
    operator = torch.ops.lifelong_kernels.hamming_topk.default
    library.opcheck(operator, (*args, 5, rows, None, *window.values()))
    library.opcheck(operator, (*args, 5, None, args[0][rows], None, None))


class Search(torch.nn.Module):
    def forward(self, codes, history, offsets, user, rows, begin, end):
        positions, distances = hamming_topk(
            codes, history, offsets, user, 5, query_rows=rows, query_begin=begin, query_end=end
        )
        return positions + 1, distances * 2


def test_compiles_and_exports_without_a_graph_break():
    args, rows, window = make_case(2, [20, 9], [2, 1])
    given_now = (*args, rows, *window.values())
    expected = Search()(*given_now)
    assert_same(torch.compile(Search(), fullgraph=True, backend="aot_eager")(*given_now), expected)
    assert_same(torch.export.export(Search(), given_now).module()(*given_now), expected)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"k": 0}, "k"),
        ({"codes": torch.zeros(40, 2)}, "codes"),
        ({"codes": torch.zeros(40, 9, dtype=torch.int64)}, "codes"),
        ({"codes": torch.zeros(40, 0, dtype=torch.int64)}, "codes"),
        ({"codes": torch.zeros(2, 40, dtype=torch.int64).t()}, "codes"),
        ({"history_rows": torch.full((8,), 40)}, "history_rows"),
        ({"history_rows": torch.zeros(8)}, "history_rows"),
        ({"history_offsets": torch.tensor([0, 6, 3, 8])}, "history_offsets"),
        ({"history_offsets": torch.tensor([0, 3, 6, 7])}, "history_offsets"),
        ({"query_user": torch.tensor([2, 0])}, "query_user"),
        ({"query_user": torch.tensor([0, 3])}, "query_user"),
        ({"query_end": torch.tensor([9, 1])}, "query_end"),
        ({"query_begin": torch.tensor([0])}, "query_begin"),
        ({"query_rows": torch.tensor([0, 40])}, "query_rows"),
        ({"query_rows": torch.tensor([0.0, 1.0])}, "query_rows"),
        ({"query_rows": torch.tensor([1])}, "query_rows"),
        ({"query_rows": None}, "query_rows, query_codes"),
        ({"query_codes": torch.zeros(2, 2, dtype=torch.int64)}, "query_rows, query_codes"),
        (
            {"query_rows": None, "query_codes": torch.zeros(2, 2, dtype=torch.int32)},
            "query_codes: torch.int32",
        ),
        (
            {"query_rows": None, "query_codes": torch.zeros(2, 1, dtype=torch.int64)},
            "query_codes: torch.int64",
        ),
    ],
)
def test_bad_arguments_are_named(change, argument):
    case = {
        "codes": torch.ones(40, 2, dtype=torch.int64),
        "history_rows": torch.ones(8, dtype=torch.int32),
        "history_offsets": torch.tensor([0, 3, 6, 8]),
        "query_user": torch.tensor([0, 2]),
        "k": 3,
        "query_rows": torch.tensor([1, 2]),
    }
    with pytest.raises(ValueError, match=argument):
        hamming_topk(**{**case, **change})
