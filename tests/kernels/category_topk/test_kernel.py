"""The Triton kernel against the reference: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import pytest
import torch

from kernels.category_topk.reference import category_topk_reference
from kernels.jagged import check_queries

pytest.importorskip("triton")
launch = pytest.importorskip("kernels.launch")
kernel = pytest.importorskip("kernels.category_topk.kernel")

SMALL = launch.ScanConfig(4, 64, stages=2, round_tiles=4, programs=3, least_tiles=2)

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("length", [0, 1, 63, 1000, 4097])
@pytest.mark.parametrize("k", [1, 12])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_equals_reference(make_jagged, device, length, k, dtype):
    case = make_jagged(length, [length, 0, 40], [3, 1, 2], rows=7)
    category = case.history_rows.to(dtype)
    there = [
        part.to(device)
        for part in (case.history_offsets, case.query_user, case.query_begin, case.query_end)
    ]
    windows = check_queries(there[0], category.numel(), there[1], k, *there[2:])
    found = kernel.category_topk_cuda(
        category.to(device), there[0], windows, case.query_rows.to(device), k, SMALL
    )
    history = category, case.history_offsets
    queries = case.query_rows, case.query_user, k, case.query_begin, case.query_end
    assert torch.equal(found.cpu(), category_topk_reference(*history, *queries))
