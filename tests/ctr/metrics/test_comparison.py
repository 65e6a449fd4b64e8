"""Comparisons that are looked at together with others."""

import numpy as np
import polars as pl
import pytest

from ctr.metrics import bootstrap, comparison
from ctr.metrics.comparison import compare
from ctr.metrics.paired import Aligned
from ctr.metrics.telling import caution, told


def aligned(**slices):
    """Rows of 100 users, and a score that knows a little more than the other."""
    random = np.random.default_rng(1)
    user = np.repeat(np.arange(100), 2)
    known, hidden = random.normal(size=(2, 200))
    label = (random.random(200) < 1 / (1 + np.exp(-known - hidden))).astype(np.uint8)
    scores = tuple(1 / (1 + np.exp(-known - gain * hidden)) for gain in (0.0, 0.4))
    rows = (label, user, np.ones(200, dtype=bool), user.astype(np.uint32))
    return Aligned(*rows, scores, slices, ())


def test_a_verdict_that_one_look_allows_many_looks_do_not():
    alone = compare(aligned(), 1, ["auc"], 500, 0)
    many = compare(aligned(), 1, ["auc"], 500, 0, others=99_999)
    (one,), (of_many,) = alone.differences, many.differences
    assert (one.verdict, one.holds_for_all) == ("better", True)
    assert (of_many.verdict, of_many.holds_for_all) == ("better", False)
    assert (one.low, one.high) == (of_many.low, of_many.high)
    assert (alone.intervals, many.intervals) == (1, 100_000)
    assert "shall hold" not in told(one, alone.intervals)[0]
    line = told(of_many, many.intervals, "old", "new")[0]
    assert line.endswith("; not if all 100000 intervals shall hold")
    assert f"(old {one.a[0]:.4f}, new {one.b[0]:.4f})" in line
    assert "1 do; 0 still do" in caution(many.differences, many.intervals)


def test_the_sums_of_few_slices_are_held_at_once(monkeypatch):
    given = aligned(kind=pl.Series("kind", ["a", "b", "c", "d"] * 50))
    metrics = ["auc", "log_loss"]
    together = compare(given, 1, metrics, 2000, 0)
    held = []

    def noted(ratios, *rest):
        held.append(len(ratios))
        return bootstrap.resampled_differences(ratios, *rest)

    monkeypatch.setattr(comparison, "resampled_differences", noted)
    # Two slices of two metrics with two ratios each, of two predictions and what they share.
    monkeypatch.setattr(bootstrap, "_TOGETHER", 100 * 2 * (2 * 2 * 3))
    apart = compare(given, 1, metrics, 2000, 0)
    assert held == [4, 4, 2]
    assert apart.intervals == together.intervals == 10
    assert apart.warnings == together.warnings
    for one, other in zip(apart.differences, together.differences, strict=True):
        assert (one.metric, one.slice, one.rows) == (other.metric, other.slice, other.rows)
        assert (one.difference, one.delong_low) == (other.difference, other.delong_low)
        assert one.high - one.low == pytest.approx(other.high - other.low, rel=0.1)
