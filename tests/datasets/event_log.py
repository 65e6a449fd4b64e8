"""A description of a small event log, for the tests that prepare one."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "name": "small",
    "events": {
        "file": "log.parquet",
        "user": "who",
        "item": "what",
        "order": "when",
        "label": "like",
        "side": {"liked": {"column": "like", "values": [0, 1]}, "device": {"column": "device"}},
    },
    "users": {"file": "users.parquet", "key": "who", "features": {"age": {"column": "age"}}},
    "items": {
        "file": "items.parquet",
        "key": "what",
        "vocabulary": "all",
        "min_frequency": 1,
        "features": {
            "category": {"column": "genres", "separator": "|"},
            "year": {"column": "year", "prefix": 3, "min_frequency": 2},
        },
    },
    "vectors": {"file": "vectors.parquet", "item": "what", "column": "v", "dtype": "float16"},
    "split": {"test_fraction": 0.4, "valid_fraction": 0.2},
}
