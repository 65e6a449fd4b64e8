"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports torch: the tensors are small, and the ranks that some tests start would
# otherwise each take every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

# Without a GPU, Triton's interpreter runs the kernels on the CPU's tensors. Triton reads this when
# it is imported, by whichever test is first.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A busy machine makes an example slow, not wrong; pytest's own timeout ends what hangs.
settings.register_profile("patient", parent=settings(), deadline=None)
settings.load_profile("patient")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: `data` in ../shared beside the checkout, or in $CTR_SHARED.

    A test that asks for it is skipped where the folder is absent.
    """
    folder = Path(os.environ.get("CTR_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set CTR_SHARED to the folder that holds data/")
    return folder
