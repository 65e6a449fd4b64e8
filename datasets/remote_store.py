"""Stores at a URL: prepared or checked on this machine, and moved to or from there as files.

A store at a URL is whole as soon as its manifest is there: that is written last. Until then
`manifest.json.partial` says that an upload is under way or was stopped, and names its files.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.errors import DataError, data_error
from datasets.manifest import (
    MANIFEST,
    check_destination,
    is_plain,
    read_manifest,
)
from datasets.temporary import TemporaryFolder
from remote.path import Location, RemotePath

PARTIAL = f"{MANIFEST}.partial"

log = logging.getLogger(__name__)


@contextmanager
def destination(out: Location, overwrite: bool) -> Iterator[Path]:
    """Where to prepare a store: `out` itself, or for a URL a local folder that is then uploaded.

    Args:
        out: the store's folder.
        overwrite: replace a store that is already there.

    Raises:
        DataError: something is at the URL that must stay.
        RemoteError: a URL that cannot be written to.
    """
    if isinstance(out, Path):
        yield out
        return
    _check_destination(out, overwrite)
    with _scratch(out) as folder:
        yield folder / "store"
        # Another preparation may have put a store there meanwhile.
        _check_destination(out, overwrite)
        _upload(folder / "store", out)


@contextmanager
def local_copy(store: Location) -> Iterator[Path]:
    """A store as local files: itself, or of a URL a copy that is removed at the end.

    Args:
        store: the store's folder.

    Raises:
        DataError: there is no store. One that is raised meanwhile names the URL, not the copy.
    """
    if isinstance(store, Path):
        yield store
        return
    read_manifest(store)
    with _scratch(store) as scratch:
        folder = scratch / "store"
        for file in tqdm(list(store.rglob("*")), desc="fetch", disable=None):
            name = file.relative_to(store)
            if not all(is_plain(part) for part in name.parts):
                raise data_error("not a name of a store's file", "Remove it", file=file)
            if str(name) == PARTIAL:
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            file.fetch(folder / name)
        try:
            yield folder
        except DataError as error:
            raise DataError(str(error).replace(str(folder), str(store))) from None


def mapped_array(file: Location) -> NDArray[Any]:
    """A .npy file, mapped into memory.

    Args:
        file: of a URL a copy is mapped, which each process fetches once and keeps until it ends.

    Raises:
        OSError, ValueError: it cannot be read, or is no such file.
    """
    if isinstance(file, RemotePath):
        return _fetched_array(file)
    array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    return array


@lru_cache(maxsize=4)
def _fetched_array(file: RemotePath) -> NDArray[Any]:
    with _scratch(file) as folder:
        file.fetch(folder / file.name)
        # A mapping outlives the name of its file.
        return mapped_array(folder / file.name)


@contextmanager
def _scratch(store: RemotePath) -> Iterator[Path]:
    """A folder in the machine's temporary one ($TMPDIR), removed at the end."""
    # Temporary folders are often shared by users, and nobody can remove what is another's.
    place = Path(tempfile.gettempdir()) / f"lifelong-ctr-{os.getuid()}-{store.name}"
    with TemporaryFolder(place, mode=0o700) as folder:
        yield folder


def _check_destination(out: RemotePath, overwrite: bool) -> None:
    """As `check_destination`, but what a stopped upload left may always be replaced."""
    if out.exists() and ((out / MANIFEST).is_file() or not (out / PARTIAL).is_file()):
        check_destination(out, overwrite)


def _upload(store: Path, out: RemotePath) -> None:
    """Write a store's files, its manifest last, and remove those of a store that was there."""
    files = read_manifest(store)["files"]
    before = _named_files(out)
    (out / PARTIAL).put(store / MANIFEST)
    # From here on there is no store, so that nobody reads files of two.
    (out / MANIFEST).unlink()
    for name in tqdm(files, desc="upload", disable=None):
        (out / name).put(store / name)
    (out / MANIFEST).put(store / MANIFEST)
    for name in before - files.keys():
        (out / name).unlink()
    (out / PARTIAL).unlink()


def _named_files(out: RemotePath) -> set[str]:
    """Files of the store, or of the stopped upload, that is at a URL."""
    found: set[str] = set()
    for manifest in (MANIFEST, PARTIAL):
        if (out / manifest).is_file():
            try:
                named = read_manifest(out, manifest)["files"]
            except DataError as error:
                log.warning("%s; files that the new store lacks stay", error)
                continue
            found |= {n for n in named if all(is_plain(part) for part in PurePosixPath(n).parts)}
    return found
