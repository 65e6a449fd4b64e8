"""Share-out of a jagged search over a fixed number of GPU programs, without a look at the data.

Queries of one user are grouped into blocks that read the user's history together; a block's stretch
of history is cut into tiles; the tiles of all blocks, end to end, are dealt out in equal runs, one
run a program. A run may cover parts of several blocks and a block may be cut over several runs, so
one life of 100,000 behaviours and 8,000 lives of 1,000 fill a GPU alike.

Shape legend: U users, Q queries, G blocks of queries, P programs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.jagged import QueryWindows


@dataclass(frozen=True)
class ScanPlan:
    """Which program scans which tiles for which queries. Everything int64 and on the device.

    Tiles of block g are numbered from `tile_end_G[g - 1]` to `tile_end_G[g]`; program p scans those
    from `p * tiles_per_program` on. What it finds for block g is segment p + g: of two neighbours
    on the way through all tiles, program or block moves on, so that no two share a number.

    Attributes:
        first_query_G, queries_G: the queries of a block; 0 queries where a block is unused.
        base_G: where the history of the block's user begins in the flat history.
        low_G, high_G: the stretch of the flat history that any query of the block may see.
        tile_end_G: tiles of this and all earlier blocks.
        query_block_Q: the block of a query.
        program_block_P: the block of a program's first tile.
        tiles_per_program: [1].
        block_queries: most queries of a block.
        programs: P.
    """

    first_query_G: Tensor
    queries_G: Tensor
    base_G: Tensor
    low_G: Tensor
    high_G: Tensor
    tile_end_G: Tensor
    query_block_Q: Tensor
    program_block_P: Tensor
    tiles_per_program: Tensor
    block_queries: int
    programs: int

    @property
    def blocks(self) -> int:
        return self.tile_end_G.numel()

    @property
    def segments(self) -> int:
        return self.programs + self.blocks


def plan_scan(
    history_offsets: Tensor,
    windows: QueryWindows,
    *,
    block_queries: int,
    tile: int,
    programs: int,
    least_tiles: int,
) -> ScanPlan:
    """Deal the tiles of all queries' histories out to programs, without waiting for the device.

    Args:
        history_offsets: int64 [U + 1].
        windows: checked queries, at least one.
        block_queries: most queries of a block.
        tile: behaviours of a tile.
        programs: P, runs to cut the work into.
        least_tiles: tiles below which a run is not worth a program.
    """
    first_query_U1 = windows.first_query_U
    device = first_query_U1.device
    queries, users = windows.user_Q.numel(), first_query_U1.numel() - 1
    blocks_U = (first_query_U1.diff() + block_queries - 1) // block_queries
    block_end_U = blocks_U.cumsum(0)
    block_begin_U = block_end_U - blocks_U
    # How many blocks there are is known on the device only; this many they cannot exceed.
    block_G = torch.arange(min(queries, queries // block_queries + users), device=device)
    user_G = torch.searchsorted(block_end_U, block_G, right=True).clamp_(max=users - 1)
    in_user_G = (block_G - block_begin_U[user_G]) * block_queries
    first_G = first_query_U1[user_G] + in_user_G
    queries_G = (first_query_U1[user_G + 1] - first_G).clamp_(0, block_queries)
    begin_G, end_G = _seen_by_block(windows, first_G, queries_G, block_queries)
    tile_end_G = ((end_G - begin_G + tile - 1) // tile).cumsum(0)
    per = (tile_end_G[-1:] + programs - 1) // programs
    per = per.clamp_(min=least_tiles)
    starts_P = torch.arange(programs, device=device) * per
    base_G = history_offsets.long()[user_G]
    rank_Q = torch.arange(queries, device=device) - first_query_U1[windows.user_Q]
    return ScanPlan(
        first_query_G=first_G,
        queries_G=queries_G,
        base_G=base_G,
        low_G=base_G + begin_G,
        high_G=base_G + end_G,
        tile_end_G=tile_end_G,
        query_block_Q=block_begin_U[windows.user_Q] + rank_Q // block_queries,
        program_block_P=torch.searchsorted(tile_end_G, starts_P, right=True),
        tiles_per_program=per,
        block_queries=block_queries,
        programs=programs,
    )


def _seen_by_block(
    windows: QueryWindows, first_G: Tensor, queries_G: Tensor, block_queries: int
) -> tuple[Tensor, Tensor]:
    """The union of the windows of each block's queries, `[0, 0)` where all are empty."""
    slot = torch.arange(block_queries, device=first_G.device)
    query = (first_G[:, None] + slot).clamp_(max=windows.user_Q.numel() - 1)
    begin, end = windows.begin_Q[query], windows.end_Q[query]
    looks = (slot < queries_G[:, None]) & (begin < end)
    end_G = torch.where(looks, end, 0).amax(dim=1)
    begin_G = torch.where(looks, begin, torch.iinfo(torch.int64).max).amin(dim=1)
    return torch.minimum(begin_G, end_G), end_G
