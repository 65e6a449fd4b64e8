"""category_topk against its reference, exactly: it returns positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import library

from kernels import category_topk, walk
from kernels.category_topk.reference import category_topk_reference


@pytest.fixture(scope="module")
def make_case(make_jagged):
    """A jagged batch of few categories, 0 among them."""

    def make(seed, lengths, queries, categories=5):
        case = make_jagged(seed, lengths, queries, categories)
        windows = {"query_begin": case.query_begin, "query_end": case.query_end}
        return (case.history_rows, case.history_offsets), case.query_rows, case.query_user, windows

    return make


@pytest.mark.parametrize("length", [0, 1, 63, 1000, 4097])
@pytest.mark.parametrize("k", [1, 50, 128])
def test_odd_lengths_equal_reference(make_case, length, k):
    history, category, user, windows = make_case(3, [length, 5, 0, length], [2] * 4)
    expected = category_topk_reference(*history, category, user, k)
    assert torch.equal(category_topk(*history, category, user, k), expected)
    expected = category_topk_reference(*history, category, user, k, *windows.values())
    assert torch.equal(category_topk(*history, category, user, k, **windows), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(0, 10_000),
    st.sampled_from([8, 64, 1 << 18]),
)
def test_windows_and_piece_sizes_do_not_matter(make_case, users, k, seed, piece_scores):
    lengths, queries = [u[0] for u in users], [u[1] for u in users]
    history, category, user, windows = make_case(seed, lengths, queries)
    expected = category_topk_reference(*history, category, user, k, *windows.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "SCORES_PER_PIECE", piece_scores)
        actual = category_topk(*history, category, user, k, **windows)
    assert torch.equal(actual, expected)


def test_the_latest_come_first_and_the_unknown_matches_nothing():
    history = torch.tensor([2, 0, 2, 1, 0, 2]), torch.tensor([0, 6])
    category, user = torch.tensor([2, 1, 0, 7]), torch.zeros(4, dtype=torch.int64)
    found = category_topk(*history, category, user, 2)
    assert found.tolist() == [[5, 2], [3, -1], [-1, -1], [-1, -1]]


def test_index_dtypes_do_not_matter(make_case):
    (life, offsets), category, user, windows = make_case(4, [90, 4], [3, 2])
    expected = category_topk(life, offsets, category, user, 9, **windows)
    small = {name: edge.int() for name, edge in windows.items()}
    args = life.long(), offsets.int(), category.int(), user.int(), 9
    assert torch.equal(category_topk(*args, **small), expected)


def test_a_batch_without_queries(make_case):
    history, category, user, _ = make_case(1, [30, 8], [0, 0])
    assert category_topk(*history, category, user, 4).shape == (0, 4)


def test_operator_contract(make_case):
    history, category, user, windows = make_case(2, [20, 9], [2, 1])
    operator = torch.ops.lifelong_kernels.category_topk.default
    library.opcheck(operator, (*history, category, user, 5, *windows.values()))
    library.opcheck(operator, (*history, category, user, 5, None, None))


class Search(torch.nn.Module):
    def forward(self, life, offsets, category, user, begin, end):
        return category_topk(life, offsets, category, user, 5, query_begin=begin, query_end=end) + 1


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(make_case, dynamic):
    torch.compiler.reset()
    search = torch.compile(Search(), fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for lengths, queries in (([20, 9], [2, 1]), ([7, 30, 4], [3, 3, 2])):
        history, category, user, windows = make_case(2, lengths, queries)
        inputs = (*history, category, user, *windows.values())
        assert torch.equal(search(*inputs), Search()(*inputs))


def test_exports_with_sizes_left_open(make_case):
    behaviours, users = torch.export.Dim("behaviours"), torch.export.Dim("users")
    queries = {0: torch.export.Dim("queries")}
    shapes = ({0: behaviours}, {0: users}, queries, queries, queries, queries)
    history, category, user, windows = make_case(2, [20, 9], [2, 1])
    inputs = (*history, category, user, *windows.values())
    program = torch.export.export(Search(), inputs, dynamic_shapes=shapes).module()
    history, category, user, windows = make_case(5, [7, 30, 4], [3, 3, 2])
    inputs = (*history, category, user, *windows.values())
    assert torch.equal(program(*inputs), Search()(*inputs))


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"k": 0}, "k: 0"),
        ({"history_category": torch.zeros(8)}, "history_category: torch.float32"),
        ({"history_category": torch.zeros(8, 1, dtype=torch.int64)}, "history_category"),
        ({"history_offsets": torch.tensor([0, 3, 6, 7])}, "history_offsets"),
        ({"history_offsets": torch.tensor([0, 6, 3, 8])}, "history_offsets"),
        ({"query_category": torch.tensor([1])}, "query_category"),
        ({"query_category": torch.tensor([1.0, 2.0])}, "query_category: torch.float32"),
        ({"query_user": torch.tensor([2, 0])}, "query_user"),
        ({"query_user": torch.tensor([0, 3])}, "query_user"),
        ({"query_end": torch.tensor([9, 1])}, "query_end"),
        ({"query_begin": torch.tensor([0])}, "query_begin"),
    ],
)
def test_bad_arguments_are_named(change, argument):
    with pytest.raises(ValueError, match=argument):
        category_topk(**{**good_arguments(), **change})


def good_arguments():
    return {
        "history_category": torch.ones(8, dtype=torch.int32),
        "history_offsets": torch.tensor([0, 3, 6, 8]),
        "query_category": torch.tensor([1, 2]),
        "query_user": torch.tensor([0, 2]),
        "k": 3,
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("argument", ["history_offsets", "query_category", "query_user"])
def test_an_argument_on_another_device_is_named(argument):
    case = good_arguments()
    case[argument] = case[argument].cuda()
    with pytest.raises(ValueError, match=f"{argument}: on cuda"):
        category_topk(**case)
