"""The writer of a store: aside, sealed with a manifest, moved into place (docs/store_format.md)."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from datasets.command import run
from datasets.manifest import (
    MANIFEST,
    check_destination,
    file_digest,
    read_manifest,
    seal,
    sync,
)
from datasets.store_contents import StoreContents
from datasets.temporary import REPLACED, TemporaryFolder, remove_stale
from datasets.verify import verify
from remote.path import location

_SCRATCH = "scratch"


class StoreWriter(StoreContents):
    """Writes a store into a temporary folder and puts it in place as the last step.

    Use as a context manager and call `finish` at the end; leaving without `finish` removes the
    temporary folder.

    Args:
        path: final folder of the store.
        name: name of the data set.
        created_by: module that prepares it.
        source: what it was made from: `path`, `files` (name -> bytes), `options`.
        overwrite: replace a store that is already there.

    Raises:
        DataError: something is already at `path`.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        created_by: str,
        source: Mapping[str, Any],
        overwrite: bool = False,
    ) -> None:
        self.path = path.absolute()
        self._overwrite = overwrite
        remove_stale(self.path)
        check_destination(self.path, overwrite)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = TemporaryFolder(self.path)
        super().__init__(self._temporary.path / "store", name, created_by, source)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._temporary.remove()

    def scratch(self) -> Path:
        """A folder for what is spilled meanwhile; `finish` removes it."""
        folder = self.folder / _SCRATCH
        folder.mkdir(exist_ok=True)
        return folder

    def finish(self) -> dict[str, Any]:
        """Flush everything, write the manifest and move the store to its place.

        Returns:
            The manifest.
        """
        self._close_contents()
        shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        self._manifest["files"] = {
            path.relative_to(self.folder).as_posix(): self._describe(path) for path in files
        }
        self._manifest["checksum"] = seal(self._manifest)
        text = json.dumps(self._manifest, indent=2, ensure_ascii=False)
        (self.folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
        for path in self.folder.rglob("*"):
            sync(path)
        sync(self.folder)
        self._move_into_place()
        return self._manifest

    def _describe(self, file: Path) -> dict[str, Any]:
        """Entry of a file of the store in the manifest."""
        return {"bytes": file.stat().st_size, "blake2b": file_digest(file)}

    def _move_into_place(self) -> None:
        # Another preparation may have put a store there meanwhile.
        check_destination(self.path, self._overwrite)
        old = self._temporary.path / REPLACED
        if self.path.exists():
            self.path.rename(old)
        try:
            self.folder.rename(self.path)
        except BaseException:
            with suppress(OSError):
                old.rename(self.path)
            raise
        sync(self.path.parent)


def main(argv: list[str] | None = None) -> int:
    """Command line: `verify PATH` checks a store, `info PATH` prints its manifest in short."""
    parser = argparse.ArgumentParser(prog="datasets.store", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("verify", "check every file"), ("info", "print what is inside")):
        commands.add_parser(name, help=about).add_argument("path", help="folder or URL")
    arguments = parser.parse_args(argv)

    def command() -> None:
        path = location(arguments.path)
        if arguments.command == "verify":
            verify(path)
            print(f"{path}: ok")
        else:
            manifest = read_manifest(path)
            manifest.pop("files")
            print(json.dumps(manifest, indent=2, ensure_ascii=False))

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
