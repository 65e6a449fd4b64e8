"""Slices of columns made by hand, and metrics of slices against their rows alone."""

import math
from itertools import chain

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from ctr.metrics import bootstrap
from ctr.metrics.differences import placements
from ctr.metrics.paired import Aligned
from ctr.metrics.slice_scores import score_slices
from ctr.metrics.slicing import doubts, slices_of


def sliced(**columns):
    """Rows of each slice by name, and the warnings."""
    warnings = []
    series = {name: pl.Series(name, values) for name, values in columns.items()}
    found = {part.name: np.flatnonzero(part.mask).tolist() for part in slices_of(series, warnings)}
    return found, warnings


def test_small_sets_are_cut_by_value():
    found, warnings = sliced(kind=["b", "a", "b"], seen=[True, False, True], stars=[3, 3, 1])
    assert found == {
        "kind = a": [1],
        "kind = b": [0, 2],
        "seen = False": [1],
        "seen = True": [0, 2],
        "stars = 1": [2],
        "stars = 3": [0, 1],
    }
    assert warnings == []


def test_zero_of_a_count_is_a_slice_of_its_own():
    counts = [0] * 60 + list(range(1, 41))
    found, _ = sliced(count=counts)
    assert found == {
        "count = 0": list(range(60)),
        "0 < count <= 10": list(range(60, 70)),
        "10 < count <= 20": list(range(70, 80)),
        "20 < count <= 30": list(range(80, 90)),
        "count > 30": list(range(90, 100)),
    }


@pytest.mark.parametrize(
    "values",
    [[-1, 0, *range(30)], [0.0, *np.arange(1, 32) / 7]],
    ids=["a whole number below 0", "no whole numbers"],
)
def test_zero_of_what_is_no_count_is_like_any_other(values):
    found, _ = sliced(x=values)
    assert len(found) == 4
    assert "x = 0" not in found
    assert sorted(chain(*found.values())) == list(range(len(values)))


def test_names_and_values_of_a_slice():
    parts = list(slices_of({"n": pl.Series([0, *range(40)]), "b": pl.Series([True] * 41)}, []))
    assert [(part.column, part.values) for part in parts] == [
        ("n", "0"),
        ("n", "> 0 to 10"),
        ("n", "> 10 to 20"),
        ("n", "> 20 to 29"),
        ("n", "> 29"),
        ("b", "True"),
    ]


def test_ranges_hold_equal_rows_but_for_ties():
    values = np.r_[np.full(500, 7.5), np.random.default_rng(0).normal(size=500)]
    found, _ = sliced(x=values)
    assert sorted(chain(*found.values())) == list(range(1000))
    sizes = [len(rows) for rows in found.values()]
    assert sizes == [250, 250, 500]


def test_what_is_in_no_slice_is_counted():
    nan = math.nan
    found, warnings = sliced(a=[1.0, nan, None, 2.0], b=[None] * 4, c=[nan] * 4)
    assert found == {"a = 1.0": [0], "a = 2.0": [3]}
    assert warnings == [
        "slice column 'a': 2 rows are empty and in no slice",
        "slice column 'b': empty in all 4 rows, so without a slice",
        "slice column 'c': empty in all 4 rows, so without a slice",
    ]
    values = [nan] * 10 + list(np.arange(40) / 3)
    found, warnings = sliced(x=values)
    assert sorted(chain(*found.values())) == list(range(10, 50))
    assert len(warnings) == 1


def test_many_texts_are_cut_to_the_most_frequent():
    found, warnings = sliced(city=[f"city {n:02d}" for n in range(25)] * 2 + ["city 24"])
    assert len(found) == 20
    assert "city = city 24" in found
    assert "25 values; only the 20 most frequent" in warnings[0]


def test_few_users_are_told_of_once():
    drawn = np.r_[np.zeros(90), np.full(10, math.nan)]
    assert doubts("x = 1", 50, {"auc": drawn}) == [
        "auc where x = 1: undefined in 10 of 100 resamples"
    ]
    assert doubts("", 49, {"auc": drawn}) == [
        "all rows: 49 users are few; the interval may be too narrow"
    ]
    undefined = {"auc": np.full(100, math.nan)}
    assert len(doubts("x = 1", 49, undefined)) == 2
    assert doubts("x = 1", 50, {"auc": np.zeros(100)}) == []


def aligned(rows=4000, users=None, seed=0):
    """Rows of as many users, or of one user each."""
    random = np.random.default_rng(seed)
    user = np.arange(rows) if users is None else random.integers(0, users, rows)
    user = np.unique(user, return_inverse=True)[1]
    known, hidden = random.normal(size=rows), random.normal(size=rows)
    label = (random.random(rows) < 1 / (1 + np.exp(1 - known - hidden))).astype(np.uint8)
    score = (1 / (1 + np.exp(1 - known))).astype(np.float32)
    columns = {
        "count": pl.Series("count", random.poisson(0.7, rows) * random.integers(1, 30, rows)),
        "kind": pl.Series("kind", random.choice(["new", "old"], rows, p=[0.1, 0.9])),
    }
    return Aligned(
        *(label, user, np.ones(rows, bool), user.astype(np.uint32), (score,), columns, ()),
    )


def test_metrics_are_those_of_the_slices_rows():
    given = aligned(users=600)
    found = score_slices(given, ["auc", "log_loss", "gauc"], 200, 0)
    masks = {part.name: part.mask for part in slices_of(given.slices, [])}
    assert [part.slice for part in found.slices] == ["", *masks]
    assert found.intervals == 3 * len(found.slices)
    for part in found.slices:
        mask = masks.get(part.slice, np.ones(len(given.label), bool))
        label, score = given.label[mask], given.scores[0][mask]
        assert part.rows == mask.sum()
        assert part.share == mask.mean()
        assert part.users == len(np.unique(given.user[mask]))
        assert part.metrics["auc"].value == pytest.approx(roc_auc_score(label, score), rel=1e-12)
        assert part.metrics["log_loss"].value == pytest.approx(log_loss(label, score), rel=1e-6)
        for of_metric in part.metrics.values():
            assert of_metric.low < of_metric.value < of_metric.high


def test_intervals_are_as_wide_as_those_of_independent_rows():
    """One row a user: the error of a mean, and of an AUC as DeLong has it."""
    given = aligned()
    found = score_slices(given, ["auc", "log_loss"], 4000, 0)
    for part in found.slices[:3]:
        mask = next(
            (some.mask for some in slices_of(given.slices, []) if some.name == part.slice),
            np.ones(len(given.label), bool),
        )
        label, score = given.label[mask], given.scores[0][mask].astype(np.float64)
        loss = -np.where(label == 1, np.log(score), np.log1p(-score))
        error = {
            "log_loss": loss.std(ddof=1) / math.sqrt(len(loss)),
            "auc": math.sqrt(sum(p.var(ddof=1) / len(p) for p in placements(label, score))),
        }
        for metric, of_metric in part.metrics.items():
            width = of_metric.high - of_metric.low
            assert width == pytest.approx(2 * 1.96 * error[metric], rel=0.08), part.slice


def test_it_does_not_show_how_many_slices_are_resampled_together(monkeypatch):
    given = aligned(rows=1000, users=200)
    together = score_slices(given, ["auc"], 2000, 0).slices
    monkeypatch.setattr(bootstrap, "_TOGETHER", 1)
    for one, other in zip(score_slices(given, ["auc"], 2000, 0).slices, together, strict=True):
        assert (one.slice, one.rows, one.users) == (other.slice, other.rows, other.users)
        found, expected = one.metrics["auc"], other.metrics["auc"]
        assert found.value == expected.value
        assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.1)


def test_an_interval_of_an_auc_stays_within_what_an_auc_can_be():
    """Two users and nearly perfect scores: the linear part of a resample passes 1."""
    label = np.array([1, 0, 0, 0, 1, 0, 0, 0, 1, 1], dtype=np.uint8)
    score = np.array([9, 1, 1, 1, 9, 1, 8, 1, 9, 7], dtype=np.float32) / 10
    user = np.arange(10) % 5
    given = Aligned(label, user, np.ones(10, bool), user.astype(np.uint32), (score,), {}, ())
    (everything,) = score_slices(given, ["auc"], 2000, 0).slices
    assert everything.metrics["auc"].high == 1.0
