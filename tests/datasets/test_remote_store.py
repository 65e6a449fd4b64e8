"""Preparing from a URL to a URL: what comes out is what local folders give, and never looks whole
before it is."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets import events, microlens, microlens_submission, store, taobao_mm
from datasets.errors import DataError
from datasets.events_config import read_config
from datasets.manifest import read_manifest
from datasets.parquet import INTEGER, ParquetSource
from datasets.remote_store import PARTIAL, destination
from datasets.verify import verify
from remote.path import RemotePath, location
from tests.datasets import test_events
from tests.datasets.event_log import CONFIG
from tests.datasets.microlens_tables import tables, write_tables
from tests.datasets.stores import write_store
from tests.datasets.test_taobao_mm import write_joined


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, which is to be left empty."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def upload(folder: Path, url: str) -> RemotePath:
    """Copy a folder as it is."""
    target = location(url)
    assert isinstance(target, RemotePath)
    for file in folder.rglob("*"):
        if file.is_file():
            (target / file.relative_to(folder).as_posix()).put(file)
    return target


def contents(manifest: dict[str, Any]) -> dict[str, Any]:
    """What is the same wherever the source was and the store is."""
    return {k: manifest[k] for k in ("tables", "features", "splits", "counts", "files")}


def test_a_tree_is_prepared_from_a_url_to_a_url(
    bucket: str,
    tmp_path: Path,
    scratch: Path,
    write_tree: Callable[..., Path],
    taobao_columns: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw = write_tree(tmp_path / "raw", taobao_columns)
    local = taobao_mm.prepare_tree(raw, tmp_path / "local", taobao_mm.Options())
    upload(raw, f"{bucket}/raw")
    arguments = ["--source", f"{bucket}/raw", "--out", f"{bucket}/stores/day"]
    assert taobao_mm.main(arguments) == 0
    found = read_manifest(location(f"{bucket}/stores/day"))
    assert contents(found) == contents(local)
    assert found["source"]["files"] == local["source"]["files"]
    assert found["source"]["path"] == f"{bucket}/raw"
    assert "secret-of-the-tests" not in json.dumps(found)
    assert store.main(["verify", f"{bucket}/stores/day"]) == 0
    assert store.main(["info", f"{bucket}/stores/day"]) == 0
    assert '"name": "taobao_mm"' in capsys.readouterr().out
    assert not (location(f"{bucket}/stores/day") / PARTIAL).exists()
    assert list(scratch.iterdir()) == []
    assert taobao_mm.main(arguments) == 2
    assert f"{bucket}/stores/day: already exists" in capsys.readouterr().err


def test_the_joined_form(
    bucket: str, tmp_path: Path, write_tree: Callable[..., Path], taobao_columns: Any
) -> None:
    """Its vectors are arrays, which are fetched and mapped."""
    raw = write_tree(tmp_path / "raw", taobao_columns)
    joined = write_joined(raw, tmp_path / "joined")
    local = taobao_mm.prepare_tree(joined, tmp_path / "a", taobao_mm.Options())
    source = upload(joined, f"{bucket}/joined")
    found = taobao_mm.prepare_tree(source, tmp_path / "b", taobao_mm.Options())
    assert contents(found) == contents(local)
    assert "items/vectors.npy" in found["files"]


def test_an_event_log(bucket: str, tmp_path: Path) -> None:
    config = test_events.write(tmp_path / "raw", test_events.frames(), CONFIG)
    upload(tmp_path / "raw", f"{bucket}/raw")
    local = events.prepare(read_config(config), tmp_path / "raw", tmp_path / "store")
    arguments = ["--config", str(config), "--source", f"{bucket}/raw", "--out", f"{bucket}/store"]
    assert events.main(arguments) == 0
    assert contents(read_manifest(location(f"{bucket}/store"))) == contents(local)


def test_microlens_tables(bucket: str, tmp_path: Path) -> None:
    raw = write_tables(tmp_path / "raw", tables())
    upload(raw, f"{bucket}/raw")
    local = microlens.prepare(raw, tmp_path / "store")
    assert microlens.main(["--source", f"{bucket}/raw", "--out", f"{bucket}/store"]) == 0
    assert contents(read_manifest(location(f"{bucket}/store"))) == contents(local)
    ids = microlens_submission.read_ids(location(f"{bucket}/raw"))
    assert ids.tolist() == microlens_submission.read_ids(raw).tolist()


def test_only_what_is_asked_for_is_fetched(bucket: str, tmp_path: Path, monkeypatch: Any) -> None:
    file = tmp_path / "table.parquet"
    wide = np.random.default_rng(0).integers(2**60, size=40_000)
    table = pa.table({"wide": wide, "narrow": np.zeros(40_000, np.int64)})
    pq.write_table(table, file, row_group_size=10_000)
    target = location(f"{bucket}/table.parquet")
    assert isinstance(target, RemotePath)
    target.put(file)
    fetched: list[int] = []
    opened = RemotePath.open

    def counting(self: RemotePath, mode: str = "rb") -> Any:
        content: Any = opened(self, mode)
        whole = content._fetch_range
        content._fetch_range = lambda start, end: (
            fetched.append(end - start) or whole(start, end)  # type: ignore[func-returns-value]
        )
        content.cache.fetcher = content._fetch_range
        return content

    monkeypatch.setattr(RemotePath, "open", counting)
    batches = list(ParquetSource([target], {"narrow": INTEGER}).batches("rows"))
    assert sum(len(batch) for batch in batches) == 40_000
    assert 0 < sum(fetched) < file.stat().st_size / 2
    fetched.clear()
    batches = list(ParquetSource([target], {"wide": INTEGER}).batches("rows"))
    assert np.array_equal(np.concatenate([b.integers("wide") for b in batches]), wide)
    assert max(fetched) < file.stat().st_size / 3


def test_damage_and_absence_name_the_url(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no table PAR1" * 10)
    target = location(f"{bucket}/bad.parquet")
    assert isinstance(target, RemotePath)
    target.put(tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=rf"{target}: cannot be read, it is truncated or damaged"):
        ParquetSource([target], {"x": INTEGER})
    with pytest.raises(DataError, match=rf"{bucket}/none.parquet: no such file"):
        ParquetSource([location(f"{bucket}/none.parquet")], {"x": INTEGER})
    with pytest.raises(DataError, match=rf"{bucket}/none/manifest.json: no such file"):
        verify(location(f"{bucket}/none"))


def test_no_such_bucket_is_told_before_anything_is_prepared(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"{bucket}-of-others/store"
    assert taobao_mm.main(["--source", str(tmp_path), "--out", out]) == 2
    assert f"error: {out}: no such bucket" in capsys.readouterr().err
    assert taobao_mm.main(["--source", out, "--out", str(tmp_path / "s")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {out}/")
    assert "no such bucket" in told


def test_a_secret_on_the_command_line_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "s3://id:hush@bucket/x"
    for arguments in (["--source", url, "--out", "x"], ["--source", "x", "--out", url]):
        assert taobao_mm.main(arguments) == 2
        told = capsys.readouterr()
        assert "write the URL without it" in told.err
        assert "hush" not in told.err + told.out


def prepared(url: str, histories: list[list[int]], overwrite: bool = False) -> None:
    with destination(location(url), overwrite) as out:
        write_store(out, histories)


def test_a_stopped_upload_never_looks_whole_and_may_be_repeated(
    bucket: str, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/store"
    put = RemotePath.put
    names: list[str] = []

    def stopped(self: RemotePath, source: Path) -> None:
        names.append(self.name)
        if len(names) == stop:
            raise KeyboardInterrupt
        put(self, source)

    monkeypatch.setattr(RemotePath, "put", stopped)
    stop = 0  # of the calls, the one that is stopped
    prepared(f"{bucket}/other", [[1, 2]])
    files = len(names)
    assert (names[0], names[-1]) == (PARTIAL, "manifest.json")
    for place in (2, files // 2, files):
        stop = place
        names.clear()
        with pytest.raises(KeyboardInterrupt):
            prepared(url, [[1, 2]])
        with pytest.raises(DataError, match=r"manifest\.json: no such file"):
            verify(location(url))
        assert list(scratch.iterdir()) == []
    stop = 0
    prepared(url, [[3], [4, 5]])
    assert verify(location(url))["histories"]["records"] == 3


def test_overwriting(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/store"
    prepared(url, [[1, 2]])
    with pytest.raises(DataError, match=rf"{url}: already exists"):
        prepared(url, [[1], [2]])
    prepared(url, [[1], [2]], overwrite=True)
    assert verify(location(url))["histories"]["records"] == 3
    (tmp_path / "note").write_text("x")
    upload(tmp_path, f"{bucket}/notes")
    with pytest.raises(DataError, match="is not a store"):
        prepared(f"{bucket}/notes", [[1]], overwrite=True)


def test_files_of_the_store_before_are_removed(bucket: str, tmp_path: Path) -> None:
    url = location(f"{bucket}/store")
    prepared(str(url), [[1, 2]])
    manifest = json.loads((url / "manifest.json").read_text())
    manifest["files"]["users/old.npy"] = {"bytes": 1, "blake2b": ""}
    manifest["files"]["../beside.npy"] = {"bytes": 1, "blake2b": ""}
    del manifest["checksum"]
    (tmp_path / "x").write_text(json.dumps(manifest))
    assert isinstance(url, RemotePath)
    (url / "manifest.json").put(tmp_path / "x")
    (url / "users/old.npy").put(tmp_path / "x")
    beside = location(f"{bucket}/beside.npy")
    assert isinstance(beside, RemotePath)
    beside.put(tmp_path / "x")
    prepared(str(url), [[1]], overwrite=True)
    verify(url)
    assert beside.exists()


@pytest.mark.parametrize("content", [b"", b'{"format": "lifel', b'{"format": "x"}'])
@pytest.mark.parametrize("name", ["manifest.json", PARTIAL])
def test_what_cannot_be_read_may_be_overwritten(
    bucket: str, tmp_path: Path, name: str, content: bytes
) -> None:
    url = location(f"{bucket}/store")
    assert isinstance(url, RemotePath)
    prepared(str(url), [[1, 2]])
    (tmp_path / "cut").write_bytes(content)
    (url / name).put(tmp_path / "cut")
    if name == PARTIAL:
        (url / "manifest.json").unlink()
    prepared(str(url), [[1], [2]], overwrite=name != PARTIAL)
    assert verify(url)["histories"]["records"] == 3
    assert not (url / PARTIAL).exists()


def test_a_store_that_came_meanwhile_stays(bucket: str) -> None:
    url = f"{bucket}/store"

    def late() -> None:
        with destination(location(url), False) as out:
            write_store(out, [[1]])
            prepared(url, [[1, 2]])

    with pytest.raises(DataError, match=rf"{url}: already exists"):
        late()
    assert verify(location(url))["histories"]["events"] == 2


def test_stores_of_one_name_have_folders_of_their_own(bucket: str, scratch: Path) -> None:
    """One process may have several at hand, and other ones work beside it."""
    with (
        destination(location(f"{bucket}/a/store"), False) as first,
        destination(location(f"{bucket}/b/store"), False) as second,
    ):
        write_store(first, [[1]])
        write_store(second, [[1, 2]])
        assert len(list(scratch.iterdir())) == 2
        assert all(f"-{os.getuid()}-store.tmp-" in path.name for path in scratch.iterdir())
    assert verify(location(f"{bucket}/a/store"))["histories"]["events"] == 1
    assert verify(location(f"{bucket}/b/store"))["histories"]["events"] == 2
    assert os.listdir(scratch) == []


def test_damage_at_a_url_is_named_there(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/store"
    prepared(url, [[1, 2]])
    (tmp_path / "x").write_bytes(b"x")
    upload_target = location(f"{url}/users/history_item.npy")
    assert isinstance(upload_target, RemotePath)
    upload_target.put(tmp_path / "x")
    with pytest.raises(DataError, match=rf"{url}/users/history_item\.npy: 1 bytes"):
        verify(location(url))
