"""Which checkpoint is taken, which are kept, and what kills leave behind."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from ctr import checkpoint
from ctr.checkpoint import CheckpointError
from tests.ctr.checkpoint.files import (
    load,
    save,
    tensors,
)


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


def test_a_checkpoint_moved_elsewhere_loads(folder, tmp_path):
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    assert json.loads((moved / "step-000000010" / "progress.json").read_text())["step"] == 10
    assert torch.equal(load(moved)["model.table"], tensors()["model.table"])
