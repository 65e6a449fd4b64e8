"""Memory: sizes as people write them, and what is refused."""

from __future__ import annotations

import pytest

from datasets.errors import DataError
from datasets.partitions.budget import Budget, parse_memory


def test_sizes() -> None:
    assert parse_memory("2GB") == parse_memory("2g") == parse_memory("2000 MB") == 2 * 10**9
    assert parse_memory("1.5G") == 1_500_000_000
    for wrong in ("", "GB", "-2GB", "2GiB", "much"):
        with pytest.raises(DataError, match=r"--memory: .* is not a size\. Write one such as 2GB"):
            parse_memory(wrong)


def test_more_rows_make_more_partitions_of_the_same_size() -> None:
    budget = Budget(10**9, workers=2)
    assert budget.parts(1) == 1
    for rows in (10**7, 10**8, 10**9):
        assert rows / budget.parts(rows) <= budget.rows
    assert Budget(10**9, workers=2, partitions=7).parts(10**8) == 7


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match=r"--memory: .* 4 workers\. Give at least \d+MB"):
        Budget(5 * 10**8, workers=4)
    with pytest.raises(DataError, match=r"--memory: .* 100000000000000 rows\. Give at least \d+MB"):
        Budget(10**9).parts(10**14)
    with pytest.raises(DataError, match="--workers"):
        Budget(workers=0)
    with pytest.raises(DataError, match="--partitions"):
        Budget(partitions=0)


def test_the_least_that_is_named_is_enough() -> None:
    Budget(704 * 10**6, workers=2)
    with pytest.raises(DataError, match="Give at least 684MB"):
        Budget(683 * 10**6, workers=2)
