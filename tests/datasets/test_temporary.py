"""Temporary folders: one that is in use stays, whoever looks, and one that was left goes."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from datasets import temporary
from datasets.temporary import TemporaryFolder, remove_stale

HOLDS = """
import sys
from pathlib import Path
from datasets.temporary import TemporaryFolder
with TemporaryFolder(Path(sys.argv[1])) as folder:
    (folder / "below").mkdir()
    (folder / "below" / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(place: Path, *before: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process with a folder for a place; `before` is what starts it."""
    command = [*before, sys.executable, "-c", HOLDS, str(place)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())


def test_it_is_removed_at_the_end(tmp_path: Path) -> None:
    with TemporaryFolder(tmp_path / "place", mode=0o700) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.name.startswith("place.tmp-")
        (folder / "below").mkdir()
        (folder / "link").symlink_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_of_another_process_it_stays_until_that_ends(tmp_path: Path) -> None:
    with holder(tmp_path / "place") as (process, theirs):
        with TemporaryFolder(tmp_path / "place") as ours:
            assert {*tmp_path.iterdir()} == {ours, theirs}
        assert (theirs / "below" / "file").exists()
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert theirs.exists()
    with TemporaryFolder(tmp_path / "place") as ours:
        assert [*tmp_path.iterdir()] == [ours]


def test_of_another_container_it_stays(tmp_path: Path) -> None:
    """Process ids say nothing there: ours may be nobody's, and everybody's may be 1."""
    container = ("unshare", "--user", "--map-root-user", "--pid", "--fork")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*container, "true"], check=False).returncode
    ):
        pytest.skip("no process namespaces here")
    with holder(tmp_path / "place", *container) as (process, theirs):
        remove_stale(tmp_path / "place")
        assert (theirs / "below" / "file").exists()
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    assert list(tmp_path.iterdir()) == []


def test_ours_stays_where_a_lock_may_be_taken_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS it may be, by one process."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with (
        TemporaryFolder(tmp_path / "place") as first,
        TemporaryFolder(tmp_path / "place") as second,
    ):
        assert {*tmp_path.iterdir()} == {first, second}
    assert list(tmp_path.iterdir()) == []


def test_without_locks_nothing_of_others_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    with holder(tmp_path / "place") as (process, theirs):
        process.kill()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with TemporaryFolder(tmp_path / "place") as ours:
        assert {*tmp_path.iterdir()} == {ours, theirs}
    assert [*tmp_path.iterdir()] == [theirs]
    assert f"{theirs} may be in use" in caplog.text


def test_what_has_no_lock_stays_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a release that had no locks; one that is empty is of nobody."""
    old = tmp_path / "place.tmp-12"
    (old / "users").mkdir(parents=True)
    (tmp_path / "place.tmp-13").mkdir()
    (tmp_path / "place.tmp-14").write_text("a file")
    linked = tmp_path / "folder"
    linked.mkdir()
    (linked / ".lock").touch()
    (tmp_path / "place.tmp-15").symlink_to(linked)
    with caplog.at_level(logging.WARNING), TemporaryFolder(tmp_path / "place"):
        pass
    names = ["folder", *(f"place.tmp-{number}" for number in (12, 14, 15))]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (linked / ".lock").exists()
    assert caplog.messages == [f"{old} has no lock: remove it if no preparation is at work there"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_of_another_user_it_stays() -> None:
    # Not pytest's folder: only its owner may go there.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o1777)
        with holder(folder / "place") as (process, theirs):
            process.kill()
        child = os.fork()
        if child == 0:
            # Whatever goes wrong, this is no second pytest.
            found: set[Path] = set()
            with suppress(BaseException):
                os.setgid(65534)
                os.setuid(65534)
                with TemporaryFolder(folder / "place") as ours:
                    found = {*folder.iterdir()} - {ours}
            os._exit(0 if found == {theirs} else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert theirs.exists()


def test_a_folder_that_is_taken_away_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = temporary._take
    taken = []

    def late(lock: Any) -> bool | None:
        """Another process comes first."""
        if not taken:
            taken.append(Path(lock.name).parent)
            shutil.rmtree(taken[0])
        return made(lock)

    monkeypatch.setattr(temporary, "_take", late)
    with TemporaryFolder(tmp_path / "place") as ours:
        assert [*tmp_path.iterdir()] == [ours]
        assert ours != taken[0]
