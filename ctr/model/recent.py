"""The latest behaviours of each sample as a sequence, with their similarities where wanted.

Shape legend: B samples, P behaviours of the longest group, R recent behaviours of the batch,
E width of a behaviour, M width of a frozen vector, G groups, n samples of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ctr.data.batch import Batch
from ctr.model.catalog import ItemCatalog
from ctr.model.sequences import Picks, Sequence, Stretches, grouped
from ctr.model.windows import RecentWindows

# Samples a user from which gathering a user's behaviours once pays; with fewer, a gathered copy is
# read hardly more than once, and at the widths of QIN it takes gigabytes.
_SHARED_BY = 3


def recent_sequence(
    windows: RecentWindows,
    rows_RE: Tensor,
    similarity_GnP: Tensor | None = None,
    known_GnP: Tensor | None = None,
) -> Sequence:
    """The latest behaviours of each sample.

    Args:
        windows: over the batch; rows_RE: the behaviours in them.
        similarity_GnP, known_GnP: of `recent_similarity`; None where nobody wants similarities.
    """
    known = windows.mask_GnP if known_GnP is None else known_GnP
    stretches = Stretches(rows_RE, windows, known, similarity_GnP)
    samples = windows.group_B.numel()
    if samples >= _SHARED_BY * windows.mask_GnP.shape[0]:
        return stretches
    return Picks(
        rows_RE,
        windows.index_GP.index_select(0, windows.group_B),
        stretches.per_sample(windows.mask_GnP),
        stretches.per_sample(known),
        None if similarity_GnP is None else stretches.per_sample(similarity_GnP),
    )


def recent_per_sample(windows: RecentWindows) -> tuple[Tensor, Tensor]:
    """Index into the batch's flat history int64 [B, P] and mask bool [B, P] of each sample."""
    if windows.position_R.numel() == 0:
        index_GP = windows.index_GP
    else:
        index_GP = windows.position_R[windows.index_GP]
    mask_BP = windows.mask_GnP[windows.group_B, windows.place_B]
    return index_GP.index_select(0, windows.group_B), mask_BP


def recent_similarity(
    batch: Batch, windows: RecentWindows, catalog: ItemCatalog
) -> tuple[Tensor, Tensor]:
    """Cosine float32 [G, n, P] of frozen vectors, and bool where behaviour and target have one."""
    with torch.no_grad(), torch.autocast(batch.user_B.device.type, enabled=False):
        items_R = batch.history_item_T.index_select(0, windows.position_R).long()
        vector_GPM = F.embedding(windows.index_GP, catalog.unit_vectors(items_R))
        target_GnM = grouped(catalog.unit_vectors(batch.target_item_B), windows)
        similarity_GnP = torch.bmm(target_GnM, vector_GPM.transpose(1, 2))
        # A behaviour or target without a vector has no similarity to count.
        known_GP, known_Gn = vector_GPM.any(dim=2), target_GnM.any(dim=2)
        return similarity_GnP, windows.mask_GnP & known_GP[:, None] & known_Gn[..., None]
