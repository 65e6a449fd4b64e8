"""What the registry holds, and the bytes of a case against sums done by hand."""

from pathlib import Path

import pytest
import torch

from kernels.benchmarks.cases import CASES, CategoryCase, CosineCase, HammingCase, SimtierCase
from kernels.benchmarks.check import paths_of_tests
from kernels.benchmarks.inputs import fit, generator, histories, zipf_rows
from kernels.benchmarks.workloads import op_of

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")


@pytest.mark.parametrize("op", list(CASES))
def test_one_name_finds_op_tests_and_cases(op):
    assert callable(op_of(op))
    assert paths_of_tests(op, ROOT)
    assert CASES[op].keys() == {"cuda", "cpu"}
    for cases in CASES[op].values():
        names = [case.name for case in cases]
        assert len(set(names)) == len(names) > 0


def test_an_op_that_is_not_exported_is_named():
    with pytest.raises(LookupError, match="telepathy"):
        op_of("telepathy")


@pytest.mark.parametrize(
    ("case", "name", "bytes_moved", "operations"),
    [
        # 2 users x 10 behaviours x (128 + 4) bytes, and 6 queries x 5 picks x 8 bytes.
        (CosineCase(2, 3, 10, 100, k=5), "u2_q3_l10", 2_640 + 240, 15_360),
        (CosineCase(1, 1, 1_000, 100, k=2, zipf=0.0, width=16), "u1_q1_l1k_even", 20_016, 32_000),
        # 2 words of 8 bytes and a row number.
        (HammingCase(2, 3, 10, 100, k=5), "u2_q3_l10", 2 * 10 * 20 + 6 * 5 * 8, 0),
        (CategoryCase(2, 3, 10, 100, k=5), "u2_q3_l10", 2 * 10 * 4 + 6 * 5 * 4, 0),
        # 7 rows of 50 float32 and 50 bool in, 22 float32 out.
        (SimtierCase(7, 50), "b7_k50_n22_tenths_log", 7 * (250 + 88), 0),
    ],
)
def test_bytes_and_operations_by_hand(case, name, bytes_moved, operations):
    assert (case.name, case.bytes_moved, case.operations) == (name, bytes_moved, operations)


def test_the_copies_of_the_reference_sequence_are_the_paper_s_107_gib():
    case = CosineCase(100, 10, 100_000, 100)
    vectors = 1_000 * 100_000 * 128 * 9
    assert vectors / 2**30 == pytest.approx(107.3, abs=0.1)
    assert vectors < case.sequence_bytes < 1.05 * vectors


def test_rows_follow_the_law():
    rows = zipf_rows(200_000, 1_001, 1.05, generator(0, CPU))
    assert int(rows.min()) >= 1
    assert int(rows.max()) <= 1_000
    counts = torch.bincount(rows).sort(descending=True).values
    # The chance of rank r is the integral of x ** -1.05 from r to r + 1, over that of all ranks.
    total = 1 - 1_001**-0.05
    assert counts[0] / 200_000 == pytest.approx((1 - 2**-0.05) / total, rel=0.03)
    assert counts[9] / 200_000 == pytest.approx((10**-0.05 - 11**-0.05) / total, rel=0.1)
    even = torch.bincount(zipf_rows(200_000, 1_001, 0.0, generator(0, CPU)), minlength=1_001)[1:]
    assert int(even.min()) > 120
    assert int(even.max()) < 290


def test_histories_differ_between_sets_and_every_query_has_a_vector():
    case = CosineCase(3, 4, 20, 100)
    first, second = (histories(case, CPU, seed) for seed in (1, 2))
    assert first.offsets.tolist() == [0, 20, 40, 60]
    assert first.user_Q.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert not torch.equal(first.rows_T, second.rows_T)
    assert (first.query_Q % 16 != 15).all()


def test_what_does_not_fit_is_scaled_down_and_says_so():
    case = CosineCase(1000, 1, 100_000, 35_000_000)
    assert fit(case, free=80 * 2**30, sets=3) == (case, "")
    smaller, message = fit(case, free=4 * 2**30, sets=3)
    assert smaller.table_bytes <= 2 * 2**30
    assert smaller.users * 100_000 * 4 * 3 <= 2**30
    assert "instead of 35,000,000" in message
    assert "894 users instead of 1,000" in message
    assert "4.0 GiB" in message
