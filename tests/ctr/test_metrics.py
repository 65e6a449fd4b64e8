"""Metrics against scikit-learn, for any labels, ties, orders and groups."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from ctr.metrics import auc, evaluate_predictions, gauc, log_loss, normalised_entropy

# scikit-learn's first call, and each call on a busy machine, outlast hypothesis' deadline.
CHECKED = settings(deadline=None, max_examples=60)

EXACT = {"rel": 1e-12, "abs": 1e-12}
# Few distinct values make ties; the ends of the interval are probabilities too.
TIED = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
FREE = st.floats(0.0, 1.0)
GROUPS = st.integers(0, 5)


@st.composite
def predictions(draw, least=1):
    """Labels, scores (tied or free, float32 or float64) and groups, in any order."""
    rows = draw(st.lists(st.tuples(st.integers(0, 1), TIED | FREE, GROUPS), min_size=least))
    label, score, group = zip(*rows, strict=True) if rows else ((), (), ())
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return (
        np.array(label, dtype=np.uint8),
        np.array(score, dtype=dtype),
        np.array(group, dtype=np.int32),
    )


def clipped(score):
    return np.clip(score.astype(np.float64), 1e-15, 1 - 1e-15)


def gauc_by_loop(label, score, group):
    """GAUC and coverage, one scikit-learn call a user."""
    total = weight = 0.0
    for user in np.unique(group):
        rows = group == user
        if len(np.unique(label[rows])) == 2:
            total += rows.sum() * roc_auc_score(label[rows], score[rows])
            weight += rows.sum()
    return (total / weight if weight else math.nan), weight / len(label)


@CHECKED
@given(predictions())
def test_auc_is_that_of_scikit_learn(made):
    label, score, _ = made
    if len(np.unique(label)) == 1:
        assert math.isnan(auc(label, score))
    else:
        assert auc(label, score) == pytest.approx(roc_auc_score(label, score), **EXACT)


@CHECKED
@given(predictions())
def test_log_loss_is_that_of_scikit_learn(made):
    label, score, _ = made
    expected = sklearn_log_loss(label, clipped(score), labels=[0, 1])
    assert log_loss(label, score) == pytest.approx(expected, **EXACT)


@CHECKED
@given(predictions())
def test_gauc_is_the_loop_over_users(made):
    expected, coverage = gauc_by_loop(*made)
    assert gauc(*made) == (
        pytest.approx(expected, **EXACT, nan_ok=True),
        pytest.approx(coverage, **EXACT),
    )


@CHECKED
@given(predictions())
def test_normalised_entropy_divides_by_the_entropy_of_the_mean(made):
    label, score, _ = made
    if len(np.unique(label)) == 1:
        assert math.isnan(normalised_entropy(label, score))
    else:
        base = sklearn_log_loss(label, np.full(len(label), label.mean()))
        expected = sklearn_log_loss(label, clipped(score)) / base
        assert normalised_entropy(label, score) == pytest.approx(expected, **EXACT)


@CHECKED
@given(predictions())
def test_all_metrics_together(made):
    label, score, group = made
    known = group != 0
    found = evaluate_predictions(label, score, group)
    assert found.samples == len(label)
    assert found.users == len(set(group.tolist()) - {0})
    assert found.ctr == pytest.approx(label.mean(), **EXACT)
    assert found.auc == pytest.approx(auc(label, score), **EXACT, nan_ok=True)
    assert found.log_loss == pytest.approx(log_loss(label, score), **EXACT)
    if known.any():
        expected, coverage = gauc_by_loop(label[known], score[known], group[known])
        assert found.gauc == pytest.approx(expected, **EXACT, nan_ok=True)
        assert found.gauc_coverage == pytest.approx(coverage * known.mean(), **EXACT)
    else:
        assert math.isnan(found.gauc)
        assert found.gauc_coverage == 0
    if label.any():
        expected = score.astype(np.float64).mean() / label.mean()
        assert found.calibration == pytest.approx(expected, **EXACT)
    else:
        assert math.isnan(found.calibration)


@CHECKED
@given(predictions(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(made, random):
    order = np.array(random.sample(range(len(made[0])), len(made[0])))
    before = evaluate_predictions(*made).as_dict()
    after = evaluate_predictions(*(column[order] for column in made)).as_dict()
    assert after == pytest.approx(before, **EXACT, nan_ok=True)


@pytest.mark.parametrize("seed", range(3))
def test_many_rows_of_many_users(seed):
    random = np.random.default_rng(seed)
    label = (random.random(3000) < 0.2).astype(np.uint8)
    score = random.random(3000).round(2).astype(np.float32)
    group = random.integers(1, 400, 3000)
    assert auc(label, score) == pytest.approx(roc_auc_score(label, score), **EXACT)
    assert gauc(label, score, group) == pytest.approx(gauc_by_loop(label, score, group), **EXACT)


def test_users_weigh_by_their_rows():
    # User 7: AUC 1 over 2 rows; user 8: AUC 0 over 3 rows; user 9: one class, left out.
    label = np.array([1, 0, 0, 1, 0, 1])
    score = np.array([0.9, 0.1, 0.5, 0.2, 0.5, 0.3])
    group = np.array([7, 7, 8, 8, 8, 9])
    assert gauc(label, score, group) == (pytest.approx(2 / 5), pytest.approx(5 / 6))


def test_the_unknown_user_is_no_user():
    label, score = np.array([0, 1, 0, 1]), np.array([0.9, 0.1, 0.2, 0.8])
    found = evaluate_predictions(label, score, np.array([0, 0, 4, 4]))
    assert (found.gauc, found.gauc_coverage, found.users) == (1.0, 0.5, 1)
    assert found.auc == 0.25


def test_certain_and_wrong_costs_a_finite_loss():
    assert log_loss(np.array([1]), np.array([0.0])) == pytest.approx(-math.log(1e-15), **EXACT)
    # 1 - 1e-15 is not a double: its nearest neighbour leaves a little less than 1e-15.
    assert log_loss(np.array([0]), np.array([1.0])) == pytest.approx(-math.log(1e-15), rel=1e-3)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_labels_of_any_dtype(dtype):
    label = np.arange(1000) % 3 == 0
    score, group = np.linspace(0, 1, 1000), np.arange(1000) % 7
    expected = evaluate_predictions(label.astype(np.float64), score, group).as_dict()
    found = evaluate_predictions(label.astype(dtype), score, group).as_dict()
    assert found == pytest.approx(expected, **EXACT)


def test_no_rows_are_no_error():
    nothing = np.array([])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate_predictions(nothing, nothing, nothing)
        alone = auc(nothing, nothing), log_loss(nothing, nothing), gauc(nothing, nothing, nothing)
    assert (found.samples, found.users, found.gauc_coverage) == (0, 0, 0.0)
    assert math.isnan(found.auc)
    assert math.isnan(found.calibration)
    assert math.isnan(alone[0])
    assert math.isnan(alone[1])
    assert math.isnan(alone[2][0])


@pytest.mark.parametrize("bad", [math.nan, -1e-9, 1.0000001, math.inf, -math.inf])
def test_a_score_that_is_no_probability(bad):
    with pytest.raises(ValueError, match="score: row 2 is"):
        evaluate_predictions(np.array([0, 1, 1]), np.array([0.0, 1.0, bad]), np.array([1, 1, 1]))


@pytest.mark.parametrize("bad", [2, -1, 0.5, math.nan])
def test_a_label_that_is_neither_0_nor_1(bad):
    with pytest.raises(ValueError, match="label: values other than 0 and 1"):
        evaluate_predictions(np.array([0, 1, bad]), np.array([0.1, 0.2, 0.3]), np.array([1, 1, 1]))


@pytest.mark.parametrize("lengths", [(2, 3, 3), (3, 2, 3), (3, 3, 2), (3, 3, 0)])
def test_columns_of_different_lengths(lengths):
    labels, scores, groups = lengths
    with pytest.raises(ValueError, match=f"{labels} labels, {scores} scores and {groups} groups"):
        evaluate_predictions(np.zeros(labels), np.full(scores, 0.5), np.ones(groups))
