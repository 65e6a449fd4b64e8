"""Stores at a URL: fetched once into a folder of this machine, where they can be memory-mapped.

    python -m ctr.data.store_cache s3://bucket/stores/world

fetches a store ahead of a run. A copy is kept under the digest of its manifest, so a store that
has been written anew is fetched anew. Each file is compared with the manifest as it arrives.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ctr.schema import StoreError, read_schema
from remote.path import RemoteError, RemotePath, is_url, location

CACHE_VARIABLE = "CTR_STORE_CACHE"
_MANIFEST = "manifest.json"
_ENTRY = ("bytes", "blake2b")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _File:
    """A file as the manifest describes it: size in bytes, BLAKE2b as 32 hex digits."""

    name: str
    size: int
    digest: str


def cache_folder() -> Path:
    """Where copies are kept: $CTR_STORE_CACHE, else a folder of the user's ~/.cache."""
    given = os.environ.get(CACHE_VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(home) / "lifelong-ctr" / "stores"


def local_store(store: str | Path) -> Path:
    """Folder of a store on this machine: a local one itself, of a URL the copy in the cache.

    Of several processes that ask at once, one fetches and the others wait. A fetch that was
    stopped goes on with the files that are missing.

    Args:
        store: a local folder, or its URL; credentials come from the environment.

    Raises:
        StoreError: a URL that cannot be read or holds no store, a file that is not as the
            manifest says, or a cache that cannot be written.
    """
    if not is_url(store):
        return Path(store)
    try:
        found = location(str(store))
        if isinstance(found, Path):
            return found
        return _cached(found)
    except RemoteError as error:
        raise StoreError(str(error)) from None
    except OSError as error:
        if is_url(error.filename):
            raise StoreError(
                f"{error.filename}: no such file; is {store} a prepared store, uploaded to its end?"
            ) from None
        raise StoreError(
            f"{error.filename or cache_folder()}: {error.strerror or error}; set {CACHE_VARIABLE} "
            "to a folder of a local disk that can be written"
        ) from None


def _cached(store: RemotePath) -> Path:
    raw = (store / _MANIFEST).read_bytes()
    folder = cache_folder() / hashlib.blake2b(raw, digest_size=16).hexdigest()
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock")):
            # Another process may have fetched it meanwhile.
            if not folder.is_dir():
                _fetch(store, raw, folder)
    return folder


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process of this machine at a time; the lock of a process that dies is free."""
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _fetch(store: RemotePath, raw: bytes, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    (partial / _MANIFEST).write_bytes(raw)
    try:
        read_schema(partial)
        files = _named_files(json.loads(raw), store)
    except StoreError as error:
        shutil.rmtree(partial)
        raise StoreError(str(error).replace(str(partial), str(store))) from None
    parents = _cached_parents(folder.parent, json.loads(raw))
    missing = [
        file
        for file in files
        if not (partial / file.name).is_file() and not _link(file, parents, partial)
    ]
    _check_room(store, partial, sum(file.size for file in missing))
    _log.info("fetching %s (%d files) into %s", store, len(missing), folder)
    for file in tqdm(missing, desc="fetch", disable=None):
        _fetch_file(store / file.name, partial / file.name, file)
    partial.rename(folder)


def _named_files(manifest: dict[str, Any], store: RemotePath) -> list[_File]:
    """The files of a store.

    Raises:
        StoreError: an entry of another kind, or a name that leads out of the store.
    """
    entries, found = manifest.get("files"), []
    for name, entry in entries.items() if isinstance(entries, dict) else [("files", entries)]:
        plain = name and not set(name.split("/")) & {"", ".", ".."} and not set(name) & {"\\", "\0"}
        size, digest = (entry.get(k) if isinstance(entry, dict) else None for k in _ENTRY)
        if not plain or type(size) is not int or not isinstance(digest, str):
            raise StoreError(
                f"{store}/{_MANIFEST}: files: {name[:60]!r} is not described as a file of the "
                "store; prepare the store again"
            )
        found.append(_File(name, size, digest))
    return found


def _cached_parents(cache: Path, manifest: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """Folders of the stores that this one goes on from and that are here, with their files."""
    parents = {}
    for digest in reversed(manifest.get("parents", [])):
        try:
            raw = (cache / digest / _MANIFEST).read_bytes()
        except OSError:
            continue
        # Nothing is taken from a copy that was damaged.
        if hashlib.blake2b(raw, digest_size=16).hexdigest() == digest:
            parents[cache / digest] = json.loads(raw)["files"]
    return parents


def _link(file: _File, parents: dict[Path, dict[str, Any]], partial: Path) -> bool:
    """Take a file from a copy of a parent that has the same one; False where that cannot be."""
    for folder, entries in parents.items():
        if entries.get(file.name) != {"bytes": file.size, "blake2b": file.digest}:
            continue
        source, target = folder / file.name, partial / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if _described(source) == (file.size, file.digest):
                os.link(source, target)
                return True
        except OSError as error:
            # Gone meanwhile, or a file system without links.
            _log.info("%s is fetched, it cannot be linked (%s)", file.name, error)
    return False


def _described(path: Path) -> tuple[int, str]:
    """Size in bytes and BLAKE2b digest of a file."""
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16))
        return content.tell(), digest.hexdigest()


def _check_room(store: RemotePath, partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise StoreError(
            f"{store}: {needed:,} bytes are to be fetched and {partial.parent} has {free:,} bytes "
            f"left; set {CACHE_VARIABLE} to a folder of a larger disk"
        )


def _fetch_file(source: RemotePath, target: Path, file: _File) -> None:
    """Fetch and check a file; it has its name only when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.part")
    try:
        source.fetch(aside)
        size, digest = _described(aside)
        if (size, digest) != (file.size, file.digest):
            raise StoreError(
                f"{source}: {size} bytes of digest {digest}, the manifest says "
                f"{file.size} of {file.digest}; upload the store again"
            )
        # After a power failure the file must not have its name without its content.
        with aside.open("rb") as content:
            os.fsync(content.fileno())
        aside.rename(target)
    finally:
        aside.unlink(missing_ok=True)


def main() -> int:
    """Command line: fetch a store and print the folder of its copy."""
    parser = argparse.ArgumentParser(description="Fetch a store into the cache.")
    parser.add_argument("store", help="its URL")
    try:
        print(local_store(parser.parse_args().store))
    except (StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
