"""Which sample to explain: one of a split, or a raw user and a raw item put together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ctr.data.store import Split, Store
from ctr.data.vocabulary import Vocabulary
from ctr.errors import UserError

_USER_ID = "user_id"
_NAMED = 5


class ExplainError(UserError):
    """A sample that cannot be explained; says which there are."""


@dataclass(frozen=True)
class Chosen:
    """The sample that is explained.

    Attributes:
        split: it alone.
        told: where it is from, in words.
        label: as text; "unknown" where it has none.
    """

    split: Split
    told: str
    label: str


def by_number(split: Split, name: str, number: int) -> Chosen:
    """A sample of a split by its place, as in column `sample` of predictions.

    Raises:
        ExplainError: the split has no such sample.
    """
    if not 0 <= number < len(split):
        raise ExplainError(f"--sample {number}: split '{name}' has samples 0 to {len(split) - 1}")
    label = "unknown" if split.label is None else str(split.label[number])
    return Chosen(split.part(number, number + 1), f"sample {number} of split '{name}'", label)


def by_ids(store: Store, split: Split, name: str, user: str, item: str) -> Chosen:
    """The latest sample of a split with this user and item; where it has none, one is made up.

    What is made up sees the whole history: of the record that the user's last sample in the split
    has, else of the user's last record.

    Args:
        store, split: where to look; name: of the split.
        user, item: raw ids as text.

    Raises:
        ExplainError: an id that is not in its vocabulary.
        StoreError: a store without raw users.
    """
    records = _records(store, user, name)
    row = _row(store, "item", item, f"--item {item}", name)
    of_user = np.flatnonzero(np.isin(split.user, records))
    found = of_user[split.item[of_user] == row]
    if len(found):
        chosen = by_number(split, name, int(found[-1]))
        if len(found) == 1:
            return chosen
        others = ", ".join(map(str, found[:-1][-_NAMED:]))
        told = f"{chosen.told}, the last of {len(found)} with this user and item (also {others})"
        return Chosen(chosen.split, told, chosen.label)
    record = int(split.user[of_user[-1]]) if len(of_user) else int(records[-1])
    seen = store.history_offsets[record + 1] - store.history_offsets[record]
    made = Split(
        user=np.array([record], dtype=np.int32),
        item=np.array([row], dtype=np.int32),
        history_end=np.array([seen], dtype=np.int64),
        features={feature.name: np.zeros(1, np.int32) for feature in store.schema.sample},
    )
    told = f"no sample of split '{name}'; made up, with all events of user record {record}"
    return Chosen(made, told, "unknown")


def _records(store: Store, user: str, split: str) -> np.ndarray:
    """Records of a raw user, int64, rising."""
    tables = [feature.table for feature in store.schema.user if feature.name == _USER_ID]
    if not tables:
        raise ExplainError(
            f"--user {user}: store '{store.schema.name}' has no user feature '{_USER_ID}'; "
            f"--sample N explains a sample of split '{split}' by its number"
        )
    row = _row(store, tables[0], user, f"--user {user}", split)
    records = np.flatnonzero(store.user_features[_USER_ID] == row)
    if len(records) == 0:
        raise ExplainError(f"--user {user}: in the vocabulary, but without a history in the store")
    return records


def _row(store: Store, table: str, raw: str, option: str, split: str) -> int:
    """Row of a raw id given as text; `option` and `split` are for the error."""
    vocabulary, ids = Vocabulary(store, table), store.schema.table_rows[table] - 1
    some = vocabulary.raw(np.arange(1, 1 + min(_NAMED, ids)))
    advice = (
        f"the first of its {ids:,} ids are {', '.join(map(str, some)) or 'none'}; "
        f"--sample N explains a sample of split '{split}' by its number"
    )
    value: int | str = raw
    if vocabulary.of_integers:
        try:
            value = int(raw)
        except ValueError:
            raise ExplainError(
                f"{option}: ids of table '{table}' are whole numbers; {advice}"
            ) from None
    dtype = pl.Int64 if vocabulary.of_integers else pl.String
    # A number of more than 64 bits becomes a null, which no vocabulary has.
    row = int(vocabulary.rows(pl.Series([value], dtype=dtype, strict=False))[0])
    if row == 0:
        raise ExplainError(
            f"{option}: not in the vocabulary of table '{table}', unknown to the model; {advice}"
        )
    return row
