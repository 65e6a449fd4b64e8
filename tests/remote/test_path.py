"""Paths that are URLs: what they find in an object store, and what an unusable one is told."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from remote.path import RemoteError, RemotePath, is_url, location


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 100)
    return path


@pytest.fixture
def fresh_connections(bucket: str) -> Iterator[None]:
    """Connections are kept for the whole process; here none is, whose environment is changed."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


def test_local_paths_stay_what_they_are() -> None:
    assert location("stores/world") == Path("stores/world")
    assert location("file:///stores/world") == Path("/stores/world")
    assert location(Path("x")) == Path("x")
    assert is_url("s3://bucket/x")
    assert is_url(RemotePath("s3://bucket/x"))
    assert not is_url(Path("/stores/s3:x"))


def test_a_folder_of_files(bucket: str, file: Path) -> None:
    root = location(f"{bucket}/raw/day/")
    assert isinstance(root, RemotePath)
    names = ("users.parquet", "shards/0.parquet", "shards/1.parquet", "notes.txt")
    for name in names:
        (root / name).put(file)
    (location(bucket + "/raw") / "daylight.parquet").put(file)
    assert root.is_dir()
    assert not root.is_file()
    assert (root / "notes.txt").is_file()
    assert not (root / "none").exists()
    assert (root / "notes.txt").stat().st_size == 1000
    assert [path.name for path in root.glob("*.parquet")] == ["users.parquet"]
    assert [path.name for path in root.glob("shards")] == ["shards"]
    assert [path.relative_to(root) for path in root.rglob("*.parquet")] == [
        PurePosixPath("shards/0.parquet"),
        PurePosixPath("shards/1.parquet"),
        PurePosixPath("users.parquet"),
    ]
    assert list((root / "none").glob("*")) == list((root / "none").rglob("*")) == []
    with pytest.raises(ValueError, match="is not in"):
        (root / "notes.txt").relative_to(root / "shards")


def test_what_others_write_is_seen_at_once(bucket: str, file: Path) -> None:
    from s3fs import S3FileSystem

    root = location(f"{bucket}/raw")
    assert isinstance(root, RemotePath)
    assert list(root.glob("*")) == []
    (root / "a").put(file)
    assert [path.name for path in root.glob("*")] == ["a"]
    others = S3FileSystem(skip_instance_cache=True)
    others.pipe_file(f"{root}/b", b"theirs")
    assert [path.name for path in root.glob("*")] == ["a", "b"]
    others.pipe_file(f"{root}/b", b"longer than before")
    assert (root / "b").stat().st_size == 18
    (root / "b").unlink()
    (root / "a").unlink()
    (root / "a").unlink()
    assert list(root.rglob("*")) == []
    assert not (root / "a").exists()


def test_reading(bucket: str, file: Path, tmp_path: Path) -> None:
    path = location(f"{bucket}/file")
    path.put(file)
    assert pickle.loads(pickle.dumps(path)).read_bytes() == file.read_bytes()
    with path.open() as opened:
        opened.seek(995)
        assert opened.read() == b"56789"
    path.fetch(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
    with pytest.raises(FileNotFoundError, match=f"{bucket}/none"):
        location(f"{bucket}/none").read_bytes()


def test_a_local_file_at_fault_is_not_the_fault_of_the_url(file: Path, tmp_path: Path) -> None:
    path = location("memory://bucket/file")
    assert isinstance(path, RemotePath)
    path.put(file)
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", tmp_path / "file" / "below", tmp_path / "none" / "x"):
        with pytest.raises(OSError, match=str(target)) as caught:
            path.fetch(target)
        assert not isinstance(caught.value, RemoteError)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "none")):
        path.put(tmp_path / "none")
    with pytest.raises(IsADirectoryError, match=str(tmp_path / "folder")):
        path.put(tmp_path / "folder")


@pytest.mark.parametrize(
    "url",
    [
        "s3://id:very/secret@bucket/x",
        "s3://:secret@bucket",
        "s3://bucket/x?X-Amz-Signature=secret",
        "https://host/x#secret",
        "FTP://me:secret@host/x",
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(RemoteError) as caught:
        location(url)
    assert "write the URL without it" in str(caught.value)
    assert "secret" not in str(caught.value).replace("may be a secret", "")
    assert "very" not in str(caught.value)


def test_a_chain_of_protocols_is_refused_and_not_repeated() -> None:
    with pytest.raises(RemoteError, match="must begin with a protocol") as caught:
        location("simplecache::s3://id:hush@bucket/x")
    assert "hush" not in str(caught.value)


def test_protocols_without_buckets(tmp_path: Path) -> None:
    """`memory://` is fsspec's own; as in HDFS, what comes first is a folder like any other."""
    (tmp_path / "x").write_text("content")
    folder = location("memory://some/folder")
    assert isinstance(folder, RemotePath)
    assert list(folder.glob("*")) == list(folder.rglob("*")) == []
    assert not folder.is_dir()
    (folder / "below/x").put(tmp_path / "x")
    assert [path.url for path in folder.rglob("*")] == ["memory://some/folder/below/x"]
    assert [path.name for path in folder.glob("*")] == ["below"]
    assert (folder / "below/x").read_text() == "content"
    with (folder / "below/x").open() as opened:
        assert opened.read(3) == b"con"
    (folder / "below/x").unlink()
    assert not (folder / "below/x").exists()


@pytest.mark.parametrize("url", ["s3://", "gs:///", "file://folder"])
def test_a_url_of_no_place(url: str) -> None:
    with pytest.raises(RemoteError, match="names no place"):
        location(url)


CALLS = ("is_file", "is_dir", "exists", "stat", "read_bytes", "open")


@pytest.mark.parametrize("call", CALLS)
def test_no_such_bucket(bucket: str, call: str) -> None:
    path = location(f"{bucket}-of-others/x")
    with pytest.raises(RemoteError, match=rf"{bucket}-of-others/x: no such bucket"):
        getattr(path, call)()


def test_no_such_bucket_to_list(bucket: str) -> None:
    for path in (location(f"{bucket}-of-others/x"), location(f"{bucket}-of-others")):
        for call in (path.glob, path.rglob):
            with pytest.raises(RemoteError, match="no such bucket"):
                list(call("*"))


@pytest.mark.usefixtures("fresh_connections")
def test_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(RemoteError, match=rf"{bucket}/x: access refused .*AWS_ACCESS_KEY_ID"):
        location(f"{bucket}/x").exists()


def test_refused_credentials_are_not_repeated(bucket: str) -> None:
    error = PermissionError("Forbidden at http://me:secret@host/x?X-Amz-Signature=secret for you")
    failure = str(location(f"{bucket}/x").failure(error))
    assert "access refused (Forbidden at http://host/x for you)" in failure


@pytest.mark.usefixtures("fresh_connections")
def test_an_endpoint_that_is_not_there(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    with pytest.raises(RemoteError, match=rf"{bucket}/x: cannot be reached .*endpoint"):
        location(f"{bucket}/x").exists()


def test_a_protocol_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(RemoteError, match=r"pip install 'lifelong-ctr\[gcs\]'"):
        location("gs://bucket/x").exists()
    with pytest.raises(RemoteError, match="no such protocol as what://"):
        location("what://bucket/x").exists()
