"""The two shapes in which samples meet behaviours; every ESU works on either.

A unit projects `rows` as it likes, scores queries against projected rows and pools projected rows
by weights. `shown` may gather them first, where that is cheaper than reading them in place twice.

Shape legend: B samples, N rows, K behaviours a sample, X width of a row, G groups of a user's
samples, n samples of a group, P behaviours of the longest group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ctr.model.windows import RecentWindows
from kernels import gathered_dot, gathered_sum


class Sequence(Protocol):
    """Behaviours that samples look at.

    Attributes:
        rows: float [N, E]; each behaviour once, however many samples look at it.
        mask: bool, in the shape of scores; whether there is a behaviour.
        similarity: float32 cosine of frozen vectors, in the shape of scores; or None.
        known: bool, in the shape of scores; where behaviour and target both have a vector.
    """

    @property
    def rows(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...
    @property
    def similarity(self) -> Tensor | None: ...
    @property
    def known(self) -> Tensor: ...

    def shown(self, rows_NX: Tensor) -> Tensor:
        """Projected rows in the form that `scores` and `pool` take."""

    def scores(self, query_BX: Tensor, shown: Tensor) -> Tensor:
        """Dot products of each sample's query with its behaviours, in the shape of `mask`."""

    def pool(self, weight: Tensor, shown: Tensor) -> Tensor:
        """Weighted sums float [B, X] of each sample's behaviours."""

    def per_sample(self, values: Tensor) -> Tensor:
        """Values in the shape of scores, or with a last dimension of their own -> [B, ...]."""


@dataclass(frozen=True)
class Picks:
    """K behaviours of each sample's own.

    Attributes:
        index_BK: int64, row of each; 0 where the mask is false.
    """

    rows: Tensor
    index_BK: Tensor
    mask: Tensor
    known: Tensor
    similarity: Tensor | None = None

    def shown(self, rows_NX: Tensor) -> Tensor:
        """The rows as they are: dots and sums read them in place."""
        return rows_NX

    def scores(self, query_BX: Tensor, shown: Tensor) -> Tensor:
        """Float [B, K]."""
        return gathered_dot(query_BX, shown, self.index_BK)

    def pool(self, weight: Tensor, shown: Tensor) -> Tensor:
        """Float [B, X]."""
        # Under autocast a softmax stays in float32 while projected rows are bfloat16.
        return gathered_sum(weight.to(shown.dtype), shown, self.index_BK)

    def per_sample(self, values: Tensor) -> Tensor:
        """The values as they are."""
        return values


@dataclass(frozen=True)
class Stretches:
    """The latest behaviours, which the samples of a user share: gathered once per group."""

    rows: Tensor
    windows: RecentWindows
    known: Tensor
    similarity: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """Bool [G, n, P]."""
        return self.windows.mask_GnP

    def shown(self, rows_NX: Tensor) -> Tensor:
        """Float [G, P, X]."""
        return F.embedding(self.windows.index_GP, rows_NX)

    def scores(self, query_BX: Tensor, shown: Tensor) -> Tensor:
        """Float [G, n, P]."""
        return torch.bmm(grouped(query_BX, self.windows), shown.transpose(1, 2))

    def pool(self, weight: Tensor, shown: Tensor) -> Tensor:
        """Float [B, X]."""
        return self.per_sample(torch.bmm(weight.to(shown.dtype), shown))

    def per_sample(self, values: Tensor) -> Tensor:
        """[G, n, X] -> [B, X], the inverse of `grouped`."""
        return values[self.windows.group_B, self.windows.place_B]


def grouped(rows_B: Tensor, windows: RecentWindows) -> Tensor:
    """[B, X] -> [G, n, X], zeros in empty places."""
    groups, places, _ = windows.mask_GnP.shape
    out = rows_B.new_zeros(groups, places, rows_B.shape[1])
    return out.index_put((windows.group_B, windows.place_B), rows_B)
