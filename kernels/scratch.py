"""Memory that a search on the CPU writes again and again, kept by each thread.

Pages fresh from the system cost more to touch than the scores that are written to them.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

# Of one buffer; what is larger is not kept. A thread keeps one buffer a name.
MOST_BYTES = 16 << 20

_kept = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A contiguous tensor with anything in it, valid until this thread asks for the name again."""
    size = 1
    for length in shape:
        size *= length
    needed = size * dtype.itemsize
    if device.type != "cpu" or needed > MOST_BYTES:
        return torch.empty(shape, dtype=dtype, device=device)
    buffers: dict[str, Tensor] = _kept.__dict__
    flat = buffers.get(name)
    if flat is None or flat.numel() < needed:
        # A tensor made in inference mode could not be written outside of it later.
        with torch.inference_mode(False):
            flat = torch.empty(max(needed, 1 << 16), dtype=torch.uint8, device=device)
        buffers[name] = flat
    return flat[:needed].view(dtype).view(shape)
