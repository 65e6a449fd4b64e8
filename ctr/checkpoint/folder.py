"""The folder of a run's checkpoints: which are complete, which are sound, which may go.

A checkpoint is a folder `step-<n>` with the tensors' files, their index `.metadata`, and
`progress.json`, which is written last: how far the run was, and size and SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctr.checkpoint.index import CheckpointError

_log = logging.getLogger(__name__)

PROGRESS = "progress.json"
_NAME = re.compile(r"step-(\d{9})")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        path: its folder.
        progress: what the run wrote beside the tensors, and `step`.
        files: bytes and SHA-256 of each of the other files, by name.
    """

    path: Path
    progress: dict[str, Any]
    files: dict[str, tuple[int, str]]


def name_of(step: int) -> str:
    """Name of a checkpoint's folder."""
    return f"step-{step:09d}"


def newest_or_none(folder: Path) -> Checkpoint | None:
    """The newest sound checkpoint of a run to go on with, or None before the first complete one."""
    _put_back_replaced(folder)
    return newest(folder) if _complete(folder) else None


def newest(folder: Path) -> Checkpoint:
    """The newest checkpoint of a run whose files are what was written.

    Damaged ones are named in a warning and passed over.

    Raises:
        CheckpointError: there is none; names what is wrong with each.
    """
    damaged = []
    for path in reversed(_complete(folder)):
        try:
            return verify(read(path))
        except CheckpointError as error:
            _log.warning("%s; the checkpoint before it is taken", error)
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(f"{folder}: no sound checkpoint: {'; '.join(damaged)}")
    raise CheckpointError(f"{folder}: no complete checkpoint; train the run first")


def best(folder: Path) -> Checkpoint:
    """The checkpoint that validated best, as the newest one remembers.

    Raises:
        CheckpointError: the run kept none, or it is damaged.
    """
    known = newest(folder).progress.get("best")
    if not isinstance(known, dict) or "step" not in known:
        raise CheckpointError(
            f"{folder}: no best checkpoint is known; set trainer.keep_best and data.valid_split "
            "when training, or take the newest"
        )
    return verify(read(folder / name_of(known["step"])))


def read(path: Path) -> Checkpoint:
    """A checkpoint by what its progress file says.

    Raises:
        CheckpointError: the file is not there, or not what was written.
    """
    file = path / PROGRESS
    try:
        stored = json.loads(file.read_text())
        seal = stored.pop("sha256")
        if seal != _seal(stored):
            raise ValueError("its checksum differs")
        files = {name: (int(size), str(sha)) for name, (size, sha) in stored.pop("files").items()}
        if any(Path(name).name != name for name in files):
            raise ValueError("it names a file outside")
        if stored["step"] != int(path.name.removeprefix("step-")):
            raise ValueError(f"it is of step {stored['step']}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); remove {path}") from None
    return Checkpoint(path, stored, files)


def verify(checkpoint: Checkpoint) -> Checkpoint:
    """Compare every file with its size and checksum; returns the checkpoint.

    Raises:
        CheckpointError: names the file that differs.
    """
    for name, (size, sha256) in checkpoint.files.items():
        path = checkpoint.path / name
        try:
            found = path.stat().st_size
            if found != size:
                raise CheckpointError(
                    f"{path}: damaged, {found} bytes of {size}; remove {checkpoint.path}"
                )
            if digest(path) != sha256:
                raise CheckpointError(
                    f"{path}: damaged, its checksum differs; remove {checkpoint.path}"
                )
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error.strerror}); remove {checkpoint.path}"
            ) from None
    return checkpoint


def complete(aside: Path, final: Path, step: int, progress: dict[str, Any]) -> None:
    """Seal a folder whose tensors are written, and give it its name.

    Args:
        aside: where the files are; final: what to rename it to.
        step: steps done; progress: JSON values.
    """
    files = {p.name: [p.stat().st_size, digest(p)] for p in sorted(aside.iterdir())}
    stored = {**progress, "step": step, "files": files}
    _write_synced(aside / PROGRESS, json.dumps({**stored, "sha256": _seal(stored)}))
    _sync_folder(aside)
    # A run that starts over may meet a folder of this name. Where it is killed between the two
    # renames, `newest_or_none` takes the first one back.
    replaced = final.with_name(f"{final.name}.old")
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.replace(final, replaced)
    os.replace(aside, final)
    _sync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _put_back_replaced(folder: Path) -> None:
    """Give a checkpoint its name again whose successor of the same step did not get it."""
    for replaced in folder.glob("step-?????????.old"):
        final = replaced.with_suffix("")
        if (replaced / PROGRESS).is_file() and not final.exists():
            os.replace(replaced, final)


def drop_later(folder: Path, step: int) -> None:
    """Remove complete checkpoints of steps after `step`: of a future that did not happen.

    A run that passed over damaged ones went on from before them. Counted among the newest they
    would push out those that it writes.
    """
    for later in _complete(folder):
        if later.name > name_of(step):
            _remove(later)


def _remove(checkpoint: Path) -> None:
    # Without its seal it is no checkpoint, wherever the removal is cut short.
    (checkpoint / PROGRESS).unlink()
    shutil.rmtree(checkpoint)


def prune(folder: Path, keep: int, keep_step: int | None) -> None:
    """Remove all but the newest `keep` complete checkpoints and the one of `keep_step`.

    What a killed run left half-written goes, too; nothing may be being written.
    """
    for old in _complete(folder)[:-keep]:
        if keep_step is None or old.name != name_of(keep_step):
            _remove(old)
    complete = _complete(folder)
    for left in folder.glob("step-?????????*"):
        if left not in complete:
            shutil.rmtree(left, ignore_errors=True)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(stored: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()


def _complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name)]
    return sorted(p for p in found if (p / PROGRESS).is_file())


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
