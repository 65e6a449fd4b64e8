"""A small checkpoint on disk: writing it, reading it back, and changing its files."""

import os
import pickle

import torch

from ctr import checkpoint


class Exploit:
    """Runs a shell command where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def tensors(seed=0):
    random = torch.Generator().manual_seed(seed)
    return {
        "model.table": torch.randn(50, 8, generator=random),
        "model.half": torch.randn(7, generator=random).half(),
        "model.count": torch.randint(0, 100, (3, 2), generator=random),
        "optimizer.step": torch.tensor(3.0 + seed),
        "optimizer.flag": torch.tensor([True, False, seed % 2 == 0]),
    }


def zeros():
    return {name: torch.zeros_like(tensor) for name, tensor in tensors().items()}


def save(folder, step, values, progress, keep):
    checkpoint.save(values, checkpoint.Writer(folder, step, progress, keep))
    return folder / f"step-{step:09d}"


def data_file(folder):
    (file,) = (folder / "step-000000010").glob("*.distcp")
    return file


def change_index(folder, change):
    """Let `change` edit the index and write it back, or write what it returns."""
    path = folder / "step-000000010" / ".metadata"
    index = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(index) or index))


def load(folder):
    """Load the newest checkpoint as it is: one who forges it can forge its checksums, too."""
    found = zeros()
    checkpoint.load(checkpoint.read(max(folder.glob("step-?????????"))), found)
    return found
