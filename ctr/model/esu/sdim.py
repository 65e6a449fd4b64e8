"""SDIM: the behaviours that fall into the target's hash buckets, without a search.

Shape legend: B samples, T events of the batch, C events of a piece, V distinct behaviours, I width
of an item, E of a behaviour, S stretches of events, G groups of hash functions, b buckets of a
group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctr.data.batch import Batch
from ctr.model.simhash import SimHash

# Events whose vectors are gathered at a time.
_PIECE = 1 << 16


class HashedInterest(nn.Module):
    """Mean over m / tau groups of l2(sum of the behaviours that share the target's signature).

    SDIM (arXiv 2205.10249, section 4): m SimHash bits in groups of tau, a signature each; behaviour
    j counts in a group, p_j = 1, where its signature is the target's, otherwise p_j = 0; interest =
    1 / (m / tau) sum over groups of sum_j p_j s_j / |sum_j p_j s_j|, 0 where nothing collides. The
    share of groups in which two vectors collide follows their angle, and gradients reach every
    behaviour that a sample may see and collides with.

    Signatures are of what a behaviour tells of its item, since a target has no side columns; s_j is
    all of it. Unknown items are left out.

    Each distinct behaviour is hashed once, and each event is added up once, whatever the samples
    that see it: the ends of all windows cut the histories into at most 2 B stretches, events are
    summed by stretch, group and bucket, and a sample adds up the stretches of its window, nowhere
    taking a sum off another. Beside the V behaviours and 17 + G bytes an event this takes, forward
    and backward together, some 4 x 2 B x 2^tau x G x E numbers, whatever the length: 130 MiB at
    B = 1,000, tau = 3, G = 16, E = 32.

    Args:
        target_width: I; behaviour_width: E; hashes: m; group: tau, which divides m, at most 8.
    """

    def __init__(self, target_width: int, behaviour_width: int, hashes: int, group: int) -> None:
        super().__init__()
        self.width, self.target_width = behaviour_width, target_width
        self.groups, self.group, self.buckets = hashes // group, group, 1 << group
        self.hash = SimHash(target_width, hashes)

    def forward(
        self, target_BI: Tensor, behaviour_VE: Tensor, index_T: Tensor, batch: Batch
    ) -> Tensor:
        """Interest float [B, E] in all that each sample may see.

        Args:
            target_BI: float; behaviour_VE: float, the distinct behaviours, each of which begins
                with its item; index_T: int64, the behaviour of each event; batch: windows.
        """
        bucket_GV = self._buckets(behaviour_VE[:, : self.target_width]).t().contiguous()
        bucket_BG = self._buckets(target_BI).long()
        stretch_T, first_B, last_B, stretches = _stretches(batch)
        seen = ((stretch_T >= 0) & (batch.history_item_T != 0)).nonzero().view(-1)
        sums_GSbE = _BucketSums.apply(
            # Half precision would add up thousands of behaviours to a few digits.
            behaviour_VE.to(torch.promote_types(behaviour_VE.dtype, torch.float32)),
            index_T.index_select(0, seen),
            stretch_T.index_select(0, seen),
            bucket_GV,
            (stretches, self.buckets),
        )
        sums_BGE = _between(sums_GSbE, first_B, last_B, bucket_BG)
        return F.normalize(sums_BGE, dim=2).mean(dim=1)

    def _buckets(self, vectors_NI: Tensor) -> Tensor:
        """Signatures uint8 [N, G]: tau bits as a number."""
        bits_NGt = self.hash(vectors_NI).unflatten(1, (self.groups, self.group))
        place_t = 1 << torch.arange(self.group, device=bits_NGt.device, dtype=torch.uint8)
        return (bits_NGt * place_t).sum(dim=2, dtype=torch.uint8)


def _stretches(batch: Batch) -> tuple[Tensor, Tensor, Tensor, int]:
    """Histories cut wherever a sample's window begins or ends.

    Returns:
        int64 [T], stretch of each event, -1 where no sample sees it; int64 [B] twice, first stretch
        of each window and the one after its last; how many there are.
    """
    base_B = batch.history_offsets_U.index_select(0, batch.user_B)
    begin_B, end_B = base_B + batch.history_begin_B, base_B + batch.history_end_B
    cut_S = torch.unique(torch.cat([base_B.new_zeros(1), begin_B, end_B]))
    first_B, last_B = torch.searchsorted(cut_S, begin_B), torch.searchsorted(cut_S, end_B)
    one_B = torch.ones_like(first_B)
    windows_S = torch.zeros_like(cut_S).index_add_(0, first_B, one_B)
    windows_S = windows_S.index_add_(0, last_B, -one_B).cumsum(0)
    event_T = torch.arange(batch.history_item_T.numel(), device=cut_S.device)
    stretch_T = torch.searchsorted(cut_S, event_T, right=True) - 1
    unseen_T = (windows_S == 0).index_select(0, stretch_T)
    return stretch_T.masked_fill_(unseen_T, -1), first_B, last_B, cut_S.numel()


class _BucketSums(torch.autograd.Function):
    """Sums of behaviours by group, stretch and bucket, piece by piece.

    Plain autograd would keep an index an event and group, and a gradient an event: at 100,000
    behaviours a user, gigabytes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        behaviour_VE: Tensor,
        index_T: Tensor,
        stretch_T: Tensor,
        bucket_GV: Tensor,
        sizes: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(index_T, stretch_T, bucket_GV)
        ctx.behaviours = behaviour_VE.shape[0]
        stretches, buckets = sizes
        groups, width = bucket_GV.shape[0], behaviour_VE.shape[1]
        sums_GSbE = behaviour_VE.new_zeros(groups, stretches, buckets, width)
        for index_C, bag_GC in _pieces(index_T, stretch_T, bucket_GV, buckets):
            rows_CE = behaviour_VE.index_select(0, index_C)
            for sums_SbE, bag_C in zip(sums_GSbE, bag_GC, strict=True):
                sums_SbE.view(-1, width).index_add_(0, bag_C, rows_CE)
        return sums_GSbE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        index_T, stretch_T, bucket_GV = ctx.saved_tensors
        groups, stretches, buckets, width = grads[0].shape
        flat = grads[0].reshape(-1, width)
        base_G = torch.arange(groups, device=flat.device) * (stretches * buckets)
        grad_VE = flat.new_zeros(ctx.behaviours, width)
        for index_C, bag_GC in _pieces(index_T, stretch_T, bucket_GV, buckets):
            bag_CG = (bag_GC + base_G[:, None]).t().contiguous()
            grad_VE.index_add_(0, index_C, F.embedding_bag(bag_CG, flat, mode="sum"))
        return grad_VE, None, None, None, None


def _pieces(
    index_T: Tensor, stretch_T: Tensor, bucket_GV: Tensor, buckets: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Behaviours int64 [C] of some events, and the row of the sums [G, C] that each counts in."""
    for index_C, stretch_C in zip(index_T.split(_PIECE), stretch_T.split(_PIECE), strict=True):
        yield index_C, bucket_GV.index_select(1, index_C) + stretch_C * buckets


def _between(sums_GSbE: Tensor, first_B: Tensor, last_B: Tensor, bucket_BG: Tensor) -> Tensor:
    """Sums float [B, G, E] of a sample's bucket over the stretches [first, last).

    A binary tree of sums: a range is at most two of its nodes a level. Differences of running sums
    would be one step, but rounding would leave something of what other users did.
    """
    groups, _, buckets, width = sums_GSbE.shape
    group_G = torch.arange(groups, device=first_B.device)
    found_BGE = sums_GSbE.new_zeros(*bucket_BG.shape, width)
    level = sums_GSbE
    while bool((first_B < last_B).any()):
        nodes = level.shape[1]
        odd_first = (first_B < last_B) & (first_B % 2 == 1)
        odd_last = (first_B < last_B) & (last_B % 2 == 1)
        for taken_B, node_B in ((odd_first, first_B), (odd_last, last_B - 1)):
            node_B = node_B.masked_fill(~taken_B, 0)
            row_BG = (group_G * nodes + node_B[:, None]) * buckets + bucket_BG
            rows = level.reshape(-1, width).index_select(0, row_BG.view(-1))
            found_BGE = found_BGE + rows.view(found_BGE.shape) * taken_B[:, None, None]
        level = F.pad(level, (0, 0, 0, 0, 0, nodes % 2)).unflatten(1, (-1, 2)).sum(dim=2)
        first_B, last_B = (first_B + 1) // 2, last_B // 2
    return found_BGE
