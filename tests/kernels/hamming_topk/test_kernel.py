"""The Triton kernel against distances counted bit by bit."""

from __future__ import annotations

import pytest
import torch

from kernels.jagged import check_queries

pytest.importorskip("triton")
launch = pytest.importorskip("kernels.launch")
kernel = pytest.importorskip("kernels.hamming_topk.kernel")
reference = pytest.importorskip("kernels.hamming_topk.reference")

SMALL = launch.ScanConfig(4, 64, stages=2, round_tiles=4, programs=3, least_tiles=2)

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("length", [0, 1, 63, 1000])
@pytest.mark.parametrize(("dtype", "words"), [(torch.int64, 1), (torch.int64, 3), (torch.int32, 3)])
@pytest.mark.parametrize("k", [1, 9])
def test_equals_reference(make_jagged, device, length, dtype, words, k):
    case = make_jagged(length, [length, 0, 40], [3, 1, 2], rows=30)
    span = torch.iinfo(dtype)
    g = torch.Generator().manual_seed(words)
    codes = torch.randint(span.min, span.max, (30, words), generator=g, dtype=dtype)
    there = [
        part.to(device)
        for part in (case.history_offsets, case.query_user, case.query_begin, case.query_end)
    ]
    windows = check_queries(there[0], case.history_rows.numel(), there[1], k, *there[2:])
    found = kernel.hamming_topk_cuda(
        codes.to(device),
        case.history_rows.to(device),
        there[0],
        windows,
        k,
        codes[case.query_rows].to(device),
        (case.query_rows != 0).to(device),
        SMALL,
    )
    expected = reference.hamming_topk_reference(
        codes,
        case.history_rows,
        case.history_offsets,
        case.query_user,
        k,
        query_rows=case.query_rows,
        query_begin=case.query_begin,
        query_end=case.query_end,
    )
    assert torch.equal(found[0].cpu(), expected[0])
    assert torch.equal(found[1].cpu(), expected[1])
