"""A checkpoint to damage, and proof that none runs code."""

import pickle
import shutil

import pytest
import torch.distributed as dist

from tests.ctr.checkpoint.files import Exploit, save, tensors


@pytest.fixture(scope="module", autouse=True)
def group():
    """The group of one process that training and evaluation have, too."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def marker(tmp_path):
    """A file that appears if an exploit runs; proven by running it once more at the end."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "code of the checkpoint was run"
    pickle.loads(pickle.dumps(Exploit(path)))
    assert path.exists(), "the exploit itself does nothing: the test proves nothing"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one checkpoint; copied before it is damaged."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    save(folder, 10, tensors(), {"loader": {"epoch": 1}}, keep=2)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "checkpoints")
