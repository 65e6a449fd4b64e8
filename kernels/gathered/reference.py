"""Gathered dot and sum, slow and obvious: the oracle."""

from __future__ import annotations

from torch import Tensor


def gathered_dot_reference(query_BD: Tensor, rows_VD: Tensor, index_BK: Tensor) -> Tensor:
    """The same as `kernels.gathered_dot`, through a [B, K, D] copy."""
    return (rows_VD[index_BK] * query_BD[:, None]).sum(dim=2)


def gathered_sum_reference(weight_BK: Tensor, rows_VD: Tensor, index_BK: Tensor) -> Tensor:
    """The same as `kernels.gathered_sum`, through a [B, K, D] copy."""
    return (rows_VD[index_BK] * weight_BK[:, :, None]).sum(dim=1)
