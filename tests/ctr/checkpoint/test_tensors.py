"""What a checkpoint holds comes back, or the tensor that does not fit is named."""

import pytest
import torch
import torch.distributed as dist

from ctr import checkpoint
from ctr.checkpoint import CheckpointError
from tests.ctr.checkpoint.files import (
    load,
    save,
    tensors,
    zeros,
)


def test_every_tensor_comes_back_in_place(folder):
    found = zeros()
    places = {name: tensor.data_ptr() for name, tensor in found.items()}
    checkpoint.load(checkpoint.newest(folder), found)
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
        assert found[name].data_ptr() == places[name]


def test_progress_comes_back_with_the_step(folder):
    found = checkpoint.newest(folder)
    assert found.path == folder / "step-000000010"
    assert found.progress == {"loader": {"epoch": 1}, "step": 10}


def test_a_part_of_the_tensors_may_be_loaded(folder):
    found = {"model.table": torch.zeros(50, 8)}
    checkpoint.load(checkpoint.newest(folder), found)
    assert torch.equal(found["model.table"], tensors()["model.table"])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_without_a_process_group(tmp_path, monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    save(tmp_path, 1, tensors(), {}, keep=1)
    assert torch.equal(load(tmp_path)["model.table"], tensors()["model.table"])


def test_a_missing_tensor_is_named(folder):
    found = zeros() | {"model.new": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"no tensor model\.new; .*model configuration"):
        checkpoint.load(checkpoint.newest(folder), found)


@pytest.mark.parametrize("shape", [(51, 8), (50, 4), (400,), ()])
def test_a_tensor_of_another_shape_is_named(folder, shape):
    found = zeros() | {"model.table": torch.ones(shape)}
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(checkpoint.newest(folder), found)
    assert f"model.table is (50, 8), this model needs {shape}" in str(caught.value)
    assert found["model.table"].eq(1).all()
