"""The dense computations that guard a speed: they agree with the oracles and see a wrong result."""

import pytest
import torch

import kernels
from kernels.benchmarks.cases import (
    SEQUENCE_SETS,
    CategoryCase,
    CosineCase,
    HammingCase,
    SimtierCase,
)
from kernels.benchmarks.check import CheckError, check_outputs
from kernels.benchmarks.workloads import best_positions, build
from kernels.category_topk.reference import category_topk_reference
from kernels.cosine_topk.reference import cosine_topk_reference
from kernels.hamming_topk.reference import hamming_topk_reference

CPU = torch.device("cpu")
# Few rows make ties, and fewer matches than picks.
TINY = {
    "cosine_topk": CosineCase(3, 2, 70, 40, k=9, width=16),
    "hamming_topk": HammingCase(3, 2, 70, 40, k=9),
    "category_topk": CategoryCase(3, 2, 70, 20, k=9),
    "simtier": SimtierCase(12, 30),
}


def tiny(op):
    return build(op, TINY[op], CPU, SEQUENCE_SETS)


def spoil(result):
    """The same tensors with one entry changed."""
    if isinstance(result, tuple):
        return (spoil(result[0]), *result[1:])
    result = result.clone()
    result[-1, 0] += 1
    return result


@pytest.mark.parametrize("op", list(TINY))
def test_a_right_result_passes_and_a_wrong_one_is_named(op, monkeypatch):
    workload = tiny(op)
    check_outputs(workload)
    right = getattr(kernels, op)
    monkeypatch.setattr(kernels, op, lambda *args, **named: spoil(right(*args, **named)))
    with pytest.raises(CheckError, match=f"{op}, case {workload.case.name}"):
        check_outputs(workload)


@pytest.mark.parametrize("op", ["cosine_topk", "hamming_topk"])
def test_a_wrong_value_is_noticed_too(op, monkeypatch):
    workload, right = tiny(op), getattr(kernels, op)

    def wrong(*args, **named):
        positions, values = right(*args, **named)
        return positions, spoil(values)

    monkeypatch.setattr(kernels, op, wrong)
    with pytest.raises(CheckError, match="other values"):
        check_outputs(workload)


def dense_positions(workload):
    given, k = workload.inputs[0], workload.case.k
    lives = [
        given.rows_T[given.offsets[user] : given.offsets[user + 1]].long() for user in given.user_Q
    ]
    dense = [workload.dense(0, query, life) for query, life in enumerate(lives)]
    return torch.stack([best_positions(value, allowed, k) for value, allowed in dense]).int()


def test_dense_searches_agree_with_the_oracles():
    workload = tiny("cosine_topk")
    given = workload.inputs[0]
    jagged = given.rows_T, given.offsets
    queries = given.query_Q, given.user_Q, 9
    expected = cosine_topk_reference(workload.table, workload.inv_norm, *jagged, *queries)[0]
    assert torch.equal(dense_positions(workload), expected)
    workload = tiny("category_topk")
    given = workload.inputs[0]
    expected = category_topk_reference(given.rows_T, given.offsets, given.query_Q, given.user_Q, 9)
    assert (expected == -1).any()
    assert torch.equal(dense_positions(workload), expected)
    workload = tiny("hamming_topk")
    given = workload.inputs[0]
    expected = hamming_topk_reference(
        workload.codes, given.rows_T, given.offsets, given.user_Q, 9, query_rows=given.query_Q
    )[0]
    assert torch.equal(dense_positions(workload), expected)


@pytest.mark.parametrize("op", ["cosine_topk", "hamming_topk"])
def test_reference_sequences_pick_as_good_behaviours(op):
    workload = tiny(op)
    positions_BK = workload.sequence()(1)
    given = workload.inputs[1]
    for query, picks in enumerate(workload.picks(1)[0].long()):
        user = int(given.user_Q[query])
        life = given.rows_T[given.offsets[user] : given.offsets[user + 1]].long()
        value_L, _ = workload.dense(1, query, life)
        theirs = value_L[positions_BK[query]].sort(descending=True).values
        torch.testing.assert_close(value_L[picks], theirs, rtol=0, atol=1e-6)


def test_reference_sequences_without_ties_equal_the_op():
    workload = tiny("category_topk")
    assert torch.equal(workload.sequence()(1).int(), workload.picks(1)[0])
    workload = tiny("simtier")
    torch.testing.assert_close(workload.sequence()(1), workload.call(1))
    counts = build("simtier", SimtierCase(12, 30, bins=7, tiers="equal", scaled=False), CPU, 2)
    assert torch.equal(counts.sequence()(1), counts.call(1))


def test_distinct_rows_are_counted():
    workload = tiny("cosine_topk")
    rows = workload.inputs[0].rows_T
    assert workload.distinct_share() == len(set(rows.tolist())) / 210
    assert tiny("simtier").distinct_share() is None
