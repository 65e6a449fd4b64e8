"""Bootstrap over users by matrix products: weighted sums of users' statistics, never of rows.

Shape legend: R resamples, U units (users, or bags of them), C columns of statistics, N parts of U,
M predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

from ctr.metrics.differences import Ratio
from ctr.metrics.ties import Array

# With more users than this, random bags of users are resampled whole. A bag is a sum of users, so
# the variance is the same on average; 262,144 of them find the standard error to about 0.14%.
MOST_UNITS = 1 << 18

LEVEL = 0.95

# Numbers of users' sums that are resampled together: 256 MiB of them.
_TOGETHER = 1 << 25

# Told how much was done since it was last called: a progress bar's update.
Advance = Callable[[int], object]

_T = TypeVar("_T")

_THREADS = 2
# Weights of a block: 128 x 1,024 doubles, 1 MiB.
_BLOCK_RESAMPLES = 128
_BLOCK_UNITS = 1024
_LEVELS = 1 << 16
# Multiplications up to which OpenBLAS uses one thread.
_SMALL_PRODUCT = 1 << 18


def units_of(users: Array, seed: int, most: int = MOST_UNITS) -> tuple[Array, int]:
    """The unit of each row and the number of units: users, or bags of about equally many users.

    Args:
        users: int64 [S], 0 to their number - 1, each occurring.
        seed: of the dealing to bags; most: units.
    """
    number = int(users.max(initial=-1)) + 1
    if number <= most:
        return users, number
    bag_of = np.random.default_rng([seed, 1]).permutation(number) % most
    return bag_of[users], most


def poisson_table() -> Array:
    """Poisson(1) counts at 65,536 equally likely levels, float64: a random 16 bits to a weight."""
    through = np.cumsum([math.exp(-1.0) / math.factorial(count) for count in range(12)])
    level = (np.arange(_LEVELS) + 0.5) / _LEVELS
    return np.searchsorted(through, level).astype(np.float64)


def resampled_sums(
    columns_UC: Array, resamples: int, seed: int, advance: Advance | None = None
) -> Array:
    """Sums of the columns under independent Poisson(1) weights of the units, float64 [R, C].

    Args:
        columns_UC: float64 [U, C].
        resamples: R.
        seed: the same one gives the same sums.
        advance: told of the progress, R in all.
    """
    table = poisson_table()
    units, columns = columns_UC.shape
    # A stack of products so small that BLAS does each in this thread: its own threads wait for each
    # other, 20 times as long as the product takes where another program has a core.
    deep = max(1, _SMALL_PRODUCT // (_BLOCK_RESAMPLES * max(1, columns)))
    padded_UC = np.zeros((-(-units // deep) * deep, columns))
    padded_UC[:units] = columns_UC
    stack_NUC = padded_UC.reshape(-1, deep, columns)
    several = max(1, _BLOCK_UNITS // deep)
    sums_RC = np.zeros((resamples, columns))

    def fill(begin: int) -> int:
        mine_RC = sums_RC[begin : begin + _BLOCK_RESAMPLES]
        random = np.random.default_rng([seed, 2, begin])
        for first in range(0, len(stack_NUC), several):
            block_NUC = stack_NUC[first : first + several]
            level_NRU = random.integers(
                0, _LEVELS, (len(block_NUC), len(mine_RC), deep), dtype=np.uint16
            )
            mine_RC += (np.take(table, level_NRU) @ block_NUC).sum(axis=0)
        return len(mine_RC)

    with ThreadPoolExecutor(_THREADS) as threads:
        for done in threads.map(fill, range(0, resamples, _BLOCK_RESAMPLES)):
            if advance is not None:
                advance(done)
    return sums_RC


def resampled_together(
    parts: Iterator[_T], units: int, predictions: int, metrics: int
) -> Iterator[list[_T]]:
    """Parts of the rows in lists whose users' sums are few enough to be held at once.

    Args:
        parts: in order; read as the lists are.
        units: that are resampled; predictions: of each row; metrics: of each part.
    """
    # A metric has one or two ratios, each of a sum by prediction and one that they share.
    of_part = max(1, units * metrics * 2 * (predictions + 1))
    while some := list(islice(parts, max(1, _TOGETHER // of_part))):
        yield some


def resampled_metrics(
    metrics: Sequence[Sequence[Ratio]],
    weight_M: Array,
    resamples: int,
    seed: int,
    advance: Advance | None = None,
) -> list[Array]:
    """Weighted sums of predictions' metrics under resampling of units; all see the same draws.

    Args:
        metrics: each as of `metric_ratios`.
        weight_M: float64 [M], of each prediction: [1] for the metric of one, [-1, 1] for how two
            differ.
        resamples: R; seed: of the draws.
        advance: told of the progress, R x the number of metrics in all.

    Returns:
        float64 [R] for each metric; NaN where a resample does not define it.
    """
    columns = [c for ratios in metrics for r in ratios for c in (weight_M @ r.x_MU, r.y_U)]
    if not columns:
        return []

    def tell(done: int) -> None:
        if advance is not None:
            advance(done * len(metrics))

    sums_RC = resampled_sums(np.stack(columns, axis=1), resamples, seed, tell)
    found, at = [], 0
    for ratios in metrics:
        # Each ratio is equal to the metric where no weight is drawn, and brings its own deviation.
        value = float(weight_M @ ratios[0].values())
        drawn_R = np.full(resamples, value)
        for _ in ratios:
            x_R, y_R = sums_RC[:, at], sums_RC[:, at + 1]
            drawn_R += np.where(y_R > 0, x_R / np.where(y_R > 0, y_R, 1.0), np.nan) - value
            at += 2
        found.append(drawn_R)
    return found


def resampled_differences(
    metrics: Sequence[Sequence[Ratio]],
    in_a: Array,
    resamples: int,
    seed: int,
    advance: Advance | None = None,
) -> list[Array]:
    """Differences of metrics, mean of B minus mean of A, as of `resampled_metrics`.

    Args:
        metrics, resamples, seed, advance: as there.
        in_a: bool [M], predictions of A; the others are of B.
    """
    side_M = np.where(in_a, -1.0 / in_a.sum(), 1.0 / (~in_a).sum())
    return resampled_metrics(metrics, side_M, resamples, seed, advance)


def add_seed_spread(drawn_R: Array, values_a: Array, values_b: Array, seed: int) -> Array:
    """Differences with the uncertainty of few training seeds added.

    With n_a and n_b seeds the means differ by chance with standard error
    `s sqrt(1 / n_a + 1 / n_b)`, s being the standard deviation of both sides pooled, and Student's
    t with n_a + n_b - 2 degrees of freedom. One seed of each tells nothing and adds nothing.

    Args:
        drawn_R: float64 [R], of `resampled_differences`.
        values_a, values_b: the metric of each seed.
        seed: of the draws.
    """
    freedom = len(values_a) + len(values_b) - 2
    if freedom < 1:
        return drawn_R
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in (values_a, values_b))
    error = math.sqrt(squares / freedom * (1.0 / len(values_a) + 1.0 / len(values_b)))
    random = np.random.default_rng([seed, 3])
    return drawn_R + error * random.standard_t(freedom, len(drawn_R))


def interval(drawn_R: Array, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval; NaN where fewer than half of the resamples define the metric."""
    known = drawn_R[~np.isnan(drawn_R)]
    if 2 * len(known) < len(drawn_R):
        return math.nan, math.nan
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(known, [tail, 1.0 - tail])
    return float(low), float(high)


def joint_interval(
    difference: float, drawn_R: Array, values_a: Array, values_b: Array, tests: int, seed: int
) -> tuple[float, float]:
    """Interval that holds together with all others in 95% of cases (Bonferroni).

    Its tails are too far out for the resamples, so these give a standard error only and a normal
    curve the tails; the seeds' part keeps Student's t.

    Args:
        difference: in the middle.
        drawn_R, values_a, values_b, seed: as of `add_seed_spread`.
        tests: number of intervals.
    """
    random = np.random.default_rng([seed, 4])
    draws = random.standard_normal(min(2_000_000, 10_000 * tests))
    normal = difference + float(np.nanstd(drawn_R)) * draws
    return interval(add_seed_spread(normal, values_a, values_b, seed), 1.0 - (1.0 - LEVEL) / tests)
