"""Vectors spread over processes: searches and fetches equal those of the whole table to the bit.

One start of three processes checks everything, since a start takes seconds; each has a batch of its
own, so that sizes differ in every exchange.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from ctr.distributed import Process
from ctr.model.vector_shards import VectorShards
from ctr.model.vector_shards.rows import Ownership
from kernels import cosine_topk
from kernels.benchmarks.cases import CosineCase
from tests import starter
from tools.time_vectors import measure

WORLD = 3
CPU = torch.device("cpu")


def make_table(rows, width=16, dtype=torch.int8):
    """Vectors and inverse norms; an eighth have no vector, and padding is not all zeros."""
    random = torch.Generator().manual_seed(rows)
    table = torch.randint(-127, 128, (rows, width), generator=random).to(dtype)
    inv_norm = (1.0 / table.double().norm(dim=1).clamp(min=1e-9)).float()
    inv_norm[torch.randint(0, rows, (rows // 8,), generator=random)] = 0.0
    return table, inv_norm


def make_batch(seed, lengths, queries, rows):
    """Histories, offsets, users, targets and random windows, every third of them full."""
    random = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    user = torch.arange(len(lengths)).repeat_interleave(torch.tensor(queries, dtype=torch.int64))
    length = offsets.diff()[user]
    begin = (torch.rand(len(user), generator=random) * (length + 1)).long()
    end = begin + (torch.rand(len(user), generator=random) * (length - begin + 1)).long()
    begin[::3], end[::3] = 0, length[::3]
    history = torch.randint(0, rows, (int(offsets[-1]),), generator=random, dtype=torch.int32)
    targets = torch.randint(0, rows, (len(user),), generator=random)
    return history, offsets, user, targets, begin, end


def replicated(table, inv_norm, batch, k):
    history, offsets, user, targets, begin, end = batch
    windows = {"query_begin": begin, "query_end": end}
    return cosine_topk(table, inv_norm, history, offsets, user, k, query_rows=targets, **windows)


def sharded(shards, batch, k):
    history, offsets, user, targets, begin, end = batch
    return shards.topk(history, offsets, user, k, targets, begin, end)


def assert_same(found, expected):
    for a, e in zip(found, expected, strict=True):
        assert a.dtype == e.dtype
        assert torch.equal(a, e), (a, e)


def check_shapes(rank):
    """Odd lengths, more picks than events, ties, windows, rows without vectors, few rows."""
    shapes = [
        [([0, 1, 63, 4097], [2, 1, 3, 2]), ([5], [1]), ([200, 0, 31], [0, 3, 2])],
        [([], []), ([1000, 7], [9, 4]), ([], [])],
        [([0, 0], [1, 0]), ([0], [2]), ([0], [0])],
    ]
    for rows in (2, 3, 40, 5000):
        table, inv_norm = make_table(rows)
        shards = VectorShards(table, inv_norm, CPU)
        for number, of_ranks in enumerate(shapes):
            for k in (1, 50):
                # Each process takes each part in one of the three rounds.
                lengths, queries = of_ranks[(rank + k + rows) % WORLD]
                batch = make_batch(10 * number + rank, lengths, queries, rows)
                expected = replicated(table, inv_norm, batch, k)
                assert_same(sharded(shards, batch, k), expected)


def check_owners(rank):
    """All events of one process, all scores equal, and windows without anything."""
    ones = torch.ones(30, 16, dtype=torch.int8)
    shards = VectorShards(ones, torch.full((30,), 0.25), CPU)
    history, *rest = make_batch(rank, [90, 40], [3, 3], 30)
    for owner in range(WORLD):
        batch = history // WORLD * WORLD % 27 + 1 + owner, *rest
        expected = replicated(ones, torch.full((30,), 0.25), batch, 7)
        assert_same(sharded(shards, batch, 7), expected)
    # The last 7 of all processes' events, whoever owns them.
    batch = history.clamp(min=1), *rest[:2], rest[2].clamp(min=1), *rest[3:]
    positions, scores = sharded(shards, batch, 7)
    assert positions[0].tolist() == list(range(89, 82, -1))
    assert (scores[0] == 1.0).all()
    offsets, user, targets, begin, _ = rest
    positions, _ = sharded(shards, (history, offsets, user, targets, begin, begin), 7)
    assert (positions == -1).all()


def check_floats(rank):
    for dtype in (torch.float16, torch.float32):
        table, inv_norm = make_table(900, 100, dtype)
        shards = VectorShards(table, inv_norm, CPU)
        batch = make_batch(rank, [300, 31], [3, 4], 900)
        found, expected = sharded(shards, batch, 20), replicated(table, inv_norm, batch, 20)
        torch.testing.assert_close(found[1], expected[1], atol=2e-6, rtol=0)
        assert torch.equal(found[0] == -1, expected[0] == -1)


def check_fetch(rank):
    for dtype in (torch.int8, torch.float16, torch.float32):
        table, inv_norm = make_table(70, 12, dtype)
        shards = VectorShards(table, inv_norm, CPU)
        table[0], inv_norm[0] = 0, 0.0
        rows = torch.randint(0, 70, (200 * rank,), generator=torch.Generator().manual_seed(rank))
        for asked in (rows, rows.int()):
            assert_same(shards.fetch(asked), (table[rows], inv_norm[rows]))


def check_bytes(rank):
    """What the document says of them."""
    rows, width, k = 500, 32, 9
    table, inv_norm = make_table(rows, width)
    owner = torch.arange(rows).sub(1).remainder(WORLD)
    owner[0] = -1
    shards = VectorShards(table, inv_norm, CPU)
    batches = [make_batch(r, [40 * r, 100], [r, 5], rows) for r in range(WORLD)]
    history, _, user, *_ = batches[rank]
    sharded(shards, batches[rank], k)
    others = [r for r in range(WORLD) if r != rank]
    targets = torch.cat([batch[3] for batch in batches]).unique()
    elsewhere = (owner[history] >= 0) & (owner[history] != rank)
    vector = width + 4
    expected = {
        "sizes": len(others) * 3 * 8,
        "events": 4 * int(elsewhere.sum()),
        "queries": len(others) * 4 * (2 * 2 + 3 * len(user)),
        "query_vectors": len(others) * vector * int((owner[targets] == rank).sum()),
        "answers": 8 * k * sum(len(batches[r][2]) for r in others),
    }
    assert shards.sent == expected
    # Twice the same row is sent once.
    asked = [batches[r][0].repeat(2) for r in range(WORLD)]
    shards.fetch(asked[rank])
    wanted = [(owner[asked[r].unique()] == rank).sum() for r in others]
    fetched = {
        "sizes": expected["sizes"] + len(others) * 8,
        "fetched_rows": 4 * len(history[elsewhere].unique()),
        "fetched_vectors": vector * int(sum(wanted)),
    }
    assert shards.sent == {**expected, **fetched}


def check_beside_training(rank):
    """In a thread, while the processes talk in their default group."""
    table, inv_norm = make_table(5000, 128)
    shards = VectorShards(table, inv_norm, CPU)
    batch = make_batch(rank, [4000, 900], [20, 20], 5000)
    with ThreadPoolExecutor(1) as thread:
        found = [thread.submit(sharded, shards, batch, 50) for _ in range(5)]
        for step in range(50):
            gradient = torch.full((1000,), float(rank + step))
            dist.all_reduce(gradient)
            assert (gradient == WORLD * step + 3).all()
        expected = replicated(table, inv_norm, batch, 50)
        for answer in found:
            assert_same(answer.result(), expected)


def check_errors(rank):
    """Before anything is sent, so that the next call is not disturbed."""
    table, inv_norm = make_table(40)
    shards = VectorShards(table, inv_norm, CPU)
    history, offsets, user, targets, begin, end = make_batch(rank, [9, 8], [2, 2], 40)
    for named, batch in {
        "history_rows: entries": (history + 40, offsets, user, targets, begin, end),
        "query_rows: entries": (history, offsets, user, targets - 41, begin, end),
        "query_begin, query_end": (history, offsets, user, targets, begin, end + 9),
        "query_user": (history, offsets, user.flip(0), targets, begin, end),
    }.items():
        with pytest.raises(ValueError, match=named):
            sharded(shards, batch, 3)
    with pytest.raises(ValueError, match="rows: entries"):
        shards.fetch(torch.tensor([40]))
    assert not shards.sent
    batch = history, offsets, user, targets, begin, end
    assert_same(sharded(shards, batch, 3), replicated(table, inv_norm, batch, 3))


def check_timing(rank):
    """What the document's table of times is made with."""
    process = Process(rank, WORLD, WORLD, CPU)
    found = measure(CosineCase(users=2, queries=3, length=60, rows=900), process, repeats=1)
    assert min(*found.whole_ms, *found.sharded_ms) > 0
    assert found.sent > 0


CHECKS = (
    check_shapes,
    check_owners,
    check_floats,
    check_fetch,
    check_bytes,
    check_beside_training,
    check_errors,
    check_timing,
)


def _process(rank, meeting):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD)
    for check in CHECKS:
        check(rank)
        dist.barrier()
    dist.destroy_process_group()


def test_processes_find_together_what_one_finds(tmp_path):
    starter.spawn(_process, (tmp_path / "meeting",), nprocs=WORLD)


@pytest.mark.parametrize("world_size", [1, 2, 3, 300])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_every_row_has_one_owner_and_padding_none(world_size, dtype):
    rows = torch.randint(0, 1000, (5000,), dtype=dtype, generator=torch.Generator().manual_seed(1))
    by_owner = Ownership(0, world_size).sorted(rows)
    assert len(by_owner.counts) == world_size
    whole, seen = torch.arange(1000), 0
    for rank, places in enumerate(by_owner.order_m.split(by_owner.counts)):
        owners = Ownership(rank, world_size)
        assert (places.diff() > 0).all()
        part = torch.cat([whole[:1], whole[owners.own]])
        assert torch.equal(part[owners.place(rows[places])], rows[places].long())
        seen += len(places)
    assert seen == int((rows != 0).sum())
