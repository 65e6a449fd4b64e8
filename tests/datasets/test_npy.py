"""Files of .npy written in parts: numpy reads them, and they are numpy's own to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.npy import NpyAppender, create, read_rows, write_rows

SHAPES = [(0,), (7,), (7, 3), (123_456,)]


@pytest.mark.parametrize("shape", SHAPES)
def test_filled_in_any_order(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    create(tmp_path / "a.npy", np.int32, *shape)
    assert not np.load(tmp_path / "a.npy", allow_pickle=False).any()
    for start, stop in ((2, len(array)), (0, 2)):
        write_rows(tmp_path / "a.npy", start, array[start:stop])
    np.save(tmp_path / "b.npy", array)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    for start, stop in ((0, 3), (5, 99), (len(array), len(array) + 1)):
        found = read_rows(tmp_path / "a.npy", start, stop)
        assert found.dtype == np.int32
        assert np.array_equal(found, array[start:stop])


@pytest.mark.parametrize("shape", SHAPES)
def test_grown(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    appender = NpyAppender(tmp_path / "a.npy", np.float32, *shape[1:])
    appender.append(array[:3])
    appender.append(array[3:])
    appender.close()
    np.save(tmp_path / "b.npy", array)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
