"""Bins of calibration, and the axis of scores."""

import numpy as np
import pytest

from ctr.metrics.arrays import evaluate_predictions
from ctr.metrics.paired import Columns, read_aligned
from tools.report import scores


@pytest.mark.parametrize("decimals", [1, 2, 8])
def test_bins_are_those_of_the_calibration_error(decimals):
    random = np.random.default_rng(3)
    score = random.beta(1, 5, 3000).round(decimals)
    label = (random.random(3000) < score).astype(np.uint8)
    bins = scores.equal_row_bins(score)
    gaps = [abs((score[bins == b] - label[bins == b]).sum()) for b in np.unique(bins)]
    found = evaluate_predictions(label, score, np.ones(3000, dtype=np.int64))
    assert sum(gaps) / 3000 == pytest.approx(found.ece_equal_rows, rel=1e-12)


def test_calibration_of_a_run(runs):
    aligned = read_aligned([run / "predictions_test.parquet" for run in runs], Columns())
    done = []
    plain, better = scores.calibrations(aligned, 400, 0, done.append)
    assert sum(done) == 2 * 15 * 400
    assert plain.rows.sum() == better.rows.sum() == 1600
    assert plain.rows @ plain.clicked == pytest.approx(aligned.label.sum())
    assert plain.rows @ plain.predicted == pytest.approx(aligned.scores[0].sum(), rel=1e-6)
    assert (np.diff(plain.predicted) < 0).all()
    inside = (plain.low <= plain.clicked) & (plain.clicked <= plain.high)
    assert inside.all()
    # 107 rows of a bin, nearly each of another user: as wide as of independent rows.
    error = np.sqrt(plain.clicked * (1 - plain.clicked) / plain.rows)
    assert np.median((plain.high - plain.low) / (2 * 1.96 * error)) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (1e-4, 0.6, [0.001, 0.01, 0.1, 0.5]),
        (0.003, 0.28, [0.005, 0.01, 0.02, 0.05, 0.1, 0.2]),
        (0.41, 0.47, [0.425, 0.440, 0.455]),
    ],
)
def test_ticks_are_round_where_they_can_be(low, high, shown):
    odds = [np.log(p / (1 - p)) for p in (low, high)]
    assert scores._ticks(*odds) == pytest.approx(shown, abs=1e-3)


def test_scores_at_the_ends_have_a_place():
    odds = scores._log_odds(np.array([0.0, 0.5, 1.0], dtype=np.float32))
    assert odds.tolist() == [-16.0, 0.0, 16.0]
