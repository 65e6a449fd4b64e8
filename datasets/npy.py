"""A .npy file that grows: written piece by piece, so that an array need not fit in memory."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_HEADER_BYTES = 128


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Header of format 1.0, always 128 bytes long, so that any length fits in the same place."""
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    room = _HEADER_BYTES - 10
    text = repr(fields).ljust(room - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", room) + text.encode("latin1")


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
