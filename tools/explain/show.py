"""An explanation as text: rows under their raw ids, behaviours in tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from ctr.data.raw_users import RawUsers
from ctr.data.store import Split, Store
from ctr.data.vocabulary import Vocabulary
from ctr.schema import FeatureSpec
from tools.explain.choose import Chosen, ExplainError
from tools.explain.look import Behaviour, Insight
from tools.trained_run import TrainedRun

_NONE = "-"


@dataclass(frozen=True)
class Titles:
    """A Parquet file with a text for each raw item id.

    Attributes:
        path: of the file; key, column: of it.
    """

    path: Path
    key: str
    column: str

    def of(self, raw: Sequence[str]) -> dict[str, str]:
        """Text by raw id as text; ids that the file lacks are left out.

        Raises:
            ExplainError: no such file or column.
        """
        wanted = pl.col(self.key).cast(pl.String).alias("key")
        try:
            found = (
                pl.scan_parquet(self.path)
                .select(wanted, pl.col(self.column).cast(pl.String).alias("text"))
                .filter(pl.col("key").is_in(list(raw)))
                .collect()
            )
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ExplainError(
                f"--titles {self.path}: no columns {self.key!r} and {self.column!r} can be read "
                f"({str(error).splitlines()[0]}); name them with --title-key and --title-column"
            ) from None
        return {key: text for key, text in found.iter_rows() if text is not None}


@dataclass
class Names:
    """Raw ids of rows, as text.

    Attributes:
        store: whose vocabularies; titles: of items, or None.
    """

    store: Store
    titles: Titles | None = None
    _open: dict[str, Vocabulary] = field(default_factory=dict)

    def of(self, table: str, rows: Sequence[int]) -> list[str]:
        """Raw id of each row; a dash for row 0."""
        if table not in self._open:
            self._open[table] = Vocabulary(self.store, table)
        found = self._open[table].raw(np.asarray(rows, dtype=np.int64))
        return [_NONE if raw is None else str(raw) for raw in found]

    def feature(self, feature: FeatureSpec, items: Sequence[int]) -> list[str]:
        """A feature of items, lists with commas between."""
        rows = self.store.item_features[feature.name][np.asarray(items, dtype=np.int64)]
        return [
            ", ".join(self.of(feature.table, row[row > 0].tolist())) or _NONE
            for row in rows.reshape(len(items), -1)
        ]

    def title(self, items: Sequence[str]) -> list[str]:
        """Text of each raw item id."""
        found = {} if self.titles is None else self.titles.of(items)
        return [found.get(item, _NONE) for item in items]


def show(run: TrainedRun, chosen: Chosen, found: Insight, names: Names, top: int) -> str:
    """The explanation of one sample.

    Args:
        run: whose model; chosen: the sample; found: what the model does with it.
        names: raw ids; top: behaviours shown of each sequence.
    """
    lines = [*_head(run, chosen, found, names), ""]
    for sequence, behaviours in found.sequences.items():
        lines += [*_sequence(run, sequence, behaviours, names, top), ""]
    lines += [
        f"change of the logit when an input part of the head is replaced by its mean over "
        f"{found.reference:,} samples of split '{run.split_name}', one part at a time.",
        "An ablation: the changes do not add up, and parts that tell the same hide each other.",
    ]
    ranked = sorted(found.changes.items(), key=lambda pair: -abs(pair[1]))
    return "\n".join([*lines, *(f"  {change:+9.4f}  {part}" for part, change in ranked)])


def _head(run: TrainedRun, chosen: Chosen, found: Insight, names: Names) -> list[str]:
    record, item = int(chosen.split.user[0]), int(chosen.split.item[0])
    (raw,) = names.of("item", [item])
    (title,) = names.title([raw])
    features = [f"{f.name} {names.feature(f, [item])[0]}" for f in run.store.schema.item]
    user = _user(run.store, chosen.split)
    return [
        chosen.told,
        f"user {user} (record {record}), sees {found.seen:,} events",
        f"target item {raw}{'' if title == _NONE else f' ({title})'}"
        f"{''.join(f', {told}' for told in features)}",
        f"label {chosen.label}, "
        f"click probability {found.probability:.4f} (logit {found.logit:+.4f})",
    ]


def _user(store: Store, sample: Split) -> str:
    if not (store.schema.raw_users or "user_id" in store.user_features):
        return "without a raw id"
    raw = RawUsers(store).of(int(sample.user[0]))
    return "unknown" if raw is None else str(raw)


def _sequence(
    run: TrainedRun, name: str, behaviours: Sequence[Behaviour], names: Names, top: int
) -> list[str]:
    search = run.config.model.gsu
    what = f"picked by {search}" if name == "retrieved" else "latest behaviours"
    shown = behaviours[:top]
    if not shown:
        return [f"{name}: {what}: none"]
    items = names.of("item", [b.item for b in shown])
    units = list(dict.fromkeys(unit for b in behaviours for unit in b.weights))
    columns = {
        "age": [str(b.age) for b in shown],
        "position": [str(b.position) for b in shown],
        "item": items,
        "similarity": [_number(b.similarity) for b in shown],
        **{unit: [_number(b.weights.get(unit)) for b in shown] for unit in units},
    }
    for feature in run.network.behaviours.items.features:
        columns[feature.name] = names.feature(feature, [b.item for b in shown])
    for event in run.store.schema.event:
        columns[event.name] = names.of(event.table, [b.side[event.name] for b in shown])
    if names.titles is not None:
        columns["title"] = names.title(items)
    by = [unit for unit in units if unit.startswith(f"{name}.")][:1]
    order = f", by falling {by[0]}" if by else ""
    return [f"{name}: {what}, {len(shown)} of {len(behaviours)}{order}", *_table(columns)]


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"


def _table(columns: dict[str, list[str]]) -> list[str]:
    texts = [[name, *values] for name, values in columns.items()]
    widths = [max(map(len, text)) for text in texts]
    rows = zip(*texts, strict=True)
    return [
        "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
