"""Embedding tables with fewer rows than ids: what new ids find, and who may bring them in.

Shape legend: N rows of a table, D its width.
"""

import pytest
import torch

from ctr.config import ClusterConfig, ConfigError, EmbeddingConfig
from ctr.model.build import build_network, table_shapes
from ctr.model.embeddings import EmbeddingTables, TableShape
from ctr.optim import fuse_sparse_optimizer
from ctr.sharding import shard

SLOTS, DIM, STD = 4, 8, 0.01


def small_tables():
    torch.manual_seed(0)
    shapes = {"item": TableShape(SLOTS, DIM, "lru"), "city": TableShape(6, DIM)}
    return EmbeddingTables(shapes, STD)


def trained_tables(process, optimizer):
    """Sharded as training has them."""
    tables = small_tables()
    config = EmbeddingConfig(optimizer=optimizer, lr=1.0)
    fuse_sparse_optimizer(tables, config, process.device)
    return shard(tables, process, config, ClusterConfig())


def look_up(tables, items):
    return tables({"item": torch.tensor(items)})["item"]


def states_of(model):
    """Weights and optimizer states of the managed table, as they are now."""
    found = {n: t for n, t in model.state_dict().items() if n.endswith("item.weight")}
    for state in model.fused_optimizer.state_dict()["state"].values():
        found.update({n: t for n, t in state.items() if n.startswith("item.")})
    return {name: tensor.local_shards()[0].tensor.clone() for name, tensor in found.items()}


@pytest.mark.parametrize(
    ("optimizer", "states"), [("rowwise_adagrad", 1), ("adagrad", 1), ("sgd", 0)]
)
def test_an_id_that_takes_a_row_inherits_nothing(process, optimizer, states):
    model = trained_tables(process, optimizer)
    for items in ([1], [2, 3], [3, 2]):
        look_up(model, items).sum().backward()
    row = int(model.module.managed.rows("item", torch.tensor([1])))
    before = states_of(model)
    assert len(before) == 1 + states
    for name, state_N in before.items():
        assert state_N[row].abs().max() > 2 * STD, f"{name}: nothing that could be inherited"
    found_D = look_up(model, [4])[0]
    assert int(model.module.managed.rows("item", torch.tensor([4]))) == row
    assert 0 < found_D.abs().max() <= 2 * STD
    for name, state_N in states_of(model).items():
        if name.endswith("weight"):
            assert torch.equal(state_N[row], found_D.detach())
        else:
            assert not state_N[row].any(), name
        others = torch.arange(SLOTS) != row
        assert torch.equal(state_N[others], before[name][others]), name
    found_D.sum().backward()
    assert states_of(model).popitem()[1][row].abs().max() > 2 * STD


def test_ids_that_are_not_managed_are_their_own_rows(process):
    model = trained_tables(process, "sgd")
    (weight,) = (t for n, t in model.state_dict().items() if n.endswith("city.weight"))
    found = model({"city": torch.tensor([5, 2, 5]), "item": torch.tensor([90, 80])})["city"]
    assert torch.equal(found, weight.local_shards()[0].tensor[[5, 2, 5]])


def test_only_a_training_step_brings_ids_in():
    """A search reads in training, too, without gradients."""
    tables = small_tables()
    before = {name: buffer.clone() for name, buffer in tables.named_buffers()}
    unknown_D = tables.collections["dim_8"].embeddings["item"].weight[0]
    with torch.no_grad():
        assert torch.equal(look_up(tables, [7, 0]), unknown_D.expand(2, DIM))
    tables.eval()
    assert torch.equal(look_up(tables, [7, 0]), unknown_D.expand(2, DIM))
    for name, buffer in tables.named_buffers():
        assert torch.equal(buffer, before[name]), name
    tables.train()
    assert not torch.equal(look_up(tables, [7])[0], unknown_D)
    found = look_up(tables.eval(), [7, 8, 0])
    assert torch.equal(found[1], unknown_D)
    assert not torch.equal(found[0], unknown_D)


def test_padding_stays_whoever_comes():
    tables = small_tables()
    for items in torch.arange(1, 41).split(2):
        found = look_up(tables, [0, *items.tolist()])
        assert torch.equal(found[0], tables.collections["dim_8"].embeddings["item"].weight[0])


def test_ids_that_are_sent_ahead_find_the_rows_of_their_turn(process):
    """A step's ids may be on their way before the step before it has brought in its own."""
    wholes = [trained_tables(process, "sgd").module for _ in range(2)]
    steps = [{"item": torch.tensor(items)} for items in ([1, 2], [3], [4, 1], [5, 6, 2])]
    ahead = [wholes[0].send(wholes[0].gather(ids)) for ids in steps]
    for ids, lookup in zip(steps, ahead, strict=True):
        assert torch.equal(wholes[0].fetch(lookup)["item"], wholes[1](ids)["item"])


@pytest.mark.parametrize("gsu", ["id_soft", "eta"])
def test_a_search_brings_nobody_in(gsu, store, catalog, config, batch):
    config.model.gsu, config.embedding.slots = gsu, {"item": 300, "user_id": 20}
    network = build_network(store.schema, catalog, config.model, config.embedding)
    ids = network.tables.managed.ids["item"]
    with torch.no_grad():
        network.search(batch)
    assert ids.live() == 0
    network(batch)
    assert ids.live() == 299
    assert network.tables.managed.ids["user_id"].live() == 19


def test_parameters_are_those_of_the_slots(store, catalog, config):
    before = build_network(store.schema, catalog, config.model, config.embedding).costs()
    config.embedding.slots = {"item": 300}
    after = build_network(store.schema, catalog, config.model, config.embedding).costs()
    fewer = (store.schema.table_rows["item"] - 300) * config.embedding.dim
    assert before["parameters_embedding"] - after["parameters_embedding"] == fewer
    assert before["parameters_dense"] == after["parameters_dense"]


def test_an_unknown_table_is_named(store):
    with pytest.raises(
        ConfigError, match=r"embedding.slots=itme: set one of brand, category, .*item"
    ):
        table_shapes(store.schema, EmbeddingConfig(slots={"itme": 300}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slots": {"item": 1}}, r"embedding.slots.item=1: .* set at least 2"),
        ({"slots": {"item": 9}, "eviction": "oldest"}, "embedding.eviction=oldest: set one of lru"),
        (
            {"slots": {"item": 9}, "optimizer": "dense_adam", "sharding": ["data_parallel"]},
            "embedding.slots=.* another optimizer",
        ),
        (
            {"slots": {"item": 9}, "table_sharding": {"item": ["data_parallel"]}},
            "embedding.slots.item=9: .* take item out",
        ),
    ],
)
def test_a_setting_that_cannot_run_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        EmbeddingConfig(**settings).validate()
