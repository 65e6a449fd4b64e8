"""A small world's store."""

from __future__ import annotations

import json
from pathlib import Path

from datasets.manifest import file_digest, seal
from datasets.world import WorldSize, make_world

SIZE = WorldSize(
    users=40, samples_per_user=4, history_length=60, items=400, categories=12, styles=4, seed=3
)


def make_store(path: Path, raw: Path | None = None) -> Path:
    """The world's store; its raw tables, too, if wanted."""
    if not path.exists():
        make_world(path, SIZE, raw=raw)
    return path


def reseal(store: Path) -> None:
    """Let the manifest's checksums agree with the files, as one who forges a store would."""
    file = store / "manifest.json"
    manifest = json.loads(file.read_text())
    for name in list(manifest["files"]):
        path = store / name
        if path.is_file():
            entry = {"bytes": path.stat().st_size, "blake2b": file_digest(path)}
            manifest["files"][name] = entry
        else:
            del manifest["files"][name]
    manifest["checksum"] = seal(manifest)
    file.write_text(json.dumps(manifest))
