"""Folders for work under way, beside the place where its result goes: locked as long as it lasts.

A folder is called `<place>.tmp-<random>` and has a lock file in it, which its process holds (flock)
until it ends, however it ends. So a folder whose lock is free was left by a preparation that was
stopped, in whatever container or machine it ran. Where a file system has no locks, nothing is taken
for left.
"""

from __future__ import annotations

import fcntl
import glob
import logging
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_LOCK = ".lock"
# What stood at the place, in the folder of whoever replaces it.
REPLACED = "old"
# Device and inode of the folders that this process holds. On NFS a process is given a lock that it
# has already, and loses it when it closes the file.
_held: set[tuple[int, int]] = set()

log = logging.getLogger(__name__)


class TemporaryFolder:
    """A folder of this process, removed at the end; what stopped ones left is removed at the start.

    Use as a context manager, which gives its path, or call `remove`.

    Args:
        place: where the result goes; its folder must be there.
        mode: permissions of the folder, before the umask.

    Attributes:
        path: of the folder. A file of the name `.lock` is in it.
    """

    def __init__(self, place: Path, mode: int = 0o777) -> None:
        place = place.absolute()
        remove_stale(place)
        made = None
        while made is None:
            made = _make(place, mode)
        self.path, self._lock = made
        self._identity = _identity(self.path)
        _held.add(self._identity)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder and all that is in it; a second call does nothing."""
        if not self._lock.closed:
            _remove(self.path, self._lock)
            _held.discard(self._identity)


def remove_stale(place: Path) -> None:
    """Remove the folders that stopped preparations left beside a place.

    What one had moved away to replace it goes back, where nothing has taken its place.

    Args:
        place: where their results were to go.
    """
    for folder in place.parent.glob(f"{glob.escape(place.name)}.tmp-*"):
        with suppress(OSError):
            if not folder.is_symlink() and _identity(folder) not in _held:
                _remove_if_free(folder, place)


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _make(place: Path, mode: int) -> tuple[Path, BinaryIO] | None:
    """Make a folder and take its lock; None where another process removed it in between."""
    folder = place.with_name(f"{place.name}.tmp-{secrets.token_hex(4)}")
    folder.mkdir(mode=mode)
    try:
        lock = (folder / _LOCK).open("xb")
    except FileNotFoundError:
        return None
    if _take(lock) is not False and (folder / _LOCK).exists():
        return folder, lock
    lock.close()
    return None


def _take(lock: BinaryIO) -> bool | None:
    """Take a lock: whether it was free; None where the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_if_free(folder: Path, place: Path) -> None:
    try:
        lock = os.fdopen(os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW), "r+b")
    except FileNotFoundError:
        # Being made or being removed, and then empty, or of a release that had no locks.
        with suppress(OSError):
            folder.rmdir()
            return
        if folder.is_dir():
            log.warning("%s has no lock: remove it if no preparation is at work there", folder)
        return
    with lock:
        free = _take(lock)
        if free:
            if (folder / REPLACED).exists() and not place.exists():
                # Stopped just before its own result took the place.
                (folder / REPLACED).rename(place)
            log.warning("removing %s, left by a preparation that was stopped", folder)
            _remove(folder, lock)
        elif free is None:
            problem = "%s may be in use, its file system has no locks: remove it if it is not"
            log.warning(problem, folder)


def _remove(folder: Path, lock: BinaryIO) -> None:
    """Remove a folder whose lock we hold; the lock goes last, so that the rest is never without."""
    with suppress(OSError):
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != _LOCK:
                entry.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()
    # On NFS an open file keeps its folder.
    with suppress(OSError):
        folder.rmdir()
