"""Differences under resampling against brute force: rows copied, metrics computed anew."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from ctr.metrics import bootstrap
from ctr.metrics.bootstrap import (
    add_seed_spread,
    interval,
    joint_interval,
    poisson_table,
    resampled_differences,
    resampled_sums,
    units_of,
)
from ctr.metrics.differences import PairedRows, check_metric, delong, metric_ratios, placements
from ctr.metrics.ties import PredictionError

METRICS = ("auc", "gauc", "gauc_unweighted", "log_loss", "pr_auc", "ndcg@2", "hit_rate@1")


def world(seed, users=120, rows=1500, gain=0.3):
    """Rows of users who click at different rates, and two models that know that."""
    random = np.random.default_rng(seed)
    user = np.concatenate([np.arange(users), random.integers(0, users, rows - users)])
    taste, known, hidden = (random.normal(size=n) for n in (users, rows, rows))
    logit = -1.0 + taste[user] + known + hidden
    label = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.uint8)
    a, b = -1 + taste[user] + known, -1 + taste[user] + known + gain * hidden
    scores = tuple((1 / (1 + np.exp(-s))).round(3) for s in (a, b))
    return PairedRows(label, user, user.astype(np.uint32), np.ones(rows, bool), scores, users)


def by_hand(metric, label, score, user):
    """A metric of rows, in loops."""
    if metric == "auc":
        return roc_auc_score(label, score)
    if metric == "pr_auc":
        return average_precision_score(label, score)
    if metric == "log_loss":
        return sklearn_log_loss(label, score)
    values, weights = [], []
    for u in np.unique(user):
        y, s = label[user == u], score[user == u]
        if metric.startswith("gauc") and 0 < y.sum() < len(y):
            values.append(roc_auc_score(y, s))
            weights.append(len(y) if metric == "gauc" else 1)
        elif metric == "ndcg@2" and y.any():
            values.append(ndcg_score([y], [s], k=2) if len(y) > 1 else 1.0)
            weights.append(1)
        elif metric == "hit_rate@1" and y.any():
            values.append(y[s == s.max()].mean())
            weights.append(1)
    return np.average(values, weights=weights)


@pytest.mark.parametrize("metric", METRICS)
def test_ratios_are_the_metric(metric):
    rows = world(0)
    for ratio in metric_ratios([metric], rows)[metric]:
        expected = [by_hand(metric, rows.label, score, rows.unit) for score in rows.scores]
        assert ratio.values() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_intervals_are_those_of_a_bootstrap_that_copies_rows(metric):
    rows = world(1, users=80, rows=800)
    in_a = np.array([True, False])
    ratios = metric_ratios([metric], rows)[metric]
    (drawn,) = resampled_differences([ratios], in_a, 4000, seed=0)
    random, slow = np.random.default_rng(5), []
    own = [np.flatnonzero(rows.unit == u) for u in range(rows.units)]
    for _ in range(400):
        # A user drawn twice is two users.
        users = random.integers(0, rows.units, rows.units)
        copy = np.concatenate([own[u] for u in users])
        number = np.repeat(np.arange(rows.units), [len(own[u]) for u in users])
        scores = tuple(score[copy] for score in rows.scores)
        group = number.astype(np.uint32)
        known = np.ones(len(copy), bool)
        copied = PairedRows(rows.label[copy], number, group, known, scores, rows.units)
        slow.append(np.diff(metric_ratios([metric], copied)[metric][0].values())[0])
    # The spread of 400 resamples is known to 3.5%.
    assert drawn.std() == pytest.approx(np.std(slow), rel=0.12)
    assert drawn.mean() == pytest.approx(np.mean(slow), abs=0.3 * np.std(slow))


def test_linear_auc_is_close_to_the_exact_one_draw_by_draw():
    """Weights drawn once; the exact AUC counts every pair with the product of its weights."""
    rows = world(2, users=300, rows=3000)
    ratios = metric_ratios(["auc"], rows)["auc"]
    random = np.random.default_rng(0)
    exact, linear = [], []
    value = np.diff(ratios[0].values())[0]
    for _ in range(200):
        weight = random.poisson(1, rows.units)
        a, b = (roc_auc_score(rows.label, s, sample_weight=weight[rows.unit]) for s in rows.scores)
        exact.append(b - a)
        parts = [(r.x_MU @ weight) / (r.y_U @ weight) for r in ratios]
        linear.append(sum(np.diff(part)[0] for part in parts) - value)
    error = np.std(np.array(exact) - linear)
    assert error < 0.15 * np.std(exact)
    assert abs(np.mean(np.array(exact) - linear)) < 0.05 * np.std(exact)


def test_linear_average_precision_is_close_to_the_exact_one_draw_by_draw():
    rows = world(2, users=300, rows=3000)
    (ratio,) = metric_ratios(["pr_auc"], rows)["pr_auc"]
    random = np.random.default_rng(0)
    exact, linear = [], []
    for _ in range(200):
        weight = random.poisson(1, rows.units)
        of_row = weight[rows.unit]
        a, b = (average_precision_score(rows.label, s, sample_weight=of_row) for s in rows.scores)
        exact.append((a, b))
        linear.append((ratio.x_MU @ weight) / (ratio.y_U @ weight))
    left = np.array(exact) - np.array(linear)
    assert (left.std(axis=0) < 0.15 * np.std(exact, axis=0)).all()
    assert np.diff(left).std() < 0.15 * np.diff(exact).std()


def test_calibration_is_a_ratio_too():
    rows = world(0)
    (ratio,) = metric_ratios(["calibration"], rows)["calibration"]
    expected = [score.mean() / rows.label.mean() for score in rows.scores]
    assert ratio.values() == pytest.approx(expected, rel=1e-12)


def test_progress_is_told_of_all():
    ratios = list(metric_ratios(("auc", "gauc"), world(0)).values())
    done = []
    drawn = resampled_differences(ratios, np.array([True, False]), 300, 0, done.append)
    assert (len(done), sum(done)) == (3, 2 * 300)
    silent = resampled_differences(ratios, np.array([True, False]), 300, 0)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, silent, strict=True))


def test_intervals_hold_the_truth_as_often_as_they_say():
    truth = np.mean(
        [
            np.diff(metric_ratios(["auc"], world(s, 400, 20_000))["auc"][0].values())
            for s in range(900, 910)
        ]
    )
    held = 0
    for seed in range(150):
        ratios = metric_ratios(["auc"], world(seed))["auc"]
        (drawn,) = resampled_differences([ratios], np.array([True, False]), 500, seed)
        low, high = interval(drawn)
        held += low <= truth <= high
    assert 0.89 <= held / 150 <= 0.99


def test_weights_are_poisson_and_repeatable():
    table = poisson_table()
    assert table.mean() == pytest.approx(1, abs=1e-4)
    assert table.var() == pytest.approx(1, abs=1e-3)
    columns = np.random.default_rng(0).random((5000, 2))
    sums = resampled_sums(columns, 300, seed=1)
    assert np.array_equal(sums, resampled_sums(columns, 300, seed=1))
    assert not np.array_equal(sums, resampled_sums(columns, 300, seed=2))
    assert len(np.unique(sums[:, 0])) == 300
    assert sums.mean(axis=0) == pytest.approx(columns.sum(axis=0), rel=0.01)
    assert sums.var(axis=0) == pytest.approx((columns**2).sum(axis=0), rel=0.3)


def test_bags_of_users_spread_as_much_as_users():
    rows = world(3, users=2000, rows=8000)
    users, number = units_of(rows.unit, seed=0)
    assert (number, users is rows.unit) == (2000, True)
    bags, number = units_of(rows.unit, seed=0, most=500)
    assert number == 500
    assert all(len(np.unique(bags[rows.unit == u])) == 1 for u in range(50))
    in_bags = PairedRows(rows.label, bags, rows.group, rows.grouped, rows.scores, 500)
    spread = [
        resampled_differences(
            list(metric_ratios(METRICS, r).values()), np.array([True, False]), 2000, 0
        )
        for r in (rows, in_bags)
    ]
    for by_user, by_bag in zip(*spread, strict=True):
        assert by_bag.std() == pytest.approx(by_user.std(), rel=0.15)


def slow_delong(label, a, b):
    """DeLong's variance from all pairs."""
    clicks, others = np.flatnonzero(label), np.flatnonzero(label == 0)
    wins = [
        (s[clicks][:, None] > s[others]) + 0.5 * (s[clicks][:, None] == s[others]) for s in (a, b)
    ]
    rows, columns = ((wins[1] - wins[0]).mean(axis=axis) for axis in (1, 0))
    error = math.sqrt(rows.var(ddof=1) / len(rows) + columns.var(ddof=1) / len(columns))
    return rows.mean(), error


@pytest.mark.parametrize("seed", range(3))
def test_delong_is_that_of_all_pairs(seed):
    rows = world(seed, rows=400)
    found = delong(rows.label, rows.scores[:1], rows.scores[1:])
    assert found == pytest.approx(slow_delong(rows.label, *rows.scores), rel=1e-10)


def test_placements_average_to_the_auc_and_one_class_has_no_delong():
    rows = world(0)
    for part in placements(rows.label, rows.scores[0]):
        assert part.mean() == pytest.approx(roc_auc_score(rows.label, rows.scores[0]), rel=1e-12)
    ones = np.ones(5, dtype=np.uint8)
    assert math.isnan(delong(ones, [np.arange(5)], [np.arange(5)])[1])


def test_seeds_widen_the_interval_as_students_t_says():
    none = np.zeros(200_000)
    a, b = np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.5, 0.6])
    # s = 0.1, its error 0.1 sqrt(2 / 3), and t of 4 degrees of freedom reaches 2.776.
    reach = 2.776 * 0.1 * math.sqrt(2 / 3)
    assert interval(add_seed_spread(none, a, b, 0)) == pytest.approx((-reach, reach), rel=0.03)
    assert add_seed_spread(none, a[:1], b[:1], 0) is none


def test_joint_intervals_are_wider():
    drawn = np.random.default_rng(0).normal(0.5, 0.1, 1000)
    one = np.array([0.5])
    low, high = joint_interval(0.5, drawn, one, one, 100, 0)
    # A normal curve has 0.05 / 200 beyond 3.48 standard deviations.
    assert (low, high) == pytest.approx((0.5 - 0.348, 0.5 + 0.348), abs=0.03)


def test_undefined_metrics_are_nan():
    rows = world(0)
    one_class = rows.where(rows.label == 0)
    metrics = metric_ratios(METRICS, one_class)
    drawn = resampled_differences(list(metrics.values()), np.array([True, False]), 100, 0)
    for metric, draws in zip(METRICS, drawn, strict=True):
        assert math.isnan(interval(draws)[0]) == (metric != "log_loss"), metric
    assert resampled_differences([], np.array([True, False]), 100, 0) == []


@pytest.mark.parametrize("name", ["AUC", "ndcg", "ndcg@0", "ndcg@-1", "accuracy"])
def test_unknown_metrics(name):
    with pytest.raises(PredictionError, match="known are auc, gauc"):
        check_metric(name)


def test_blocks_do_not_show(monkeypatch):
    columns = np.random.default_rng(0).random((100, 3))
    expected = resampled_sums(columns, 10, 0).mean()
    monkeypatch.setattr(bootstrap, "_BLOCK_UNITS", 7)
    assert resampled_sums(columns, 10, 0).mean() == pytest.approx(expected, rel=0.1)
