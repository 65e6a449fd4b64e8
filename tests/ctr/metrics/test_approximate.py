"""The shortcuts of public code, as that code computes them."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ctr.metrics.approximate import batch_gauc, binned_auc
from ctr.metrics.arrays import gauc
from ctr.metrics.ties import score_keys


def rows(dtype=np.float32):
    random = np.random.default_rng(0)
    label = (random.random(3000) < 0.1).astype(np.uint8)
    score = (0.02 * random.random(3000) + 0.01 * label * random.random(3000)).astype(dtype)
    return label, score, random.integers(0, 40, 3000).astype(np.uint32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binned_auc_is_the_area_between_thresholds(dtype):
    label, score, _ = rows(dtype)
    edges = np.linspace(0, 1, 200)
    edges[0], edges[-1] = -1e-7, 1 + 1e-7
    hit = [(score[label == 1] > edge).mean() for edge in edges]
    alarm = [(score[label == 0] > edge).mean() for edge in edges]
    found = binned_auc(score_keys(label, score))
    assert found == pytest.approx(-np.trapezoid(hit, alarm), rel=1e-9)
    assert abs(found - roc_auc_score(label, score)) > 0.001


def test_batch_gauc_ends_groups_with_their_batch():
    label, score, group = rows()
    keys = score_keys(label, score)
    total = weight = 0.0
    for begin in range(0, 3000, 256):
        batch = slice(begin, begin + 256)
        value, coverage = gauc(label[batch], score[batch], group[batch])
        counted = coverage * len(label[batch])
        total, weight = total + value * counted, weight + counted
    expected = pytest.approx((total / weight, weight / 3000), rel=1e-12)
    assert batch_gauc(keys, group, 256) == expected
    assert batch_gauc(keys, group, 3000) == pytest.approx(gauc(label, score, group), rel=1e-12)
    known = group != 7
    without = batch_gauc(keys, group, 3000, unknown=7)
    value, coverage = gauc(label[known], score[known], group[known])
    assert without == pytest.approx((value, coverage * known.mean()), rel=1e-12)
