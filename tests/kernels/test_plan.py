"""The share-out of tiles to programs: every tile once, no two segments with one number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kernels.jagged import check_queries
from kernels.plan import plan_scan

USERS = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 7)), min_size=1, max_size=6)


@given(
    USERS.filter(lambda users: any(queries for _, queries in users)),
    st.integers(0, 10_000),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 8, 32]),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_every_query_sees_its_window_once(make_jagged, users, seed, block, tile, programs, least):
    case = make_jagged(seed, [u[0] for u in users], [u[1] for u in users])
    offsets = case.history_offsets
    windows = check_queries(
        offsets, int(offsets[-1]), case.query_user, 1, case.query_begin, case.query_end
    )
    plan = plan_scan(
        offsets, windows, block_queries=block, tile=tile, programs=programs, least_tiles=least
    )
    seen = [[] for _ in case.query_user]
    segments = []
    # The walk that a program makes; see kernels/scan.py.
    for program in range(programs):
        at = program * int(plan.tiles_per_program)
        stop = min(at + int(plan.tiles_per_program), int(plan.tile_end_G[-1]))
        group = int(plan.program_block_P[program])
        while at < stop:
            begin = int(plan.tile_end_G[group - 1]) if group else 0
            end = min(stop, int(plan.tile_end_G[group]))
            if end > at:
                segments.append(program + group)
            for t in range(at - begin, end - begin):
                high = int(plan.high_G[group]) - t * tile
                low = max(high - tile, int(plan.low_G[group]))
                first = int(plan.first_query_G[group])
                for query in range(first, first + int(plan.queries_G[group])):
                    assert int(plan.query_block_Q[query]) == group
                    seen[query] += range(low, high)
            at, group = end, group + 1
    assert len(segments) == len(set(segments))
    assert all(0 <= s < plan.segments for s in segments)
    for query, user in enumerate(case.query_user.tolist()):
        base = int(offsets[user])
        begin, end = int(case.query_begin[query]), int(case.query_end[query])
        inside = [p - base for p in seen[query] if begin <= p - base < end]
        assert sorted(inside) == list(range(begin, end))
