"""The manifest of a store, and what may be done to a store's place on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from datasets.errors import data_error

FORMAT = "lifelong-ctr-store"
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


def file_digest(path: Path) -> str:
    """BLAKE2b digest of a file, 16 bytes as 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a store's manifest and check that this code knows its schema.

    Args:
        path: the store's folder.

    Raises:
        DataError: no manifest, not a store, or written under another schema version.
    """
    file = path / MANIFEST
    again = "Prepare the data set again with this version"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise data_error("no such file", "Give the folder of a prepared store", file=file) from None
    except ValueError as error:
        raise data_error(f"not readable as JSON ({error})", again, file=file) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise data_error(f"not a {FORMAT}", "Give the folder of a prepared store", file=file)
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        problem = f"the store has schema version {version}, this code reads {SCHEMA_VERSION}"
        raise data_error(problem, again, file=file)
    return manifest


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def temporary_folder(path: Path, suffix: str = "") -> Path:
    """Name of this process's temporary folder beside a store; what lies there is removed.

    Args:
        path: final place of the store.
        suffix: keeps several such folders apart.
    """
    folder = path.with_name(f"{path.name}.tmp-{os.getpid()}{suffix}")
    # A dead process may have had our id, as in a container where every run has the same one.
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def remove_stale(path: Path) -> None:
    """Remove the temporary folders that dead preparations left beside a store.

    Args:
        path: final place of the store.
    """
    for folder in path.parent.glob(f"{path.name}.tmp-*"):
        pid = folder.name.rsplit(".tmp-", 1)[1].split(".")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            log.warning("removing %s, left by a preparation that was stopped", folder)
            shutil.rmtree(folder)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_destination(path: Path, overwrite: bool) -> None:
    """Refuse to write over what is there; only a store may be replaced, and only when asked.

    Args:
        path: final folder of the store.
        overwrite: the user asked to replace it.

    Raises:
        DataError: something is at `path` that must stay.
    """
    if not path.exists():
        return
    if not overwrite:
        raise data_error("already exists", "Choose another --out or add --overwrite", file=path)
    if not (path / MANIFEST).is_file():
        raise data_error(
            "is not a store, so --overwrite will not remove it", "Choose another --out", file=path
        )
