"""Side streams of a GPU, on which stages run beside the model; without a GPU they do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor


class SideStream:
    """A stream and the moment at which the latest stage on it is done.

    Args:
        device: without CUDA all is done in its turn and there is nothing to wait for.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._done: torch.cuda.Event | None = None

    @contextmanager
    def running(self, after: SideStream | None = None) -> Iterator[None]:
        """Run what is inside on the stream, once `after` has done what it was given so far."""
        if self.stream is None:
            yield
            return
        with torch.cuda.stream(self.stream):
            if after is not None:
                after.wait()
            yield
            self._done = self.stream.record_event()

    def wait(self) -> None:
        """Let the current stream wait for what this one was given so far."""
        if self._done is not None:
            torch.cuda.current_stream().wait_event(self._done)


def keep_for_this_stream(value: Any) -> None:
    """Keep the memory of a value's tensors until the current stream is done with them.

    Without it the memory of what another stream has made may be given away while it is read here.

    Args:
        value: tensors in dataclasses, dictionaries and sequences; those of a CPU are left alone.
    """
    for tensor in _tensors(value):
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, KeyedJaggedTensor):
        yield from (value.values(), value.lengths())
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value):
        for item in fields(value):
            yield from _tensors(getattr(value, item.name))
