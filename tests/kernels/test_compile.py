"""The kernels compiled for GPUs that need not be there: no spills, within the chip, wide loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

# Shared memory that one program may have, by compute capability.
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}


@pytest.fixture(scope="module", params=[80, 90])
def report(request) -> list[dict]:
    """One entry per kernel and shape, from a process in which Triton compiles."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "kernels.compile_report", "--json", "--arch"]
    run = subprocess.run(
        [*command, str(request.param)], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
def test_compiles_without_spills_within_the_chip_and_gathers_wide(report):
    assert {row["name"].split()[0] for row in report} >= {
        "cosine_topk",
        "category_topk",
        "hamming_topk",
        "merge",
        "simtier",
    }
    for row in report:
        assert row["stack_bytes"] == 0, row
        assert 0 < row["registers"] <= 255, row
        assert row["shared_bytes"] <= SHARED_BYTES[row["arch"]], row
        # What is rounded once where the reference rounds twice is another number. A product of
        # float vectors is one only within rounding.
        if "float" not in row["name"]:
            assert row["fused_sums"] == 0, row
        if row["gathered_bytes"]:
            assert row["gathers_wide"], row
            assert row["byte_loads"] == 0, row
