"""Where frozen vectors are kept: what is refused, and that a place changes no result."""

import pytest
import torch

from ctr.assemble import make_network
from ctr.config import ConfigError
from ctr.distributed import Process
from ctr.inference import reading_config
from ctr.model.catalog import ItemCatalog
from ctr.run_folder import RunFolder
from kernels import cosine_topk

ALONE = Process(0, 1, 1, torch.device("cpu"))


def test_replicated_on_a_cpu_is_the_memory_map_itself(store, config):
    network = make_network(store, config, ALONE)
    assert network.catalog.vectors.data_ptr() == store.vectors.ctypes.data


def test_a_single_process_shares_with_nobody(store, config):
    config.data.vectors = "sharded"
    catalog = make_network(store, config, ALONE).catalog
    assert catalog.shards is None
    assert catalog.vectors.data_ptr() == store.vectors.ctypes.data


def test_pinned_vectors_without_a_gpu_are_refused_by_name(store, config):
    config.data.vectors = "pinned"
    with pytest.raises(
        ConfigError, match=r"^data\.vectors=pinned: there is no GPU; set replicated"
    ):
        make_network(store, config, ALONE)


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_run_with_pinned_vectors_is_read_without_a_gpu(
    monkeypatch, store, config, tmp_path, gpus
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    config.data.vectors = "pinned"
    folder = RunFolder(tmp_path / "run")
    folder.create(config, store.schema)
    assert reading_config(folder, None, None, "cpu").data.vectors == "replicated"
    chosen = reading_config(folder, None, None, "auto").data.vectors
    assert chosen == ("pinned" if gpus else "replicated")


def test_without_vectors_there_is_nothing_to_read(catalog):
    bare = ItemCatalog(catalog.features, None, None)
    assert catalog.has_vectors
    assert not bare.has_vectors
    with pytest.raises(RuntimeError, match="no vectors"):
        bare.unit_vectors(torch.tensor([1]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_reads_pinned_vectors_in_place(catalog, batch):
    device = torch.device("cuda")
    before = torch.cuda.memory_allocated()
    pinned = catalog.pinned(device)
    taken = torch.cuda.memory_allocated() - before
    columns = [*catalog.features.values(), catalog.inv_norm]
    assert taken < sum(c.numel() * c.element_size() for c in columns) + 512 * (len(columns) + 1)
    there = batch.to(device)
    found, expected = (
        cosine_topk(
            c.vectors,
            c.inv_norm,
            b.history_item_T,
            b.history_offsets_U,
            b.user_B,
            12,
            query_rows=b.target_item_B,
            query_begin=b.history_begin_B,
            query_end=b.history_end_B,
        )
        for c, b in ((pinned, there), (catalog, batch))
    )
    for a, e in zip(found, expected, strict=True):
        assert torch.equal(a.cpu(), e)
    items = batch.target_item_B
    unit = pinned.unit_vectors(items.to(device)).cpu()
    assert torch.equal(unit, catalog.unit_vectors(items))
    assert torch.equal(pinned.content(items.to(device)).cpu(), catalog.content(items))
