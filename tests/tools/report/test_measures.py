"""Numbers of a report against the tools that make the same ones."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import polars as pl
import pytest

from ctr.metrics.paired import Columns, read_aligned
from ctr.metrics.ties import PredictionError
from tools.report.measures import SLICE_COLUMNS, SLICED, Draws, intervals, measure, read_rows
from tools.report.runs import read_runs
from tools.score import main as score


@pytest.fixture(scope="module")
def three(runs, make_run, tmp_path_factory):
    """Runs of which only the second has a search."""
    third = make_run(tmp_path_factory.mktemp("third") / "hard", 0.3)
    return read_runs([*runs, third], "test")


@pytest.fixture(scope="module")
def measured(three):
    """What progress was told, and the measures."""
    done = []
    return done, measure(read_rows(three, common_rows=False), Draws(300, 5, done.append))


def test_metrics_and_intervals_are_those_of_score(measured, three, capsys):
    _, found = measured
    file = str(three[1].predictions)
    options = ["--unknown", "0", "--group", "user", "--resamples", "300", "--seed", "5", "--json"]
    score([file, *options, "--metrics", *SLICED, "--slice", *SLICE_COLUMNS])
    told = json.loads(capsys.readouterr().out)
    for mine, other in zip(found.slices[1].slices, told["slices"], strict=True):
        assert (mine.slice, mine.rows, mine.users) == (
            other["slice"],
            other["rows"],
            other["users"],
        )
        for name, value in other["metrics"].items():
            known = [math.nan if number is None else number for number in value.values()]
            assert list(asdict(mine.metrics[name]).values()) == pytest.approx(known, nan_ok=True)
    plain, headline = found.plain[1].as_dict(), found.headline[1].slices[0].metrics
    for name in ("auc", "log_loss", "pr_auc", "calibration"):
        assert plain[name] == pytest.approx(told[name], rel=1e-12)
    assert plain["gauc"] == pytest.approx(told["groups"]["user"]["gauc"], rel=1e-12)
    assert plain["users"] == told["groups"]["user"]["groups"]
    for name, estimate in headline.items():
        assert estimate.value == pytest.approx(plain[name], rel=1e-12)
        assert estimate.low < estimate.value < estimate.high
    assert headline["auc"].low == pytest.approx(
        told["slices"][0]["metrics"]["auc"]["low"], abs=0.01
    )


def test_progress_is_of_all_resamples(measured, three):
    done, _ = measured
    assert sum(done) == 300 * intervals(read_rows(three, common_rows=False))


def test_runs_are_compared_with_the_first_and_counted_together(measured):
    _, found = measured
    gains = [pair.differences[0].difference for pair in found.differences]
    assert gains[0] > gains[1] > 0
    parts = len(found.slices[0].slices)
    assert {pair.intervals for pair in found.differences} == {2 * 4}
    assert {pair.intervals for pair in found.slice_differences} == {2 * parts * 2}


def test_slices_are_of_the_run_that_has_most(three):
    rows = read_rows(three, common_rows=False)
    assert rows.source == 1
    frame = pl.read_parquet(three[1].predictions)
    assert rows.aligned.slices["best_similarity"].equals(frame["best_similarity"])
    own = [read_aligned([run.predictions], Columns(unknown="0")).scores[0] for run in three]
    assert all(np.array_equal(a, b) for a, b in zip(rows.aligned.scores, own, strict=True))
    assert read_rows(three[::2], common_rows=False).source == 0


def test_common_rows(three, tmp_path):
    rows = pl.read_parquet(three[2].predictions)
    rows.filter(pl.col("sample") >= 100).write_parquet(tmp_path / "few.parquet")
    few = [three[1], replace(three[2], predictions=tmp_path / "few.parquet")]
    with pytest.raises(PredictionError, match="100 keys are only in"):
        read_rows(few, common_rows=False)
    common = read_rows(few, common_rows=True)
    assert len(common.aligned.label) == 1500
    assert "100 rows are not in both" in measure(common, Draws(100, 0)).headline[0].warnings[0]
