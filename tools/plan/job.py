"""What is to be planned: a configuration, the schema of a store, tables on the meta device.

No table is made and the store need not be there, so that 23.6 billion items plan on a laptop.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ctr.config import ConfigError, RunConfig
from ctr.model.build import behaviour_features, table_shapes, used_schema
from ctr.model.embeddings import EmbeddingTables
from ctr.model.gsu import STRATEGIES, SearchShape
from ctr.schema import FeatureSpec, StoreError, StoreSchema, VectorSpec, read_schema
from remote.path import RemoteError, location

# Samples of a user that come together in Taobao-MM, for a store that does not say.
SAMPLES_PER_USER = 11.0

_VECTOR_BYTES = {"int8": 1, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Job:
    """What is to be planned.

    Attributes:
        config: of the run; schema: of its data; tables: on the meta device.
        samples_per_user: that come together in a step.
    """

    config: RunConfig
    schema: StoreSchema
    tables: EmbeddingTables
    samples_per_user: float

    def item_bytes(self, devices: int) -> int:
        """Bytes that a device holds of what is known of items and never trained.

        Frozen vectors with the inverse of each one's norm, where data.vectors says; every item
        feature on each device. On a CPU all of them stay in the store's memory map.
        """
        if self.config.device == "cpu":
            return 0
        rows = self.schema.table_rows["item"]
        features = 4 * rows * sum(feature.width for feature in self.schema.item)
        vectors = self.schema.vectors
        if vectors is None or self.config.data.vectors == "pinned":
            return features
        shared = devices if self.config.data.vectors == "sharded" else 1
        return features + math.ceil(rows / shared) * (
            vectors.width * _VECTOR_BYTES[vectors.dtype] + 4
        )

    def ids(self) -> dict[str, int]:
        """Distinct ids that a process asks of each table in a step, at most.

        As many as there are places: the recent behaviours of each user, the picks of each sample,
        its target, and their features; never more than a table has rows.
        """
        model, data = self.config.model, self.config.data
        samples = data.batch_size
        users = math.ceil(samples / self.samples_per_user)
        behaviours = users * min(model.recent_length, data.history_length)
        behaviours += samples * model.retrieved * (model.gsu != "none")
        searches_trained = self._reads_trained()
        if model.whole_attention != "none" or searches_trained:
            # Both embed all that a sample may see.
            behaviours += users * data.history_length
        asked = dict.fromkeys(self.tables.dims, 0)
        asked["item"] = behaviours + samples
        of_behaviours = behaviour_features(self.schema, model)
        for features, places in (
            (self.schema.item, samples),
            (of_behaviours, behaviours),
            (self.schema.event, behaviours),
            (self.schema.sample, samples),
            (self.schema.user, users),
        ):
            for feature in features:
                asked[feature.table] += places * feature.width
        return {name: min(n, self.schema.table_rows[name]) for name, n in asked.items()}

    def _reads_trained(self) -> bool:
        """Whether the search compares trained embeddings, of whatever width."""
        model = self.config.model
        if model.gsu == "none":
            return False
        shape = SearchShape(model.retrieved, self.config.embedding.dim, model.hash_bits)
        return STRATEGIES[model.gsu](shape).reads_trained


def parse_rows(given: Sequence[str]) -> dict[str, int]:
    """Rows by table, from `table=rows`.

    Raises:
        ConfigError: not of that form, or no table item.
    """
    rows = {}
    for text in given:
        name, equals, number = text.partition("=")
        if not (name and equals and re.fullmatch(r"[0-9]+(_[0-9]+)*", number) and int(number)):
            raise ConfigError(f"--rows {text}: write TABLE=ROWS, as in item=243153410")
        rows[name] = int(number)
    if "item" not in rows:
        raise ConfigError(f"--rows {' '.join(given)}: no table item; give item=ROWS, too")
    return rows


def invented_schema(rows: dict[str, int], vector_width: int) -> StoreSchema:
    """The schema of a store with such tables.

    Args:
        rows: by table; user_id is a feature of the user, others are features of items.
        vector_width: of int8 vectors of all items; 0 for none.
    """
    of_items = tuple(FeatureSpec(name, name) for name in rows if name not in ("item", "user_id"))
    return StoreSchema(
        name="none",
        table_rows=rows,
        user=(FeatureSpec("user_id", "user_id"),) if "user_id" in rows else (),
        item=of_items,
        event=(),
        sample=(),
        max_history=0,
        vectors=VectorSpec(vector_width, "int8", rows["item"]) if vector_width else None,
        splits={},
        digest="",
    )


def make_job(config: RunConfig, schema: StoreSchema, samples_per_user: float | None) -> Job:
    """What is to be planned.

    Args:
        samples_per_user: that come together; None for the mean of the store's training split.

    Raises:
        ConfigError: a model without tables.
    """
    if samples_per_user is None:
        split = schema.splits.get(config.data.train_split)
        known = split is not None and split.users > 0
        samples_per_user = split.samples / split.users if known and split else SAMPLES_PER_USER
    if config.model.head == "content":
        raise ConfigError("model.head=content: has no embedding table to plan; set another model")
    schema = used_schema(schema, config.model)
    shapes, settings = table_shapes(schema, config.embedding), config.embedding
    tables = EmbeddingTables(
        shapes,
        settings.init_std,
        settings.replicated,
        device="meta",
        half=settings.precision == "fp16",
    )
    return Job(config, schema, tables, samples_per_user)


def store_schema(config: RunConfig) -> StoreSchema:
    """The schema of the configured store, whose manifest is all that is read, of a URL, too.

    Raises:
        StoreError: no manifest, a damaged one, or a URL that cannot be read.
    """
    try:
        store = location(config.data.store)
        if isinstance(store, Path):
            return read_schema(store)
        manifest = (store / "manifest.json").read_bytes()
    except FileNotFoundError:
        raise StoreError(
            f"{config.data.store}: no manifest.json there; is this a prepared store, uploaded to "
            "its end?"
        ) from None
    except RemoteError as error:
        raise StoreError(str(error)) from None
    with TemporaryDirectory() as folder:
        (Path(folder) / "manifest.json").write_bytes(manifest)
        try:
            return read_schema(Path(folder))
        except StoreError as error:
            raise StoreError(str(error).replace(folder, str(store))) from None
