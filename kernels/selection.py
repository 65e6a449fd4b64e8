"""The best K of a growing set of scores, found without sorting what cannot be among them.

Maxima of small groups give a score that the K-th best cannot fall below; only groups that reach it
are looked at.

Shape legend: Q queries, C columns (behaviours of a piece), K picks, W groups of columns,
G columns of a group, P groups or scores that are left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.jagged import NO_KEY, best_keys, ordered_bits, pack_keys, scores_of_bits, unpack_keys

# Columns whose maximum stands for them; a group is every W-th column, which vectorises.
GROUP = 16

# A piece has many columns if each pick has this many: then most groups hold none.
MANY_COLUMNS = 64

# Groups a pick above which a bound is too weak to work with.
WEAK_BOUND = 4


class BestKeys:
    """The best keys so far of every query, to which pieces are added latest first.

    Args:
        queries, k: of the search.
        device: of the scores.
        scale_Q: float32 [Q]; a score is what `add` is given times this. None for 1.
    """

    def __init__(self, queries: int, k: int, device: torch.device, scale_Q: Tensor | None) -> None:
        self.k, self.scale_Q = k, scale_Q
        self.keys_QK = torch.full((queries, k), NO_KEY, device=device)
        self.started: set[int] = set()

    def add(self, raw_QC: Tensor, start_Q: Tensor, first: int, last: int) -> None:
        """Offer scores of queries [first, last), before their scale; column 0 is `start_Q`.

        Two calls have the same queries or none in common. Positions must be earlier than all that
        these queries were offered before, so that a tie with the K-th best loses.
        """
        known_QK = self.keys_QK[first:last] if first in self.started else None
        scale_Q = None if self.scale_Q is None else self.scale_Q[first:last]
        row_P, column_P = _contenders(raw_QC, known_QK, scale_Q, self.k)
        if not row_P.numel():
            return
        scores_P = raw_QC.view(-1).index_select(0, row_P * raw_QC.shape[1] + column_P)
        if scale_Q is not None:
            scores_P *= scale_Q.index_select(0, row_P)
        keys_P = pack_keys(scores_P, start_Q.index_select(0, row_P) + column_P)
        keys_QC = _one_row_a_query(keys_P, row_P, last - first)
        if known_QK is not None:
            keys_QC = torch.cat([known_QK, keys_QC], dim=1)
        self.keys_QK[first:last] = best_keys(keys_QC, self.k)
        self.started.add(first)

    def picks(self) -> tuple[Tensor, Tensor]:
        """Positions int32 [Q, K] (-1 for none) and scores float32 [Q, K] (0 for none), falling."""
        return unpack_keys(self.keys_QK.sort(dim=1, descending=True).values)


def _contenders(
    raw_QC: Tensor, known_QK: Tensor | None, scale_Q: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """Query and column, int64 [P] each, of all that may be among the best; queries rising."""
    queries, columns = raw_QC.shape
    above_Q = _bound_of_known(known_QK, scale_Q) if known_QK is not None else None
    maxima_QW = _group_maxima(raw_QC, k)
    if maxima_QW is not None and columns >= MANY_COLUMNS * k:
        most = WEAK_BOUND * k * queries
        if above_Q is not None:
            row_P, group_P = _where_above(maxima_QW, above_Q)
        if above_Q is None or row_P.numel() > most:
            above_Q = _bound_of_groups(maxima_QW, scale_Q, k, above_Q)
            row_P, group_P = _where_above(maxima_QW, above_Q)
        # More than that are ties, and are found faster one by one.
        if row_P.numel() <= most:
            return _members_above(raw_QC, maxima_QW.shape[1], row_P, group_P, above_Q)
    elif maxima_QW is not None:
        above_Q = _bound_of_groups(maxima_QW, scale_Q, k, above_Q)
    if above_Q is None:
        above_Q = raw_QC.new_full((queries,), float("-inf"))
    return _where_above(raw_QC, above_Q)


def _bound_of_known(known_QK: Tensor, scale_Q: Tensor | None) -> Tensor:
    """What an earlier behaviour must exceed to beat the K-th best so far: float32 [Q]."""
    # The upper half of NO_KEY would be a NaN.
    worst_Q = scores_of_bits((known_QK.amin(dim=1) >> 32).int())
    return _before_scale(_or_minus_inf(worst_Q), scale_Q)


def _bound_of_groups(
    maxima_QW: Tensor, scale_Q: Tensor | None, k: int, above_Q: Tensor | None
) -> Tensor:
    """What at least K scores exceed, those that tie with the K-th included: float32 [Q].

    Not less than `above_Q`. K groups reach the K-th highest maximum, so K scores do.
    """
    # Selecting among integers takes half the time of selecting among floats, which may be NaN.
    best_QK = ordered_bits(maxima_QW).topk(k, dim=1, sorted=False).values
    kth_Q = scores_of_bits(best_QK.amin(dim=1))
    if scale_Q is not None:
        kth_Q *= scale_Q
    bound_Q = _before_scale(_just_below(kth_Q), scale_Q)
    return bound_Q if above_Q is None else torch.maximum(bound_Q, above_Q)


def _before_scale(above_Q: Tensor, scale_Q: Tensor | None) -> Tensor:
    """A bound before the scale: whatever exceeds `above_Q` after its product exceeds this before.

    Rounding is monotone, so a product that exceeds a float32 exceeded it before it was rounded.
    """
    if scale_Q is None:
        return above_Q
    # 0 / 0 where a query has no vector: all its scores are -inf.
    return _or_minus_inf(_just_below(above_Q / scale_Q))


def _just_below(scores: Tensor) -> Tensor:
    """Less than each score by more than two rounding errors, even where denormals are zeros."""
    return scores - scores.abs().mul_(2.0**-22).add_(2.0**-120)


def _or_minus_inf(scores: Tensor) -> Tensor:
    """Scores with -inf in place of NaN, changed in place."""
    return scores.nan_to_num_(nan=float("-inf"), posinf=float("inf"), neginf=float("-inf"))


def _group_maxima(raw_QC: Tensor, k: int) -> Tensor | None:
    """Maxima of groups of columns [Q, W], or None where there are too few columns to tell."""
    queries, columns = raw_QC.shape
    group = GROUP
    while group > 1 and (columns // group < 2 * k or columns % group):
        group //= 2
    if group == 1:
        return None
    return raw_QC.view(queries, group, columns // group).amax(dim=1)


def _where_above(scores: Tensor, above_Q: Tensor) -> tuple[Tensor, Tensor]:
    row_P, column_P = (scores > above_Q[:, None]).nonzero(as_tuple=True)
    return row_P, column_P


def _members_above(
    raw_QC: Tensor, groups: int, row_P: Tensor, group_P: Tensor, above_Q: Tensor
) -> tuple[Tensor, Tensor]:
    """Query and column of what exceeds the bound within some groups."""
    members_PG = raw_QC.view(raw_QC.shape[0], -1, groups)[row_P, :, group_P]
    left, member = _where_above(members_PG, above_Q.index_select(0, row_P))
    return row_P.index_select(0, left), member * groups + group_P.index_select(0, left)


def _one_row_a_query(keys_P: Tensor, row_P: Tensor, queries: int) -> Tensor:
    """Keys of each query moved together: int64 [Q, most keys of a query], padded with NO_KEY."""
    counts_Q = torch.bincount(row_P, minlength=queries)
    first_Q = counts_Q.cumsum(0) - counts_Q
    slot_P = torch.arange(row_P.numel(), device=row_P.device) - first_Q.index_select(0, row_P)
    most = int(counts_Q.amax())
    keys = torch.full((queries * most,), NO_KEY, device=row_P.device)
    keys[row_P * most + slot_P] = keys_P
    return keys.view(queries, most)
