"""Configuration and store schema -> network, with what a model needs checked before it is built."""

from __future__ import annotations

from ctr.config import EmbeddingConfig, ModelConfig
from ctr.model.behaviours import ITEM_FEATURES, BehaviourSpace
from ctr.model.catalog import ItemCatalog
from ctr.model.embeddings import EmbeddingTables, TableShape
from ctr.model.esu import ATTENTIONS, RecentAttention, SimTier
from ctr.model.gsu import STRATEGIES
from ctr.model.head import Tower
from ctr.model.network import Features, LongBranch, Network
from ctr.schema import StoreSchema


def table_shapes(schema: StoreSchema, config: EmbeddingConfig) -> dict[str, TableShape]:
    """Rows and width of every table that a feature refers to, and of `item`."""
    used = {"item"} | {f.table for f in (*schema.user, *schema.item, *schema.event)}
    return {
        name: TableShape(rows, config.narrow_dim if rows < config.narrow_below else config.dim)
        for name, rows in schema.table_rows.items()
        if name in used
    }


def build_network(
    schema: StoreSchema, catalog: ItemCatalog, model: ModelConfig, embedding: EmbeddingConfig
) -> Network:
    """The network that `model` describes, for the features of a store.

    Raises:
        StoreError: the store lacks vectors or a feature that the model needs.
    """
    check_needs(schema, model)
    shapes = table_shapes(schema, embedding)
    item_features = tuple(f for f in schema.item if f.name in ITEM_FEATURES)
    behaviours = BehaviourSpace(item_features, schema.event, schema.table_rows)
    behaviour_width = sum(shapes[t].dim for t in behaviours.tables)
    target_width = sum(shapes[t].dim for t in ["item", *(f.table for f in item_features)])
    interest_width = 2 * embedding.dim
    head_width = interest_width + behaviour_width
    long = None
    simtier = {}
    sequences = model.simtier_on if model.simtier != "none" else []
    if model.gsu != "none":
        attention = ATTENTIONS[model.attention](target_width, behaviour_width, interest_width)
        long = LongBranch(STRATEGIES[model.gsu](model.retrieved), attention)
        head_width += interest_width + behaviour_width
    for name in sequences:
        if name == "recent" or long is not None:
            simtier[name] = SimTier(model.simtier, model.simtier_bins)
            head_width += model.simtier_bins
    head_width += shapes["item"].dim
    head_width += sum(shapes[f.table].dim for f in (*schema.item, *schema.user))
    return Network(
        tables=EmbeddingTables(shapes, embedding.init_std),
        catalog=catalog,
        features=Features(schema.user, schema.item),
        behaviours=behaviours,
        recent=RecentAttention(target_width, behaviour_width, interest_width),
        recent_length=model.recent_length,
        long=long,
        simtier=simtier,
        head=Tower(head_width, model.hidden, model.activation),
    )


def check_needs(schema: StoreSchema, model: ModelConfig) -> None:
    """Raise StoreError, naming feature and key, unless the store has what the model needs."""
    if model.gsu == "cosine":
        schema.require_vectors("model.gsu=cosine")
    if model.gsu in ("category", "id_soft"):
        schema.require_item_feature("category", f"model.gsu={model.gsu}")
    if model.gsu != "none" and model.attention != "target":
        schema.require_vectors(f"model.attention={model.attention}")
    if model.simtier != "none" and model.simtier_on:
        schema.require_vectors(f"model.simtier={model.simtier}")
