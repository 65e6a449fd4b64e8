"""What is measured: shapes by op and device, with the bytes and operations that they need.

One name finds an op, its tests and its cases: `kernels.<op>`, `tests/kernels/<op>`,
`CASES["<op>"]`.

Shape legend: U users, L behaviours of a user, Q queries, M width, K picks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

# Rows of the table of Taobao-MM's item vectors, and a table that a laptop holds but no cache does.
_CUDA_ROWS = 35_000_000
_CPU_ROWS = 2_000_000
_CATEGORIES = 10_000

# A position in a history takes four bytes, and so do a score, a distance and a row.
_WORD = 4

# Input sets that the reference sequence takes in turn: its arguments are copied for every sample.
SEQUENCE_SETS = 2


@dataclass(frozen=True)
class Case(ABC):
    """Shapes of one measurement.

    Attributes:
        axes: fields that a plot may put on its x axis, with what to call them there.
    """

    axes: ClassVar[dict[str, str]]

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name made of the shapes."""

    @property
    @abstractmethod
    def bytes_moved(self) -> int:
        """Bytes that any implementation must read and write, each once."""

    @property
    def operations(self) -> int:
        """Multiplications and additions of matrix products; 0 where there is none."""
        return 0

    @property
    @abstractmethod
    def sequence_bytes(self) -> int:
        """Bytes that the reference sequence holds at once, beside the op's own arguments."""

    @property
    def table_bytes(self) -> int:
        """Bytes of the table that histories point into."""
        return 0


@dataclass(frozen=True)
class SearchCase(Case):
    """A top-K search: every user has `length` behaviours and asks `queries` queries.

    Attributes:
        rows: of the table; histories draw them by Zipf's law with exponent `zipf`, 0 for evenly.
        popular_queries: whether queries are drawn like histories. If not, they are drawn evenly: a
            query that its history names often would have K equal picks, which no search finds hard.
        pick_bytes: written for one pick.
    """

    users: int
    queries: int
    length: int
    rows: int
    k: int = 50
    zipf: float = 1.05

    axes: ClassVar[dict[str, str]] = {
        "length": "behaviours of a user",
        "queries": "queries of a user",
    }
    pick_bytes: ClassVar[int] = 2 * _WORD
    popular_queries: ClassVar[bool] = False

    @property
    @abstractmethod
    def behaviour_bytes(self) -> int:
        """Bytes read of one behaviour, its row number included."""

    @property
    def name(self) -> str:
        shape = f"u{self.users}_q{self.queries}_l{_short(self.length)}"
        return shape if self.zipf else f"{shape}_even"

    @property
    def pairs(self) -> int:
        """Scores of all queries: U * queries of a user * L."""
        return self.users * self.queries * self.length

    @property
    def bytes_moved(self) -> int:
        # A user's history is read once, however many queries look at it.
        read = self.users * self.length * self.behaviour_bytes
        return read + self.users * self.queries * self.k * self.pick_bytes


@dataclass(frozen=True)
class CosineCase(SearchCase):
    """Cosine over a table of int8 vectors of `width` entries."""

    width: int = 128

    @property
    def behaviour_bytes(self) -> int:
        return self.width + _WORD

    @property
    def operations(self) -> int:
        return 2 * self.pairs * self.width

    @property
    def sequence_bytes(self) -> int:
        # int8, float32 and normalised copies of [B, L, M]; of [B, L] scores and rows of two sets.
        return self.pairs * (self.width * (1 + 4 + 4) + 4 + SEQUENCE_SETS * 8)

    @property
    def table_bytes(self) -> int:
        return self.rows * (self.width + _WORD)


@dataclass(frozen=True)
class HammingCase(SearchCase):
    """Hamming distance over a table of codes of `words` 64-bit words."""

    words: int = 2

    @property
    def behaviour_bytes(self) -> int:
        return 8 * self.words + _WORD

    @property
    def sequence_bytes(self) -> int:
        # Five int64 tensors of [B, L, words] while bits are counted; of [B, L] distances and rows.
        return self.pairs * (5 * 8 * self.words + 8 + SEQUENCE_SETS * 8)

    @property
    def table_bytes(self) -> int:
        return self.rows * 8 * self.words


@dataclass(frozen=True)
class CategoryCase(SearchCase):
    """Behaviours of the query's category, of `rows` - 1 categories."""

    pick_bytes: ClassVar[int] = _WORD
    # Most categories of an even draw would match nothing.
    popular_queries: ClassVar[bool] = True

    @property
    def behaviour_bytes(self) -> int:
        return _WORD

    @property
    def sequence_bytes(self) -> int:
        # Matches bool, positions int64 and rows of [B, L].
        return self.pairs * (1 + 8 + SEQUENCE_SETS * 8)


@dataclass(frozen=True)
class SimtierCase(Case):
    """A histogram of `picks` similarities for each of `batch` rows."""

    batch: int
    picks: int
    bins: int = 22
    tiers: str = "tenths"
    scaled: bool = True

    axes: ClassVar[dict[str, str]] = {"batch": "rows", "picks": "similarities of a row"}

    @property
    def name(self) -> str:
        kind = self.tiers + ("_log" if self.scaled else "")
        return f"b{_short(self.batch)}_k{_short(self.picks)}_n{self.bins}_{kind}"

    @property
    def bytes_moved(self) -> int:
        # float32 similarities with a bool mask in, float32 features out.
        return self.batch * (self.picks * (4 + 1) + self.bins * 4)

    @property
    def sequence_bytes(self) -> int:
        # Comparisons bool and their float32 copies of [B, bins, K].
        return self.batch * self.bins * self.picks * (1 + 4)


def _short(number: int) -> str:
    for size, letter in ((1_000_000, "m"), (1_000, "k")):
        if number % size == 0 and number:
            return f"{number // size}{letter}"
    return str(number)


# Users, queries of a user, behaviours of a user. The first is also tried with evenly drawn rows.
_CUDA_SHAPES = (
    (1000, 1, 100_000),
    (100, 10, 100_000),
    (730, 11, 1_000),
    *((91, 11, length) for length in (1_000, 10_000, 100_000, 1_000_000)),
    *((1, 1, length) for length in (1_000, 10_000, 100_000, 1_000_000)),
    *((1, queries, 100_000) for queries in (10, 100, 1000)),
)
_CPU_SHAPES = (
    (1, 1, 100_000),
    (1, 10, 100_000),
    *((1, 1, length) for length in (1_000, 10_000, 1_000_000)),
    *((1, queries, 10_000) for queries in (10, 100, 1000)),
    *((84, 12, length) for length in (1_000, 10_000)),
)
_SIMTIER = (
    *(SimtierCase(batch, 50) for batch in (1_000, 8_000, 64_000)),
    *(SimtierCase(1_000, picks) for picks in (1_000, 10_000)),
    SimtierCase(1_000, 50, bins=20, tiers="equal", scaled=False),
)


def _search(
    kind: type[SearchCase], shapes: Iterable[tuple[int, int, int]], rows: int
) -> tuple[Case, ...]:
    """A case for each shape, and the first once more with rows that no cache knows from before."""
    cases = [kind(users, queries, length, rows) for users, queries, length in shapes]
    return (*cases, replace(cases[0], zipf=0.0))


# By op, then by kind of device.
CASES: dict[str, dict[str, tuple[Case, ...]]] = {
    "cosine_topk": {
        "cuda": _search(CosineCase, _CUDA_SHAPES, _CUDA_ROWS),
        "cpu": _search(CosineCase, _CPU_SHAPES, _CPU_ROWS),
    },
    "category_topk": {
        "cuda": _search(CategoryCase, _CUDA_SHAPES, _CATEGORIES),
        "cpu": _search(CategoryCase, _CPU_SHAPES, _CATEGORIES),
    },
    "hamming_topk": {
        "cuda": _search(HammingCase, _CUDA_SHAPES, _CUDA_ROWS),
        "cpu": _search(HammingCase, _CPU_SHAPES, _CPU_ROWS),
    },
    "simtier": {"cuda": _SIMTIER, "cpu": _SIMTIER},
}
