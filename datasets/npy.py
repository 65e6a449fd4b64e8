"""Files of .npy written piece by piece, so that an array need not fit in memory.

One grows at its end; another has its full length from the start, and its rows are written in any
order, by several processes at once.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_HEADER_BYTES = 128
# Rows that are left out together, a page of a file of int8 [128].
_STRETCH = 32


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Header of format 1.0, always 128 bytes long, so that any length fits in the same place."""
    descr = np.lib.format.dtype_to_descr(dtype)
    # As numpy itself writes it, to the byte.
    fields = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    room = _HEADER_BYTES - 10
    text = fields.ljust(room - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", room) + text.encode("latin1")


def create(path: Path, dtype: DTypeLike, *shape: int) -> None:
    """Make an array of zeros, to be filled by `write_rows`.

    Args:
        path: file to create.
        dtype: element type.
        shape: [n] or [n, width].
    """
    kind = np.dtype(dtype).newbyteorder("<")
    with path.open("wb") as file:
        file.write(_header(kind, shape))
        file.truncate(_HEADER_BYTES + kind.itemsize * math.prod(shape))


def write_rows(path: Path, start: int, values: NDArray[Any]) -> None:
    """Write some rows of a file that `create` made; other processes may write others meanwhile.

    Args:
        path: the file.
        start: first row to write.
        values: [n] or [n, width], of the file's own dtype and width.
    """
    row = values.itemsize * math.prod(values.shape[1:])
    with path.open("r+b") as file:
        file.seek(_HEADER_BYTES + start * row)
        file.write(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)


def write_rows_sparsely(path: Path, start: int, values: NDArray[Any]) -> None:
    """As `write_rows`, without stretches of zeros: `create` made these, with no room on disk.

    Args:
        path: the file, with zeros in the rows that are written.
        start: first row to write.
        values: [n, width], of the file's own dtype and width.
    """
    starts = np.arange(0, len(values), _STRETCH)
    some = np.logical_or.reduceat(values.any(axis=1), starts) if len(values) else starts
    begins = np.flatnonzero(np.diff(np.concatenate([[0], some, [0]])))
    for begin, end in zip(begins[::2] * _STRETCH, begins[1::2] * _STRETCH, strict=True):
        write_rows(path, start + int(begin), values[begin:end])


def read_rows(path: Path, start: int, stop: int) -> NDArray[Any]:
    """Read rows [start, stop) of a .npy file, fewer where it ends before.

    A memory map would do so too, but what it touched stays in the process's memory.
    """
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    row = math.prod(array.shape[1:])
    count = max(0, min(stop, len(array)) - start) * row
    offset = array.offset + start * row * array.itemsize
    return np.fromfile(path, array.dtype, count, offset=offset).reshape(-1, *array.shape[1:])


class NpyAppender:
    """Writes one array along its first axis; the header gets the true length at `close`.

    Args:
        path: file to create.
        dtype: element type.
        width: second dimension, or None for a vector.
    """

    def __init__(self, path: Path, dtype: DTypeLike, width: int | None = None) -> None:
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.rows = 0
        self._tail = () if width is None else (width,)
        self._file = path.open("wb")
        self._file.write(_header(self.dtype, (0, *self._tail)))

    def append(self, values: NDArray[Any]) -> None:
        """Add rows.

        Args:
            values: [n] or [n, width], of a type that casts to the file's without a change of kind.

        Raises:
            ValueError: the shape does not fit the file.
        """
        if values.shape[1:] != self._tail:
            raise ValueError(f"rows of shape {values.shape[1:]}, expected {self._tail}")
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self.rows += len(values)

    def close(self) -> None:
        """Patch the header with the final shape and flush to disk; a second call does nothing."""
        if self._file.closed:
            return
        self._file.seek(0)
        self._file.write(_header(self.dtype, (self.rows, *self._tail)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
