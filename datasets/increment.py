"""Yesterday's store and today's rows -> today's store; no history is written twice.

Tables only grow: ids of yesterday keep their rows, so that a trained model's rows keep their
meaning, and new ids get rows after them. User records keep their numbers. Users who are new, or
whose history or profile is another, get new records in a segment of their own; the files of
yesterday's histories and samples are linked. Samples of today are splits of their own, such as
`train_1`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.command import run
from datasets.errors import data_error
from datasets.increment_tables import Table, merge_table
from datasets.increment_users import Records, write_users
from datasets.manifest import check_destination, history_segments, is_labelled
from datasets.npy import read_rows, write_rows_sparsely
from datasets.remote_store import destination, local_copy
from datasets.segments import PreparedStore, SegmentWriter
from datasets.snapshots import Options
from datasets.taobao_mm import open_source, prepare_tree
from datasets.temporary import TemporaryFolder
from remote.path import Location, location

log = logging.getLogger(__name__)

_CHUNK_ROWS = 1 << 16


def increment(
    parent: PreparedStore,
    day: PreparedStore,
    out: Path,
    *,
    overwrite: bool = False,
    raw: Mapping[str, NDArray[np.int64]] | None = None,
    histories: str = "whole",
) -> dict[str, Any]:
    """Write the store that goes on from `parent` with what `day` holds.

    Args:
        parent: yesterday's store.
        day: today's rows, prepared alone and with every id in its tables.
        out: today's store.
        overwrite: replace a store that is already there.
        raw: by feature, ids of the last records of `day` that its tables may lack, int64.
        histories: what a record of today holds, one of `datasets.increment_users.HISTORIES`.

    Returns:
        The manifest.

    Raises:
        DataError: the two are not of one kind, `out` exists, or a record of today does not hold
            what `histories` says.
    """
    _check_kinds(parent, day)
    # Thresholds of yesterday hold for the days after this one, too.
    options = parent.manifest.get("source", {}).get("options", {})
    note = {**day.manifest.get("source", {}), "options": options}
    store = SegmentWriter(out, parent, note, overwrite)
    with store:
        store.keep_parent()
        tables = {name: merge_table(parent, day, name) for name in parent.manifest["tables"]}
        for name, value in day.manifest["counts"].items():
            store.count(name, value)
        for name, table in tables.items():
            store.add_table(name, table.vocabulary)
            log.info("table %s: %d new ids", name, table.vocabulary.size - table.before)
        records = write_users(store, parent, day, tables, raw or {}, histories)
        _write_items(store, parent, day, tables)
        for split in day.manifest["splits"]:
            _write_split(store, day, split, tables, records)
        return store.finish()


def _check_kinds(parent: PreparedStore, day: PreparedStore) -> None:
    """Refuse rows that cannot be of the same data set."""
    advice = "Prepare today's rows as yesterday's were"
    if len(history_segments(day.manifest)) > 1:
        raise data_error("has increments of its own", "Give one day alone", file=day.path)
    for entry in ("name", "features", "tables", "vectors"):
        ours, theirs = (_kind(store, entry) for store in (parent, day))
        if ours != theirs:
            problem = f"{entry} {theirs}, those of {parent.path} are {ours}"
            raise data_error(problem, advice, file=day.path)


def _kind(store: PreparedStore, entry: str) -> Any:
    """What must be equal of an entry of the manifest."""
    value = store.manifest[entry]
    if entry == "tables":
        return sorted(value)
    if entry == "vectors" and value is not None:
        return {"width": value["width"], "dtype": value["dtype"]}
    return value


def _write_items(
    store: SegmentWriter, parent: PreparedStore, day: PreparedStore, tables: Mapping[str, Table]
) -> None:
    """Features and vectors: an item keeps what it has, and gets today's where it has none."""
    item = tables["item"]
    there = np.flatnonzero(item.row)
    target = item.row[there]
    for feature in parent.features("item"):
        name = f"items/feature_{feature['name']}"
        before = parent.array(name)
        values = np.zeros((item.vocabulary.size, *before.shape[1:]), np.int32)
        values[: item.before] = before
        given = tables[feature["table"]].row[day.array(name)[there]]
        lists = values[target].reshape(len(target), -1), given.reshape(len(target), -1)
        has, told = (part.any(axis=1) for part in lists)
        changed = has & told & (lists[0] != lists[1]).any(axis=1)
        store.count(f"{feature['name']}_changes_left_out", int(changed.sum()))
        values[target[~has]] = given[~has]
        store.add_feature("item", feature["name"], values, feature["table"])
    if parent.manifest["vectors"] is not None:
        _write_vectors(store, parent, day, item)


def _write_vectors(
    store: SegmentWriter, parent: PreparedStore, day: PreparedStore, item: Table
) -> None:
    kind = parent.manifest["vectors"]
    size, width, dtype = item.vocabulary.size, kind["width"], kind["dtype"]
    file = store.reserve_vectors(size, width, dtype)
    given = day.array("items/vectors")
    lacks = np.ones(size, bool)
    lacks[: item.before] = parent.array("items/vector_inv_norm") == 0
    rows = np.flatnonzero((item.row > 0) & lacks[item.row])
    rows = rows[np.argsort(item.row[rows])]
    target = item.row[rows]
    for begin in range(0, size, _CHUNK_ROWS):
        block = np.zeros((min(_CHUNK_ROWS, size - begin), width), dtype)
        end = begin + len(block)
        before = read_rows(parent.path / "items" / "vectors.npy", begin, end)
        block[: len(before)] = before
        part = slice(*np.searchsorted(target, [begin, end]))
        block[target[part] - begin] = given[rows[part]]
        write_rows_sparsely(file, begin, block)


def _write_split(
    store: SegmentWriter,
    day: PreparedStore,
    split: str,
    tables: Mapping[str, Table],
    records: Records,
) -> None:
    told = day.manifest["splits"][split]

    def column(name: str) -> NDArray[Any]:
        return np.asarray(day.array(f"splits/{split}/{name}"))

    store.add_split(
        f"{split}_{store.number}",
        records.record[column("user")].astype(np.int32),
        tables["item"].row[column("item")],
        column("history_end") + records.shift[column("user")],
        column("label") if is_labelled(told) else None,
        features={
            f["name"]: tables[f["table"]].row[column(f"feature_{f['name']}")]
            for f in day.features("sample")
        },
        source_row=column("source_row") if told.get("source_rows") else None,
    )


@contextmanager
def _prepared_tree(
    source: Location, parent: PreparedStore, out: Path
) -> Iterator[tuple[PreparedStore, dict[str, NDArray[np.int64]]]]:
    """Today's rows of a Taobao-MM tree as a store, removed at the end, and ids of its test users.

    Only users with a sample in `train` are in its tables, and yesterday's tables may know others.
    """
    final = out.absolute()
    final.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFolder(final) as folder:
        prepare_tree(source, folder / "day", Options(), name=parent.manifest["name"])
        tree = open_source(source)
        # The last records are the users of `test`, in the order of the source.
        users = [
            {"user_id": batch.user_id, **batch.profile}
            for piece in tree.pieces("test_users")
            for batch in tree.snapshots("test", piece, 1.0)
        ]
        names = ("user_id", *tree.profile)
        raw = {name: np.concatenate([batch[name] for batch in users]) for name in names}
        yield PreparedStore(folder / "day"), raw


def _check_parent(parent: PreparedStore, digest: str | None, place: str) -> None:
    if digest not in (None, parent.digest):
        problem = f"its manifest has the digest {parent.digest}, not {digest}"
        raise data_error(problem, "Give the store of the day before", file=place)


def main(argv: list[str] | None = None) -> int:
    """Command line: go on from a store with the rows of another day."""
    parser = argparse.ArgumentParser(prog="datasets.increment", description=__doc__)
    parser.add_argument("--store", required=True, help="yesterday's store, or its URL")
    rows = parser.add_mutually_exclusive_group(required=True)
    rows.add_argument("--source", help="today's Taobao-MM tree, or its URL")
    rows.add_argument(
        "--prepared",
        help="today's rows of any data set, as a store of their own with every id in its tables",
    )
    parser.add_argument(
        "--histories",
        choices=("whole", "new"),
        help="what the histories of --prepared hold: whole lives (the default), or only what is "
        "new, to be put after yesterday's",
    )
    parser.add_argument("--out", required=True, help="folder of today's store, or its URL")
    parser.add_argument("--parent", help="digest that the manifest of --store must have")
    parser.add_argument("--overwrite", action="store_true")
    given = parser.parse_args(argv)
    if given.histories and not given.prepared:
        parser.error("--histories is said of --prepared")

    def command() -> None:
        with (
            destination(location(given.out), given.overwrite) as out,
            local_copy(location(given.store)) as yesterday,
        ):
            check_destination(out, given.overwrite)
            parent = PreparedStore(yesterday)
            _check_parent(parent, given.parent, given.store)
            if given.prepared:
                with local_copy(location(given.prepared)) as folder:
                    day, histories = PreparedStore(folder), given.histories or "whole"
                    increment(parent, day, out, overwrite=given.overwrite, histories=histories)
            else:
                with _prepared_tree(location(given.source), parent, out) as (day, raw):
                    options = {"overwrite": given.overwrite, "raw": raw}
                    increment(parent, day, out, histories="snapshots", **options)
            log.info("the manifest of %s has the digest %s", given.out, PreparedStore(out).digest)

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
