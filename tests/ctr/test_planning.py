"""Bytes of tables and plans for clusters that are not there, against numbers worked out by hand."""

from dataclasses import replace

import pytest
from torchrec.modules.embedding_configs import DataType
from torchrec.modules.embedding_configs import EmbeddingConfig as TorchRecConfig

from ctr.cluster import Cluster, other_cluster
from ctr.config import ClusterConfig, ConfigError, EmbeddingConfig
from ctr.model.embeddings import EmbeddingTables, TableShape
from ctr.planning import PlanError, enough_devices, make_plan, model_tables
from ctr.table_memory import Bytes, Table, tables_of

GB = 10**9


def table(optimizer, types=("row_wise",), element_bytes=4):
    return Table("item", 1_000, 16, element_bytes, optimizer, types)


def gpus(devices, memory):
    return Cluster(devices, min(devices, 8), "cuda", memory=memory, usable=memory)


def planned(cluster, **settings):
    """Sharding type and rows by rank of each table: 1,000 items and 101 users, 4 wide."""
    config = EmbeddingConfig(**settings)
    shapes = {"item": TableShape(1_000, 4), "user_id": TableShape(101, 4)}
    tables = EmbeddingTables(shapes, 0.1, config.replicated, device="meta")
    plan = make_plan(tables, model_tables(tables, config), cluster)
    return {
        name: (
            sharding.sharding_type,
            {s.placement.rank(): s.shard_sizes[0] for s in sharding.sharding_spec.shards},
        )
        for module in plan.plan.values()
        for name, sharding in module.items()
    }


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [
        ("sgd", 0),
        ("rowwise_adagrad", 4_000),
        ("adagrad", 64_000),
        ("adam", 128_000),
        ("dense_adam", 128_000),
    ],
)
def test_bytes_of_an_optimizer(optimizer, states):
    assert table(optimizer).whole() == Bytes(64_000, states, 0)


def test_a_whole_table_has_a_whole_gradient():
    assert table("rowwise_adagrad", ("data_parallel",)).whole() == Bytes(64_000, 4_000, 64_000)


def test_narrow_weights_have_wide_states():
    config = TorchRecConfig(
        name="item", num_embeddings=1_000, embedding_dim=16, data_type=DataType.FP16
    )
    (narrow,) = tables_of([config], EmbeddingConfig(), {"item": ["row_wise"]})
    assert narrow.whole() == Bytes(32_000, 4_000, 0)


def test_least_takes_the_best_type_and_the_fullest_device():
    # 1,000 rows on 3 devices are 334, 334 and 332.
    assert table("sgd", ("table_wise", "row_wise")).least(3) == ("row_wise", 334 * 64)
    assert table("sgd", ("table_wise",)).least(3) == ("table_wise", 64_000)


def test_every_table_goes_where_it_may():
    rows = {"item": ["row_wise"], "user_id": ["table_wise"]}
    found = planned(gpus(3, GB), table_sharding=rows)
    assert found["item"] == ("row_wise", {0: 334, 1: 334, 2: 332})
    kind, places = found["user_id"]
    assert kind == "table_wise"
    assert list(places.values()) == [101]


def test_a_replicated_table_is_in_no_plan_and_takes_its_room():
    # 1,000 rows of 4 numbers and one of Adagrad's; 101 rows with a gradient, too.
    item, user = 20_000, 101 * (16 + 4 + 16)
    whole = {"table_sharding": {"user_id": ["data_parallel"]}, "sharding": ["table_wise"]}
    assert planned(gpus(2, item + user), **whole).keys() == {"item"}
    with pytest.raises(PlanError, match=r"table item \(1,000 x 4, .*: 1 bytes are missing"):
        planned(gpus(2, item + user - 1), **whole)


def test_one_device_holds_tables_whole():
    assert planned(gpus(1, GB), sharding=["row_wise"])["item"] == ("table_wise", {0: 1_000})


@pytest.mark.parametrize(
    ("memory", "settings", "message"),
    [
        # 500 of 1,000 rows, 20 bytes each.
        (
            9_000,
            {"sharding": ["row_wise"]},
            "table item (1,000 x 4, 20,000 bytes to train) does not fit: row_wise puts 10,000 "
            "bytes on one of 2 devices, which has 9,000 for it: 1,000 bytes are missing; 4 such "
            "devices would do",
        ),
        (
            19_000,
            {"table_sharding": {"item": ["table_wise"]}},
            "which has 19,000 for it: 1,000 bytes are missing; it may only be table_wise, and no "
            "number of such devices will do: allow another place with "
            "+embedding.table_sharding.item=[row_wise], with which 2 would",
        ),
        (
            11_000,
            {"sharding": ["row_wise"]},
            "2 embedding tables of 22,020 bytes do not fit on 2 devices of 11,000, the largest of "
            "them table item (1,000 x 4, 20,000 bytes to train): 20 bytes are missing; 4 such "
            "devices would do",
        ),
        (
            3_000,
            {"table_sharding": {"user_id": ["data_parallel"]}},
            "table user_id (101 x 4, 3,636 bytes to train) is data_parallel, so that every device "
            "holds it whole: with its likes 3,636 bytes of the 3,000 that a device has for "
            "tables, 636 too few; spread it out with +embedding.table_sharding.user_id=[row_wise]",
        ),
    ],
)
def test_tables_that_do_not_fit(memory, settings, message):
    with pytest.raises(PlanError) as caught:
        planned(gpus(2, memory), **settings)
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize("need", [1, 5, 8, 9, 16, 17, 8_000])
def test_the_fewest_devices_are_of_one_host_or_of_whole_hosts(need):
    wanted = need if need <= 8 else -(-need // 8) * 8
    assert enough_devices(lambda devices: devices >= need, per_host=8) == wanted


def test_no_number_of_devices_will_do():
    assert enough_devices(lambda devices: False, per_host=8) is None


def test_a_cluster_by_configuration():
    config = ClusterConfig(hosts=2, devices_per_host=8, device_memory=80, reserved=0.25)
    cluster = other_cluster(config, "cuda")
    assert (cluster.devices, cluster.devices_per_host) == (16, 8)
    assert (cluster.memory, cluster.usable) == (80 * GB, 60 * GB)
    assert cluster.without(61 * GB).usable == 0
    shared = replace(config, host_memory=100.0)
    assert other_cluster(shared, "cpu").memory == 100 * GB // 8


def test_a_gpu_that_is_not_there_cannot_be_asked():
    with pytest.raises(ConfigError, match=r"cluster.device_memory=null: .* set "):
        other_cluster(ClusterConfig(), "cuda")
