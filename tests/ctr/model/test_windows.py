"""Recent windows against one sample at a time."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.model.windows import recent_windows

USERS = st.lists(
    st.tuples(st.integers(0, 60), st.lists(st.integers(0, 60), max_size=40)), max_size=6
)


@settings(max_examples=200, deadline=None)
@given(USERS, st.integers(1, 20), st.integers(1, 70))
def test_each_sample_sees_its_latest_behaviours(users, length, cap):
    offsets, user, begin, end = [0], [], [], []
    index = 0
    for size, ends in users:
        ends = sorted(min(e, size) for e in ends)
        if not ends:
            continue
        offsets.append(offsets[-1] + size)
        user += [index] * len(ends)
        begin += [max(e - cap, 0) for e in ends]
        end += ends
        index += 1
    as_long = [torch.tensor(x, dtype=torch.int64) for x in (user, begin, end, offsets)]
    windows = recent_windows(*as_long, length)
    assert windows.position_R.unique().numel() == windows.position_R.numel()
    for i in range(len(user)):
        low = offsets[user[i]] + max(begin[i], end[i] - length)
        expected = list(range(low, offsets[user[i]] + end[i]))
        group, place = windows.group_B[i], windows.place_B[i]
        seen = windows.mask_GnP[group, place]
        assert windows.position_R[windows.index_GP[group][seen]].tolist() == expected
