"""Checkpoints: what comes back, which one is taken, and that no damaged one runs code."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, StorageMeta

from ctr import checkpoint
from ctr.checkpoint import CheckpointError


class Exploit:
    """Runs a shell command where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


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


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one checkpoint; copied before it is damaged."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    save(folder, 10, tensors(), {"loader": {"epoch": 1}}, keep=2)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "checkpoints")


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


def test_a_run_that_passed_over_damaged_ones_keeps_what_it_writes_then(tmp_path):
    for step in (100, 200, 300):
        save(tmp_path, step, tensors(step), {}, keep=3)
    for step in (200, 300):
        (tmp_path / f"step-{step:09d}" / ".metadata").write_bytes(b"")
    assert checkpoint.newest(tmp_path).progress["step"] == 100
    save(tmp_path, 150, tensors(150), {}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000100", "step-000000150"]
    assert checkpoint.newest(tmp_path).progress["step"] == 150


def test_evidence_of_a_later_step_stays(tmp_path):
    save(tmp_path, 300, tensors(), {}, keep=3)
    writer = checkpoint.Writer(tmp_path, 200, {}, 3, drop_later=False)
    checkpoint.save(tensors(), writer)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_kill_between_the_two_renames_loses_no_checkpoint(tmp_path, monkeypatch):
    """A checkpoint replaces one of the same step: the old one is moved away first."""
    save(tmp_path, 10, tensors(1), {"which": "old"}, keep=1)
    rename, renamed = os.replace, []

    def killed(source, target):
        if renamed:
            raise KeyboardInterrupt
        renamed.append(rename(source, target))

    monkeypatch.setattr(checkpoint.folder.os, "replace", killed)
    with pytest.raises((KeyboardInterrupt, CheckpointError)):
        save(tmp_path, 10, tensors(2), {"which": "new"}, keep=1)
    monkeypatch.undo()
    assert not (tmp_path / "step-000000010").exists()
    found = checkpoint.newest_or_none(tmp_path)
    assert found is not None
    assert found.progress["which"] == "old"


@pytest.mark.parametrize(("keep", "left"), [(1, [30]), (2, [20, 30]), (5, [5, 10, 20, 30])])
def test_the_newest_are_kept(tmp_path, keep, left):
    for step in (5, 10, 20, 30):
        path = save(tmp_path, step, tensors(step), {}, keep=keep)
        assert path.is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-{step:09d}" for step in left]
    assert checkpoint.newest(tmp_path).progress["step"] == 30
    assert torch.equal(load(tmp_path)["model.table"], tensors(30)["model.table"])


def test_the_newest_is_that_of_most_steps_whenever_written(tmp_path):
    for step in (1000, 999, 20):
        save(tmp_path / str(step), step, tensors(step), {}, keep=3).rename(
            tmp_path / f"step-{step:09d}"
        )
    assert checkpoint.newest(tmp_path).path.name == "step-000001000"


def test_saving_a_step_again_replaces_it(folder):
    save(folder, 10, tensors(1), {"again": True}, keep=2)
    assert [p.name for p in folder.iterdir()] == ["step-000000010"]
    assert checkpoint.newest(folder).progress["again"]
    assert torch.equal(load(folder)["model.table"], tensors(1)["model.table"])


def test_what_a_killed_save_left_is_ignored_then_replaced(folder):
    complete = folder / "step-000000010"
    shutil.copytree(complete, folder / "step-000000020.tmp")
    (folder / "step-000000020.tmp" / "rubbish").write_text("")
    shutil.copytree(complete, folder / "step-000000030")
    (folder / "step-000000030" / "progress.json").unlink()
    (folder / "step-40").mkdir()
    assert checkpoint.newest(folder).path == complete
    save(folder, 20, tensors(2), {}, keep=2)
    assert checkpoint.newest(folder).path == folder / "step-000000020"
    assert not (folder / "step-000000020.tmp").exists()
    assert not (folder / "step-000000020" / "rubbish").exists()


def test_what_kills_left_is_removed_and_what_is_not_ours_stays(folder):
    (folder / "step-000000010.old").mkdir()
    (folder / "step-000000010.old" / "rubbish").write_text("")
    (folder / "step-000000005").mkdir()
    (folder / "step-000000020.tmp").mkdir()
    (folder / "notes").mkdir()
    checkpoint.folder.prune(folder, 1, None)
    assert sorted(p.name for p in folder.iterdir()) == ["notes", "step-000000010"]


def test_a_folder_left_by_a_kill_between_renames_is_no_hindrance(folder):
    (folder / "step-000000010.old").mkdir()
    (folder / "step-000000010.old" / "rubbish").write_text("")
    save(folder, 10, tensors(1), {"again": True}, keep=2)
    assert checkpoint.newest(folder).progress["again"]


def test_a_failed_save_leaves_the_one_before(folder, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint.folder, "_write_synced", fail)
    with pytest.raises(CheckpointError, match=r"step-000000020: cannot be written .*disk full"):
        save(folder, 20, tensors(2), {}, keep=1)
    assert [p.name for p in folder.iterdir()] == ["step-000000010"]
    assert checkpoint.newest(folder).path == folder / "step-000000010"


@pytest.mark.parametrize("name", ["", "missing"])
def test_no_checkpoint(tmp_path, name):
    with pytest.raises(CheckpointError, match="no complete checkpoint; train the run first"):
        checkpoint.newest(tmp_path / name)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", "null"])
def test_damaged_progress(folder, text):
    (folder / "step-000000010" / "progress.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"progress\.json: cannot be read.*remove .*step-"):
        checkpoint.newest(folder)


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


def bytes_entry(index):
    """Let torch take a tensor for pickled bytes, which it would load with nothing forbidden."""
    index.state_dict_metadata["optimizer.step"] = BytesStorageMetadata()


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


def test_a_checkpoint_moved_elsewhere_loads(folder, tmp_path):
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    assert json.loads((moved / "step-000000010" / "progress.json").read_text())["step"] == 10
    assert torch.equal(load(moved)["model.table"], tensors()["model.table"])
