"""Memory: how much may be held at once, and how the work is cut to keep to it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from datasets.errors import data_error
from datasets.partitions.keys import FENCES

# Interpreter, libraries and what they keep; measured, rounded up.
_PROCESS = 220_000_000
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
# Most bytes that a step holds for each event, entry or sample that it works on.
_BYTES_A_ROW = 120
_LEAST_ROWS = 100_000
_MOST_BATCH = 2_000_000


def parse_memory(text: str) -> int:
    """Bytes of a size such as `2GB` or `500MB`.

    Raises:
        DataError: it is not a size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if found is None:
        raise data_error(f"'{text}' is not a size", "Write one such as 2GB", key="--memory")
    return int(float(found[1]) * _UNITS[found[2]])


@dataclass(frozen=True)
class Budget:
    """What all processes of a preparation may hold together.

    Args:
        memory: bytes.
        workers: processes that run tasks.
        partitions: of users and of items; by default as many as the memory asks for.

    Raises:
        DataError: too little memory for so many workers.
    """

    memory: int = 2 * 10**9
    workers: int = 1
    partitions: int | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise data_error(f"{self.workers} workers", "Give at least 1", key="--workers")
        if self.partitions is not None and not 1 <= self.partitions <= FENCES:
            problem = f"{self.partitions} partitions"
            raise data_error(problem, f"Give 1 to {FENCES}", key="--partitions")
        least = self._processes + self.workers * _LEAST_ROWS * _BYTES_A_ROW
        if self.memory < least:
            problem = f"{self.memory} bytes are too few for {self.workers} workers"
            raise data_error(problem, f"Give at least {-(-least // 10**6)}MB", key="--memory")

    @property
    def _processes(self) -> int:
        return (1 + (self.workers if self.workers > 1 else 0)) * _PROCESS

    @property
    def share(self) -> int:
        """Bytes that one task may hold."""
        return (self.memory - self._processes) // self.workers

    @property
    def rows(self) -> int:
        """Events, entries or samples that one task may work on at once."""
        return self.share // _BYTES_A_ROW

    @property
    def batch_share(self) -> float:
        """Events that are read at once, as a share of the most that are."""
        return min(1.0, self.rows / _MOST_BATCH)

    def parts(self, rows: int) -> int:
        """Partitions for so many rows in all.

        Raises:
            DataError: the largest number of partitions is too small for the memory.
        """
        needed = -(-max(1, rows) // self.rows)
        if self.partitions is None and needed > FENCES:
            least = self._processes + self.workers * _BYTES_A_ROW * (rows // FENCES + 1)
            problem = f"{self.memory} bytes are too few for {rows} rows"
            raise data_error(problem, f"Give at least {-(-least // 10**6)}MB", key="--memory")
        return self.partitions or needed
