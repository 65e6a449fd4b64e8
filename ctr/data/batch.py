"""A user-grouped batch: each user's history once, each sample a view of it.

Shape legend: B samples, U distinct users, T history events of all users.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One step's samples on one process.

    Samples of a user stand together, in rising order of `history_end_B`, and users stand in the
    order of their first sample, so `user_B` never falls. A process may get an empty batch, where a
    step has fewer samples than there are processes.

    Attributes:
        user_features_U: int64 [U] each; rows of the profile features' tables.
        history_item_T: int32 [T]; item rows, oldest first, user after user.
        history_events_T: int32 [T] each; side columns of the events.
        history_offsets_U: int64 [U + 1]; user u's stretch of the above.
        user_B: int64 [B]; index of the sample's user in this batch.
        history_begin_B, history_end_B: int64 [B]; the sample sees `[begin, end)` of its user's
            stretch and nothing else.
        target_item_B: int64 [B]; item row.
        sample_features_B: int64 [B] each; rows of the tables of the samples' own features.
        label_B: float32 [B]; 0 or 1; NaN where the samples have no labels, so that no loss or
            metric made of them can pass for one.
        sample_B: int64 [B]; index in the split.
        step_samples: samples of this step on all processes.
    """

    user_features_U: dict[str, Tensor]
    history_item_T: Tensor
    history_events_T: dict[str, Tensor]
    history_offsets_U: Tensor
    user_B: Tensor
    history_begin_B: Tensor
    history_end_B: Tensor
    target_item_B: Tensor
    sample_features_B: dict[str, Tensor]
    label_B: Tensor
    sample_B: Tensor
    step_samples: int

    def __len__(self) -> int:
        return self.user_B.numel()

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """A copy on `device` (itself where it is there already)."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, from which a GPU copies asynchronously."""
        return self._map(lambda tensor: tensor.pin_memory())

    def as_dict(self) -> dict[str, Any]:
        """The attributes by name, as they are."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, object] = {}
        for name, value in self.as_dict().items():
            if isinstance(value, Tensor):
                value = change(value)
            elif isinstance(value, dict):
                value = {key: change(tensor) for key, tensor in value.items()}
            changed[name] = value
        return Batch(**changed)  # type: ignore[arg-type]
