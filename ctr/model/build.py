"""Configuration and store schema -> network, with what a model needs checked before it is built."""

from __future__ import annotations

import dataclasses

from torch import nn

from ctr.config import EmbeddingConfig, ModelConfig
from ctr.config.checks import require, require_one_of
from ctr.model.behaviours import BehaviourSpace
from ctr.model.branch import Branch
from ctr.model.catalog import ItemCatalog
from ctr.model.content_network import ContentNetwork
from ctr.model.content_tower import ContentTower
from ctr.model.embeddings import EmbeddingTables, TableShape
from ctr.model.esu import UNITS, HashedInterest, SimTier, UnitShape
from ctr.model.gsu import STRATEGIES, GeneralSearchUnit, SearchShape
from ctr.model.head import CrossHead, QuadraticHead, Tower
from ctr.model.items import ItemSpace
from ctr.model.network import Features, LongPart, Network
from ctr.schema import FeatureSpec, StoreSchema
from kernels.cosine_topk.op import MOST_WIDTH

# The user feature that tells one user from another (docs/store_format.md).
_USER_ID = "user_id"
# What a behaviour tells of its item besides the item itself, where the store has it (MUSE: item
# and category; QIN: item and tags).
_BEHAVIOUR_FEATURES = ("category", "tags")


def table_shapes(schema: StoreSchema, config: EmbeddingConfig) -> dict[str, TableShape]:
    """Shape of every table that a feature refers to, and of `item`.

    Raises:
        ConfigError: embedding.slots names another table.
    """
    features = (*schema.user, *schema.item, *schema.event, *schema.sample)
    used = {"item"} | {f.table for f in features}
    for table in config.slots:
        require_one_of("embedding.slots", table, tuple(sorted(used)))
    shapes = {}
    for name, vocabulary in schema.table_rows.items():
        if name in used:
            rows = config.slots.get(name, vocabulary)
            dim = config.narrow_dim if rows < config.narrow_below else config.dim
            shapes[name] = TableShape(rows, dim, config.eviction if name in config.slots else None)
    return shapes


def build_network(
    schema: StoreSchema,
    catalog: ItemCatalog,
    model: ModelConfig,
    embedding: EmbeddingConfig,
    *,
    sharded: bool = False,
) -> Network:
    """The network that `model` describes, for the features of a store.

    Args:
        schema: of the store; catalog: of its items; model, embedding: configuration.
        sharded: the tables are left to `ctr.sharding.shard` to be made.

    Raises:
        StoreError: the store lacks vectors or a feature that the model needs.
        ConfigError: two settings that do not fit each other.
    """
    check_needs(schema, model)
    tower = _content_tower(schema, model)
    if model.head == "content":
        assert tower is not None
        return ContentNetwork(catalog, tower, model.recent_length, _gsu(model, target=0))
    schema = used_schema(schema, model)
    shapes = table_shapes(schema, embedding)
    item_features = behaviour_features(schema, model)
    content = None
    if model.content_dim:
        assert schema.vectors is not None
        content = nn.Linear(schema.vectors.width, model.content_dim, bias=False)
    behaviours = BehaviourSpace(ItemSpace(item_features, content), schema.event, schema.table_rows)
    target = sum(shapes[t].dim for t in ["item", *(f.table for f in item_features)])
    target += model.content_dim
    sides = tuple(shapes[f.table].dim for f in schema.event)
    shape = UnitShape(target, sides, 2 * embedding.dim, model.heads)
    _check_widths(model, shape)
    behaviour = shape.behaviour
    whole = _whole(model, shape)
    long = _long_part(model, shape, whole)
    recent = _branch("recent", model.recent_attention, model, shape)
    head_width = recent.width(behaviour) + shapes["item"].dim + model.content_dim
    head_width += sum(shapes[f.table].dim for f in (*schema.item, *schema.sample, *schema.user))
    head_width += long.branch.width(behaviour) if long.branch else 0
    head_width += whole.width if whole else 0
    head_width += tower.width if tower else 0
    return Network(
        tables=EmbeddingTables(
            shapes,
            embedding.init_std,
            embedding.replicated,
            half=embedding.precision == "fp16",
            sharded=sharded,
        ),
        catalog=catalog,
        features=Features(schema.user, schema.sample, schema.item),
        behaviours=behaviours,
        recent=recent,
        recent_length=model.recent_length,
        long=long,
        head=_head(head_width, model),
        content=tower,
    )


def used_schema(schema: StoreSchema, model: ModelConfig) -> StoreSchema:
    """The schema without the features that the model leaves out."""
    user = tuple(f for f in schema.user if model.user_id or f.name != _USER_ID)
    return dataclasses.replace(schema, user=user)


def behaviour_features(schema: StoreSchema, model: ModelConfig) -> tuple[FeatureSpec, ...]:
    """Features of an item that belong to a behaviour, in the order of the store."""
    wanted = model.behaviour_features
    names = _BEHAVIOUR_FEATURES if wanted is None else wanted
    return tuple(f for f in schema.item if f.name in names)


def check_needs(schema: StoreSchema, model: ModelConfig) -> None:
    """Raise StoreError, naming feature and key, unless the store has what the model needs."""
    if model.gsu == "cosine":
        schema.require_vectors("model.gsu=cosine")
    if model.gsu in ("category", "id_soft"):
        schema.require_item_feature("category", f"model.gsu={model.gsu}")
    for key, names in (
        ("retrieved_attention", model.retrieved_attention if model.gsu != "none" else []),
        ("recent_attention", model.recent_attention),
    ):
        for name in names:
            if name in ("sa_ta", "sa_ta_paper"):
                schema.require_vectors(f"model.{key}={name}")
    if model.simtier != "none" and model.simtier_on:
        schema.require_vectors(f"model.simtier={model.simtier}")
    if model.content_dim:
        schema.require_vectors(f"model.content_dim={model.content_dim}")
    if model.content_tower:
        schema.require_vectors(f"model.content_tower={model.content_tower}")
    for name in model.behaviour_features or []:
        schema.require_item_feature(name, f"model.behaviour_features={model.behaviour_features}")


def _check_widths(model: ModelConfig, shape: UnitShape) -> None:
    """Raise ConfigError unless heads share an interest evenly and a search can compare vectors."""
    units = {*model.recent_attention, *model.retrieved_attention}
    require(
        shape.interest % model.heads == 0 or not units & {"multi_head", "twin"},
        "model.heads",
        model.heads,
        f"must divide 2 embedding.dim = {shape.interest}; set 1, 2 or 4",
    )
    twin = shape.interest // model.heads + bool(shape.sides)
    compared = {"id_soft": shape.interest, "twin": twin}.get(model.gsu, 1)
    require(
        compared <= MOST_WIDTH,
        "embedding.dim",
        shape.interest // 2,
        f"model.gsu={model.gsu} would compare vectors of {compared} numbers, more than "
        f"{MOST_WIDTH}; set a smaller dim",
    )


def _long_part(model: ModelConfig, shape: UnitShape, whole: HashedInterest | None) -> LongPart:
    search = _gsu(model, shape.target)
    if search is None:
        return LongPart(whole=whole)
    return LongPart(search, _branch("retrieved", model.retrieved_attention, model, shape), whole)


def _gsu(model: ModelConfig, target: int) -> GeneralSearchUnit | None:
    if model.gsu == "none":
        return None
    return STRATEGIES[model.gsu](SearchShape(model.retrieved, target, model.hash_bits))


def _whole(model: ModelConfig, shape: UnitShape) -> HashedInterest | None:
    if model.whole_attention == "none":
        return None
    return HashedInterest(shape.target, shape.behaviour, model.sdim_hashes, model.sdim_group)


def _content_tower(schema: StoreSchema, model: ModelConfig) -> ContentTower | None:
    if not model.content_tower:
        return None
    assert schema.vectors is not None
    return ContentTower(
        schema.vectors.width,
        model.content_tower_dim,
        model.content_tower,
        model.activation,
        model.content_tower_on,
        model.content_tower_frozen,
    )


def _branch(name: str, attention: list[str], model: ModelConfig, shape: UnitShape) -> Branch:
    counts = model.simtier != "none" and name in model.simtier_on
    simtier = SimTier(model.simtier, model.simtier_bins) if counts else None
    units = {key: UNITS[key](shape) for key in attention}
    return Branch(name, units, name in model.means, simtier)


def _head(width: int, model: ModelConfig) -> nn.Module:
    if model.head == "qnn":
        return QuadraticHead(width, model.head_layers, model.head_rows, model.head_dropout)
    if model.head == "dcnv2":
        return CrossHead(width, model.head_layers, model.hidden, model.activation)
    return Tower(width, model.hidden, model.activation)
