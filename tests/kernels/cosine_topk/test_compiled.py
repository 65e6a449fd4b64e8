"""cosine_topk as one op of a compiled or exported program."""

import pytest
import torch
from torch import library

from kernels import cosine_topk


@pytest.fixture(scope="module")
def make_inputs(make_table, make_jagged):
    def make(lengths, queries):
        table, inv_norm = make_table(1, 40, 16, torch.int8)
        case = make_jagged(len(lengths), lengths, queries)
        return (
            table,
            inv_norm,
            case.history_rows,
            case.history_offsets,
            case.query_user,
            case.query_rows,
            case.query_begin,
            case.query_end,
        )

    return make


class Search(torch.nn.Module):
    def forward(self, table, inv_norm, rows, offsets, user, query_rows, begin, end):
        positions, scores = cosine_topk(
            table, inv_norm, rows, offsets, user, 5, query_rows=query_rows
        )
        *_, histogram = cosine_topk(
            table,
            inv_norm,
            rows,
            offsets,
            user,
            3,
            query_vectors=table[query_rows],
            query_inv_norm=inv_norm[query_rows],
            query_begin=begin,
            query_end=end,
            histogram_bins=4,
        )
        return positions + 1, scores * 2, histogram.sum(dim=0)


def assert_same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


def test_operator_contract(make_inputs):
    *args, rows, begin, end = make_inputs([20, 9], [2, 1])
    operator = torch.ops.lifelong_kernels.cosine_topk.default
    library.opcheck(operator, (*args, 5, rows, None, None, begin, end, 0))
    vectors, inv_norm = args[0][rows], args[1][rows]
    library.opcheck(operator, (*args, 5, None, vectors, None, None, None, 7))
    library.opcheck(operator, (*args, 5, None, vectors, inv_norm, None, None, 7))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_a_graph_break(make_inputs, backend, dynamic):
    torch.compiler.reset()
    search = torch.compile(Search(), fullgraph=True, backend=backend, dynamic=dynamic)
    for lengths, queries in (([20, 9], [2, 1]), ([7, 30, 4], [3, 3, 2])):
        inputs = make_inputs(lengths, queries)
        assert_same(search(*inputs), Search()(*inputs))


def test_exports_with_sizes_left_open(make_inputs):
    behaviours, users = torch.export.Dim("behaviours"), torch.export.Dim("users")
    queries = {0: torch.export.Dim("queries")}
    shapes = (None, None, {0: behaviours}, {0: users}, queries, queries, queries, queries)
    inputs = make_inputs([20, 9], [2, 1])
    program = torch.export.export(Search(), inputs, dynamic_shapes=shapes).module()
    for lengths, asked in (([20, 9], [2, 1]), ([7, 30, 4], [3, 3, 2])):
        inputs = make_inputs(lengths, asked)
        assert_same(program(*inputs), Search()(*inputs))


def test_an_exported_program_still_checks(make_inputs):
    inputs = make_inputs([20, 9], [2, 1])
    program = torch.export.export(Search(), inputs).module()
    table, inv_norm, rows, *queries = inputs
    with pytest.raises(ValueError, match="history_rows"):
        program(table, inv_norm, torch.full_like(rows, 40), *queries)
    assert torch.is_grad_enabled()
