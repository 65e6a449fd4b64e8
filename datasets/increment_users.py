"""User records of two days: who is as before keeps a record, all others get new ones.

U user records of today, the unknown one included; T events of some of them; F features of users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.increment_tables import Table
from datasets.segments import PreparedStore, SegmentWriter
from datasets.sequences import pieces

_PIECE_EVENTS = 8_000_000
_USER_ID = "user_id"


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
        user_U = self._profile_FU[names.index(_USER_ID)] if _USER_ID in names else nobody_U
        # A user's longest record comes last, and of equally long ones the latest.
        self._order = np.lexsort((np.diff(parent.offsets), user_U))
        self._ends = np.searchsorted(user_U[self._order], np.arange(users), "right")

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


def write_users(
    store: SegmentWriter,
    parent: PreparedStore,
    day: PreparedStore,
    tables: Mapping[str, Table],
    raw: Mapping[str, NDArray[np.int64]],
) -> NDArray[np.int64]:
    """Write the new records and the features of all.

    Args:
        store: where to.
        parent: yesterday's store.
        day: today's rows.
        tables: of both days.
        raw: ids of features of today's last records, which today's own tables may lack, int64.

    Returns:
        Record of each of today's, int64 [U].
    """
    given = {}
    for feature in day.features("user"):
        table, name = tables[feature["table"]], feature["name"]
        given[name] = table.row[day.array(f"users/feature_{name}")]
        if name in raw:
            given[name][day.records - len(raw[name]) :] = table.vocabulary.rows(raw[name])
    record_U = _write_segment(store, parent, day, tables, given)
    new = np.flatnonzero(record_U >= parent.records)
    for feature in day.features("user"):
        name = feature["name"]
        together = np.concatenate([parent.array(f"users/feature_{name}"), given[name][new]])
        store.add_feature("user", name, together, feature["table"])
    return record_U


def _write_segment(
    store: SegmentWriter,
    parent: PreparedStore,
    day: PreparedStore,
    tables: Mapping[str, Table],
    given: Mapping[str, NDArray[np.int32]],
) -> NDArray[np.int64]:
    columns = {"history_item": "item"}
    columns |= {f"event_{f['name']}": f["table"] for f in day.features("event")}
    profile_UF = np.stack([*given.values(), np.zeros(day.records, np.int32)])[: len(given)].T
    user_U = given.get(_USER_ID, np.zeros(day.records, np.int32))
    known = KnownRecords(parent, tables[_USER_ID].vocabulary.size if _USER_ID in given else 1)
    added, outside = store.segment(), 0
    record_U, lengths_U = np.zeros(day.records, np.int64), np.diff(day.offsets)
    for part in pieces(lengths_U[1:], _PIECE_EVENTS):
        first, last = part.start + 1, part.stop + 1
        rows = {
            name: tables[table].row[day.events(name, first, last)]
            for name, table in columns.items()
        }
        begins = (day.offsets[first:last] - day.offsets[first]).tolist()
        for record, begin in zip(range(first, last), begins, strict=True):
            own = {name: rows_T[begin : begin + lengths_U[record]] for name, rows_T in rows.items()}
            record_U[record] = known.find(int(user_U[record]), profile_UF[record], own)
        new = record_U[first:last] == 0
        # The segment's writer counts its own record 0, which is no record of the store.
        start = parent.records + added.records - 1
        record_U[first:last][new] = start + np.arange(np.count_nonzero(new))
        keep_T = np.repeat(new, lengths_U[first:last])
        kept = {name.removeprefix("event_"): rows_T[keep_T] for name, rows_T in rows.items()}
        items_T = kept.pop("history_item")
        outside += len(items_T) - int(np.count_nonzero(items_T))
        added.append(items_T, lengths_U[first:last][new], kept)
    store.count("events_outside_vocabulary", outside)
    store.finish_segment(added)
    return record_U
