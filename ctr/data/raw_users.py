"""Raw users -> their records in a prepared store.

Shape legend: n asked for, U user records.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from ctr.data.store import Store
from ctr.data.vocabulary import Vocabulary, read_ids, unusable
from ctr.schema import StoreError

# The feature that tells whose record it is, as far as the user has a row in its table.
_USER_ID = "user_id"


class RawUsers:
    """The raw user of each record, held in memory: integers or strings.

    They are in `users/raw.parquet`. Of a store without that file, users are known as far as they
    have a row in the table of `user_id`.

    Args:
        store: prepared store.

    Raises:
        StoreError: a file that is missing, damaged, or not of these records, or a store that does
            not tell of raw users.
    """

    def __init__(self, store: Store) -> None:
        raw = _of_file(store) if store.schema.raw_users else _of_table(store)
        record_U = np.arange(1, len(raw) + 1, dtype=np.int32)
        length_U = np.diff(store.history_offsets)[1:]
        self._frame = pl.DataFrame({"raw": raw, "record": record_U, "length": length_U})

    @property
    def of_integers(self) -> bool:
        """Whether the ids are integers; they are strings otherwise."""
        return self._frame.schema["raw"] == pl.Int64

    def known(self, most: int) -> list[int | str]:
        """The first users that have a record, `most` of them."""
        return self._frame["raw"].drop_nulls().unique(maintain_order=True).head(most).to_list()

    def of(self, record: int) -> int | str | None:
        """User of a record; None where not known."""
        found: int | str | None = self._frame["raw"][record - 1] if record else None
        return found

    def every(self, value: pl.Series) -> np.ndarray:
        """All records of one user, rising: int32.

        Args:
            value: Int64 or String [1], as the ids are; a null has no record.
        """
        return self._frame.filter(pl.col("raw") == value[0])["record"].to_numpy()

    def records(self, values: pl.Series) -> np.ndarray:
        """Record of each user, 0 for those without: int32 [n].

        A user of several records has the one with the longest history, and of equally long ones the
        last, since preparations write a later snapshot of a user after an earlier one.

        Args:
            values: Int64 or String [n], as the ids are.
        """
        asked = values.alias("raw").to_frame()
        # Only the records of the few users that are asked for are sorted.
        theirs = self._frame.join(asked.unique(), on="raw", how="semi")
        longest = theirs.sort("length", "record").unique("raw", keep="last")
        found = asked.join(longest, on="raw", how="left", maintain_order="left")
        return found["record"].fill_null(0).to_numpy()


def _of_file(store: Store) -> pl.Series:
    """Raw user of every record but 0, null where not known: [U - 1]."""
    file, records = store.path / "users" / "raw.parquet", len(store.history_offsets) - 1
    raw = read_ids(file, ["raw"])["raw"]
    if len(raw) != records - 1:
        raise unusable(file, f"{len(raw)} ids, expected {records - 1}, one a record but 0")
    return raw


def _of_table(store: Store) -> pl.Series:
    """As `_of_file`, by the rows of the users in the table of `user_id`."""
    tables = {feature.name: feature.table for feature in store.schema.user}
    if _USER_ID not in tables:
        raise StoreError(
            f"{store.path}: neither users/raw.parquet nor a user feature '{_USER_ID}', by which "
            "raw users would be found; prepare the store again, or set samples to a split"
        )
    return Vocabulary(store, tables[_USER_ID]).ids(store.user_features[_USER_ID][1:])
