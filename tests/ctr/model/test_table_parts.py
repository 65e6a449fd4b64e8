"""What tables start from: the same numbers however a table is cut, and no process makes it whole.

Shape legend: N rows of a table, D its width.
"""

import gc
import json

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchrec.distributed.types import ShardedModule

from ctr.config import ClusterConfig, EmbeddingConfig
from ctr.distributed import Process
from ctr.model.embeddings import EmbeddingTables, TableShape
from ctr.model.table_parts import Initial, TablePart, table_parts
from ctr.optim import fuse_sparse_optimizer
from ctr.sharding import shard
from tests import starter

STD = 0.1
# From 256 on TorchRec cuts columns in two.
ROWS, WIDTH = 3_000, 256
SHARDINGS = ("row_wise", "column_wise", "table_wise")


def part_of(rows, width, first_row=0, first_column=0, whole=None, dtype=torch.float32):
    return TablePart(
        torch.full((rows, width), 9.0, dtype=dtype), first_row, first_column, whole or width, []
    )


def filled(part, table="item", seed=7):
    Initial(STD, seed).fill(table, part)
    return part.weight_RW


@pytest.fixture(scope="module")
def whole_ND():
    """Of four blocks, the last of them not full."""
    return filled(part_of(3_500, 256))


def test_a_row_starts_alike_in_whichever_part_it_is(whole_ND):
    for first, end in ((0, 1), (1_023, 1_025), (1_024, 2_048), (2_000, 3_500), (3_499, 3_500)):
        assert torch.equal(filled(part_of(end - first, 256, first)), whole_ND[first:end])
    columns_NW = filled(part_of(2_000, 100, 500, 30, whole=256))
    assert torch.equal(columns_NW, whole_ND[500:2_500, 30:130])
    assert torch.equal(filled(part_of(9_000, 256))[:3_500], whole_ND)
    assert filled(part_of(0, 256, 700)).numel() == 0


def test_tables_and_seeds_start_apart(whole_ND):
    few_ND = whole_ND[:50]
    assert not torch.equal(filled(part_of(50, 256), table="user"), few_ND)
    assert not torch.equal(filled(part_of(50, 256), seed=8), few_ND)
    # Blocks are no repetitions of one another, and rows are distinct.
    assert len(whole_ND.unique(dim=0)) == len(whole_ND)


def test_they_are_truncated_normals(whole_ND):
    assert float(whole_ND.abs().max()) <= 2 * STD
    assert float(whole_ND.mean()) == pytest.approx(0.0, abs=1e-3)
    # Cut at two standard deviations, what is left of a normal has 0.88 of its own.
    assert float(whole_ND.std()) == pytest.approx(0.88 * STD, rel=0.01)


def test_float16_is_the_rounded_float32(whole_ND):
    assert torch.equal(filled(part_of(70, 256, dtype=torch.float16)), whole_ND[:70].half())


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made, in numbers; what is on no device counts as nothing."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for made in tree_leaves(found):
            if isinstance(made, torch.Tensor) and made.device.type != "meta":
                self.numbers = max(self.numbers, made.numel())
        return found


class Holder(nn.Module):
    def __init__(self, sharded):
        super().__init__()
        torch.manual_seed(0)
        self.tables = EmbeddingTables({"item": TableShape(ROWS, WIDTH)}, STD, sharded=sharded)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, ids):
        return self.tables(ids)["item"].sum() * self.scale


def _child(rank, meeting, out):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    process = Process(rank, 2, 2, torch.device("cpu"))
    expected_ND = Holder(sharded=False).tables.collections["dim_256"].embeddings["item"].weight
    expected_ND = expected_ND.detach().clone()
    found = {}
    for sharding in SHARDINGS:
        config = EmbeddingConfig(sharding=[sharding], lr=0.1)
        with Largest() as largest:
            network = Holder(sharded=True)
            fuse_sparse_optimizer(network.tables, config, process.device)
            model = shard(network, process, config, ClusterConfig())
            model({"item": torch.tensor([1, 2, ROWS - 1])}).backward()
        gc.collect()
        kept = [t for t in gc.get_objects() if isinstance(t, nn.Parameter) and not t.is_meta]
        collection = network.tables.collections["dim_256"]
        assert isinstance(collection, ShardedModule)
        # What the step has not touched is as it began.
        same = [
            torch.equal(
                part.weight_RW[3:-1],
                expected_ND[
                    part.first_row + 3 : part.first_row + len(part.weight_RW) - 1,
                    part.first_column : part.first_column + part.weight_RW.shape[1],
                ],
            )
            for part in table_parts(collection, "item")
        ]
        found[sharding] = {
            "same": same,
            "largest": largest.numbers,
            "kept": max(t.numel() for t in kept),
        }
    (out / f"found-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("parts")
    starter.spawn(_child, (out / "meeting", out), nprocs=2)
    return [json.loads((out / f"found-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_every_sharding_starts_from_the_same_rows(sharding, found):
    same = [value for rank in (0, 1) for value in found[rank][sharding]["same"]]
    assert len(same) == (1 if sharding == "table_wise" else 2)
    assert all(same)


@pytest.mark.parametrize("sharding", ["row_wise", "column_wise"])
def test_no_process_makes_or_keeps_more_than_its_part(sharding, found):
    for rank in (0, 1):
        assert found[rank][sharding]["largest"] == ROWS * WIDTH // 2
        assert found[rank][sharding]["kept"] <= ROWS * WIDTH // 2


def test_whoever_has_no_part_of_a_table_makes_none_of_it(found):
    sizes = sorted(found[rank]["table_wise"]["largest"] for rank in (0, 1))
    assert sizes[1] == ROWS * WIDTH
    assert sizes[0] < ROWS * WIDTH // 4
