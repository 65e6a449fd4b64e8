"""Work on weights that evaluation does once instead of at every batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Folded:
    """What was derived, and the tensors that it was derived from, each with its version."""

    derived: tuple[Tensor, ...]
    sources: list[Tensor]
    versions: list[int]

    def holds_for(self, sources: list[Tensor]) -> bool:
        return (
            len(sources) == len(self.sources)
            and all(now is then for now, then in zip(sources, self.sources, strict=True))
            and self.versions == [source._version for source in sources]
        )


class Foldable(nn.Module, ABC):
    """A module that evaluates by tensors derived from its weights, which `fold` derives once.

    What was folded is part of no state. Training, recording gradients, moving, casting and copying
    let go of it, and it is not used where a weight or buffer was replaced or written to since.
    torch counts the writes, but for those through `.data` and those of a fused optimizer, which
    steps on gradients that were recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folded: _Folded | None = None

    @abstractmethod
    def derive(self) -> tuple[Tensor, ...]:
        """What evaluation needs, computed from parameters and buffers alone."""

    def derived(self) -> tuple[Tensor, ...]:
        """What `derive` returns: kept by `fold`, or else computed."""
        if torch.is_grad_enabled():
            self.unfold()
        kept = self._folded
        if kept is None or not kept.holds_for(self._sources()):
            return self.derive()
        return kept.derived

    def fold(self) -> None:
        """Derive now, for the evaluations until something changes."""
        with torch.no_grad():
            sources = self._sources()
            self._folded = _Folded(self.derive(), sources, [s._version for s in sources])

    def unfold(self) -> None:
        """Let go of what was folded."""
        self._folded = None

    def _sources(self) -> list[Tensor]:
        return [*self.parameters(), *self.buffers()]

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's; training lets go of what was folded."""
        if mode:
            self.unfold()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.unfold()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_folded": None}


def fold(model: nn.Module) -> int:
    """Fold all modules that can be; returns how many. For evaluation, after weights were loaded.

    Args:
        model: with Foldable modules at any depth, or none.
    """
    foldable = [module for module in model.modules() if isinstance(module, Foldable)]
    for module in foldable:
        module.fold()
    return len(foldable)
