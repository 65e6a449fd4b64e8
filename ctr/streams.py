"""Side streams of a GPU, on which stages run beside the model; without a GPU they do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor
from torchrec.distributed.embedding_types import KJTList


@dataclass
class Mark:
    """The moment at which a stage on a stream is done; without a GPU it is, once it was run."""

    event: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Let the current stream wait for it."""
        if self.event is not None:
            torch.cuda.current_stream().wait_event(self.event)


class SideStream:
    """A stream that stages run on.

    Args:
        device: without CUDA all is done in its turn and there is nothing to wait for.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def running(self, *after: Mark) -> Iterator[Mark]:
        """Run what is inside on the stream, once `after` has happened; yields its own mark."""
        done = Mark()
        if self.stream is None:
            yield done
            return
        with torch.cuda.stream(self.stream):
            for mark in after:
                mark.wait()
            yield done
            done.event = self.stream.record_event()


def keep_for_this_stream(value: Any) -> None:
    """Keep the memory of a value's tensors until the current stream is done with them.

    Without it the memory of what another stream has made may be given away while it is read here.

    Args:
        value: tensors in TorchRec's types, dataclasses, dictionaries and sequences; those of a CPU
            are left alone.
    """
    for tensor in _tensors(value):
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, KeyedJaggedTensor):
        parts = (value.values(), value.lengths(), value.weights_or_none(), value.offsets_or_none())
        yield from (part for part in parts if part is not None)
    elif isinstance(value, KJTList):
        yield from _tensors(value.features)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value):
        for item in fields(value):
            yield from _tensors(getattr(value, item.name))
