"""Lives of two days: what is known of each user, and how today's go on from yesterday's.

U user records of today, the unknown one included; T events of some of them; F features of users;
P rows of table `user_id`, row 0 included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.errors import data_error
from datasets.increment_tables import Table
from datasets.segments import PreparedStore

USER_ID = "user_id"


class KnownRecords:
    """Yesterday's records by the users they are of.

    Args:
        parent: yesterday's store.
        users: rows of table `user_id`; 1 where records are of no known user.
    """

    def __init__(self, parent: PreparedStore, users: int) -> None:
        self._parent = parent
        names = [feature["name"] for feature in parent.features("user")]
        columns = [parent.array(f"users/feature_{name}") for name in names]
        nobody_U = np.zeros(parent.records, np.int32)
        self._profile_FU = np.stack([*columns, nobody_U])[: len(names)]
        user_U = self._profile_FU[names.index(USER_ID)] if USER_ID in names else nobody_U
        # A user's longest record comes last, and of equally long ones the latest.
        self._order = np.lexsort((np.diff(parent.offsets), user_U))
        self._ends = np.searchsorted(user_U[self._order], np.arange(users), "right")

    def longest(self, user_U: NDArray[np.int32]) -> NDArray[np.int64]:
        """The longest record of each user, and of equally long ones the latest; 0 if there is none.

        Args:
            user_U: rows of table `user_id`, int32; 0, nobody in particular, has no record.

        Returns:
            int64 [U].
        """
        begin, end = (self._ends[np.maximum(user_U + step, 0)] for step in (-1, 0))
        has = (user_U > 0) & (end > begin)
        return np.where(has, self._order[np.where(has, end - 1, 0)], 0)

    def find(self, user: int, profile_F: NDArray[np.int32], events: Mapping[str, Any]) -> int:
        """The record that begins with these events and has this profile, or 0.

        Args:
            user: row of table `user_id`; 0, nobody in particular, has no record.
            profile_F: rows of all features of users, int32.
            events: rows by column, each int32 [T].
        """
        if not user:
            return 0
        own = self._order[self._ends[user - 1] : self._ends[user]]
        for record in own[::-1].tolist():
            if np.array_equal(self._profile_FU[:, record], profile_F) and all(
                np.array_equal(self._parent.events(name, record)[: len(rows_T)], rows_T)
                for name, rows_T in events.items()
            ):
                return int(record)
        return 0


class Lives:
    """What the records of today hold, each after what it goes on from.

    Args:
        parent: yesterday's store.
        day: today's rows.
        tables: of both days.
        before_U: record of yesterday that each of today's goes on from, 0 for none, int64 [U].
    """

    def __init__(
        self,
        parent: PreparedStore,
        day: PreparedStore,
        tables: Mapping[str, Table],
        before_U: NDArray[np.int64],
    ) -> None:
        self._parent, self._day, self._before_U = parent, day, before_U
        columns = {"history_item": "item"}
        columns |= {f"event_{f['name']}": f["table"] for f in day.features("event")}
        self._row = {name: tables[table].row for name, table in columns.items()}
        self.lengths_U = np.diff(day.offsets) + np.diff(parent.offsets)[before_U]

    def events(self, first: int, last: int) -> dict[str, NDArray[np.int32]]:
        """Events of records [first, last): rows by column, each int32 [T]."""
        return {name: self._column(name, first, last) for name in self._row}

    def _column(self, name: str, first: int, last: int) -> NDArray[np.int32]:
        own_T = self._row[name][self._day.events(name, first, last)]
        before = self._before_U[first:last]
        if not before.any():
            return own_T
        cuts = self._day.offsets[first + 1 : last] - self._day.offsets[first]
        parts = zip(before.tolist(), np.split(own_T, cuts), strict=True)
        pairs = [(self._parent.events(name, record), own) for record, own in parts]
        return np.concatenate([rows for pair in pairs for rows in pair])


def check_whole(
    parent: PreparedStore,
    day: PreparedStore,
    user_U: NDArray[np.int32],
    known: KnownRecords,
    users: Table,
) -> None:
    """Refuse lives that are shorter than they were yesterday.

    Args:
        parent: yesterday's store.
        day: today's rows.
        user_U: row of table `user_id` of each record of today, int32 [U].
        known: yesterday's records.
        users: the table of both days.

    Raises:
        DataError: names the first such user.
    """
    longest_P = np.zeros(users.vocabulary.size, np.int64)
    np.maximum.at(longest_P, user_U, np.diff(day.offsets))
    user_P = np.unique(user_U)
    before_P = np.diff(parent.offsets)[known.longest(user_P)]
    short = np.flatnonzero(longest_P[user_P] < before_P)
    if len(short):
        first = short[0]
        raise data_error(
            f"{longest_P[user_P[first]]} events, and {before_P[first]} in {parent.path} "
            f"({len(short)} such users)",
            "Prepare whole lives, or add --histories new if the rows hold only what is new",
            file=day.path,
            key=f"{USER_ID} {users.vocabulary.raw[int(user_P[first]) - 1]}",
        )


def check_users_known(day: PreparedStore) -> None:
    """Refuse records of nobody in particular: what they go on from cannot be known.

    Args:
        day: today's rows.

    Raises:
        DataError: there are some.
    """
    if USER_ID not in (feature["name"] for feature in day.features("user")):
        advice = "Prepare both days with it"
        raise data_error("no user feature, so nobody is known", advice, file=day.path, key=USER_ID)
    nobody = np.flatnonzero(day.array(f"users/feature_{USER_ID}")[1:] == 0)
    if len(nobody):
        raise data_error(
            f"{len(nobody)} records are of users without a row in the table",
            "Prepare today's rows with every user in it (for an event log: users.vocabulary: all)",
            file=day.path,
            key=USER_ID,
        )
