"""User records of two days: who is as before keeps a record, all others get new ones.

A record of today is one of three things (`HISTORIES`): a snapshot, which may be any part of a life;
a whole life; or only what is new, which goes on where yesterday's longest record of the user ends.

U user records of today, the unknown one included; T events of some of them; F features of users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from datasets.errors import data_error
from datasets.increment_lives import USER_ID, KnownRecords, Lives, check_users_known, check_whole
from datasets.increment_tables import Table
from datasets.raw_users import read_raw_users
from datasets.segments import PreparedStore, SegmentWriter
from datasets.sequences import pieces

HISTORIES = ("snapshots", "whole", "new")
_PIECE_EVENTS = 8_000_000


@dataclass(frozen=True)
class Records:
    """Where the records of today are in the store.

    Args:
        record: of each, int64 [U].
        shift: events that precede those of today in it, int64 [U].
    """

    record: NDArray[np.int64]
    shift: NDArray[np.int64]


def write_users(
    store: SegmentWriter,
    parent: PreparedStore,
    day: PreparedStore,
    tables: Mapping[str, Table],
    raw: Mapping[str, NDArray[np.int64]],
    histories: str,
) -> Records:
    """Write the new records and the features of all.

    Args:
        store: where to.
        parent: yesterday's store.
        day: today's rows.
        tables: of both days.
        raw: ids of features of today's last records, which today's own tables may lack, int64.
        histories: one of `HISTORIES`.

    Raises:
        DataError: a life of today is not what `histories` says.
    """
    given = {}
    for feature in day.features("user"):
        table, name = tables[feature["table"]], feature["name"]
        given[name] = table.row[day.array(f"users/feature_{name}")]
        if name in raw:
            given[name][day.records - len(raw[name]) :] = table.vocabulary.rows(raw[name])
    user_U = given.get(USER_ID, np.zeros(day.records, np.int32))
    known = KnownRecords(parent, tables[USER_ID].vocabulary.size if USER_ID in given else 1)
    before_U = np.zeros(day.records, np.int64)
    if histories == "whole" and USER_ID in given:
        check_whole(parent, day, user_U, known, tables[USER_ID])
    elif histories == "new":
        check_users_known(day)
        store.count("users_outside_vocabulary", int(np.count_nonzero(user_U[1:] == 0)))
        before_U = known.longest(user_U)
    record_U = _write_segment(store, Lives(parent, day, tables, before_U), given, user_U, known)
    new = np.flatnonzero(record_U >= parent.records)
    for feature in day.features("user"):
        name = feature["name"]
        together = np.concatenate([parent.array(f"users/feature_{name}"), given[name][new]])
        store.add_feature("user", name, together, feature["table"])
    users = (tables[USER_ID], user_U) if USER_ID in given else None
    _write_raw_users(store, parent, day, users, new)
    return Records(record_U, np.diff(parent.offsets)[before_U])


def _write_raw_users(
    store: SegmentWriter,
    parent: PreparedStore,
    day: PreparedStore,
    users: tuple[Table, NDArray[np.int32]] | None,
    new: NDArray[np.int64],
) -> None:
    """Put the raw users of today's new records after yesterday's, as far as they are known.

    Args:
        store: where to.
        parent: yesterday's store.
        day: today's rows.
        users: table `user_id` of both days, and the row of each record of today, int32 [U]; None
            where users have no rows.
        new: records of today that are new.
    """
    before = read_raw_users(parent.path, parent.manifest)
    raw = read_raw_users(day.path, day.manifest)
    if users is not None and (before is None) != (raw is None):
        # One of an earlier release tells the users who have a row.
        table, row_U = users
        if before is None:
            before = _ids(table, parent.array(f"users/feature_{USER_ID}"))
        else:
            raw = _ids(table, row_U)
    if before is None or raw is None:
        return
    if before.dtype != raw.dtype:
        problem = f"raw users are {raw.dtype}, those of {parent.path} {before.dtype}"
        raise data_error(problem, "Write both with one type", file=day.path)
    store.add_raw_users([pl.concat([before, raw.gather(new - 1)])], before.dtype)


def _ids(users: Table, row_U: NDArray[np.int32]) -> pl.Series:
    """Raw users of all records but 0, null where they have row 0: [U - 1]."""
    row = pl.Series(row_U[1:])
    return users.vocabulary.raw.gather(row.set(row == 0, None) - 1)


def _write_segment(
    store: SegmentWriter,
    lives: Lives,
    given: Mapping[str, NDArray[np.int32]],
    user_U: NDArray[np.int32],
    known: KnownRecords,
) -> NDArray[np.int64]:
    """Write the lives that no record of yesterday begins with; the record of each: int64 [U]."""
    records, lengths_U = len(user_U), lives.lengths_U
    profile_UF = np.stack([*given.values(), np.zeros(records, np.int32)])[: len(given)].T
    added, outside = store.segment(), 0
    record_U = np.zeros(records, np.int64)
    for part in pieces(lengths_U[1:], _PIECE_EVENTS):
        first, last = part.start + 1, part.stop + 1
        rows = lives.events(first, last)
        lengths = lengths_U[first:last]
        begins = (np.cumsum(lengths) - lengths).tolist()
        for record, begin in zip(range(first, last), begins, strict=True):
            own = {name: rows_T[begin : begin + lengths_U[record]] for name, rows_T in rows.items()}
            record_U[record] = known.find(int(user_U[record]), profile_UF[record], own)
        new = record_U[first:last] == 0
        # The segment's writer counts its own record 0, which is no record of the store.
        start = store.first_record + added.records - 1
        record_U[first:last][new] = start + np.arange(np.count_nonzero(new))
        keep_T = np.repeat(new, lengths)
        kept = {name.removeprefix("event_"): rows_T[keep_T] for name, rows_T in rows.items()}
        items_T = kept.pop("history_item")
        outside += len(items_T) - int(np.count_nonzero(items_T))
        added.append(items_T, lengths[new], kept)
    store.count("events_outside_vocabulary", outside)
    store.finish_segment(added)
    return record_U
