"""Ops bound to the inputs of a case: calls, what they must return, and the reference sequence.

Shape legend: U users, L behaviours of a user, B samples (one a query), Q queries, M width, K picks,
W words of a code, N tiers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import kernels
from kernels.benchmarks.cases import (
    CASES,
    SEQUENCE_SETS,
    Case,
    CosineCase,
    HammingCase,
    SearchCase,
    SimtierCase,
)
from kernels.benchmarks.inputs import code_table, generator, histories, vector_table
from kernels.benchmarks.sequences import (
    category_sequence,
    cosine_sequence,
    hamming_sequence,
    simtier_sequence,
)

# Scores that the dense check of a case computes: all of a small case, some queries of a large one.
_CHECKED_SCORES = 1 << 21
_LEAST_CHECKED, _MOST_CHECKED = 2, 128


def op_of(name: str) -> Callable[..., Any]:
    """`kernels.<name>`, looked up at every call so that what is timed is what is exported.

    Raises:
        LookupError: kernels exports no such op.
    """
    op = getattr(kernels, name, None)
    if not callable(op):
        raise LookupError(f"kernels exports no op {name!r}")
    return op


class Workload(ABC):
    """An op on several sets of inputs of one case.

    Args:
        case: shapes; device: where the inputs lie; sets: how many.
    """

    op: str

    def __init__(self, case: Case, device: torch.device, sets: int) -> None:
        self.case, self.device, self.sets = case, device, sets

    @abstractmethod
    def call(self, index: int) -> Any:
        """What the op returns for input set `index`."""

    @abstractmethod
    def mismatch(self, index: int) -> str | None:
        """How the op's result on an input set differs from its semantics, None if it does not."""

    @abstractmethod
    def sequence(self) -> Callable[[int], Tensor]:
        """The reference sequence on its own copies: input set (below SEQUENCE_SETS) -> result."""

    def distinct_share(self) -> float | None:
        """Distinct rows among the behaviours of an input set: the rest may come from a cache."""
        return None


class _Search(Workload):
    """A top-K op over histories; subclasses say what a query may pick, and in which order."""

    case: SearchCase

    def __init__(self, case: SearchCase, device: torch.device, sets: int) -> None:
        super().__init__(case, device, sets)
        self.inputs = [histories(case, device, seed=1 + index) for index in range(sets)]

    @abstractmethod
    def picks(self, index: int) -> tuple[Tensor, Tensor]:
        """Positions int32 [Q, K] and values [Q, K] that the op returns."""

    @abstractmethod
    def dense(self, index: int, query: int, rows_L: Tensor) -> tuple[Tensor, Tensor]:
        """Values [L] to sort by, largest first, and bool [L], what the query may pick."""

    def mismatch(self, index: int) -> str | None:
        positions_QK, values_QK = self.picks(index)
        offsets, k = self.inputs[index].offsets, self.case.k
        for query in self._checked_queries():
            user = int(self.inputs[index].user_Q[query])
            life = self.inputs[index].rows_T[offsets[user] : offsets[user + 1]].long()
            value_L, allowed_L = self.dense(index, query, life)
            position_K = best_positions(value_L, allowed_L, k)
            if not torch.equal(positions_QK[query].long(), position_K):
                return f"input set {index}, query {query}: other positions than a dense sort finds"
            found = position_K >= 0
            value_K = value_L[position_K[found]].to(values_QK.dtype)
            if not torch.equal(values_QK[query][found], value_K):
                return f"input set {index}, query {query}: other values than a dense product has"
        return None

    def _checked_queries(self) -> list[int]:
        queries = self.case.users * self.case.queries
        wanted = _CHECKED_SCORES // (self.case.length * self.sets)
        count = min(queries, max(_LEAST_CHECKED, min(wanted, _MOST_CHECKED)))
        # The first and the last query are always among them.
        return sorted({round(i * (queries - 1) / max(count - 1, 1)) for i in range(count)})

    def distinct_share(self) -> float | None:
        rows_T = self.inputs[0].rows_T
        return rows_T.unique().numel() / max(rows_T.numel(), 1)

    def rows_of_samples(self, index: int) -> Tensor:
        """int64 [B, L]: every sample's copy of its user's history."""
        rows_UL = self.inputs[index].rows_T.view(self.case.users, self.case.length).long()
        return rows_UL.repeat_interleave(self.case.queries, dim=0)


class CosineWorkload(_Search):
    """`kernels.cosine_topk`."""

    op = "cosine_topk"

    def __init__(self, case: CosineCase, device: torch.device, sets: int) -> None:
        super().__init__(case, device, sets)
        self.table, self.inv_norm = vector_table(case.rows, case.width, device)

    def call(self, index: int) -> Any:
        given = self.inputs[index]
        arguments = self.table, self.inv_norm, given.rows_T, given.offsets, given.user_Q
        return op_of(self.op)(*arguments, self.case.k, query_rows=given.query_Q)

    def picks(self, index: int) -> tuple[Tensor, Tensor]:
        positions_QK, scores_QK = self.call(index)[:2]
        return positions_QK, scores_QK

    def dense(self, index: int, query: int, rows_L: Tensor) -> tuple[Tensor, Tensor]:
        target = self.inputs[index].query_Q[query]
        # Exact in double, and rounded in the order that the op promises.
        dot_L = self.table[rows_L].double() @ self.table[target].double()
        inv_L = self.inv_norm[rows_L]
        score_L = (dot_L.float() * inv_L) * self.inv_norm[target]
        return score_L, (rows_L != 0) & (inv_L != 0)

    def sequence(self) -> Callable[[int], Tensor]:
        rows = [self.rows_of_samples(index) for index in range(SEQUENCE_SETS)]
        targets = [given.query_Q for given in self.inputs]
        return lambda i: cosine_sequence(self.table, rows[i], targets[i], self.case.k)


class HammingWorkload(_Search):
    """`kernels.hamming_topk`."""

    op = "hamming_topk"

    def __init__(self, case: HammingCase, device: torch.device, sets: int) -> None:
        super().__init__(case, device, sets)
        self.codes = code_table(case.rows, case.words, device)
        self.bits_of_byte = torch.tensor([bin(byte).count("1") for byte in range(256)])

    def call(self, index: int) -> Any:
        given = self.inputs[index]
        arguments = self.codes, given.rows_T, given.offsets, given.user_Q
        return op_of(self.op)(*arguments, self.case.k, query_rows=given.query_Q)

    def picks(self, index: int) -> tuple[Tensor, Tensor]:
        positions_QK, distances_QK = self.call(index)
        return positions_QK, -distances_QK

    def dense(self, index: int, query: int, rows_L: Tensor) -> tuple[Tensor, Tensor]:
        target = self.inputs[index].query_Q[query]
        octets = (self.codes[rows_L] ^ self.codes[target]).view(torch.uint8).long()
        distance_L = self.bits_of_byte.to(octets.device)[octets].sum(dim=1)
        return -distance_L, rows_L != 0

    def sequence(self) -> Callable[[int], Tensor]:
        rows = [self.rows_of_samples(index) for index in range(SEQUENCE_SETS)]
        targets = [given.query_Q for given in self.inputs]
        return lambda i: hamming_sequence(self.codes, rows[i], targets[i], self.case.k)


class CategoryWorkload(_Search):
    """`kernels.category_topk`; the rows of a history are its categories."""

    op = "category_topk"

    def call(self, index: int) -> Any:
        given = self.inputs[index]
        arguments = given.rows_T, given.offsets, given.query_Q, given.user_Q
        return op_of(self.op)(*arguments, self.case.k)

    def picks(self, index: int) -> tuple[Tensor, Tensor]:
        positions_QK = self.call(index)
        return positions_QK, positions_QK

    def dense(self, index: int, query: int, rows_L: Tensor) -> tuple[Tensor, Tensor]:
        same_L = rows_L == self.inputs[index].query_Q[query]
        return torch.arange(rows_L.numel(), device=rows_L.device), same_L

    def sequence(self) -> Callable[[int], Tensor]:
        rows = [self.rows_of_samples(index) for index in range(SEQUENCE_SETS)]
        targets = [given.query_Q for given in self.inputs]
        return lambda i: category_sequence(rows[i], targets[i], self.case.k)


class SimtierWorkload(Workload):
    """`kernels.simtier`."""

    op = "simtier"
    case: SimtierCase

    def __init__(self, case: SimtierCase, device: torch.device, sets: int) -> None:
        super().__init__(case, device, sets)
        self.inputs = []
        shape = case.batch, case.picks
        for index in range(sets):
            random = generator(1 + index, device)
            similarity_BK = torch.rand(shape, generator=random, device=device) * 2.0 - 1.0
            # Every tenth is padding.
            mask_BK = torch.rand(shape, generator=random, device=device) > 0.1
            self.inputs.append((similarity_BK, mask_BK))
        scale_N = torch.rand(case.bins, generator=generator(0, device), device=device)
        self.scale_N = scale_N if case.scaled else None

    def call(self, index: int) -> Any:
        case = self.case
        return op_of(self.op)(*self.inputs[index], case.bins, tiers=case.tiers, scale=self.scale_N)

    def mismatch(self, index: int) -> str | None:
        step = max(_CHECKED_SCORES // (self.case.picks * self.case.bins), 1)
        similarity_BK, mask_BK = (given[:step] for given in self.inputs[index])
        case, actual_BN = self.case, self.call(index)[:step]
        expected_BN = simtier_sequence(similarity_BK, mask_BK, case.bins, case.tiers, self.scale_N)
        # Counts are exact; of their logarithm the last bits may differ.
        tolerance = 1e-6 if case.scaled else 0.0
        if actual_BN.shape != expected_BN.shape:
            return f"input set {index}: shape {tuple(actual_BN.shape)}"
        if not torch.allclose(actual_BN, expected_BN, rtol=tolerance, atol=tolerance):
            return f"input set {index}: other counts than a comparison with every tier finds"
        return None

    def sequence(self) -> Callable[[int], Tensor]:
        case = self.case
        return lambda i: simtier_sequence(*self.inputs[i], case.bins, case.tiers, self.scale_N)


def best_positions(value_L: Tensor, allowed_L: Tensor, k: int) -> Tensor:
    """int64 [K]: of what is allowed, the largest values, ties to the later position; then -1."""
    position = allowed_L.nonzero().squeeze(1).flip(0)
    order = value_L[position].sort(descending=True, stable=True).indices[:k]
    picks = torch.full((k,), -1, dtype=torch.int64, device=value_L.device)
    picks[: order.numel()] = position[order]
    return picks


_WORKLOADS: dict[str, Callable[[Any, torch.device, int], Workload]] = {
    kind.op: kind for kind in (CosineWorkload, CategoryWorkload, HammingWorkload, SimtierWorkload)
}
assert _WORKLOADS.keys() == CASES.keys()


def build(op: str, case: Case, device: torch.device, sets: int) -> Workload:
    """The op on `sets` sets of inputs of the case."""
    return _WORKLOADS[op](case, device, sets)
