"""The manifest of a store, and what may be done to a store's place on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.errors import DataError, data_error
from remote.path import Location, RemoteError

FORMAT = "lifelong-ctr-store"
# Of a store with one segment of histories, and with several.
SCHEMA_VERSION = 1
SEGMENTED_VERSION = 2
MANIFEST = "manifest.json"
_AGAIN = "Prepare the data set again with this version"

# What the keys hold: `str` as a key stands for any name, `int` for a number of 0 or more, and a key
# that ends in `?` may be left out.
_FEATURES = [{"name": str, "table": str}]
_ITEM_FEATURES = [{"name": str, "table": str, "width?": int}]
_FEATURE_KINDS = ("user", "item", "event", "sample")
_SHAPE = {
    "name": str,
    "tables": {str: {"rows": int}},
    "features": {
        "user": _FEATURES,
        "item": _ITEM_FEATURES,
        "event": _FEATURES,
        "sample?": _FEATURES,
    },
    "histories": {"records": int, "events": int, "max_length": int, "segments?": [int]},
    "vectors": {"width": int, "dtype": str, "items_with_vector": int},
    "splits": {
        str: {
            "samples": int,
            "positives?": int,
            "users": int,
            "labelled?": bool,
            "source_rows?": bool,
        }
    },
    "raw_users?": bool,
    "files": {str: {"bytes": int, "blake2b": str}},
    "parents?": [str],
}


def file_digest(path: Path) -> str:
    """BLAKE2b digest of a file, 16 bytes as 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def seal(manifest: Mapping[str, Any]) -> str:
    """Checksum of a manifest, its own entry `checksum` left out: 32 hex digits."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_manifest(path: Location, name: str = MANIFEST) -> dict[str, Any]:
    """Read a store's manifest and check that this code knows its schema.

    Args:
        path: the store's folder.
        name: of the file in it.

    Raises:
        RemoteError: a URL that cannot be read.
        DataError: no manifest, not a store, written under another schema version, changed since
            it was written, or an entry that is missing or of another kind.
    """
    file = path / name
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise data_error("no such file", "Give the folder of a prepared store", file=file) from None
    except RemoteError:
        raise
    except OSError as error:
        raise data_error(f"cannot be read ({error.strerror})", _AGAIN, file=file) from None
    except (ValueError, RecursionError) as error:
        raise data_error(f"not readable as JSON ({error})", _AGAIN, file=file) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise data_error(f"not a {FORMAT}", "Give the folder of a prepared store", file=file)
    version = manifest.get("schema_version")
    if version not in (SCHEMA_VERSION, SEGMENTED_VERSION):
        known = f"{SCHEMA_VERSION} and {SEGMENTED_VERSION}"
        problem = f"the store has schema version {version}, this code reads {known}"
        raise data_error(problem, _AGAIN, file=file)
    # Stores of the first releases have none.
    if "checksum" in manifest and manifest["checksum"] != seal(manifest):
        raise data_error("its checksum differs: the content has changed", _AGAIN, file=file)
    shape = {**_SHAPE, "vectors": None} if manifest.get("vectors", 0) is None else _SHAPE
    _check_shape(manifest, shape, file, "")
    _check_names(manifest, file)
    _check_options(manifest, file)
    _check_segments(manifest, file)
    return manifest


def _wrong_kind(file: Location, where: str, value: object) -> DataError:
    problem = f"cannot be {repr(value)[:60]}"
    return data_error(problem, _AGAIN, file=file, key=where or "(top)")


def _check_shape(value: Any, shape: Any, file: Location, where: str) -> None:
    """Compare a value with what `_SHAPE` says; keys that it does not name are not looked at."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise _wrong_kind(file, where, value)
        for key, inner in _expected(value, shape):
            if key not in value:
                raise data_error("entry is missing", _AGAIN, file=file, key=f"{where}{key}")
            _check_shape(value[key], inner, file, f"{where}{key}.")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise _wrong_kind(file, where, value)
        for place, entry in enumerate(value):
            _check_shape(entry, shape[0], file, f"{where}{place}.")
    elif shape is not None and (
        type(value) is not shape or (shape is int and not 0 <= value < 2**63)
    ):
        raise _wrong_kind(file, where.rstrip("."), value)


def _expected(value: dict[str, Any], shape: dict[Any, Any]) -> list[tuple[str, Any]]:
    """Keys that an object must have, and those it may have and does, with what they hold."""
    if str in shape:
        return [(key, shape[str]) for key in value]
    needed = [(key, inner) for key, inner in shape.items() if not key.endswith("?")]
    free = [(key[:-1], inner) for key, inner in shape.items() if key.endswith("?")]
    return needed + [(key, inner) for key, inner in free if key in value]


def is_plain(name: str) -> bool:
    """Whether a name can be a part of a file name and lead nowhere else."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def _check_names(manifest: dict[str, Any], file: Location) -> None:
    features = [f for kind in _FEATURE_KINDS for f in manifest["features"].get(kind, [])]
    for name in [*manifest["tables"], *manifest["splits"], *(f["name"] for f in features)]:
        if not is_plain(name):
            raise data_error("name is not part of a file name", _AGAIN, file=file, key=repr(name))
    for feature in features:
        if feature["table"] not in manifest["tables"]:
            problem = f"feature of a table '{feature['table']}' that is not there"
            raise data_error(problem, _AGAIN, file=file, key=feature["name"])
    if "item" not in manifest["tables"]:
        raise data_error("entry is missing", _AGAIN, file=file, key="tables.item")


def _check_options(manifest: dict[str, Any], file: Location) -> None:
    """What `_SHAPE` cannot say: how entries that may be left out hang together."""
    for kind in _FEATURE_KINDS:
        for feature in manifest["features"].get(kind, []):
            if "width" in feature and (kind != "item" or feature["width"] < 2):
                found = repr(feature["width"])[:60]
                problem = f"width {found} of a feature of {kind}s, expected 2 or more, of items"
                raise data_error(problem, _AGAIN, file=file, key=feature["name"])
    for name, split in manifest["splits"].items():
        if is_labelled(split) != ("positives" in split):
            problem = "positives belong to a split with labels, and only to one"
            raise data_error(problem, _AGAIN, file=file, key=f"splits.{name}")


def _check_segments(manifest: dict[str, Any], file: Location) -> None:
    """Segments and parents come together, one more of those, in the version that has them."""
    histories, parents = manifest["histories"], manifest.get("parents", [])
    segments, key = histories.get("segments"), "histories.segments"
    if (segments is not None) != (manifest["schema_version"] == SEGMENTED_VERSION):
        problem = f"segments belong to schema version {SEGMENTED_VERSION}, and only to it"
        raise data_error(problem, _AGAIN, file=file, key=key)
    if segments is None:
        segments = [histories["events"]]
    if len(segments) != len(parents) + 1:
        problem = f"{len(segments)} segments after {len(parents)} parents"
        raise data_error(problem, _AGAIN, file=file, key=key)
    if sum(segments) != histories["events"]:
        problem = f"segments of {sum(segments)} events, all histories have {histories['events']}"
        raise data_error(problem, _AGAIN, file=file, key=key)


def history_segments(manifest: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Folder and events of each segment of the histories, in order.

    Args:
        manifest: of the store.
    """
    histories = manifest["histories"]
    sizes = histories.get("segments") or [histories["events"]]
    return [(segment_folder(number), size) for number, size in enumerate(sizes)]


def segment_folder(number: int) -> str:
    """Folder of the events of a segment, within the store."""
    return f"users/segment_{number}" if number else "users"


def is_labelled(split: Mapping[str, Any]) -> bool:
    """Whether a split has labels, by its entry in the manifest; it has unless the entry says no."""
    return bool(split.get("labelled", True))


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_destination(path: Location, overwrite: bool) -> None:
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
