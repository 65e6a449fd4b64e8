"""Inputs of a case: tables, histories drawn by Zipf's law, queries.

Shape legend: N rows of a table, M width, U users, T behaviours of all users, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from kernels.benchmarks.cases import SearchCase

# Row 15 and every 16th after it have no vector, as some items of a real catalogue have none.
_NO_VECTOR_EVERY = 16

# Popular rows lie scattered over the table: rank times a prime that divides no table's size.
_SCATTER = 2_654_435_761

# Float64 temporaries of a draw stay below a few hundred megabytes.
_DRAWS_AT_ONCE = 1 << 24

# Of the free memory, what a table and what all histories may take; the rest is for the op.
_TABLE_SHARE, _HISTORY_SHARE = 0.5, 0.25


@dataclass(frozen=True)
class Histories:
    """Arguments that every top-K op takes.

    Attributes:
        rows_T: int32; offsets: int64 [U + 1]; user_Q: int64; query_Q: int64, rows of the queries.
    """

    rows_T: Tensor
    offsets: Tensor
    user_Q: Tensor
    query_Q: Tensor


def fit(case: SearchCase, free: int, sets: int) -> tuple[SearchCase, str]:
    """The case with a smaller table or fewer users if `free` bytes do not hold it, and a message.

    Args:
        case: as registered.
        free: bytes of memory.
        sets: histories held at once.
    """
    message = []
    most = int(free * _TABLE_SHARE)
    if case.table_bytes > most:
        rows = max(int(case.rows * most / case.table_bytes), 1000)
        message.append(f"table of {rows:,} rows instead of {case.rows:,}")
        case = replace(case, rows=rows)
    most = int(free * _HISTORY_SHARE)
    if case.users * case.length * 4 * sets > most:
        users = max(most // (case.length * 4 * sets), 1)
        if users < case.users:
            message.append(f"{users:,} users instead of {case.users:,}")
            case = replace(case, users=users)
    if not message:
        return case, ""
    return case, f"{' and '.join(message)}: {free / 2**30:.1f} GiB are free"


def generator(seed: int, device: torch.device) -> torch.Generator:
    """A seeded generator of the device."""
    return torch.Generator(device).manual_seed(seed)


def zipf_rows(count: int, rows: int, exponent: float, random: torch.Generator) -> Tensor:
    """int64 [count] in [1, rows): rank r with a chance that falls as r ** -exponent (not 1)."""
    device, ranks = random.device, rows - 1
    drawn = torch.empty(count, dtype=torch.int64, device=device)
    power = 1.0 - exponent
    for start in range(0, count, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, count - start)
        share = torch.rand(size, generator=random, dtype=torch.float64, device=device)
        # The inverse of the law's distribution function, continuous in the rank.
        rank = (1.0 + share * ((ranks + 1.0) ** power - 1.0)) ** (1.0 / power)
        zero_based = rank.long().clamp_(1, ranks) - 1
        drawn[start : start + size] = 1 + zero_based * _SCATTER % ranks
    return drawn


def histories(case: SearchCase, device: torch.device, seed: int) -> Histories:
    """Random histories and queries of a case."""
    random = generator(seed, device)
    total = case.users * case.length
    rows_T = zipf_rows(total, case.rows, case.zipf, random).int()
    offsets = torch.arange(case.users + 1, device=device) * case.length
    user_Q = torch.arange(case.users, device=device).repeat_interleave(case.queries)
    exponent = case.zipf if case.popular_queries else 0.0
    query_Q = zipf_rows(user_Q.numel(), case.rows, exponent, random)
    # A query without a vector finds nothing and would cost nothing.
    query_Q -= (query_Q % _NO_VECTOR_EVERY == _NO_VECTOR_EVERY - 1).long()
    return Histories(rows_T, offsets, user_Q, query_Q)


# One at a time: a table takes gigabytes, and all cases of an op share theirs.
@lru_cache(maxsize=1)
def vector_table(rows: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random int8 vectors [N, M] and float32 inverse norms [N], 0 where a row has no vector."""
    random = generator(0, device)
    table = torch.randint(
        -127, 128, (rows, width), generator=random, dtype=torch.int8, device=device
    )
    table[_NO_VECTOR_EVERY - 1 :: _NO_VECTOR_EVERY] = 0
    table[0] = 0
    norms = [part.float().norm(dim=1) for part in table.split(1 << 20)]
    norm_N = torch.cat(norms)
    return table, torch.where(norm_N > 0, 1.0 / norm_N, 0.0)


@lru_cache(maxsize=1)
def code_table(rows: int, words: int, device: torch.device) -> Tensor:
    """Random int64 codes [N, words]."""
    low, high = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
    return torch.randint(low, high, (rows, words), generator=generator(0, device), device=device)


def forget_tables() -> None:
    """Free the tables that are kept between cases."""
    vector_table.cache_clear()
    code_table.cache_clear()
