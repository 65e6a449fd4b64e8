"""The network as a whole: sizes as published, and what a prediction may depend on."""

import dataclasses

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from ctr.config import ConfigError, EmbeddingConfig, ModelConfig
from ctr.data.loader import BatchBuilder
from ctr.model.behaviours import BehaviourSpace
from ctr.model.build import build_network
from ctr.model.items import ItemSpace
from ctr.schema import FeatureSpec, StoreError

MODELS = {
    "muse": {},
    "paper": {"retrieved_attention": ["sa_ta_paper"], "simtier": "paper", "simtier_bins": 20},
    "sim_hard": {"gsu": "category"},
    "sim_soft": {"gsu": "id_soft"},
    "target": {"retrieved_attention": ["target"], "simtier": "none"},
    "recent": {"gsu": "recent"},
    "din": {"gsu": "none", "simtier": "none"},
    "qin": {
        **{"gsu": "none", "simtier": "none", "recent_attention": ["asta"], "means": []},
        **{"content_dim": 8, "head": "qnn"},
    },
    "muse_qin": {"retrieved_attention": ["sa_ta", "asta"], "head": "qnn"},
    "multi_head": {"recent_attention": ["multi_head"], "retrieved_attention": ["multi_head"]},
    "eta": {"gsu": "eta", "retrieved_attention": ["multi_head"], "simtier": "none"},
    "twin": {"gsu": "twin", "retrieved_attention": ["twin"], "simtier": "none"},
    "sdim": {"gsu": "none", "simtier": "none", "whole_attention": "sdim"},
    "make": {
        **{"recent_attention": [], "retrieved_attention": [], "means": [], "simtier": "none"},
        **{"content_tower": [8, 4], "head": "content"},
    },
    "din_make": {
        **{"gsu": "none", "simtier": "none"},
        **{"content_tower": [8], "content_tower_on": "recent"},
    },
    "dcnv2": {"recent_attention": ["sa_ta", "target"], "head": "dcnv2"},
}


def make(store, catalog, config, name):
    torch.manual_seed(0)
    model = dataclasses.replace(config.model, **MODELS[name])
    network = build_network(store.schema, catalog, model, config.embedding)
    with torch.no_grad():
        for weight in network.tables.parameters():
            weight.normal_(std=0.3)
    return network.eval()


def test_behaviours_without_enough_keys_are_refused():
    """Of 243 million items with two wide side columns, keys would mean other items."""
    rows = {"item": 243_153_410, "shop": 10_000_000, "page": 100_000}
    events = (FeatureSpec("shop", "shop"), FeatureSpec("page", "page"))
    with pytest.raises(StoreError, match=r"event features shop, page: .*more than 64 bits"):
        BehaviourSpace(ItemSpace((), None), events, rows)
    BehaviourSpace(ItemSpace((), None), events[:1], rows)


def test_tower_input_has_the_published_width(store, catalog):
    network = build_network(store.schema, catalog, ModelConfig(), EmbeddingConfig())
    assert network.head.input_width == 308


@pytest.mark.parametrize("name", MODELS)
def test_prediction_does_not_depend_on_the_rest_of_the_batch(name, store, catalog, config):
    network = make(store, catalog, config, name)
    builder = BatchBuilder(store, store.split("test"), config.data.history_length)
    rows = np.arange(60)
    with torch.no_grad():
        together = network(builder.build(rows, 60))
        alone = torch.cat([network(builder.build(rows[i : i + 1], 1)) for i in range(60)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_future_and_padding_do_not_matter(name, batch, store, catalog, config):
    network = make(store, catalog, config, name)
    half = (batch.history_end_B // 2).clamp(min=0)
    cut = dataclasses.replace(
        batch, history_begin_B=torch.minimum(batch.history_begin_B, half), history_end_B=half
    )
    position = torch.arange(cut.history_item_T.numel())
    changed_items = cut.history_item_T.clone()
    for user in range(cut.history_offsets_U.numel() - 1):
        last = int(half[cut.user_B == user].max())
        begin, end = cut.history_offsets_U[user : user + 2].tolist()
        changed_items[begin + last : end] = 7
    assert not torch.equal(changed_items, cut.history_item_T), "nothing was changed"
    changed = dataclasses.replace(cut, history_item_T=changed_items)
    assert position.numel() > 0
    with torch.no_grad():
        assert torch.equal(network(changed), network(cut))


@pytest.mark.parametrize("name", MODELS)
def test_empty_batches_and_empty_histories(name, store, catalog, config):
    network = make(store, catalog, config, name).train()
    builder = BatchBuilder(store, store.split("train"), config.data.history_length)
    empty = builder.build(np.zeros(0, dtype=np.int64), 10)
    network(empty).sum().backward()
    batch = builder.build(np.arange(5), 5)
    newborn = dataclasses.replace(
        batch,
        history_item_T=batch.history_item_T[:0],
        history_offsets_U=torch.zeros_like(batch.history_offsets_U),
        history_begin_B=torch.zeros_like(batch.history_begin_B),
        history_end_B=torch.zeros_like(batch.history_end_B),
    )
    assert torch.isfinite(network(newborn)).all()


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_is_made_on_the_device_of_the_batch(name, batch, store, catalog, config):
    """Where a tensor is made without naming its device it lands on meta here, and mixing fails."""
    network = make(store, catalog, config, name).train()
    with torch.device("meta"):
        network(batch).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.head.parameters())


def test_every_parameter_learns(batch, store, catalog, config):
    network = make(store, catalog, config, "muse").train()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(network(batch), batch.label_B)
    loss.backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # Tiers that no similarity fell into have no gradient, but their vector as a whole has.
    assert still == []


@pytest.mark.parametrize("name", ["muse", "sim_hard", "sim_soft"])
def test_the_search_does_not_depend_on_the_precision(name, batch, store, catalog, config):
    as_float = dataclasses.replace(catalog, vectors=catalog.vectors.float())
    network = make(store, as_float, config, name)
    with torch.no_grad():
        expected = network.search(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = network.search(batch)
    assert torch.equal(actual.index_BK, expected.index_BK)
    assert torch.equal(actual.similarity_BK, expected.similarity_BK)


def test_picks_without_a_vector_are_in_no_tier(batch, store, catalog, config):
    network = make(store, catalog, config, "recent")
    found = network.search(batch)
    known = catalog.inv_norm > 0
    items = batch.history_item_T[found.index_BK].long()
    expected = known[items] & (items > 0) & known[batch.target_item_B][:, None]
    picked = found.mask_BK
    assert torch.equal(found.known_BK[picked], expected[picked])
    assert not found.known_BK[picked].all(), "the world has items without a vector"
    counted = []
    network.retrieved.simtier.register_forward_hook(lambda _, given, out: counted.append(given))
    with torch.no_grad():
        network(batch)
    assert torch.equal(counted[0][1], picked & expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"vectors": None}, "model.gsu=cosine needs item vectors"),
        ({"item": ()}, "model.gsu=category needs the item feature 'category'"),
    ],
)
def test_a_store_without_what_the_model_needs(change, named, store, catalog, config):
    schema = dataclasses.replace(store.schema, **change)
    model = dataclasses.replace(config.model, gsu="category" if "item" in change else "cosine")
    with pytest.raises(StoreError, match=named):
        build_network(schema, catalog, model, config.embedding)


@pytest.mark.parametrize(
    ("change", "dim", "named"),
    [
        ({"retrieved_attention": ["multi_head"], "heads": 5}, 16, "model.heads=5: .*= 32; set"),
        ({"gsu": "id_soft"}, 132, "embedding.dim=132: .* vectors of 264 numbers, .* 256; set"),
        (
            {"gsu": "twin", "retrieved_attention": ["twin"], "heads": 1},
            132,
            "embedding.dim=132: .* vectors of 264 numbers, .* 256; set",
        ),
    ],
)
def test_widths_that_do_not_fit(change, dim, named, store, catalog, config):
    model = dataclasses.replace(config.model, **change)
    with pytest.raises(ConfigError, match=named):
        build_network(store.schema, catalog, model, EmbeddingConfig(dim=dim))
    fitting = dataclasses.replace(model, heads=4, gsu="cosine")
    build_network(store.schema, catalog, fitting, EmbeddingConfig(dim=dim))


@pytest.mark.parametrize("name", ["muse", "muse_qin"])
def test_what_follows_the_lookups_is_one_graph_for_all_sizes(name, store, catalog, config):
    """With the gradients of the plain model, run by run; inductor's code has other last bits."""
    network = make(store, catalog, config, name).train()
    dense = dict(network.named_parameters())
    builder = BatchBuilder(store, store.split("train"), 60)
    batches = [builder.build(np.arange(n), n) for n in (200, 90, 151)]

    def train():
        found = []
        for batch in batches:
            network.zero_grad()
            logit_B = network(batch)
            logit_B.square().sum().backward()
            found.append([logit_B, *(p.grad.clone() for p in dense.values() if p.grad is not None)])
        return found

    state = {key: value.clone() for key, value in network.state_dict().items()}
    expected = train()
    network.load_state_dict(state)
    torch._dynamo.reset()
    counters.clear()
    # Its partition of the two passes is inductor's, and what it makes of them takes no compiler.
    network.compile_dense("aot_eager")
    for tensors, plain in zip(train(), expected, strict=True):
        for tensor, other in zip(tensors, plain, strict=True):
            torch.testing.assert_close(tensor, other, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
