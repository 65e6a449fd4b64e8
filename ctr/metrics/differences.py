"""Metrics of several predictions of the same rows, as ratios of sums over users.

A bootstrap over users draws weights w of users and asks for the metric of the weighted rows. Every
metric here is `sum_u w_u x_u / sum_u w_u y_u`, where only x depends on the predictions, so the rows
need not be looked at again. AUC is no such ratio but a sum over pairs of rows of two users; its
linear part in w (Hajek's projection) is one: each click's share of the non-clicks it outscores, and
each non-click's share of the clicks that outscore it (DeLong's placements), summed by user.
Average precision is no such ratio either, and has a linear part in the same way.

Shape legend: S rows, M predictions, G groups, U units of resampling (users, or bags of them).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctr.metrics.group_ties import GroupSums, group_blocks
from ctr.metrics.grouped import KEY_BITS, sorted_rows
from ctr.metrics.ties import Array, PredictionError, score_keys

METRICS = ("auc", "gauc", "gauc_unweighted", "log_loss", "pr_auc")
_AT_K = re.compile(r"(ndcg|hit_rate)@([1-9]\d*)")
_TINY = 1e-15


@dataclass(frozen=True)
class PairedRows:
    """Rows that several predictions are for.

    Attributes:
        label: uint8 [S].
        unit: int64 [S], what is resampled, 0 to `units` - 1.
        group: uint32 [S], what GAUC, NDCG and hit rate look into; each within one unit.
        grouped: bool [S], false where the group is unknown.
        scores: float [S] each, M of them.
        units: number of units.
    """

    label: Array
    unit: Array
    group: Array
    grouped: Array
    scores: tuple[Array, ...]
    units: int

    def where(self, rows: Array) -> PairedRows:
        """The rows of a mask [S]; units keep their numbers."""
        return PairedRows(
            self.label[rows],
            self.unit[rows],
            self.group[rows],
            self.grouped[rows],
            tuple(score[rows] for score in self.scores),
            self.units,
        )


@dataclass(frozen=True)
class Ratio:
    """A ratio of sums over units, for each prediction.

    Attributes:
        x_MU: float64 [M, U]; y_U: float64 [U].
    """

    x_MU: Array
    y_U: Array

    def values(self) -> Array:
        """The ratio of each prediction, float64 [M]; NaN where it is not defined."""
        total = self.y_U.sum()
        return self.x_MU.sum(axis=1) / total if total > 0 else np.full(len(self.x_MU), np.nan)


def check_metric(name: str) -> None:
    """Raise PredictionError unless it is a metric that can be compared."""
    if name not in METRICS and not _AT_K.fullmatch(name):
        raise PredictionError(
            f"metric {name!r}: unknown; known are {', '.join(METRICS)}, ndcg@K and hit_rate@K"
        )


def lower_is_better(metric: str) -> bool:
    """Whether less of the metric is better."""
    return metric == "log_loss"


def metric_ratios(metrics: Sequence[str], rows: PairedRows) -> dict[str, list[Ratio]]:
    """Each metric as ratios that are all equal to it; AUC has two, the others one.

    With weights of units the metric is its value plus the sum of what its ratios differ from it.

    Args:
        metrics: names, and calibration, of which neither less nor more is better.
        rows: what they are computed from.
    """
    whole = {
        "auc": _auc,
        "log_loss": _log_loss,
        "pr_auc": _average_precision,
        "calibration": _calibration,
    }
    groups = _group_ratios([name for name in metrics if name not in whole], rows)
    return {name: whole[name](rows) if name in whole else [groups[name]] for name in metrics}


def placements(label: Array, score: Array) -> tuple[Array, Array]:
    """DeLong's placements in O(S log S).

    Args:
        label: [S], 0 or 1; score: float [S].

    Returns:
        For each click, in order, the share of non-clicks that it outscores, ties counting half; for
        each non-click the share of clicks that outscore it. The mean of either is the AUC.
    """
    clicked = label.astype(bool)
    clicks, others = score[clicked], score[~clicked]
    return _below(clicks, others), 1.0 - _below(others, clicks)


def _below(score: Array, among: Array) -> Array:
    ordered = np.sort(among)
    below = np.searchsorted(ordered, score, "left") + np.searchsorted(ordered, score, "right")
    return below / (2.0 * max(1, len(among)))


def delong(
    label: Array, scores_a: Sequence[Array], scores_b: Sequence[Array]
) -> tuple[float, float]:
    """Difference of AUC, B minus A, and its standard error by DeLong et al. (1988), as if rows were
    independent; fast as in Sun and Xu (2014). Several scores of a side are averaged by AUC.

    Args:
        label: [S], 0 or 1; scores_a, scores_b: float [S] each.

    Returns:
        Both NaN unless there are at least two rows of each class.
    """
    clicks = int(np.count_nonzero(label))
    if min(clicks, len(label) - clicks) < 2:
        return float("nan"), float("nan")
    difference, variance = 0.0, 0.0
    placed_a = [placements(label, score) for score in scores_a]
    placed_b = [placements(label, score) for score in scores_b]
    for of_class in (0, 1):
        a = np.mean([placed[of_class] for placed in placed_a], axis=0)
        b = np.mean([placed[of_class] for placed in placed_b], axis=0)
        difference = float((b - a).mean())
        variance += float((b - a).var(ddof=1)) / len(a)
    return difference, variance**0.5


def _auc(rows: PairedRows) -> list[Ratio]:
    clicked = rows.label.astype(bool)
    placed = [placements(rows.label, score) for score in rows.scores]
    ratios = []
    for of_class, mine in enumerate((clicked, ~clicked)):
        unit = rows.unit[mine]
        x_MU = [np.bincount(unit, found[of_class], rows.units) for found in placed]
        # Without the other class no placement is defined.
        defined = 0 < clicked.sum() < len(clicked)
        y_U = np.bincount(unit, minlength=rows.units) * float(defined)
        ratios.append(Ratio(np.array(x_MU), y_U))
    return ratios


def _log_loss(rows: PairedRows) -> list[Ratio]:
    clicked = rows.label.astype(bool)
    x_MU = []
    for score in rows.scores:
        p = np.clip(score.astype(np.float64), _TINY, 1.0 - _TINY)
        x_MU.append(np.bincount(rows.unit, -np.where(clicked, np.log(p), np.log1p(-p)), rows.units))
    y_U = np.bincount(rows.unit, minlength=rows.units).astype(np.float64)
    return [Ratio(np.array(x_MU), y_U)]


def _calibration(rows: PairedRows) -> list[Ratio]:
    x_MU = [np.bincount(rows.unit, score, rows.units) for score in rows.scores]
    return [Ratio(np.array(x_MU), np.bincount(rows.unit, rows.label, rows.units))]


def _average_precision(rows: PairedRows) -> list[Ratio]:
    x_MU = [
        np.bincount(rows.unit, _precision_shares(rows.label, score), rows.units)
        for score in rows.scores
    ]
    return [Ratio(np.array(x_MU), np.bincount(rows.unit, rows.label, rows.units))]


def _precision_shares(label: Array, score: Array) -> Array:
    """What each row adds to clicks x average precision when its weight grows, float64 [S].

    Of a click that is the precision at its score; and every row moves the precision C / N at its
    own and all lower scores, which c clicks have, by (y N - C) / N^2 for each of them.
    """
    values, place = np.unique(score, return_inverse=True)
    # Highest scores first.
    place = len(values) - 1 - place
    clicks = np.bincount(place, label, len(values))
    clicks_through = np.cumsum(clicks)
    rows_through = np.cumsum(np.bincount(place, minlength=len(values)))
    precision = clicks_through / rows_through
    gain = np.cumsum((clicks / rows_through)[::-1])[::-1]
    loss = np.cumsum((clicks * precision / rows_through)[::-1])[::-1]
    return np.asarray(label * (precision + gain)[place] - loss[place])


def _group_ratios(metrics: Sequence[str], rows: PairedRows) -> dict[str, Ratio]:
    if not metrics:
        return {}
    rows = rows.where(rows.grouped)
    ks = sorted({int(found[2]) for name in metrics if (found := _AT_K.fullmatch(name))})
    sums = [_group_sums(rows, score, ks) for score in rows.scores]
    unit_of = np.zeros(int(rows.group.max(initial=0)) + 1, dtype=np.int64)
    unit_of[rows.group] = rows.unit
    unit = unit_of[sums[0].group.astype(np.int64)]
    ratios = {}
    for name in metrics:
        weight = _group_weight(name, sums[0])
        values = [_group_value(name, s, ks) for s in sums]
        x_MU = [
            np.bincount(unit, np.where(weight > 0, value * weight, 0.0), rows.units)
            for value in values
        ]
        ratios[name] = Ratio(np.array(x_MU), np.bincount(unit, weight, rows.units))
    return ratios


def _group_sums(rows: PairedRows, score: Array, ks: Sequence[int]) -> GroupSums:
    keys = score_keys(rows.label, score)
    blocks = list(group_blocks(sorted_rows(keys, rows.group), KEY_BITS, ks))
    none = np.zeros(0, dtype=np.int64)
    empty = GroupSums(none, none, none, none, *np.zeros((2, len(ks), 0)))
    blocks = blocks or [empty]
    return GroupSums(
        np.concatenate([block.group for block in blocks]),
        np.concatenate([block.rows for block in blocks]),
        np.concatenate([block.clicks for block in blocks]),
        np.concatenate([block.wins for block in blocks]),
        np.concatenate([block.dcg_KG for block in blocks], axis=1),
        np.concatenate([block.miss_KG for block in blocks], axis=1),
    )


def _group_weight(name: str, sums: GroupSums) -> Array:
    """Weight of each group, 0 where the metric is not defined, float64 [G]."""
    if not name.startswith("gauc"):
        return (sums.clicks > 0).astype(np.float64)
    both = ((sums.clicks > 0) & (sums.clicks < sums.rows)).astype(np.float64)
    return both if name == "gauc_unweighted" else both * sums.rows


def _group_value(name: str, sums: GroupSums, ks: Sequence[int]) -> Array:
    at_k = _AT_K.fullmatch(name)
    if at_k is None:
        return sums.auc()
    place = ks.index(int(at_k[2]))
    return sums.ndcg(ks)[place] if at_k[1] == "ndcg" else 1.0 - sums.miss_KG[place]
