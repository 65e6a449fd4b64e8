"""Stores at a URL: fetched once, checked, and read like local ones."""

import errno
import hashlib
import json
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ctr.data.store import Store
from ctr.data.store_cache import CACHE_VARIABLE, cache_folder, local_store, main
from ctr.schema import StoreError
from remote.path import RemotePath, location

FILE = {"bytes": 1, "blake2b": "0" * 32}


@pytest.fixture(scope="module")
def small_store(make_world):
    return make_world(users=20, history_length=10, items=100, categories=4, seed=2)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fetches(monkeypatch):
    """How often each file has been fetched."""
    counted = Counter()
    fetch = RemotePath.fetch

    def counting(self, target):
        counted[self.name] += 1
        fetch(self, target)

    monkeypatch.setattr(RemotePath, "fetch", counting)
    return counted


@pytest.fixture
def url(bucket, small_store, cache):
    upload(small_store, f"{bucket}/store")
    return f"{bucket}/store"


def upload(store, url):
    for file in store.rglob("*"):
        if file.is_file():
            (location(url) / file.relative_to(store).as_posix()).put(file)


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_local_store_stays_where_it_is(small_store, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert local_store(str(small_store)) == local_store(small_store) == small_store
    assert local_store(f"file://{small_store}") == small_store
    assert Store(small_store).path == small_store
    assert not cache.exists()


def test_the_cache_is_in_the_home_folder_unless_it_is_told(monkeypatch):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/lifelong-ctr/stores")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    assert cache_folder() == Path("/scratch/lifelong-ctr/stores")


def test_a_store_is_fetched_once_however_many_ask(url, small_store, cache, fetches, capsys):
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(local_store, [url] * 4))
    assert len(folders) == 1
    (folder,) = folders
    assert files(folder) == files(small_store)
    assert sum(fetches.values()) == len(files(small_store)) - 1
    opened = Store(url)
    assert opened.path == folder
    assert isinstance(opened.split("train").item, np.memmap)
    assert {path.name for path in cache.iterdir()} == {folder.name, f"{folder.name}.lock"}
    sys.argv = ["store_cache", url]
    assert main() == 0
    assert capsys.readouterr().out.strip() == str(folder)
    assert sum(fetches.values()) == len(files(small_store)) - 1


def test_a_fetch_that_was_stopped_goes_on(url, small_store, cache, fetches, monkeypatch):
    counting = RemotePath.fetch

    def stopped(self, target):
        if sum(fetches.values()) == 5:
            target.write_bytes(b"half")
            raise KeyboardInterrupt
        counting(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(RemotePath, "fetch", stopped)
        with pytest.raises(KeyboardInterrupt):
            local_store(url)
    assert not any(path.is_dir() and path.suffix == "" for path in cache.iterdir())
    assert files(local_store(url)) == files(small_store)
    assert sum(fetches.values()) == len(files(small_store)) - 1


def rewrite_manifest(small_store, url, change, aside):
    """Put a changed manifest at a URL; without its checksum it may be changed."""
    manifest = json.loads((small_store / "manifest.json").read_text())
    del manifest["checksum"]
    change(manifest)
    aside.write_text(json.dumps(manifest))
    (location(url) / "manifest.json").put(aside)


def test_a_store_written_anew_is_fetched_anew(url, small_store, tmp_path):
    first = local_store(url)
    rewrite_manifest(small_store, url, lambda m: m.update(name="other"), tmp_path / "manifest")
    second = local_store(url)
    assert Store(url).schema.name == "other"
    assert files(first) == files(small_store)
    assert files(second) == {
        **files(small_store),
        "manifest.json": (tmp_path / "manifest").read_bytes(),
    }


@pytest.fixture
def goes_on(url, bucket, small_store, fetches, tmp_path):
    """The copy of a store, and the URL of one that goes on from it with one feature changed."""
    parent = local_store(url)
    changed = "users/feature_user_id.npy"
    np.save(tmp_path / "feature", np.load(small_store / changed) * 0)
    raw = (tmp_path / "feature.npy").read_bytes()
    digest = hashlib.blake2b(raw, digest_size=16).hexdigest()

    def go_on(manifest):
        manifest["parents"] = [parent.name]
        manifest["files"][changed] = {"bytes": len(raw), "blake2b": digest}

    child = f"{bucket}/next"
    upload(small_store, child)
    rewrite_manifest(small_store, child, go_on, tmp_path / "manifest")
    (location(child) / changed).put(tmp_path / "feature.npy")
    fetches.clear()
    return parent, child


def test_files_of_a_parent_are_not_fetched_again(goes_on, small_store, fetches, tmp_path):
    parent, url = goes_on
    child = local_store(url)
    assert fetches == {"feature_user_id.npy": 1}
    changed, history = "users/feature_user_id.npy", "users/history_item.npy"
    assert (child / changed).read_bytes() == (tmp_path / "feature.npy").read_bytes()
    assert (child / history).stat().st_ino == (parent / history).stat().st_ino
    assert (parent / changed).read_bytes() == (small_store / changed).read_bytes()


@pytest.mark.parametrize("damage", ["gone", "changed", "manifest gone", "manifest cut", "no links"])
def test_what_cannot_be_linked_is_fetched(goes_on, small_store, fetches, monkeypatch, damage):
    def refuse(source, target):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported", str(source))

    parent, url = goes_on
    file, manifest = parent / "users/history_item.npy", parent / "manifest.json"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    if damage == "gone":
        file.unlink()
    elif damage == "changed":
        file.write_bytes(raw)
    elif damage == "manifest gone":
        manifest.unlink()
    elif damage == "manifest cut":
        manifest.write_bytes(manifest.read_bytes()[:100])
    else:
        monkeypatch.setattr("os.link", refuse)
    child = local_store(url)
    assert fetches["history_item.npy"] == 1
    history = (small_store / "users/history_item.npy").read_bytes()
    assert (child / "users/history_item.npy").read_bytes() == history
    few = {"feature_user_id.npy": 1, "history_item.npy": 1}
    assert (fetches == few) == (damage in ("gone", "changed"))


def test_a_cache_that_cannot_be_written_is_named(url, cache, monkeypatch):
    cache.write_text("a file")
    with pytest.raises(StoreError, match=rf"^{cache}: File exists; set {CACHE_VARIABLE}"):
        Store(url)
    cache.unlink()

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StoreError, match=rf"^{cache}: No locks available; set {CACHE_VARIABLE}"):
        Store(url)


@pytest.mark.parametrize("content", ["short", "changed"])
def test_a_file_that_is_not_as_the_manifest_says(url, small_store, cache, tmp_path, content):
    raw = bytearray((small_store / "users/history_item.npy").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "x").write_bytes(raw[:-1] if content == "short" else raw)
    (location(url) / "users/history_item.npy").put(tmp_path / "x")
    with pytest.raises(StoreError, match=rf"{url}/users/history_item\.npy: .* the manifest says"):
        Store(url)
    assert not list(cache.rglob("history_item*"))
    (location(url) / "users/history_item.npy").put(small_store / "users/history_item.npy")
    assert files(Store(url).path) == files(small_store)


def test_a_store_that_is_not_whole(url, small_store, cache):
    (location(url) / "vocab/item.parquet").unlink()
    with pytest.raises(StoreError, match=rf"{url}/vocab/item\.parquet: no such file"):
        Store(url)
    (location(url) / "manifest.json").unlink()
    with pytest.raises(StoreError, match=rf"{url}/manifest\.json: no such file; is {url} a"):
        Store(url)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest["files"].update({"../../x": FILE}), "files: '../../x' is not"),
        (lambda manifest: manifest["files"].update({"/x": FILE}), "files: '/x' is not"),
        (lambda manifest: manifest["files"].update(x={"bytes": "1"}), "files: 'x' is not"),
        (lambda manifest: manifest.update(files=[]), "files: 'files' is not"),
        (lambda manifest: manifest.update(schema_version=99), "schema version 99"),
        (lambda manifest: manifest.pop("tables"), "no key 'tables'"),
        (
            lambda manifest: manifest["files"].update(x={"bytes": 2**62, "blake2b": ""}),
            rf"bytes left; set {CACHE_VARIABLE}",
        ),
    ],
)
def test_a_manifest_that_is_damaged_or_forged(
    bucket, small_store, cache, tmp_path, change, message
):
    url = f"{bucket}/store"
    rewrite_manifest(small_store, url, change, tmp_path / "manifest")
    with pytest.raises(StoreError, match=message) as caught:
        Store(url)
    assert str(caught.value).startswith(url)
    assert not list(tmp_path.parent.glob("x"))


def test_what_cannot_be_reached_is_named(bucket, cache, capsys):
    with pytest.raises(StoreError, match=rf"{bucket}-of-others/x/manifest.json: no such bucket"):
        Store(f"{bucket}-of-others/x")
    with pytest.raises(StoreError) as caught:
        Store("s3://id:hush@bucket/x")
    assert "write the URL without it" in str(caught.value)
    assert "hush" not in str(caught.value)
    sys.argv = ["store_cache", f"{bucket}/none"]
    assert main() == 2
    assert f"error: {bucket}/none/manifest.json: no such file" in capsys.readouterr().err


def test_the_digest_is_the_one_of_a_local_store(url, small_store):
    raw = (small_store / "manifest.json").read_bytes()
    digest = hashlib.blake2b(raw, digest_size=16).hexdigest()
    assert Store(url).schema.digest == Store(small_store).schema.digest == digest
    assert Store(url).path.name == digest
    shutil.rmtree(Store(url).path)
    assert Store(url).schema.digest == digest
