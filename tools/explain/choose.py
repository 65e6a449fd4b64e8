"""Which sample to explain: one of a split, or a raw user and a raw item put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ctr.data.raw_users import RawUsers
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
        ExplainError: a user without a record, or an item that is not in its vocabulary.
        StoreError: a store without raw users.
    """
    records = _records(store, user, name)
    row = _item_row(store, item, name)
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
    """Records of a raw user, int32, rising."""
    if not (store.schema.raw_users or any(f.name == _USER_ID for f in store.schema.user)):
        raise ExplainError(
            f"--user {user}: store '{store.schema.name}' has neither raw users nor a user feature "
            f"'{_USER_ID}'; --sample N explains a sample of split '{split}' by its number"
        )
    users = RawUsers(store)
    advice = _advice("users", users.known(_NAMED), split)
    value = _typed(user, users.of_integers, f"--user {user}: users are whole numbers; {advice}")
    records = users.every(value)
    if len(records) == 0:
        raise ExplainError(f"--user {user}: not in the store; {advice}")
    return records


def _item_row(store: Store, item: str, split: str) -> int:
    """Row of a raw item."""
    vocabulary, ids = Vocabulary(store, "item"), store.schema.table_rows["item"] - 1
    some = vocabulary.raw(np.arange(1, 1 + min(_NAMED, ids)))
    advice = _advice(f"{ids:,} items", some, split)
    wrong = f"--item {item}: items are whole numbers; {advice}"
    row = int(vocabulary.rows(_typed(item, vocabulary.of_integers, wrong))[0])
    if row == 0:
        raise ExplainError(
            f"--item {item}: not in the vocabulary of table 'item', unknown to the model; {advice}"
        )
    return row


def _advice(what: str, some: Sequence[object], split: str) -> str:
    return (
        f"the first of its {what} are {', '.join(map(str, some)) or 'none'}; "
        f"--sample N explains a sample of split '{split}' by its number"
    )


def _typed(raw: str, integer: bool, wrong: str) -> pl.Series:
    """An id given as text in the type that a store has it: Int64 or String [1].

    A number of more than 64 bits becomes a null, which no store has.
    """
    if not integer:
        return pl.Series([raw], dtype=pl.String)
    try:
        return pl.Series([int(raw)], dtype=pl.Int64, strict=False)
    except ValueError:
        raise ExplainError(wrong) from None
