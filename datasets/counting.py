"""Counting (item, category) pairs over histories too long for memory."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

_COMPACT_ROWS = 8_000_000


class PairCounter:
    """Counts (item, category) pairs; memory grows with the distinct pairs, not with the events."""

    def __init__(self) -> None:
        self._total = pl.DataFrame(
            schema={"item": pl.Int64, "category": pl.Int64, "count": pl.Int64}
        )
        self._parts: list[pl.DataFrame] = []
        self._rows = 0

    def add(self, items: NDArray[np.int64], categories: NDArray[np.int64]) -> None:
        """Count some events.

        Args:
            items: raw ids, int64 [T].
            categories: raw ids, int64 [T].
        """
        pairs = pl.DataFrame({"item": items, "category": categories})
        part = pairs.group_by("item", "category").agg(pl.len().cast(pl.Int64).alias("count"))
        self._parts.append(part)
        self._rows += len(part)
        # Merging only when the new parts rival the total keeps the work linear in the events.
        if self._rows > max(_COMPACT_ROWS, len(self._total)):
            self._compact()

    def _compact(self) -> None:
        together = pl.concat([self._total, *self._parts])
        self._total = together.group_by("item", "category").agg(pl.col("count").sum())
        self._parts, self._rows = [], 0

    def result(self) -> pl.DataFrame:
        """Int64 columns `item`, `category`, `count`, one row for each distinct pair."""
        self._compact()
        return self._total


def likeliest_category(
    items: pl.DataFrame, pairs: pl.DataFrame, given: pl.Series
) -> tuple[pl.Series, int]:
    """Choose each item's category: the given one, else the most frequent one of the histories.

    Args:
        items: Int64 column `item`, distinct.
        pairs: columns `item`, `category`, `count` (`PairCounter.result`).
        given: category of each item from the item table, Int64, 0 = not given.

    Returns:
        The category of each item, Int64, 0 = none; and how many items have several categories.
    """
    kept = items.with_columns(given.alias("given"))
    seen = pairs.filter((pl.col("category") != 0) & (pl.col("item") != 0))
    seen = seen.join(kept, on="item", how="inner")
    # The smaller id wins a tie, so that the choice does not hang on the order of the rows.
    best = (
        seen.sort(["count", "category"], descending=[True, False])
        .unique("item", keep="first", maintain_order=True)
        .select("item", pl.col("category").alias("best"))
    )
    differs = (pl.col("category").n_unique() > 1) | (
        (pl.col("given").first() != 0) & (pl.col("category") != pl.col("given")).any()
    )
    conflicts = int(seen.group_by("item").agg(differs.alias("differs"))["differs"].sum())
    joined = kept.join(best, on="item", how="left", maintain_order="left")
    chosen = joined.select(
        pl.when(pl.col("given") != 0).then("given").otherwise(pl.col("best").fill_null(0))
    ).to_series()
    return chosen, conflicts
