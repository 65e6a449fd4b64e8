"""Curves of few points that leave nothing out."""

import numpy as np
import pytest

from tools.report import training
from tools.report.runs import read_runs


def test_few_rows_are_drawn_as_they_are():
    x, y = np.arange(5.0), np.array([1.0, 3.0, 2.0, np.nan, 0.0])
    curve = training.thin(x, y, 5)
    assert curve.rows == 1
    assert np.array_equal(curve.y, y, equal_nan=True)
    assert np.array_equal(curve.low, curve.high, equal_nan=True)
    assert len(training.thin(np.zeros(0), np.zeros(0)).x) == 0


def test_many_rows_become_means_with_their_range():
    y = np.random.default_rng(0).normal(size=1003)
    y[17] = 50.0
    curve = training.thin(np.arange(1003.0), y, 100)
    assert curve.rows == 11
    assert len(curve.y) == 92
    counts = np.full(92, 11)
    counts[-1] = 1003 - 91 * 11
    assert curve.y @ counts == pytest.approx(y.sum())
    assert curve.x @ counts == pytest.approx(np.arange(1003).sum())
    # A jump of one row is still to be seen.
    assert curve.high.max() == 50.0
    assert curve.low[3] == y[33:44].min()
    y[40] = np.nan
    assert np.isnan(training.thin(np.arange(1003.0), y, 100).y[3])


def test_what_the_log_holds_is_drawn(runs):
    found = {sketch.name: sketch for sketch in training.sketches(read_runs(runs, "test"))}
    assert list(found) == [
        "loss",
        "speed",
        *(f"validation_{m}" for m in ("auc", "gauc", "log_loss")),
    ]
    assert "Gaps are values that are no number (din: 1 points; muse: 1 points)" in (
        found["loss"].caption
    )
    assert "Gaps" not in found["speed"].caption
    curves = found["validation_auc"].draw.keywords["curves"]
    assert [label for _, label, _ in curves] == ["din", "muse"]
    # Samples trained on by then, not those of the validation split.
    assert curves[1][2].x.tolist() == [2000.0, 4000.0]
    assert curves[1][2].y == pytest.approx([0.67, 0.67])


def test_thinning_is_told(runs, monkeypatch):
    monkeypatch.setattr(training.thin, "__defaults__", (15,))
    loss = training.sketches(read_runs(runs, "test"))[0]
    assert "means of neighbouring rows (din: 3 rows a point; muse: 3 rows a point)" in loss.caption
