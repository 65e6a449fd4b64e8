"""What every test may ask for."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of an object store in this process that speaks S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


_bucket_number = itertools.count()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """URL of an empty bucket; how to reach it stands in the environment, and only there."""
    from s3fs import S3FileSystem

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "id-of-the-tests",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        # Nothing of the machine's own is asked.
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"tests-{next(_bucket_number)}"
    S3FileSystem().mkdir(name)
    return f"s3://{name}"
