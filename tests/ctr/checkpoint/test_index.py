"""Damaged and forged checkpoints: an error of ours, and no code is run."""

import os
import pickle
import shutil

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, StorageMeta

from ctr import checkpoint
from ctr.checkpoint import CheckpointError
from tests.ctr.checkpoint.files import (
    Exploit,
    change_index,
    data_file,
    load,
    save,
    tensors,
)


def bytes_entry(index):
    """Let torch take a tensor for pickled bytes, which it would load with nothing forbidden."""
    index.state_dict_metadata["optimizer.step"] = BytesStorageMetadata()


def test_a_missing_index(folder):
    (folder / "step-000000010" / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"\.metadata: damaged index \(FileNotFoundError\)"):
        load(folder)


@pytest.mark.parametrize("raw", [b"", b"rubbish", pickle.dumps({}), pickle.dumps(3)])
def test_an_index_that_is_none(folder, raw):
    (folder / "step-000000010" / ".metadata").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"\.metadata: (damaged|not an) index"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: setattr(index, "state_dict_metadata", None),
        lambda index: setattr(index, "storage_data", None),
        lambda index: setattr(index, "storage_data", {}),
        lambda index: setattr(index.state_dict_metadata["model.table"], "size", 5),
        lambda index: index.state_dict_metadata.update({"model.table": 5}),
        lambda index: index.state_dict_metadata["model.table"].__dict__.pop("size"),
        lambda index: StorageMeta(),
    ],
)
def test_an_index_with_holes(folder, change):
    def damage(index):
        found = change(index)
        return found if isinstance(found, StorageMeta) else None

    change_index(folder, damage)
    with pytest.raises(CheckpointError, match="step-000000010"):
        load(folder)


def test_an_incomplete_tensor_is_no_tensor(folder):
    change_index(folder, lambda index: index.state_dict_metadata["model.table"].chunks.clear())
    with pytest.raises(CheckpointError, match=r"model\.table is incomplete; remove it"):
        load(folder)


def test_any_damaged_index_is_an_error_of_ours(folder):
    path = folder / "step-000000010" / ".metadata"
    whole = path.read_bytes()
    random = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(40):
        raw = bytearray(whole)
        for _ in range(3):
            place = int(torch.randint(len(raw), (), generator=random))
            raw[place] = int(torch.randint(256, (), generator=random))
        path.write_bytes(raw)
        try:
            load(folder)
        except CheckpointError:
            refused += 1
    assert refused > 20


def test_an_index_that_runs_code(folder, marker):
    (folder / "step-000000010" / ".metadata").write_bytes(pickle.dumps(Exploit(marker)))
    with pytest.raises(CheckpointError, match=r"refers to posix\.system.*not to be trusted"):
        load(folder)


@pytest.mark.parametrize("place", ["planner_data", "storage_data", "storage_meta"])
def test_code_deep_inside_an_index(folder, marker, place):
    change_index(folder, lambda index: setattr(index, place, {"a": [Exploit(marker)]}))
    with pytest.raises(CheckpointError, match=r"refers to posix\.system"):
        load(folder)


# Global names that a pickle may ask for, beside those of an index, in all forms that it knows.
@pytest.mark.parametrize(
    "raw",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"ctorch\nload\n.",
        b"ctorch.serialization\nload\n.",
        b"\x80\x04\x8c\x05torch\x8c\x0bSize.__new__\x93.",
        b"\x80\x04\x8c\x05torch\x8c\x1bserialization.os.system\x93.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02\x82\x01.",
    ],
)
def test_an_index_may_not_name_anything_else(folder, raw):
    (folder / "step-000000010" / ".metadata").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"\.metadata: (the index refers|damaged index)"):
        load(folder)


def test_entries_of_bytes_are_refused(folder, marker):
    change_index(folder, bytes_entry)
    data_file(folder).write_bytes(pickle.dumps(Exploit(marker)))
    with pytest.raises(CheckpointError, match="BytesStorageMetadata"):
        load(folder)


def test_entries_of_bytes_are_refused_twice(folder, marker, monkeypatch):
    change_index(folder, bytes_entry)
    monkeypatch.setattr(checkpoint.index, "_IndexUnpickler", pickle.Unpickler)
    with pytest.raises(CheckpointError, match=r"optimizer\.step is not a tensor"):
        load(folder)


def test_what_torch_itself_would_run(folder, tmp_path):
    """The attack that the two tests above repel works on a plain reader."""
    path = tmp_path / "marker"
    change_index(folder, bytes_entry)
    index = pickle.loads((folder / "step-000000010" / ".metadata").read_bytes())
    assert isinstance(index, Metadata)
    (place,) = (k for k in index.storage_data if k.fqn == "optimizer.step")
    entry = index.storage_data.pop(place)
    index.storage_data[type(place)("optimizer.step")] = entry
    (folder / "step-000000010" / ".metadata").write_bytes(pickle.dumps(index))
    with data_file(folder).open("wb") as file:
        torch.save(Exploit(path), file)
        entry.offset, entry.length = 0, file.tell()
    (folder / "step-000000010" / ".metadata").write_bytes(pickle.dumps(index))
    torch.distributed.checkpoint.load(
        {"optimizer.step": torch.tensor(0.0)}, checkpoint_id=folder / "step-000000010"
    )
    assert path.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_data_file_cut_short(folder, share):
    path = data_file(folder)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CheckpointError, match=r"step-000000010: cannot be loaded .*remove it"):
        load(folder)


def test_a_missing_data_file(folder):
    data_file(folder).unlink()
    with pytest.raises(CheckpointError, match=r"cannot be loaded .*FileNotFoundError"):
        load(folder)


def test_a_data_file_that_runs_code(folder, marker):
    def whole_file(index):
        for entry in index.storage_data.values():
            entry.offset, entry.length = 0, data_file(folder).stat().st_size

    torch.save(Exploit(marker), data_file(folder))
    change_index(folder, whole_file)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(folder)


def test_a_data_file_of_another_checkpoint(folder, tmp_path):
    other = {name: torch.zeros(1) for name in tensors()}
    path = save(tmp_path / "other", 1, other, {}, keep=1)
    (file,) = path.glob("*.distcp")
    shutil.copy(file, data_file(folder))
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(folder)
