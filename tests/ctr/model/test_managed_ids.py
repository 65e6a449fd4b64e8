"""The map of ids to rows, against TorchRec's and against what it promises."""

import pytest
import torch
from torchrec import JaggedTensor
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    LRU_EvictionPolicy,
    MCHManagedCollisionModule,
)

from ctr.model.managed_ids import SCORES, ManagedIds

SLOTS = 17
# Its LFU lets nobody in any more where every id counts 1 in a step, as it does here.
POLICIES = {"lru": LRU_EvictionPolicy, "distance_lfu": DistanceLFU_EvictionPolicy}


def stream(steps, ids, seed=0):
    """Distinct ids of each step; low ones come often, as in life."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        size = int(torch.randint(1, 4 * SLOTS, (1,), generator=generator))
        yield ((torch.rand(size, generator=generator).pow(3) * ids).long() + 1).unique()


def live_ids(managed):
    return managed.ids[: managed.live()].tolist()


def rows_of(managed):
    """Rows of the ids that live, in their order."""
    return managed(managed.ids[: managed.live()]).tolist()


def admit(managed, ids):
    return managed.admit(torch.as_tensor(ids).unique())


@pytest.mark.parametrize("eviction", POLICIES)
def test_the_ids_that_live_are_those_of_torchrec(eviction):
    """TorchRec's last slot is for ids without one, as our row 0."""
    ours = ManagedIds(SLOTS, eviction)
    theirs = MCHManagedCollisionModule(
        zch_size=SLOTS,
        device=torch.device("cpu"),
        eviction_policy=POLICIES[eviction](),
        eviction_interval=1,
    )
    changed = 0
    for ids in stream(300, 10 * SLOTS):
        # It makes room for as many ids as its first step has, and drops what a later one has more.
        theirs._input_history_buffer_size = -1
        theirs({"item": JaggedTensor(values=ids, lengths=torch.tensor([ids.numel()]))})
        changed += admit(ours, ids).numel()
        # What is left of them stands at the end, with the largest number of 64 bits for an id.
        assert live_ids(ours) == theirs._mch_sorted_raw_ids[: ours.live()].tolist()
    assert changed > SLOTS, "nothing was ever evicted"


def test_ten_times_more_ids_than_rows_all_get_one_lose_it_and_get_one_again():
    managed = ManagedIds(SLOTS, "lru")
    every = torch.arange(1, 10 * (SLOTS - 1) + 1)
    for _ in range(2):
        for ids in every.split((SLOTS - 1) // 2):
            rows = admit(managed, ids)
            assert managed(ids).all()
            assert sorted(managed(ids).tolist()) == sorted(rows.tolist()), "a row was not announced"
    # The last two steps fill all rows, and all before have lost theirs.
    assert live_ids(managed) == every[-(SLOTS - 1) :].tolist()
    assert managed(every[: -(SLOTS - 1)]).eq(0).all()


def test_the_least_frequent_goes_and_of_equals_the_one_seen_before():
    """Against a dictionary: each new id takes the row of the lowest (count, last step)."""
    managed, counts = ManagedIds(SLOTS, "lfu"), {}
    changed = 0
    for step, ids in enumerate(stream(300, 10 * SLOTS, seed=3)):
        for one in ids.tolist():
            if one in counts:
                counts[one] = counts[one][0] + 1, step
        for one in ids.tolist():
            if one not in counts and len(counts) == SLOTS - 1:
                lowest = min(counts, key=lambda other: (*counts[other], -other))
                if counts[lowest] < (1, step):
                    del counts[lowest]
            if one not in counts and len(counts) < SLOTS - 1:
                counts[one] = 1, step
        changed += admit(managed, ids).numel()
        assert live_ids(managed) == sorted(counts)
    assert changed > SLOTS, "nothing was ever evicted"


@pytest.mark.parametrize("eviction", SCORES)
def test_no_two_ids_share_a_row_and_nobody_gets_row_0(eviction):
    managed = ManagedIds(SLOTS, eviction)
    for ids in stream(200, 10 * SLOTS, seed=1):
        before = dict(zip(live_ids(managed), rows_of(managed), strict=True))
        changed = admit(managed, torch.cat([ids, torch.zeros(3, dtype=torch.int64)])).tolist()
        held = rows_of(managed)
        assert len(set(held)) == len(held)
        assert 0 not in held
        assert managed(torch.zeros(1, dtype=torch.int64)).item() == 0
        assert managed.ids.tolist() == sorted(managed.ids.tolist())
        for one, row in zip(live_ids(managed), held, strict=True):
            assert (row in changed) == (before.get(one) != row), "a row changed hands unsaid"


def test_whose_row_is_taken():
    """After the ids 1 (3 steps, long ago), 2 (2 steps) and 3 (the last step), another comes."""
    left = {"lru": [2, 3, 4], "lfu": [1, 2, 4], "distance_lfu": [2, 3, 4]}
    for eviction, expected in left.items():
        managed = ManagedIds(4, eviction)
        for ids in ([1], [1], [1], [0], [0], [0], [2], [2], [3], [4]):
            admit(managed, ids)
        assert live_ids(managed) == expected, eviction


def test_a_step_with_more_new_ids_than_rows_admits_the_smallest():
    managed = ManagedIds(4, "lru")
    admit(managed, [9])
    assert admit(managed, [8, 5, 9, 7, 6]).numel() == 2
    # 9 is of this step, too, and stays.
    assert live_ids(managed) == [5, 6, 9]


def test_looking_up_changes_nothing():
    managed = ManagedIds(SLOTS, "lru")
    admit(managed, [3, 5])
    before = {name: buffer.clone() for name, buffer in managed.named_buffers()}
    assert managed(torch.tensor([5, 4, 0, 3])).bool().tolist() == [True, False, False, True]
    assert managed(torch.tensor([], dtype=torch.int64)).shape == (0,)
    for name, buffer in managed.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_a_copy_of_the_buffers_goes_on_alike():
    """What a checkpoint does: it fills the buffers of a new map in place."""
    managed, other = ManagedIds(SLOTS, "distance_lfu"), ManagedIds(SLOTS, "distance_lfu")
    steps = list(stream(40, 10 * SLOTS, seed=2))
    for ids in steps[:20]:
        admit(managed, ids)
    for name, buffer in other.named_buffers():
        buffer.copy_(managed.get_buffer(name))
    for ids in steps[20:]:
        assert torch.equal(admit(managed, ids), admit(other, ids))
        assert torch.equal(managed(ids), other(ids))
