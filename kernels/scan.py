"""The Triton scan over jagged histories: score a tile, keep what can still win, merge.

An op brings two device functions: one that loads a block's queries, one that scores a tile of
behaviours against them. The scan reads each history once for a block of queries, newest first, and
holds, for each query, the best keys so far and their K-th score. Of a tile only scores above that
one are appended to a list; every few tiles the lists are sorted into the best keys, which raises
the K-th score. No score matrix is ever written, and since a key (score, position) occurs once, the
result does not depend on tiles, programs or the order of anything.

Shape legend: C behaviours of a tile, B queries of a block, K2 picks rounded up to a power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

NO_KEY: tl.constexpr = tl.constexpr(-(2**63))
LOW_31_BITS: tl.constexpr = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _pack(score, position):
    """int64 keys in the order of (score, position); see kernels.jagged.pack_keys."""
    bits = (score + 0.0).to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & LOW_31_BITS)
    return (ordered.to(tl.int64) << 32) | position.to(tl.int64)


@triton.jit
def _score_of(key):
    """The float32 score of a key, -inf of NO_KEY."""
    ordered = (key >> 32).to(tl.int32)
    bits = ordered ^ ((ordered >> 31) & LOW_31_BITS)
    return tl.where(key == NO_KEY, float("-inf"), bits.to(tl.float32, bitcast=True))


@triton.jit
def _merge(best, other):
    """The best of two lists of keys, each falling and of one length."""
    return tl.bitonic_merge(tl.maximum(best, tl.flip(other, 0)), descending=True)


@triton.jit
def _sort_in(best, listed, counts, floors, queries, K, K2: tl.constexpr, LIST: tl.constexpr):
    """Sort each query's list into its best keys and store its new K-th score."""
    pick = tl.arange(0, K2)
    slot = tl.arange(0, 2 * K2)
    for query in range(0, queries):
        count = tl.load(counts + query)
        if count > 0:
            keys = tl.load(best + query * K2 + pick)
            for start in range(0, count, 2 * K2):
                at = start + slot
                fresh = tl.load(listed + query * LIST + at, mask=at < count, other=NO_KEY)
                keys = _merge(keys, tl.topk(fresh, K2))
            tl.store(best + query * K2 + pick, keys)
            kth = tl.sum(tl.where(pick == K - 1, keys, 0), axis=0)
            tl.store(floors + query, _score_of(kth))


@triton.jit
def _scan_segment(
    sources,
    first_query,
    queries,
    base,
    low,
    high,
    begin_Q,
    end_Q,
    first_tile,
    last_tile,
    best,
    listed,
    counts,
    floors,
    histogram_Q,
    K,
    BINS,
    K2: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
    ROUND: tl.constexpr,
    BINS2: tl.constexpr,
    STAGES: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH2: tl.constexpr,
    LOAD_QUERIES: tl.constexpr,
    SCORE: tl.constexpr,
):
    """Scan tiles `[first_tile, last_tile)` of one block of queries; leave its best keys sorted."""
    LIST: tl.constexpr = ROUND * C
    slot_B = tl.arange(0, B)
    live_B = slot_B < queries
    query_B = first_query + tl.where(live_B, slot_B, 0)
    # Positions in a history fit 32 bits; the flat history of all users need not.
    begin_B = tl.load(begin_Q + query_B).to(tl.int32)
    end_B = tl.where(live_B, tl.load(end_Q + query_B), 0).to(tl.int32)
    loaded = LOAD_QUERIES(sources, query_B, WIDTH, WIDTH2)
    pick = tl.arange(0, K2)
    empty = tl.full([B, K2], NO_KEY, tl.int64)
    tl.store(best + slot_B[:, None] * K2 + pick[None, :], empty)
    tl.store(floors + slot_B, tl.full([B], float("-inf"), tl.float32))
    floor_B = tl.full([B], float("-inf"), tl.float32)
    if BINS2 > 0:
        tiers = tl.zeros([B * BINS2], tl.int32)
    # The first rounds are short, since nothing is pruned before K behaviours have been seen.
    round_tiles = tl.full([], 1, tl.int64)
    tile = first_tile
    while tile < last_tile:
        round_end = tl.minimum(tile + round_tiles, last_tile)
        count_B = tl.zeros([B], tl.int32)
        for step in tl.range(tile, round_end, num_stages=STAGES):
            index_C = high - (step + 1) * C + tl.arange(0, C)
            score_CB, alive_CB = SCORE(sources, loaded, index_C, index_C >= low, WIDTH, WIDTH2)
            position_C = (index_C - base).to(tl.int32)[:, None]
            alive_CB = alive_CB & (position_C >= begin_B[None, :]) & (position_C < end_B[None, :])
            if BINS2 > 0:
                tier = tl.floor((score_CB + 1.0) * (BINS / 2.0))
                tier = tl.minimum(tl.maximum(tier, 0.0), BINS - 1.0).to(tl.int32)
                tier = tl.where(alive_CB, tier, BINS) + slot_B[None, :] * BINS2
                tiers += tl.histogram(tl.reshape(tier, [C * B]), B * BINS2)
            # Equal scores lose here: what is held already lies later in the history.
            wins_CB = (alive_CB & (score_CB > floor_B[None, :])).to(tl.int32)
            # Most tiles have none, and one bit says so sooner than a count for each query.
            if tl.max(wins_CB) > 0:
                at_CB = count_B[None, :] + tl.cumsum(wins_CB, axis=0) - 1
                key_CB = _pack(score_CB, position_C)
                tl.store(listed + slot_B[None, :] * LIST + at_CB, key_CB, mask=wins_CB > 0)
                count_B += tl.sum(wins_CB, axis=0)
        tl.store(counts + slot_B, count_B)
        tl.debug_barrier()
        _sort_in(best, listed, counts, floors, queries, K, K2, LIST)
        tl.debug_barrier()
        floor_B = tl.load(floors + slot_B)
        tile = round_end
        round_tiles = tl.minimum(round_tiles * 2, ROUND)
    if BINS2 > 0:
        cell = tl.arange(0, B * BINS2)
        tier, slot = cell % BINS2, cell // BINS2
        cells = histogram_Q + (first_query + slot) * BINS + tier
        tl.atomic_add(cells, tiers, mask=(tier < BINS) & (slot < queries), sem="relaxed")


# These follow the batch: they must not ask for another compilation.
@triton.jit(do_not_specialize=["blocks", "K", "BINS"])
def scan_kernel(
    sources,
    first_query_G,
    queries_G,
    base_G,
    low_G,
    high_G,
    tile_end_G,
    program_block_P,
    tiles_per_program,
    begin_Q,
    end_Q,
    best,
    listed,
    counts,
    floors,
    histogram_Q,
    blocks,
    K,
    BINS,
    K2: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
    ROUND: tl.constexpr,
    BINS2: tl.constexpr,
    STAGES: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH2: tl.constexpr,
    LOAD_QUERIES: tl.constexpr,
    SCORE: tl.constexpr,
):
    """One program's run of tiles, block by block. See `kernels.plan.ScanPlan` for the numbering."""
    program = tl.program_id(0).to(tl.int64)
    per_program = tl.load(tiles_per_program)
    tile = program * per_program
    stop = tl.minimum(tile + per_program, tl.load(tile_end_G + blocks - 1))
    block = tl.load(program_block_P + program)
    while tile < stop:
        block_end = tl.load(tile_end_G + block)
        block_begin = tl.load(tile_end_G + block - 1, mask=block > 0, other=0)
        segment_end = tl.minimum(stop, block_end)
        if segment_end > tile:
            _scan_segment(
                sources,
                tl.load(first_query_G + block),
                tl.load(queries_G + block),
                tl.load(base_G + block),
                tl.load(low_G + block),
                tl.load(high_G + block),
                begin_Q,
                end_Q,
                tile - block_begin,
                segment_end - block_begin,
                best + (program + block) * (B * K2),
                listed + program * (B * ROUND * C),
                counts + program * B,
                floors + program * B,
                histogram_Q,
                K,
                BINS,
                K2,
                B,
                C,
                ROUND,
                BINS2,
                STAGES,
                WIDTH,
                WIDTH2,
                LOAD_QUERIES,
                SCORE,
            )
        tile = segment_end
        block += 1


@triton.jit
def merge_kernel(
    best,
    first_query_G,
    tile_end_G,
    tiles_per_program,
    query_block_Q,
    positions_QK,
    scores_QK,
    K,
    K2: tl.constexpr,
    B: tl.constexpr,
    SEGMENTS: tl.constexpr,
):
    """Join what several programs found for one query, and write it out."""
    query = tl.program_id(0).to(tl.int64)
    block = tl.load(query_block_Q + query)
    slot = query - tl.load(first_query_G + block)
    tile_end = tl.load(tile_end_G + block)
    tile_begin = tl.load(tile_end_G + block - 1, mask=block > 0, other=0)
    per_program = tl.load(tiles_per_program)
    pick = tl.arange(0, K2)
    keys = tl.full([K2], NO_KEY, tl.int64)
    if tile_end > tile_begin:
        first = tile_begin // per_program + block
        last = (tile_end - 1) // per_program + block
        cell = tl.arange(0, SEGMENTS * K2)
        for start in range(first, last + 1, SEGMENTS):
            segment = start + cell // K2
            at = (segment * B + slot) * K2 + cell % K2
            found = tl.load(best + at, mask=segment <= last, other=NO_KEY)
            keys = _merge(keys, tl.topk(found, K2))
    position = tl.where(keys == NO_KEY, -1, (keys & LOW_31_BITS).to(tl.int32))
    score = tl.where(keys == NO_KEY, 0.0, _score_of(keys))
    tl.store(positions_QK + query * K + pick, position, mask=pick < K)
    tl.store(scores_QK + query * K + pick, score, mask=pick < K)
