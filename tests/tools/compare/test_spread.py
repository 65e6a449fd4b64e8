"""Intervals over seeds, against printed tables and a simulation of what 95% means."""

import random

import pytest

from tools.compare.spread import spread, students_t

# As tables of the distribution have it.
POINTS = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 30: 2.0423, 99: 1.9842}


@pytest.mark.parametrize("freedom", POINTS)
def test_the_point_is_that_of_students_t(freedom):
    assert students_t(freedom) == pytest.approx(POINTS[freedom], abs=5e-5)


def test_mean_deviation_and_interval_of_three_seeds():
    found = spread([1.0, 2.0, 6.0])
    assert (found.mean, found.values) == (3.0, (1.0, 2.0, 6.0))
    assert found.deviation == pytest.approx(7**0.5)
    assert found.high - found.mean == pytest.approx(4.302653 * (7 / 3) ** 0.5, abs=1e-6)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_one_value_has_no_spread_and_none_no_mean():
    assert spread([0.5, None]).mean == 0.5
    assert spread([0.5, None]).deviation is None
    assert spread([None]) == spread([])
    assert spread([]).mean is None


def test_95_of_100_intervals_hold_the_mean():
    chance = random.Random(1)
    found = [spread([chance.gauss(0.0, 1.0) for _ in range(4)]) for _ in range(2000)]
    held = sum(s.low <= 0.0 <= s.high for s in found) / 2000
    assert held == pytest.approx(0.95, abs=0.015)
