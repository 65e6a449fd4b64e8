"""Jagged searches that every top-K op is tried on, and memory that shows when it is not written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor


@dataclass
class JaggedCase:
    """Users' histories of rows of a table, and queries with a window each; see `make_jagged`."""

    history_rows: Tensor
    history_offsets: Tensor
    query_user: Tensor
    query_rows: Tensor
    query_begin: Tensor
    query_end: Tensor


def _make_jagged(seed: int, lengths: list[int], queries: list[int], rows: int = 40) -> JaggedCase:
    """Random histories of given lengths with a number of queries each; few rows make ties."""
    g = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    user = torch.arange(len(lengths)).repeat_interleave(torch.tensor(queries))
    length = offsets.diff()[user]
    begin = (torch.rand(len(user), generator=g) * (length + 1)).long()
    end = begin + (torch.rand(len(user), generator=g) * (length - begin + 1)).long()
    return JaggedCase(
        torch.randint(0, rows, (int(offsets[-1]),), generator=g, dtype=torch.int32),
        offsets,
        user,
        torch.randint(0, rows, (len(user),), generator=g),
        begin,
        end,
    )


def _make_table(seed: int, rows: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random vectors and inverse norms, an eighth of them 0 (no vector)."""
    g = torch.Generator().manual_seed(seed)
    table = torch.randint(-127, 128, (rows, width), generator=g).to(dtype)
    inv_norm = 1.0 / table.double().norm(dim=1).clamp(min=1e-9)
    inv_norm[torch.randint(0, rows, (rows // 8,), generator=g)] = 0.0
    return table, inv_norm.float()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where kernels run: a GPU, or the CPU with Triton's interpreter."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    numbers = [tuple(map(int, version(name).split(".")[:2])) for name in ("triton", "numpy")]
    if numbers[0] < (3, 7) and numbers[1] >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 needs numpy below 2.4")
    return torch.device("cpu")


@pytest.fixture(scope="session")
def make_jagged() -> Callable[..., JaggedCase]:
    return _make_jagged


@pytest.fixture(scope="session")
def make_table() -> Callable[..., tuple[Tensor, Tensor]]:
    return _make_table


@pytest.fixture(scope="module")
def poisoned() -> Iterator[None]:
    """Fills what `torch.empty` returns with NaN or the largest integer from here on."""
    kept = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(kept)


@pytest.fixture(autouse=True, scope="session")
def quick_interpreter() -> Iterator[None]:
    """Lets Triton's interpreter, where it runs, fold an exclusive or with numpy.

    It folds element by element what it has no numpy function for, and a sort in Triton is made of
    exclusive ors: minutes a test.
    """
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        yield
        return
    from triton.language import standard
    from triton.runtime.interpreter import ReduceOps

    slow = ReduceOps.generic_reduce

    def fold(self: Any, given: Any) -> Any:
        if self.combine_fn is not standard._xor_combine:
            return slow(self, given)
        values = np.bitwise_xor.reduce(given[0].handle.data, self.axis, keepdims=self.keep_dims)
        return [self.to_tensor(values, given[0].dtype)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReduceOps, "generic_reduce", fold)
        yield
