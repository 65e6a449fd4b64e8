"""What a run's search found, as `python -m tools.search_report` counted it.

Shape legend: N bins.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctr.metrics.ties import Array
from tools.report.errors import ReportError


@dataclass(frozen=True)
class Histogram:
    """Counts [N] between rising edges [N + 1]."""

    edges: Array
    counts: Array


@dataclass(frozen=True)
class SearchSummary:
    """What the search of a run found; None or absent where that was not counted.

    Attributes:
        gsu: its kind; k: picks it may make; samples: looked at.
        shares: by what they are of, in words, each in [0, 1].
        similarity: of the picks with the target; age: of the picks, 1 being the latest event.
    """

    gsu: str
    k: int
    samples: int
    shares: dict[str, float]
    similarity: Histogram | None
    age: Histogram | None


def read_search(path: Path, split: str) -> SearchSummary | None:
    """Read what `tools.search_report` wrote; None if it wrote nothing.

    Raises:
        ReportError: a damaged file.
    """
    if not path.is_file():
        return None
    try:
        return _summary(json.loads(path.read_text(encoding="utf-8")), split)
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise ReportError(
            f"{path}: cannot be read ({what}); write it anew with python -m tools.search_report "
            f"{path.parent} --split {split}"
        ) from None


def _summary(found: dict[str, Any], split: str) -> SearchSummary:
    if found["split"] != split:
        raise ValueError(f"it is of split {found['split']}")
    k = int(found["k"])
    recall = found.get("attention_recall")
    shares = {f"samples with fewer than {k} picks": found.get("fewer_than_k")}
    for name, share in (found.get("overlap") or {}).items():
        shares[f"picks that search {name!r} makes, too"] = share
    if recall:
        name = f"full attention's {int(recall['k'])} heaviest that are picked"
        shares[f"{name} ({int(recall['samples']):,} samples)"] = recall["recall"]
    return SearchSummary(
        gsu=str(found["gsu"]),
        k=k,
        samples=int(found["samples"]),
        shares={name: _share(name, value) for name, value in shares.items() if value is not None},
        similarity=_histogram(found, "similarity"),
        age=_histogram(found, "age"),
    )


def _share(name: str, value: Any) -> float:
    share = float(value)
    if not 0 <= share <= 1:
        raise ValueError(f"{name}: {share} is no share")
    return share


def _histogram(found: dict[str, Any], name: str) -> Histogram | None:
    if not found.get(name):
        return None
    edges = np.asarray(found[name]["edges"], dtype=np.float64)
    counts = np.asarray(found[name]["counts"], dtype=np.float64)
    rising = np.isfinite(edges).all() and (np.diff(edges) > 0).all()
    if edges.ndim != 1 or counts.shape != (len(edges) - 1,) or not rising or (counts < 0).any():
        raise ValueError(f"{name}: its edges and counts make no histogram")
    return Histogram(edges, counts)
