"""Metrics from sorted keys against scikit-learn and slow loops, in small blocks and parts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from ctr.metrics.grouped import group_metrics
from ctr.metrics.ties import PredictionError, score_keys, scores_of, tie_blocks
from ctr.metrics.whole import whole_metrics

CHECKED = settings(deadline=None, max_examples=60)
EXACT = {"rel": 1e-12, "abs": 1e-12, "nan_ok": True}
TIED = st.sampled_from([-0.0, 0.0, 1e-40, 0.1, 0.25, 0.5, 0.75, 1.0])
FLOATS = st.sampled_from([np.float32, np.float64])


@st.composite
def predictions(draw):
    """Labels, scores and groups of at least one row."""
    row = st.tuples(
        st.integers(0, 1), TIED | st.floats(0, 1), st.sampled_from([0, 1, 7, 2**32 - 1])
    )
    label, score, group = zip(*draw(st.lists(row, min_size=1, max_size=60)), strict=True)
    return (
        np.array(label, dtype=np.uint8),
        np.array(score, dtype=draw(FLOATS)),
        np.array(group, dtype=np.uint32),
    )


def ece(label, score, place):
    """Expected calibration error, bin by bin."""
    score = score.astype(np.float64)
    bins = (place == b for b in np.unique(place))
    return sum(abs(score[b].sum() - label[b].sum()) for b in bins) / len(label)


def hit_rate(label, score, k):
    """Probability of a click among the k best, over all orders of the ties at the edge."""
    edge = np.sort(score)[::-1][min(k, len(score)) - 1]
    above, tied = score > edge, score == edge
    if label[above].any():
        return 1.0
    places, others = min(k, len(score)) - int(above.sum()), int((label[tied] == 0).sum())
    return 1.0 - math.comb(others, places) / math.comb(int(tied.sum()), places)


def one_ndcg(label, score, k):
    return ndcg_score([label], [score], k=k) if len(label) > 1 else 1.0


@CHECKED
@given(predictions(), st.integers(1, 9))
def test_metrics_of_all_rows(made, block_rows):
    label, score, _ = made
    found = whole_metrics(np.sort(score_keys(label, score)), 4, block_rows)
    both = len(set(label.tolist())) == 2
    wide = score.astype(np.float64)
    clipped = np.clip(wide, 1e-15, 1 - 1e-15)
    loss = sklearn_log_loss(label, clipped, labels=[0, 1])
    assert found.rows == len(label)
    assert found.clicks == label.sum()
    assert found.predicted_ctr == pytest.approx(wide.mean(), **EXACT)
    assert found.auc == pytest.approx(roc_auc_score(label, score) if both else math.nan, **EXACT)
    precision = average_precision_score(label, score) if label.any() else math.nan
    assert found.pr_auc == pytest.approx(precision, **EXACT)
    assert found.log_loss == pytest.approx(loss, **EXACT)
    # Computed from the ends of the bins rather than from a product.
    width = np.searchsorted([0.25, 0.5, 0.75], wide, "right")
    assert found.ece == pytest.approx(ece(label, score, width), **EXACT)
    above = np.array([(wide > value).sum() for value in wide])
    rows = above * 4 // len(label)
    assert found.ece_equal_rows == pytest.approx(ece(label, score, rows), **EXACT)


@CHECKED
@given(predictions(), st.integers(1, 9), st.integers(1, 40), st.integers(1, 4))
def test_metrics_inside_groups(made, block_rows, part_rows, k):
    label, score, group = made
    found = group_metrics(
        score_keys(label, score), group, 0, [k, 50], part_rows=part_rows, block_rows=block_rows
    )
    own = [(label[group == g], score[group == g]) for g in np.unique(group) if g != 0]
    clicked = [(y, s) for y, s in own if y.any()]
    two = [(y, s) for y, s in clicked if not y.all()]
    aucs, rows = [roc_auc_score(y, s) for y, s in two], [len(y) for y, _ in two]
    assert (found.groups, found.one_class_groups) == (len(own), len(own) - len(two))
    assert found.coverage == pytest.approx(sum(rows) / len(label), **EXACT)
    weighted = np.average(aucs, weights=rows) if two else math.nan
    assert found.gauc == pytest.approx(weighted, **EXACT)
    assert found.gauc_unweighted == pytest.approx(np.mean(aucs) if two else math.nan, **EXACT)
    assert found.clicked_groups == len(clicked)
    for at in (k, 50):
        ndcg = np.mean([one_ndcg(y, s, at) for y, s in clicked]) if clicked else math.nan
        hits = np.mean([hit_rate(y, s, at) for y, s in clicked]) if clicked else math.nan
        assert found.ndcg[at] == pytest.approx(ndcg, **EXACT)
        assert found.hit_rate[at] == pytest.approx(hits, **EXACT)


def test_a_group_longer_than_several_blocks():
    random = np.random.default_rng(0)
    label = (random.random(40) < 0.3).astype(np.uint8)
    score = random.random(40).astype(np.float32)
    group = np.ones(40, dtype=np.uint32)
    found = group_metrics(score_keys(label, score), group, ks=[1, 3], block_rows=5)
    assert found.gauc == pytest.approx(roc_auc_score(label, score), **EXACT)
    for k in (1, 3):
        assert found.ndcg[k] == pytest.approx(one_ndcg(label, score, k), **EXACT)
        assert found.hit_rate[k] == hit_rate(label, score, k)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_rows_in_many_parts(dtype):
    random = np.random.default_rng(0)
    label = (random.random(30_000) < 0.1).astype(np.uint8)
    score = random.random(30_000).round(3).astype(dtype)
    group = random.integers(0, 3000, 30_000).astype(np.uint32)
    keys = score_keys(label, score)
    whole = whole_metrics(np.sort(keys), block_rows=1000)
    assert whole.auc == pytest.approx(roc_auc_score(label, score), **EXACT)
    assert whole.pr_auc == pytest.approx(average_precision_score(label, score), **EXACT)
    assert whole.ece == pytest.approx(ece(label, score, (score * 15).astype(int)), **EXACT)
    at_once = group_metrics(keys, group, ks=[3])
    in_parts = group_metrics(keys, group, ks=[3], part_rows=1000, block_rows=700)
    for name in ("gauc", "gauc_unweighted", "coverage"):
        assert getattr(in_parts, name) == pytest.approx(getattr(at_once, name), **EXACT)
    assert in_parts.ndcg[3] == pytest.approx(at_once.ndcg[3], **EXACT)


@CHECKED
@given(st.lists(TIED | st.floats(0, 1, width=32), min_size=1), FLOATS)
def test_a_key_keeps_its_score(values, dtype):
    score = np.array(values, dtype=dtype)
    keys = score_keys(np.zeros(len(score)), score)
    assert scores_of(keys >> keys.dtype.type(1)).tolist() == score.astype(np.float64).tolist()
    assert np.array_equal(np.argsort(keys, kind="stable"), np.argsort(-score, kind="stable"))


def test_a_tie_longer_than_a_block_is_counted_at_once():
    label = np.arange(1000) % 5 == 0
    keys = np.sort(score_keys(label, np.full(1000, 0.5, dtype=np.float32)))
    (ties,) = tie_blocks(keys, block_rows=10)
    assert (ties.clicks.tolist(), ties.others.tolist()) == ([200], [800])
    assert whole_metrics(keys, block_rows=10).auc == 0.5


def test_no_rows():
    none = np.zeros(0, dtype=np.float32)
    assert math.isnan(whole_metrics(score_keys(none, none)).auc)
    found = group_metrics(score_keys(none, none), none.astype(np.uint32), ks=[1])
    assert (found.groups, found.coverage) == (0, 0.0)
    assert math.isnan(found.ndcg[1])


def test_k_of_0():
    with pytest.raises(PredictionError, match="k: 0 given"):
        group_metrics(np.zeros(1, dtype=np.uint32), np.zeros(1, dtype=np.uint32), ks=[0])
