"""Which behaviours the samples of a batch look at, stated once per user instead of per sample.

Shape legend: B samples, U users, R distinct recent behaviours of the batch, G groups of at most
GROUP consecutive samples of one user, P behaviours of the longest group, n samples of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Samples that share one read of their user's recent behaviours. A user with more samples in the
# batch gets several groups, which bounds the padding of the [G, n, P] score tensor.
GROUP = 16


@dataclass(frozen=True)
class RecentWindows:
    """The latest behaviours of each sample, as slices of one list without repetitions.

    Attributes:
        position_R: int64; index into the batch's flat history, user after user, rising.
        group_B, place_B: int64; the sample's group and its place in it.
        index_GP: int64; list index of each behaviour of the group (clamped past its end).
        mask_GnP: bool; whether sample n of the group sees behaviour p.
    """

    position_R: Tensor
    group_B: Tensor
    place_B: Tensor
    index_GP: Tensor
    mask_GnP: Tensor


def recent_windows(
    user_B: Tensor, begin_B: Tensor, end_B: Tensor, offsets_U: Tensor, length: int
) -> RecentWindows:
    """Windows over the latest `length` behaviours that each sample may see.

    Args:
        user_B: int64, never falling; begin_B, end_B: int64, rising within a user; what the sample
            may see of its user's stretch.
        offsets_U: int64 [U + 1]; stretches of the flat history.
        length: latest behaviours wanted.
    """
    base_B = offsets_U.index_select(0, user_B)
    high_B = base_B + end_B
    low_B = torch.maximum(base_B + begin_B, high_B - length)
    # Windows of a user overlap and their ends rise: each sample adds what the one before lacks.
    known_B = torch.zeros_like(high_B)
    if known_B.numel() > 1:
        same = user_B[1:] == user_B[:-1]
        known_B[1:] = torch.where(same, high_B[:-1], 0)
    new_B = high_B - torch.maximum(low_B, known_B)
    list_end_B = new_B.cumsum(0)
    total = int(list_end_B[-1]) if list_end_B.numel() else 0
    position_R = torch.arange(total, device=user_B.device) + (
        high_B - list_end_B
    ).repeat_interleave(new_B, output_size=total)
    list_begin_B = list_end_B - (high_B - low_B)
    return _grouped(position_R, list_begin_B, list_end_B, user_B)


def _grouped(position_R: Tensor, begin_B: Tensor, end_B: Tensor, user_B: Tensor) -> RecentWindows:
    samples = user_B.numel()
    index_B = torch.arange(samples, device=user_B.device)
    first_B = torch.ones_like(user_B, dtype=torch.bool)
    if samples:
        first_B[1:] = user_B[1:] != user_B[:-1]
    user_start_B = torch.where(first_B, index_B, 0).cummax(0).values if samples else index_B
    place_B = (index_B - user_start_B) % GROUP
    group_B = (place_B == 0).cumsum(0) - 1
    groups = int(group_B[-1]) + 1 if samples else 0
    begin_G = begin_B[place_B == 0]
    end_G = begin_G.new_zeros(groups).scatter_reduce(0, group_B, end_B, "amax")
    width = int((end_G - begin_G).max()) if groups else 0
    span_P = torch.arange(width, device=user_B.device)
    index_GP = (begin_G[:, None] + span_P).clamp_(max=max(position_R.numel() - 1, 0))
    places = int(place_B.max()) + 1 if samples else 0
    low_Gn = begin_G.new_zeros(groups, places)
    high_Gn = begin_G.new_zeros(groups, places)
    low_Gn[group_B, place_B] = begin_B - begin_G.index_select(0, group_B)
    high_Gn[group_B, place_B] = end_B - begin_G.index_select(0, group_B)
    mask_GnP = (span_P >= low_Gn[..., None]) & (span_P < high_Gn[..., None])
    return RecentWindows(position_R, group_B, place_B, index_GP, mask_GnP)
