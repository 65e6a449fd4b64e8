"""What a prepared store holds, read from its manifest (docs/store_format.md)."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ctr.errors import UserError

FORMAT = "lifelong-ctr-store"
# Of a store with one segment of histories, and with several.
SCHEMA_VERSION = 1
SEGMENTED_VERSION = 2
VECTOR_DTYPES = ("int8", "float16", "float32")


class StoreError(UserError):
    """A prepared store that cannot be used; names the file or key and says what to do."""


@dataclass(frozen=True)
class FeatureSpec:
    """A feature and the embedding table its rows belong to.

    Attributes:
        width: rows that each item has of it; more than 1 for a list, whose empty places hold 0.
    """

    name: str
    table: str
    width: int = 1


@dataclass(frozen=True)
class VectorSpec:
    """Frozen item vectors: width in numbers, numpy dtype name, items that have one."""

    width: int
    dtype: str
    items_with_vector: int


@dataclass(frozen=True)
class SplitSpec:
    """Size of a split, and what its samples carry.

    Attributes:
        samples: of the split; users: distinct user records among them.
        positives: clicks; None for a split without labels.
        source_rows: whether it is known in which row of the source each sample was.
    """

    samples: int
    positives: int | None
    users: int
    source_rows: bool = False

    @property
    def labelled(self) -> bool:
        """Whether the samples have labels."""
        return self.positives is not None


@dataclass(frozen=True)
class StoreSchema:
    """The manifest of a prepared store.

    Attributes:
        table_rows: rows of each table, row 0 (padding and unknown) included.
        user, item, event, sample: features by what they describe; those of samples tell of the
            moment in which the item was shown.
        max_history: longest history, in events.
        segments: events of each segment of the histories, one for each increment after the first;
            None where there is one segment.
        vectors: None where the store has no item vectors.
        digest: BLAKE2b of the manifest, which itself holds the digest of every file.
        raw_users: whether a file tells the raw user of each record.
        parents: digests of the stores that this one continues, oldest first; rows of their tables
            mean the same here.
    """

    name: str
    table_rows: dict[str, int]
    user: tuple[FeatureSpec, ...]
    item: tuple[FeatureSpec, ...]
    event: tuple[FeatureSpec, ...]
    sample: tuple[FeatureSpec, ...]
    max_history: int
    vectors: VectorSpec | None
    splits: dict[str, SplitSpec]
    digest: str
    raw_users: bool = False
    segments: tuple[int, ...] | None = None
    parents: tuple[str, ...] = ()

    def require_item_feature(self, name: str, needed_by: str) -> None:
        """Raise StoreError unless items carry the feature; `needed_by` is a config key."""
        if name not in {feature.name for feature in self.item}:
            raise StoreError(
                f"{needed_by} needs the item feature '{name}', which store '{self.name}' does not "
                f"have (it has: {', '.join(f.name for f in self.item) or 'none'})"
            )

    def require_vectors(self, needed_by: str) -> None:
        """Raise StoreError unless items carry frozen vectors; `needed_by` is a config key."""
        if self.vectors is None:
            raise StoreError(
                f"{needed_by} needs item vectors, which store '{self.name}' does not have; "
                "prepare it with vectors or choose a model without them"
            )


def read_schema(store: Path) -> StoreSchema:
    """Read and check `manifest.json` of a prepared store.

    Raises:
        StoreError: no manifest, not JSON, another schema version, changed since it was written, or
            a key that is missing or of another kind.
    """
    path = store / "manifest.json"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror}); is this a prepared store? "
            "`python -m datasets.world --out PATH` makes one"
        ) from None
    try:
        manifest = json.loads(raw)
        return _parse(manifest, path, hashlib.blake2b(raw, digest_size=16).hexdigest())
    except StoreError:
        raise
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{path}: not valid JSON ({error}); prepare the store again") from None
    except KeyError as error:
        raise StoreError(f"{path}: no key {error}; prepare the store again") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{path}: malformed ({error}); prepare the store again") from None


def _parse(manifest: dict, path: Path, digest: str) -> StoreSchema:
    if manifest.get("format") != FORMAT:
        raise StoreError(f"{path}: format is {manifest.get('format')!r}, expected {FORMAT!r}")
    if manifest["schema_version"] not in (SCHEMA_VERSION, SEGMENTED_VERSION):
        raise StoreError(
            f"{path}: schema version {manifest['schema_version']}, this release reads "
            f"{SCHEMA_VERSION} and {SEGMENTED_VERSION}; prepare the store again"
        )
    # Stores of the first releases have none.
    if "checksum" in manifest and manifest["checksum"] != _seal(manifest):
        raise StoreError(f"{path}: its checksum differs; prepare the store again")
    vectors = manifest["vectors"]
    features = _parse_features(manifest["features"])
    table_rows = {name: _number(table["rows"]) for name, table in manifest["tables"].items()}
    if "item" not in table_rows:
        raise StoreError(f"{path}: no table item")
    for kind, specs in features.items():
        for spec in specs:
            if spec.table not in table_rows:
                raise StoreError(f"{path}: {kind} feature {spec.name}: no table {spec.table}")
    return StoreSchema(
        name=manifest["name"],
        table_rows=table_rows,
        user=features["user"],
        item=features["item"],
        event=features["event"],
        sample=features["sample"],
        max_history=_number(manifest["histories"]["max_length"]),
        vectors=None if vectors is None else _parse_vectors(vectors, path),
        splits={_name(name): _parse_split(split) for name, split in manifest["splits"].items()},
        digest=digest,
        raw_users=_flag(manifest.get("raw_users", False)),
        segments=_parse_segments(manifest),
        parents=tuple(_digest(value) for value in manifest.get("parents", [])),
    )


def _parse_segments(manifest: dict) -> tuple[int, ...] | None:
    histories = manifest["histories"]
    if manifest["schema_version"] == SCHEMA_VERSION:
        if "segments" in histories:
            raise ValueError(f"segments belong to schema version {SEGMENTED_VERSION}")
        return None
    segments = tuple(_number(events) for events in histories["segments"])
    if len(segments) < 2 or len(segments) != len(manifest["parents"]) + 1:
        raise ValueError(
            f"{len(segments)} segments of histories after {len(manifest['parents'])} parents"
        )
    return segments


def _digest(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{32}", value):
        raise ValueError(f"{repr(value)[:60]} is no digest of a manifest")
    return value


def _seal(manifest: dict) -> str:
    """Checksum of all other entries, as `datasets.manifest.seal` writes it."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.blake2b(json.dumps(rest, sort_keys=True).encode(), digest_size=16).hexdigest()


def _parse_features(kinds: dict) -> dict[str, tuple[FeatureSpec, ...]]:
    # Stores of the first releases tell nothing of samples.
    given = {kind: kinds[kind] for kind in ("user", "item", "event")}
    given["sample"] = kinds.get("sample", [])
    return {
        kind: tuple(
            FeatureSpec(_name(f["name"]), f["table"], _parse_width(kind, f)) for f in features
        )
        for kind, features in given.items()
    }


def _parse_width(kind: str, feature: dict) -> int:
    if "width" not in feature:
        return 1
    width = _number(feature["width"])
    if kind != "item" or width < 2:
        raise ValueError(
            f"{kind} feature {feature['name']} of width {width}: only an item feature may be a "
            "list, of 2 entries or more"
        )
    return width


def _parse_split(split: dict) -> SplitSpec:
    labelled = _flag(split.get("labelled", True))
    return SplitSpec(
        samples=_number(split["samples"]),
        positives=_number(split["positives"]) if labelled else None,
        users=_number(split["users"]),
        source_rows=_flag(split.get("source_rows", False)),
    )


def _parse_vectors(vectors: dict, path: Path) -> VectorSpec:
    if vectors["dtype"] not in VECTOR_DTYPES:
        raise StoreError(
            f"{path}: vectors of dtype {vectors['dtype']}, expected {', '.join(VECTOR_DTYPES)}"
        )
    width, items = _number(vectors["width"]), _number(vectors["items_with_vector"])
    return VectorSpec(width, vectors["dtype"], items)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{repr(value)[:60]} is no number of rows, samples or users")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{repr(value)[:60]} is neither true nor false")
    return value


def _name(value: object) -> str:
    """A name that becomes part of a path and must not lead out of the store."""
    if not isinstance(value, str) or value in ("", ".", "..") or set(value) & {"/", "\\", "\0"}:
        raise ValueError(f"{repr(value)[:60]} is no name of a feature or split")
    return value
