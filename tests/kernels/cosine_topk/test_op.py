"""cosine_topk against its reference, bit for bit where arithmetic is exact."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import cosine_topk, walk
from kernels.cosine_topk.reference import cosine_topk_reference

plain = importlib.import_module("kernels.cosine_topk.walk")


@pytest.fixture(scope="module")
def make_case(make_table, make_jagged):
    """A jagged batch with ties (few rows), rows without vectors and queries without one."""

    def make(seed, lengths, queries, width=16, dtype=torch.int8, rows=40):
        table, inv_norm = make_table(seed, rows, width, dtype)
        case = make_jagged(seed, lengths, queries, rows)
        windows = {"query_begin": case.query_begin, "query_end": case.query_end}
        history = table, inv_norm, case.history_rows, case.history_offsets
        return history, case.query_user, case.query_rows, windows

    return make


def assert_same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        assert torch.equal(a, e)


@pytest.mark.parametrize("length", [0, 1, 63, 1000, 4097])
@pytest.mark.parametrize("k", [1, 50, 128])
def test_int8_equals_reference_bit_for_bit(make_case, length, k):
    history, user, rows, _ = make_case(3, [length, 5, 0, length], [2] * 4)
    expected = cosine_topk_reference(*history, rows, user, k)
    assert_same(cosine_topk(*history, user, k, query_rows=rows), expected)


@pytest.mark.parametrize("width", [1, 16, 32, 100, 128, 256])
@pytest.mark.parametrize("bins", [1, 7, 22])
def test_histogram_counts_the_whole_window(make_case, width, bins):
    history, user, rows, windows = make_case(5, [150, 0, 67], [3, 1, 4], width, rows=90)
    expected = cosine_topk_reference(
        *history, rows, user, 9, *windows.values(), histogram_bins=bins
    )
    actual = cosine_topk(*history, user, 9, query_rows=rows, histogram_bins=bins, **windows)
    assert actual[2].sum() > 0
    assert_same(actual, expected)


def test_histogram_of_many_bins_is_exact_at_their_edges():
    # With one direction and its opposite, scores are about 1, -1 and 0: ends and middle of a tier.
    table = torch.tensor([[0, 0], [127, 0], [-127, 0], [0, 127], [3, 0]], dtype=torch.int8)
    inv_norm = torch.tensor([0.0, 1 / 127, 1 / 127, 1 / 127, 1 / 3])
    history = table, inv_norm, torch.tensor([1, 2, 3, 4, 0, 1]), torch.tensor([0, 6])
    user, rows = torch.tensor([0, 0]), torch.tensor([1, 4])
    for bins in (3, 10, 64):
        expected = cosine_topk_reference(*history, rows, user, 2, histogram_bins=bins)
        actual = cosine_topk(*history, user, 2, query_rows=rows, histogram_bins=bins)
        assert_same(actual, expected)
        assert actual[2].sum(dim=1).tolist() == [5, 5]
        assert actual[2][0, -1] == 3
        assert actual[2][0, 0] == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(0, 10_000),
    st.sampled_from([8, 64, 1 << 18]),
    st.sampled_from([5, 1 << 17]),
    st.sampled_from([48, 1 << 20]),
    st.sampled_from([1, 150, 1 << 17]),
    st.booleans(),
)
def test_windows_and_piece_sizes_do_not_matter(
    make_case, users, k, seed, piece_scores, piece_rows, block_bytes, shared, padding_has_norm
):
    lengths, queries = [u[0] for u in users], [u[1] for u in users]
    history, user, rows, windows = make_case(seed, lengths, queries)
    history[1][0] = float(padding_has_norm)
    expected = cosine_topk_reference(*history, rows, user, k, *windows.values(), histogram_bins=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "SCORES_PER_PIECE", piece_scores)
        patch.setattr(walk, "ROWS_PER_PIECE", piece_rows)
        patch.setattr(plain, "BLOCK_BYTES", block_bytes)
        patch.setattr(plain, "SHARED_SCORES", shared)
        actual = cosine_topk(*history, user, k, query_rows=rows, histogram_bins=5, **windows)
    assert_same(actual, expected)


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("k", [1, 3, 40])
def test_long_lives_of_equal_scores(monkeypatch, make_case, pieces, k):
    """Whatever tells groups apart must not drop one of several equal scores."""
    monkeypatch.setattr(walk, "SCORES_PER_PIECE", 3 * 5000 // pieces)
    for seed, rows in ((1, 2), (2, 3), (3, 900)):
        history, user, _, windows = make_case(seed, [4999], [3], rows=rows)
        history[1][1:] = 1 / 127
        query_rows = torch.tensor([1, 1, 0])
        for window in ({}, windows):
            expected = cosine_topk_reference(*history, query_rows, user, k, *window.values())
            actual = cosine_topk(*history, user, k, query_rows=query_rows, **window)
            assert_same(actual, expected)


def test_equal_scores_of_unequal_products_go_to_the_later_position():
    # Neighbouring float32 numbers may be equal after the query's inverse norm: then the later
    # position must win although its product before that was the lower one.
    upper = torch.tensor(1.99)
    lower = torch.nextafter(upper, torch.tensor(0.0))
    scales = torch.linspace(0.51, 0.6, 99)
    scale = scales[upper * scales == lower * scales][0]
    table = torch.stack([torch.tensor(0.0), upper, lower, torch.tensor(1.0)])[:, None]
    inv_norm = torch.stack([torch.tensor(0.0), *torch.ones(2), scale])
    life = torch.ones(64 * 16, dtype=torch.int64)
    life[-3:] = 2
    history = table, inv_norm, life, torch.tensor([0, len(life)])
    row, user = torch.tensor([3]), torch.tensor([0])
    actual = cosine_topk(*history, user, 2, query_rows=row)
    assert actual[0].tolist() == [[len(life) - 1, len(life) - 2]]
    assert_same(actual, cosine_topk_reference(*history, row, user, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("width", [16, 32, 100, 256])
def test_float_tables_agree_within_rounding(make_case, dtype, width):
    history, user, rows, windows = make_case(7, [200, 31], [3, 4], width, dtype, rows=150)
    expected = cosine_topk_reference(*history, rows, user, 20, *windows.values())
    actual = cosine_topk(*history, user, 20, query_rows=rows, **windows)
    torch.testing.assert_close(actual[1], expected[1], atol=2e-6, rtol=0)
    assert ((actual[0] == -1) == (expected[0] == -1)).all()


def test_what_stands_for_a_missing_vector_does_not_matter(make_case):
    history, user, rows, _ = make_case(7, [300, 31], [3, 4], dtype=torch.float32)
    expected = cosine_topk(*history, user, 20, query_rows=rows)
    table = history[0].masked_fill(history[1][:, None] == 0, float("nan"))
    assert_same(cosine_topk(table, *history[1:], user, 20, query_rows=rows), expected)


def test_query_vectors_equal_query_rows(make_case):
    (table, _, *history), user, rows, _ = make_case(5, [90, 120], [3, 3])
    inv = 1.0 / table.double().norm(dim=1)
    rows = rows.clamp(min=1)
    args = table, inv.float(), *history, user, 9
    by_row = cosine_topk(*args, query_rows=rows)
    by_vector = cosine_topk(*args, query_vectors=table[rows])
    assert torch.equal(by_row[0], by_vector[0])
    torch.testing.assert_close(by_row[1], by_vector[1], atol=1e-6, rtol=0)


def test_query_vectors_equal_reference(make_case):
    history, user, rows, windows = make_case(5, [90, 120], [3, 3])
    # Every other column of a wider tensor: not contiguous; and one query without a vector.
    vectors = history[0][rows].repeat_interleave(2, dim=1)[:, ::2]
    vectors[1] = 0
    expected = cosine_topk_reference(
        *history, None, user, 9, *windows.values(), query_vectors=vectors, histogram_bins=6
    )
    actual = cosine_topk(*history, user, 9, query_vectors=vectors, histogram_bins=6, **windows)
    assert_same(actual, expected)
    assert (actual[0][1] == -1).all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, torch.float32])
def test_query_vectors_with_the_norms_of_the_table_equal_query_rows_to_the_bit(make_case, dtype):
    history, user, rows, windows = make_case(5, [900, 120], [3, 3], dtype=dtype)
    table, inv_norm, *_ = history
    # Norms that nobody could compute from the vectors, none at all among them.
    inv_norm *= torch.linspace(0.5, 1.5, len(inv_norm))
    rows[:2] = torch.tensor([int(inv_norm.argmin()), 7])
    own = {"query_vectors": table[rows], "query_inv_norm": inv_norm[rows]}
    expected = cosine_topk(*history, user, 9, query_rows=rows, histogram_bins=6, **windows)
    actual = cosine_topk(*history, user, 9, histogram_bins=6, **own, **windows)
    assert_same(actual, expected)
    assert (actual[0][0] == -1).all()
    if dtype == torch.int8:
        oracle = cosine_topk_reference(
            *history, None, user, 9, *windows.values(), histogram_bins=6, **own
        )
        assert_same(actual, oracle)


def test_index_dtypes_do_not_matter(make_case):
    history, user, rows, windows = make_case(8, [90, 4], [3, 2])
    expected = cosine_topk(*history, user, 9, query_rows=rows, **windows)
    table, inv, history_rows, offsets = history
    small = {name: edge.int() for name, edge in windows.items()}
    args = table, inv, history_rows.long(), offsets.int(), user.int(), 9
    assert_same(cosine_topk(*args, query_rows=rows.int(), **small), expected)


def test_nothing_is_picked_without_vectors(make_case):
    (table, inv, *history), user, rows, _ = make_case(1, [30], [2])
    positions, scores, histogram = cosine_topk(
        table, torch.zeros_like(inv), *history, user, 4, query_rows=rows, histogram_bins=3
    )
    assert (positions == -1).all()
    assert (scores == 0).all()
    assert (histogram == 0).all()


def test_nothing_is_picked_from_empty_windows(make_case):
    history, user, rows, _ = make_case(1, [30, 2000], [2, 2])
    begin = torch.tensor([30, 4, 2000, 0])
    positions, _ = cosine_topk(
        *history, user, 4, query_rows=rows, query_begin=begin, query_end=begin
    )
    assert (positions == -1).all()
    crossed = cosine_topk(
        *history, user, 4, query_rows=rows, query_begin=begin, query_end=torch.zeros_like(begin)
    )
    assert (crossed[0] == -1).all()


def test_a_batch_without_queries(make_case):
    history, user, rows, _ = make_case(1, [30, 8], [0, 0])
    found = cosine_topk(*history, user, 4, query_rows=rows, histogram_bins=3)
    assert [tuple(part.shape) for part in found] == [(0, 4), (0, 4), (0, 3)]


def test_memory_is_not_shared_between_calls_or_modes(make_case):
    first = make_case(1, [300], [3])
    second = make_case(2, [280, 900], [2, 3])
    with torch.inference_mode():
        cosine_topk(*second[0], second[1], 9, query_rows=second[2])
    found = cosine_topk(*first[0], first[1], 9, query_rows=first[2])
    kept = [part.clone() for part in found]
    cosine_topk(*second[0], second[1], 9, query_rows=second[2])
    assert_same(found, kept)


def test_no_gradient_and_no_autocast(make_case):
    history, user, rows, _ = make_case(1, [40], [3], dtype=torch.float32)
    expected = cosine_topk(*history, user, 5, query_rows=rows)
    table = history[0].clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = cosine_topk(table, *history[1:], user, 5, query_rows=rows)
        by_vector = cosine_topk(table, *history[1:], user, 5, query_vectors=table[rows])
    assert not actual[1].requires_grad
    assert not by_vector[1].requires_grad
    assert_same(actual, expected)


ONES = torch.ones(2, 16, dtype=torch.int8)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"k": 0}, "k: 0"),
        ({"histogram_bins": 0}, "histogram_bins: 0"),
        ({"table": torch.zeros(40, 16, dtype=torch.int32)}, "table"),
        ({"table": torch.zeros(16, 40, dtype=torch.int8).t()}, "table"),
        ({"table": torch.zeros(40, 257, dtype=torch.int8)}, "table"),
        ({"inv_norm": torch.zeros(3)}, "inv_norm"),
        ({"inv_norm": torch.zeros(40, dtype=torch.float64)}, "inv_norm"),
        ({"history_rows": torch.full((8,), 40, dtype=torch.int32)}, "history_rows"),
        ({"history_rows": torch.full((8,), -1)}, "history_rows: entries from -1"),
        ({"history_rows": torch.zeros(8)}, "history_rows"),
        ({"history_rows": torch.zeros(8, 1, dtype=torch.int64)}, "history_rows"),
        ({"history_offsets": torch.tensor([0, 6, 3, 8])}, "history_offsets"),
        ({"history_offsets": torch.tensor([0, 3, 6, 7])}, "history_offsets"),
        ({"history_offsets": torch.tensor([0.0, 3, 6, 8])}, "history_offsets: torch.float32"),
        ({"history_offsets": torch.zeros(0, dtype=torch.int64)}, "history_offsets"),
        ({"query_user": torch.tensor([2, 0])}, "query_user"),
        ({"query_user": torch.tensor([0, 3])}, "query_user"),
        ({"query_user": torch.tensor([0.0, 2.0])}, "query_user: torch.float32"),
        ({"query_end": torch.tensor([9, 1])}, "query_end"),
        ({"query_end": torch.tensor([True, True])}, "query_end: torch.bool"),
        ({"query_begin": torch.tensor([0])}, "query_begin"),
        ({"query_begin": torch.tensor([0, -1])}, "query_begin"),
        ({"query_rows": torch.tensor([0, 40])}, "query_rows"),
        ({"query_rows": torch.tensor([0.0, 1.0])}, "query_rows"),
        ({"query_rows": torch.tensor([1])}, "query_rows"),
        ({"query_rows": None}, "query_rows, query_vectors"),
        ({"query_vectors": torch.zeros(2, 16, dtype=torch.int8)}, "query_vectors"),
        ({"query_rows": None, "query_vectors": torch.zeros(2, 16)}, "query_vectors: torch.float32"),
        (
            {"query_rows": None, "query_vectors": torch.zeros(3, 16, dtype=torch.int8)},
            "query_vectors: torch.int8",
        ),
        ({"query_inv_norm": torch.ones(2)}, "query_inv_norm: given with query_rows"),
        (
            {"query_rows": None, "query_vectors": ONES, "query_inv_norm": torch.ones(3)},
            r"query_inv_norm: torch.float32 \(3,\)",
        ),
        (
            {
                "query_rows": None,
                "query_vectors": ONES,
                "query_inv_norm": torch.ones(2, dtype=torch.float64),
            },
            "query_inv_norm: torch.float64",
        ),
    ],
)
def test_bad_arguments_are_named(change, argument):
    with pytest.raises(ValueError, match=argument):
        cosine_topk(**{**good_arguments(), **change})


def good_arguments():
    return {
        "table": torch.ones(40, 16, dtype=torch.int8),
        "inv_norm": torch.ones(40),
        "history_rows": torch.ones(8, dtype=torch.int32),
        "history_offsets": torch.tensor([0, 3, 6, 8]),
        "query_user": torch.tensor([0, 2]),
        "k": 3,
        "query_rows": torch.tensor([1, 2]),
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "argument",
    [
        "inv_norm",
        "history_rows",
        "history_offsets",
        "query_user",
        "query_rows",
        "query_vectors",
        "query_inv_norm",
        "query_begin",
        "query_end",
    ],
)
def test_an_argument_on_another_device_is_named(argument):
    case = good_arguments()
    case |= {"query_begin": torch.tensor([0, 0]), "query_end": torch.tensor([3, 2])}
    if argument in ("query_vectors", "query_inv_norm"):
        case |= {"query_rows": None, "query_vectors": ONES}
        case |= {"query_inv_norm": torch.ones(2)} if argument == "query_inv_norm" else {}
    case[argument] = case[argument].cuda()
    with pytest.raises(ValueError, match=f"{argument}: on cuda"):
        cosine_topk(**case)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("triton", [True, False])
def test_a_gpu_finds_what_the_cpu_finds(monkeypatch, make_case, triton):
    if not triton:
        monkeypatch.setattr("kernels.jagged.find_spec", lambda name: None)
    history, user, rows, windows = make_case(5, [900, 0, 67], [3, 1, 4], 32, rows=90)
    expected = cosine_topk(*history, user, 9, query_rows=rows, histogram_bins=7, **windows)
    there = {name: edge.cuda() for name, edge in windows.items()}
    args = [part.cuda() for part in (*history, user)]
    found = cosine_topk(*args, 9, query_rows=rows.cuda(), histogram_bins=7, **there)
    assert_same([part.cpu() for part in found], expected)
