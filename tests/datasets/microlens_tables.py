"""A small MicroLens_1M_x1, for the tests that prepare one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.microlens_tables import SCHEMAS

Tables = dict[str, dict[str, list[Any]]]


def tables() -> Tables:
    """User 6 has no history, user 7 has two; items 8 and 9 are not in item_info."""
    return {
        "train": {
            "user_id": [7, 5, 7, 5, 7],
            "item_seq": [[0, 0, 1, 2], [0] * 4, [0, 1, 2, 3], [0, 0, 2, 2], [0, 0, 0, 2]],
            "item_id": [3, 1, 9, 2, 1],
            "likes_level": [4, 0, 10, 1, 1],
            "views_level": [0, 3, 3, 10, 2],
            "label": [1, 0, 0, 1, 0],
        },
        "valid": {
            "user_id": [5, 6],
            "item_seq": [[0, 2, 2, 1], [0] * 4],
            "item_id": [3, 3],
            "likes_level": [2, 3],
            "views_level": [5, 6],
            "label": [1, 0],
        },
        "test": {
            "user_id": [7, 5, 7],
            "item_seq": [[1, 2, 3, 8], [0, 0, 0, 2], [0, 0, 0, 1]],
            "item_id": [2, 0, 3],
            "likes_level": [7, 8, 9],
            "views_level": [9, 8, 7],
        },
        "item_info": {
            "item_id": [0, 1, 2, 3, 4],
            "item_tags": [
                [0] * 5,
                [0, 0, 0, 21, 20],
                [0, 0, 0, 0, 20],
                [0] * 5,
                [25, 24, 23, 22, 21],
            ],
            "item_emb_d128": [[value] * 128 for value in (0.0, 0.5, -1.5, 0.0, 0.25)],
        },
    }


def write_tables(folder: Path, columns: Tables) -> Path:
    """Write the tables as published."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in columns.items():
        table = pa.table(values, schema=SCHEMAS[name])
        pq.write_table(table, folder / f"{name}.parquet")
    return folder
